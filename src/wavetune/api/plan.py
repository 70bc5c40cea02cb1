"""A plan and what it says, without training."""

from dataclasses import dataclass, replace
from math import isinf
from pathlib import Path
from typing import Any, cast

from wavetune.allocation.plan import Plan
from wavetune.allocation.problem import Problem
from wavetune.api.recipe import as_recipe
from wavetune.errors import ConfigError, InstanceError, JsonError, NotJsonError
from wavetune.federation.round_planner import RoundPlanner
from wavetune.json_reader import read_json
from wavetune.logs import LOG
from wavetune.recipe import Recipe


@dataclass(frozen=True)
class Planned:
    """A problem, its plan, and a note on how samples were counted.

    `proof` is of the plan's bound, where one was asked for; `search_s` is the limit of the search, None without one.
    Where the planner `minds_energy`, the bound is still of the delay alone.
    """

    problem: Problem
    plan: Plan
    note: str = ""
    proof: dict[str, Any] | None = None
    search_s: float | None = None
    minds_energy: bool = False

    @property
    def status(self) -> str:
        """`ok`, or `infeasible` where no plan exists; `reason` then says why."""
        return self.plan.status

    @property
    def reason(self) -> str:
        """Which limits bind where no plan exists; else empty."""
        return self.plan.reason

    @property
    def delay_s(self) -> float:
        """Seconds to the target loss; infinite where no plan exists."""
        return self.plan.delay_s

    @property
    def lower_bound_s(self) -> float:
        """Seconds that no plan is below."""
        return self.plan.lower_bound_s

    def to_dict(self) -> dict[str, Any]:
        """The plan as `wavetune plan --json` writes it."""
        from wavetune.allocation.instance import plan_to_json

        return plan_to_json(self.plan)

    def sentences(self) -> list[str]:
        """What the plan says: delay, who holds the others up, what is proved."""
        from wavetune.allocation.describe import bottleneck
        from wavetune.reporting.format import percent, seconds

        problem, chosen = self.problem, self.plan
        if chosen.status != "ok":
            return [chosen.reason]
        lines = [
            f"total delay to the target {seconds(chosen.delay_s)}, {seconds(chosen.phases.round_s)} a round of "
            f"{problem.local_steps} local steps" + (f"; {self.note}" if self.note else ""),
            bottleneck(problem, chosen).sentence,
        ]
        if chosen.active_K is not None:
            lines.insert(0, f"{int(chosen.active_K.sum())} of {problem.num_clients} clients take part in this round")
        if chosen.lower_bound_s > 0:
            below = f"no plan is below {seconds(chosen.lower_bound_s)}"
            gap = f": the gap is at most {percent(chosen.gap)}"
            lines.append(f"{below}, whatever it spends" if self.minds_energy else below + gap)
        if self.proof is not None:
            proofs = (self.proof, *self.proof.get("beside", ()))
            proved_s = min(float(proof["lower_bound_s"]) for proof in proofs)
            rest = (
                "" if proved_s >= chosen.lower_bound_s * (1 - 1e-6) else "; the rest is proved within the planner alone"
            )
            gap = percent(max(0.0, 1 - proved_s / chosen.delay_s))
            lines.append(f"the certificate proves {seconds(proved_s)} of it, a gap of {gap}{rest}")
        return lines

    def what_helps(self, time_limit_s: float | None = None) -> list[str]:
        """What more of each resource would save, the most first, where it is worth a word.

        Each is searched for no longer than the plan was, and all for no longer than `time_limit_s`.
        """
        from wavetune.allocation.describe import sensitivities

        found = sensitivities(self.problem, self.plan, time_limit_s=time_limit_s, each_s=self.search_s)
        return [s.sentence for s in found if s.saving > 5e-4][:3]


def plan(what: Recipe | str | Path, *, time_limit_s: float | None = None, certificate: bool = False) -> Planned:
    """Choose subchannels, power, cut and rank for the least delay, without training.

    >>> planned = plan("sflllm")
    >>> planned.status, planned.delay_s >= planned.lower_bound_s > 0
    ('ok', True)

    Args:
        what: a recipe, its name or file, or the file of a plan instance.
        time_limit_s: for the search; a first plan is always finished.
        certificate: also keep the proof of the bound, as `tools/verify_plan.py` reads it (`tools/verify_shares.py`
            with shares of the server, `tools/verify_own_cuts.py` where every client has but a cut of its own).

    Raises:
        ConfigError: for a recipe that cannot be planned so; InstanceError: for a malformed instance.
    """
    if not isinstance(what, Recipe) and is_instance(str(what)):
        return _of_instance(str(what), time_limit_s, certificate)
    from wavetune.runtimes.world import count_samples
    from wavetune.wireless.presets import described

    recipe = _in_time(as_recipe(what), time_limit_s)
    count = count_samples(recipe, LOG.info)
    planner = count.planner(recipe)
    note = f"{planner.statistics.tokens:.1f} tokens a sample ({count.how})" + (planner.chosen and f"; {planner.chosen}")
    problem = planner.known(0)
    chosen, proof = _certified(planner, time_limit_s) if certificate else (planner.first_plan(), None)
    notes = (note, _energy_note(planner, problem, chosen), _deadline_note(planner, problem, chosen))
    values = (planner.rank_choice(chosen), planner.settled(0))
    lines = (count.told, f"world: {described(recipe.world.scenario)}", *(one and one.sentence for one in values))
    told = "\n".join(filter(None, lines))
    of, note = recipe.method.planner, "; ".join(filter(None, notes))
    return Planned(problem, chosen, f"{note}\n{told}", proof, of.search_s, of.minds_energy)


