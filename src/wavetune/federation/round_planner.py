"""From a method and a world to the planning problem of a round and its plan. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from wavetune.allocation.delay import load_of, uplink_rate_bit_per_s_K
from wavetune.allocation.feasibility import require_feasible
from wavetune.allocation.participants import (
    extend_plan,
    plan_of_decisions,
    plan_on_channel,
    problem_of,
    restrict_plan,
)
from wavetune.allocation.plan import Plan, infeasible, speeds_of
from wavetune.allocation.problem import IntArray, Problem
from wavetune.allocation.selection import lone_round_s
from wavetune.allocation.world import problem_from_world
from wavetune.costs.layer_costs import LayerCosts
from wavetune.costs.memory import FP32, Storage
from wavetune.costs.table import CostTable
from wavetune.costs.workload import layer_costs
from wavetune.errors import ConfigError
from wavetune.federation.answering_cells import Settled, settle, with_heard
from wavetune.federation.codec_choice import CodecCandidate
from wavetune.federation.codecs.codec import Chain, on_the_wire
from wavetune.federation.codecs.precision import way_back
from wavetune.federation.messages import Agenda, Field, bits_of, step_messages
from wavetune.federation.method import Method
from wavetune.federation.rank_choice import RankChoice, Rounds, expected_rounds, rank_choice, seeds_of
from wavetune.federation.selection import State
from wavetune.seeds import stream
from wavetune.units import Array
from wavetune.wireless.channel import Channel, devices_in_round, draw_channel, draw_devices, known_channel
from wavetune.wireless.interference import gains_between_cells, seed_of_cell
from wavetune.wireless.scenario import Device, Scenario


@dataclass(frozen=True)
class SampleStatistics:
    """What a sample asks on average: tokens fed, squared tokens, labelled positions."""

    tokens: float
    token_pairs: float
    labelled: float

    def with_prompt(self, tokens: int) -> SampleStatistics:
        """The same behind so many tokens more.

        >>> SampleStatistics(4, 20, 1).with_prompt(2)
        SampleStatistics(tokens=6, token_pairs=40, labelled=1)
        """
        pairs = self.token_pairs + 2 * tokens * self.tokens + tokens**2
        return SampleStatistics(self.tokens + tokens, pairs, self.labelled)


@dataclass(frozen=True)
class RoundPlanner:
    """Plans the rounds of one run: cut and rank once, subchannels and power on every round's channel."""

    scenario: Scenario
    devices: tuple[Device, ...]
    table: CostTable
    method: Method
    statistics: SampleStatistics
    num_samples_K: tuple[int, ...]
    local_steps: int
    batch_size: int
    rounds: int
    seed: int
    chosen: str = ""  # what was decided for the whole run, and what could not be counted, in words
    others: tuple[RoundPlanner, ...] = ()  # with other codecs that might have been chosen
    bound_s: float = np.inf  # proved for plans with these
    storage: Storage = FP32

    def scheduled(self) -> RoundPlanner:
        """The same with what is chosen for the whole run: local steps, rounds to the target, codecs at the cut."""
        planner = self._with_local_steps()._with_own_numbers()
        return planner._with_codecs() if self.method.choose_codecs else planner

    def _with_codecs(self) -> RoundPlanner:
        """The same with the codecs whose first plan costs least; no plan with any of them is below its bound."""
        tried = [self._with_candidate(candidate) for candidate in self.method.codec_candidates]
        plans = [planner.first_plan() for planner in tried]
        best = min(range(len(tried)), key=lambda i: self.method.planner.cost(tried[i].known(0), plans[i]))
        chosen = "; ".join(filter(None, (tried[best].chosen, self.chosen)))
        others = tuple(planner for planner in tried if planner is not tried[best])
        return replace(tried[best], chosen=chosen, others=others, bound_s=min(plan.lower_bound_s for plan in plans))

    def _with_candidate(self, candidate: CodecCandidate) -> RoundPlanner:
        rounds_to_target = {
            rank: tuple(candidate.rounds_factor * one for one in seeds_of(rounds))
            for rank, rounds in self._rounds_table.items()
        }
        method = replace(
            self.method,
            choose_codecs=False,
            activation_codec=candidate.activation,
            gradient_codec=candidate.gradient,
            rounds_to_target=rounds_to_target,
        )
        return replace(self, method=method, chosen=candidate.sentence)

    def _with_local_steps(self) -> RoundPlanner:
        if self.method.planner.chooses_local_steps:
            schedule = self.method.planner.schedule(self.known(0))
            rounds_to_target = dict.fromkeys(self.rounds_to_target, schedule.rounds)
            method = replace(self.method, rounds_to_target=rounds_to_target)
            chosen = "; ".join(filter(None, (schedule.sentence, self.chosen)))
            return replace(self, method=method, local_steps=schedule.local_steps, chosen=chosen)
        if self.local_steps < 1:
            raise ConfigError(
                f"run.local_steps is 0, which leaves them to the planner, but {self.method.planner.kind} does not "
                "choose them; give a number, or set method.planner.kind=fedsllm"
            )
        return self

    @cached_property
    def batch_size_K(self) -> tuple[int, ...]:
        """Rows of each client's local step, where these are not as many for all; else empty."""
        sizes_K = tuple(self.method.topology.batch_size_K(self.num_samples_K, self.batch_size))
        return () if {*sizes_K} == {self.batch_size} else sizes_K

    @cached_property
    def steps_K(self) -> tuple[int, ...]:
        """Local steps that each client makes in a round, where these are not all; else empty."""
        if not self.local_steps:  # which are yet to be chosen
            return ()
        size_K = self.batch_size_K or (self.batch_size,) * len(self.num_samples_K)
        steps_K = tuple(self.method.topology.steps_K(self.num_samples_K, size_K, self.local_steps))
        return () if {*steps_K} == {self.local_steps} else steps_K

    def _with_own_numbers(self) -> RoundPlanner:
        """The same, which says how many local steps and rows clients have where these are not all."""
        topology, sizes = self.method.topology, "world.data.batching.batch_size"
        own = list[str]()
        for name, what, own_K, setting, most in (
            ("steps", "local steps", self.steps_K, "run.local_steps", self.local_steps),
            ("batch_sizes", "rows of a local step", self.batch_size_K, sizes, self.batch_size),
        ):
            if own_K and max(own_K) > most:
                raise ConfigError(
                    f"method.topology.{name} has {max(own_K)} and {setting} is {most}, of which clients make all or "
                    "fewer; raise it to that"
                )
            if own_K and (topology.pooled or (topology.is_split and name == "steps")):
                raise ConfigError(
                    f"method.topology {topology.kind} has clients make fewer {what} than others, which only those can "
                    "that wait for nobody between their steps; derive it from none that cuts or pools"
                )
            own += [f"{what} of the clients: {', '.join(map(str, own_K))}"] if own_K else []
        return replace(self, chosen="; ".join(filter(None, (*own, self.chosen))))

    @cached_property
    def layer_costs(self) -> LayerCosts:
        """Costs of an average sample in the first round."""
        return self._costs(self._first_agenda)

    @cached_property
    def _first_agenda(self) -> Agenda:
        return self.method.exchange.agenda({}, self.table.num_layers, 0)

    def _costs(self, agenda: Agenda) -> LayerCosts:
        """Costs of an average sample in a round with this agenda."""
        table = self.table.with_trained(agenda.blocks)
        method, stats, width = self.method, self.statistics, self.table.activation_values_per_token
        topology = method.topology
        rows, labelled = stats.tokens * self.batch_size, stats.labelled * self.batch_size
        codecs, stay = (method.activation_codec, method.gradient_codec), topology.labels_stay
        messages = step_messages(rows, labelled, width, *codecs, labels_stay=stay) if topology.is_split else {}
        up, down = (
            sum((bits_of(spec) for kind, spec in messages.items() if kind.endswith(way)), 0.0)
            for way in ("_up", "_down")
        )
        costs = layer_costs(
            table,
            stats.tokens,
            stats.labelled,
            up / (rows * width),
            self.adapter_bits_per_value,
            batch_size=self.batch_size,
            token_pairs_per_sample=stats.token_pairs,
            storage=self.storage,
            u_shape=stay,
        )
        others_L = np.zeros(table.num_layers)
        for adapter in method.beside_lora:
            others_L += self._sent_L(adapter.name, agenda) * table.values_L(adapter)
        others_L[-1] += self._sent_L("head", agenda)[-1] * table.outputs_values
        return replace(
            costs,
            lora_bits_per_rank_L=costs.lora_bits_per_rank_L * self._sent_share(agenda) * self._sent_L("lora", agenda),
            adapter_bits_L=others_L * self.adapter_bits_per_value if others_L.any() else None,
            gradient_bits_L=np.full(table.num_layers, down / self.batch_size) if self._prices_downlink else None,
            download_share=self._bits_per_value(way_back(method.adapter_codec))
            * (1 + len(method.mixing.beside))
            / (self._bits_per_value() * (1 + len(method.mixing.hears))),
        )

    @property
    def _prices_downlink(self) -> bool:
        return self.method.prices_downlink(self.scenario.price_downlink)

    def _sent_L(self, kind: str, agenda: Agenda) -> Array:
        """1 for the blocks whose adapters of a kind are shared and on the agenda, else 0, [L]."""
        sharing, layers = self.method.sharing, self.table.num_layers
        shared_L = [sharing.role(kind, layer, layers) == "shared" for layer in range(layers)]
        return np.array([float(on and agenda.has(layer)) for layer, on in enumerate(shared_L)])

    @property
    def adapter_bits_per_value(self) -> float:
        """Bits of an adapter value on the way up and of what is beside it, averaged over a row of the model's width."""
        return self._bits_per_value() * (1 + len(self.method.mixing.hears)) * self.method.exchange.over_fed

    def _bits_per_value(self, chain: Chain | None = None) -> float:
        """Bits of a value that passes a chain; of an update by default."""
        width = self.table.activation_values_per_token
        spec = on_the_wire(self.method.adapter_codec if chain is None else chain, {"adapter": Field((8, width))})
        return bits_of(spec) / (8 * width)

    def _sent_share(self, agenda: Agenda) -> float:
        unsent = self.method.unsent | agenda.frozen
        if not unsent:
            return 1.0
        blocks, targets = self.table.architecture.blocks, self.table.lora_targets
        projections = [p for block in blocks for p in block.lora_projections(targets)]
        sizes = {"A": sum(p.in_features for p in projections), "B": sum(p.out_features for p in projections)}
        return sum(n for factor, n in sizes.items() if factor not in unsent) / sum(sizes.values())

    @property
    def allowed_cuts(self) -> tuple[int, ...]:
        """Cuts among which the planner chooses."""
        return self.method.topology.allowed_cuts(self.table.num_layers)

    @property
    def rounds_to_target(self) -> dict[int, float]:
        """E(r) at each rank among which the planner chooses; the run's own length where nothing was measured."""
        return expected_rounds(self._rounds_table, self.method.slowest_seeds)

    def rank_choice(self, plan: Plan) -> RankChoice | None:
        """How far the first plan's rank can be told apart from the others; None where none was chosen."""
        return rank_choice(self.known(0), plan, self._rounds_table) if self.method.lora.rank is None else None

    @property
    def _rounds_table(self) -> Mapping[int, Rounds]:
        rank, table = self.method.lora.rank, self.method.rounds_to_target
        if rank is None:
            return table
        return {r: table.get(r, float(self.rounds)) for r in (rank if isinstance(rank, tuple) else (rank,))}

    def problem(self, round_index: int, agenda: Agenda | None = None) -> Problem:
        """The planning problem of a round (by default with the first agenda) on its channel, by which it is charged."""
        channel = draw_channel(self.scenario, self.devices, self.seed, round_index)
        return self._problem_on(channel, round_index, agenda)

    def known(self, round_index: int, agenda: Agenda | None = None) -> Problem:
        """The same on what is known of the channel, on which the round is planned."""
        channel = known_channel(self.scenario, self.devices, self.seed, round_index)
        return self._problem_on(channel, self.scenario.knowledge.known_round(round_index), agenda)

    def _problem_on(self, channel: Channel, round_index: int, agenda: Agenda | None) -> Problem:
        problem = problem_from_world(
            self.scenario,
            devices_in_round(self.scenario, self.devices, self.seed, round_index),
            channel,
            self.layer_costs if agenda in (None, self._first_agenda) else self._costs(agenda),
            self.rounds_to_target,
            self.allowed_cuts,
            self.local_steps,
            self.batch_size,
            self.num_samples_K,
            self._prices_downlink,
        )
        problem = replace(
            problem,
            share_server=self.method.server_shares == "optimal",
            batch_size_K=np.array(self.batch_size_K, dtype=np.float64) if self.batch_size_K else None,
            fed_min_rate_bit_per_s=self.method.link.min_rate_bit_per_s,
        )
        problem = self.method.planner.allowing(self._with_own_speeds(problem, agenda))
        settled = self.settled(round_index)
        return problem if settled is None else with_heard(problem, settled)

    def _with_own_speeds(self, problem: Problem, agenda: Agenda | None) -> Problem:
        """A client that makes fewer of the local steps counts as one that makes all, faster and for less.

        One that takes fewer rows in them has memory for the rows that it does not take.

        Ignores: that cuts and ranks above the lowest allowed save more memory on fewer rows.
        """
        share_K, joules_K = np.array(self.steps_K or 1.0) / (self.local_steps if self.steps_K else 1.0), None
        if problem.client_energy_j_per_flop_K is not None:
            joules_K = problem.client_energy_j_per_flop_K * share_K
        need_K = [self._memory_bytes(size, problem, agenda) for size in self.batch_size_K]
        spared_K = self._memory_bytes(self.batch_size, problem, agenda) - np.array(need_K) if need_K else 0.0
        return replace(
            problem,
            client_flop_per_s_K=problem.client_flop_per_s_K / share_K,
            client_energy_j_per_flop_K=joules_K,
            memory_bytes_K=problem.memory_bytes_K + spared_K,
        )

    def _memory_bytes(self, batch_size: int, problem: Problem, agenda: Agenda | None) -> float:
        """Memory of a client at the lowest cut and rank on batches of so many rows (bytes)."""
        costs = replace(self, batch_size=batch_size)._costs(self._first_agenda if agenda is None else agenda)
        fixed, per_rank = (
            costs.before[name][min(problem.cuts)] for name in ("memory_bytes_L", "memory_bytes_per_rank_L")
        )
        return float(fixed + problem.ranks[0] * per_rank)

    def settled(self, round_index: int) -> Settled | None:
        """What this cell and those around it come to in a round, each on what it hears; None where they do not plan."""
        neighbours = self.scenario.neighbours
        if neighbours is None or neighbours.schedule != "plans":
            return None
        if round_index not in self._settled:
            alone = replace(self.scenario, neighbours=None)
            drawn = replace(alone, population=replace(alone.population, devices=()))  # no device of theirs is known
            seeds = [seed_of_cell(self.seed, c) for c in range(neighbours.cells + 1)]
            devices_C = [self.devices, *(draw_devices(drawn, seed) for seed in seeds[1:])]
            cells = [
                replace(self, scenario=drawn if c else alone, devices=devices, seed=seed)
                for c, (devices, seed) in enumerate(zip(devices_C, seeds, strict=True))
            ]
            placed_C = [devices_in_round(c.scenario, c.devices, c.seed, round_index) for c in cells]
            self._settled[round_index] = settle(
                [cell.problem(round_index) for cell in cells],
                gains_between_cells(alone, neighbours, placed_C, self.seed),
                lambda c, problem, last: cells[c]._decided(problem, range(len(self.devices)), last),
            )
        return self._settled[round_index]

    @cached_property
    def _settled(self) -> dict[int, Settled]:
        return {}

    def first_plan(self) -> Plan:
        """Plan on the first round's channel: decides cut and rank for the run where the method leaves them open.

        Where clients are selected, cut and rank are decided with all of them, if these have a plan together.
        """
        plan = require_feasible(self.known(0), self._first_plan())
        return replace(plan, lower_bound_s=min(plan.lower_bound_s, self.bound_s))

    def _first_plan(self) -> Plan:
        problem, everyone = self.known(0), range(len(self.devices))
        if self.method.selection.everyone:
            return self._of_reachable(problem)
        plan = self._decided(problem, everyone)
        if plan.status == "ok":
            return self._selected(problem, plan, 0, self.init())
        lone_s_K = np.min([lone_round_s(problem, c, r) for c in problem.cuts for r in problem.ranks], axis=0)
        clients, chosen = self.method.selection.choose(
            problem,
            lone_s_K,
            lambda clients: self._decided(problem_of(problem, clients), clients),
            self.init(),
            self._draw(0),
        )
        return plan if chosen is None else extend_plan(chosen, clients, *self._given_to_all(chosen))

    def first_problem(self) -> tuple[Problem, list[int]]:
        """The problem that the first plan solves, of those clients alone that take part; and who these are.

        Where clients are selected, it has the cut and the rank that were decided before. Raises ConfigError where these
        differ between clients.
        """
        problem = self.known(0)
        if self.method.selection.everyone:
            reached = self.reached(problem)
            return self.of_reached(problem), reached
        plan = self.first_plan()
        if plan.active_K is None:
            return problem, list(range(problem.num_clients))
        clients = np.flatnonzero(plan.active_K).tolist()
        cuts, ranks = ({*of_K[clients].tolist()} for of_K in (plan.cut_K, plan.rank_K))
        if len(cuts) > 1 or len(ranks) > 1:
            raise ConfigError("clients are selected who have cuts or ranks of their own; leave one of both out")
        return replace(problem_of(problem, clients).restrict([*cuts], [*ranks]), cut_per_client=False), clients

    def plan_of_all(self, plan: Plan, clients: Sequence[int]) -> Plan:
        """A first plan of some clients as one of all; the others sit out."""
        if plan.status != "ok" or len(clients) == len(self.devices):
            return plan
        return extend_plan(plan, clients, *self._given_to_all(plan))

    def _of_reachable(self, problem: Problem) -> Plan:
        """Plan of all clients that the channel reaches; the others sit out."""
        reached = self.reached(problem)
        return self.plan_of_all(self._decided(self.of_reached(problem), reached), reached)

    def reached(self, problem: Problem) -> list[int]:
        """Clients with a gain in every band that they need; all where that is none."""
        bands = [problem.fed, *([problem.main] if self.method.topology.is_split else [])]
        gains = [band.gain_KM for band in bands]
        if problem.price_downlink:
            gains += [band.downlink_gain_KM for band in bands if band.downlink_gain_KM is not None]
        reached_K = np.all([(gain_KM > 0).any(axis=1) for gain_KM in gains], axis=0)
        return np.flatnonzero(reached_K if reached_K.any() else np.ones_like(reached_K)).tolist()

    def of_reached(self, problem: Problem, known: Problem | None = None) -> Problem:
        """The problem of those clients alone that the channel reaches, as far as is `known`; the others sit out."""
        reached = self.reached(known or problem)
        return problem if len(reached) == problem.num_clients else problem_of(problem, reached)

    def _given_to_all(self, plan: Plan) -> tuple[IntArray, IntArray]:
        """Cuts and ranks of all clients where a plan of some was made: those of the method, else the plan's first."""
        cut, rank = self.method.topology.cut_of(self.table.num_layers), self.method.lora.rank
        cut, rank = (int(own[0]) if x is None else x for own, x in ((plan.cut_K, cut), (plan.rank_K, rank)))
        cut_K, rank_K = (np.array(np.broadcast_to(np.asarray(x), len(self.devices))) for x in (cut, rank))
        return cut_K, rank_K

    def _decided(self, problem: Problem, clients: Sequence[int], warm_start: Plan | None = None) -> Plan:
        """Plan of the problem of these clients, with cut and rank where the method leaves them open."""
        cut, rank = self.method.topology.cut_of(self.table.num_layers), self.method.lora.rank
        if not isinstance(cut, tuple) and not isinstance(rank, tuple):
            return self.method.planner.plan(problem, self.seed, warm_start)
        if cut is None or rank is None:
            raise ConfigError(
                "one of method.topology.cut and method.lora.rank is given per client and the other is left to the "
                "planner; give both"
            )
        cut_K, rank_K = (np.broadcast_to(np.asarray(x), len(self.devices))[list(clients)] for x in (cut, rank))
        return self.method.planner.plan_fixed(problem, cut_K, rank_K)

    def init(self) -> State:
        """What the method's selection knows before the first round."""
        return self.method.selection.init(len(self.devices))

    def plan(
        self, round_index: int, first: Plan, state: State | None = None, agenda: Agenda | None = None
    ) -> tuple[Problem, Plan]:
        """Problem and plan of a round with the cut and rank of the first plan: decided on what is known of its channel.

        The problem is that of the channel as it is, and the plan's seconds are those that it takes there. Where what is
        known admits no plan, the first plan's allocation stays in force. Who turns out to have no link sits out. The
        state is that of the rounds before; as before the first one, if none is given.
        """
        known = self.known(round_index, agenda)
        plan = self._decided_in_round(known, round_index, first, state)
        problem = known
        if not self.scenario.knowledge.perfect:
            problem = self.problem(round_index, agenda)
            plan = plan_on_channel(problem, plan)
        return problem, self._without_silent(problem, plan)

    def informed(self, round_index: int, problem: Problem, first: Plan, plan: Plan) -> Plan | None:
        """The plan of the same clients in a round whose channel is known; None where knowledge makes no difference."""
        if self.scenario.knowledge.perfect or self.method.replan == "never":
            return None
        clients = range(problem.num_clients) if plan.active_K is None else np.flatnonzero(plan.active_K).tolist()
        informed = self._among(problem, clients, round_index, first)
        return informed if informed.status == "ok" else None

    def _decided_in_round(self, known: Problem, round_index: int, first: Plan, state: State | None) -> Plan:
        held = plan_on_channel(known, first)
        if self.method.replan == "never":
            return held
        if self.method.selection.everyone:
            plan = self._among(known, self.reached(known), round_index, first)
        else:
            plan = self._selected(known, first, round_index, self.init() if state is None else state)
        return require_feasible(known, plan) if plan.status == "ok" else held

    def _among(self, problem: Problem, clients: Sequence[int], round_index: int, first: Plan) -> Plan:
        """Plan of these clients with the cuts and ranks of the first plan; the others sit out."""
        if len(clients) == problem.num_clients:
            return self.method.planner.replan(problem, first, self.seed + round_index)
        some, start = problem_of(problem, clients), restrict_plan(first, clients)
        plan = self.method.planner.replan(some, start, self.seed + round_index)
        return extend_plan(plan, clients, first.cut_K, first.rank_K)

    def _without_silent(self, problem: Problem, plan: Plan) -> Plan:
        """The plan without those whose links carry nothing; as it is where these are all or nobody."""
        if self.method.topology.pooled:
            return plan
        load, speeds = load_of(problem, plan.cut_K, plan.rank_K), speeds_of(problem, plan.main, plan.fed)
        needs = [
            (load.uplink_bits_IK.sum(0), speeds.uplink_bit_per_s_K),
            (load.downlink_bits_IK.sum(0), speeds.downlink_bit_per_s_K),
            (load.fed_download_bits_K, speeds.fed_down_bit_per_s_K),
        ]
        if self.method.link.sent([0.0])[0]:  # else the upload is lost in outage, and the client goes on
            needs.append((load.fed_upload_bits_K, speeds.fed_up_bit_per_s_K))
        heard_K = np.all([(bits_K == 0) | (rate_K > 0) for bits_K, rate_K in needs], axis=0)
        active_K = heard_K if plan.active_K is None else heard_K & plan.active_K
        if heard_K.all() or not active_K.any():
            return plan
        return plan_of_decisions(
            problem, plan.cut_K, plan.rank_K, plan.main, plan.fed, 0.0, plan.server_share_K, active_K
        )

    def _selected(self, problem: Problem, start: Plan, round_index: int, state: State) -> Plan:
        """Plan of those that the method selects on this channel, with the cuts and ranks of another plan."""
        selection, plans = self.method.selection, dict[tuple[int, ...], Plan]()
        planner = self.method.planner.by(selection.deadline_s)

        def plan_of(clients: Sequence[int]) -> Plan:
            key = tuple(clients)
            if key not in plans:
                some = problem_of(problem, key)
                plan = planner.replan(some, restrict_plan(start, key), self.seed + round_index)
                plans[key] = self._all_heard(some, plan)
            return plans[key]

        lone_s_K = lone_round_s(problem, start.cut_K, start.rank_K)
        clients, plan = selection.choose(problem, lone_s_K, plan_of, state, self._draw(round_index))
        if plan is None:
            return infeasible("no client has a plan even with both bands to itself")
        return extend_plan(plan, clients, start.cut_K, start.rank_K)

    def _draw(self, round_index: int) -> np.random.Generator:
        return stream(self.seed, "selection", round_index)

    def _all_heard(self, problem: Problem, plan: Plan) -> Plan:
        """A plan of selected clients, or why none: an update of theirs would be lost in outage."""
        if plan.status != "ok":
            return plan
        rate_K = uplink_rate_bit_per_s_K(problem.fed, plan.fed.owner_M, plan.fed.power_w_M)
        sends_K = load_of(problem, plan.cut_K, plan.rank_K).fed_upload_bits_K > 0
        silent = np.flatnonzero(sends_K & (rate_K < problem.fed_min_rate_bit_per_s))
        return infeasible(f"{len(silent)} of the selected clients would be in outage") if len(silent) else plan