_MOST_BYTES = 2**30  # of an instance


def is_instance(what: str) -> bool:
    """Whether this is a JSON file with the instance of a plan, rather than a recipe.

    Raises: InstanceError where it is a JSON file that cannot be either.
    """
    if not what.endswith(".json"):
        return False
    try:
        found = read_json(what, finite=False, most_bytes=_MOST_BYTES)
    except NotJsonError as error:
        raise InstanceError(f"{what} is {error.reason}; give a recipe or a plan instance") from None
    except JsonError as error:
        raise InstanceError(f"{error}; give the path of a recipe or of a plan instance") from None
    if not isinstance(found, dict):
        raise InstanceError(f"{what} holds no JSON object; give a recipe or a plan instance")
    return not {"world", "base", "method", "run"} & {*found}


def _certified(planner: RoundPlanner, time_limit_s: float | None) -> tuple[Plan, dict[str, Any] | None]:
    """The plan of a recipe's first round with a proof of its bound, which holds the instance of that round too.

    Where codecs are chosen with the plan, there are proofs of the others beside it.
    """
    from wavetune.allocation.certificate import plan_with_certificate
    from wavetune.allocation.feasibility import require_feasible
    from wavetune.allocation.instance import problem_to_json

    method = planner.method
    given = (method.topology.cut_of(planner.table.num_layers), method.lora.rank)
    hindered = {
        "clients may differ in rank": planner.known(0).rank_slack is not None,
        "cuts or ranks are given for each client": any(isinstance(one, tuple) for one in given),
        "the planner weighs energy": method.planner.minds_energy,
        f"{method.planner.kind} has no bound (method.planner.kind=optimal)": not method.planner.searches,
    }
    for why, holds in hindered.items():
        if holds:
            raise ConfigError(
                f"--certificate proves one rank for all clients and one cut, for all or of each, and {why}; without "
                "--certificate the bound that is printed is proved within the planner"
            )
    found: list[tuple[Plan, dict[str, Any]]] = []
    for one in (planner, *planner.others):
        problem, clients = one.first_problem()
        chosen, proof = plan_with_certificate(problem, time_limit_s and time_limit_s / (1 + len(planner.others)))
        found.append((one.plan_of_all(chosen, clients), proof | {"instance": problem_to_json(problem)}))
    (chosen, proof), *others = found
    if chosen.status == "ok":
        chosen = replace(chosen, lower_bound_s=min(plan.lower_bound_s for plan, _ in found))
    proof |= {"beside": [beside for _, beside in others]} if others else {}
    return require_feasible(planner.known(0), chosen), proof if chosen.status == "ok" else None


def _of_instance(file: str, time_limit_s: float | None, certificate: bool) -> Planned:
    from wavetune.allocation.feasibility import require_feasible
    from wavetune.allocation.instance import problem_to_json, read_instance

    problem = read_instance(file)
    if certificate:
        from wavetune.allocation.certificate import plan_with_certificate

        chosen, proof = plan_with_certificate(problem, time_limit_s)
        if any(band.rate.kind != "shannon" for band in (problem.main, problem.fed)):
            proof |= {"instance": problem_to_json(problem)}  # which says in numbers what a subchannel carries
        proof = proof if chosen.status == "ok" else None
        return Planned(problem, require_feasible(problem, chosen), proof=proof, search_s=time_limit_s)
    from wavetune.federation.planning import Optimal

    chosen = require_feasible(problem, Optimal(time_limit_s).plan(problem, 0))
    return Planned(problem, chosen, search_s=time_limit_s)


def _in_time(recipe: Recipe, time_limit_s: float | None) -> Recipe:
    """The recipe whose planner searches for no longer. Raises ConfigError for one without a search."""
    planner = recipe.method.planner
    if time_limit_s is None:
        return recipe
    if not planner.searches:
        raise ConfigError(
            f"--time-limit bounds a search, and method.planner {planner.kind}, which plans {recipe.name}, has none: "
            "leave it out, or set method.planner.kind=optimal"
        )
    return replace(
        recipe, method=replace(recipe.method, planner=replace(cast("Any", planner), time_limit_s=time_limit_s))
    )


def _deadline_note(planner: RoundPlanner, problem: Problem, chosen: Plan) -> str:
    """How many clients could meet the deadline of a selection at most."""
    from wavetune.allocation.selection import most_possible

    selection, decided = planner.method.selection, {*zip(chosen.cut_K.tolist(), chosen.rank_K.tolist(), strict=True)}
    if isinf(selection.deadline_s) or len(decided) != 1:
        return ""
    most = most_possible(problem, *decided.pop(), selection.deadline_s)
    return f"at this cut and rank no more than {most} clients can end a round by the deadline"


def _energy_note(planner: RoundPlanner, problem: Problem, chosen: Plan) -> str:
    """The energy of a plan and what no plan as fast can go below, where the planner weighs energy."""
    from wavetune.allocation.energy_bound import least_energy_j
    from wavetune.allocation.participants import of_participants
    from wavetune.allocation.plan import rounds_of
    from wavetune.reporting.format import joules

    if not planner.method.planner.minds_energy or chosen.status != "ok":
        return ""
    spent_j = rounds_of(problem, chosen.rank_K) * chosen.energy.total_j
    per_client = problem.cut_per_client or problem.rank_slack is not None
    if per_client or len({*chosen.cut_K.tolist()}) > 1 or len({*chosen.rank_K.tolist()}) > 1:
        return f"{joules(spent_j)} to the target"
    bound_j = min(spent_j, least_energy_j(*of_participants(problem, chosen), chosen.delay_s))
    return f"{joules(spent_j)} to the target, no plan as fast spends less than {joules(bound_j)}"
