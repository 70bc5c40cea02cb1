"""Everything a run consists of, built once from its recipe: world, data, model, plan and cohort."""

from collections.abc import Callable, Container, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavetune.allocation.instance import allocation_from_json
from wavetune.allocation.participants import plan_of_decisions
from wavetune.allocation.plan import Plan
from wavetune.allocation.problem import Problem
from wavetune.costs.architecture import Architecture
from wavetune.costs.table import CostTable
from wavetune.data.batching import Batching, batch_indices
from wavetune.data.partition import Rows
from wavetune.data.settings import PreparedData, prepare
from wavetune.errors import ConfigError, ModelError, RunFolderError
from wavetune.federation.account import Accountant
from wavetune.federation.cohort import Cohort
from wavetune.federation.cut import CutLink
from wavetune.federation.door import Door
from wavetune.federation.memory import default_tokens_per_pass, tokens_of_a_piece
from wavetune.federation.messages import Field
from wavetune.federation.method import Method
from wavetune.federation.nodes import Nodes
from wavetune.federation.optimise import StackedOptimiser
from wavetune.federation.place import Place
from wavetune.federation.placement import Placement
from wavetune.federation.prefix import KeptPrefix, lowest_trained
from wavetune.federation.privacy import require_accountant
from wavetune.federation.round_planner import RoundPlanner
from wavetune.federation.selection import State
from wavetune.models.architecture import architecture_of
from wavetune.models.backbone import Backbone, load_backbone, load_tokenizer
from wavetune.models.lora import AdapterBank, Matrices, named_matrices, new_bank
from wavetune.models.resolve import ResolvedModel, resolve_model
from wavetune.recipe import Recipe
from wavetune.records.rounds import Round
from wavetune.runtimes.precision import device_of, precision_of, uses_bf16, working_dtype
from wavetune.runtimes.server_training import ServerTraining
from wavetune.runtimes.world import plan_world, statistics_of


@dataclass(frozen=True)
class Infeasible:
    """The world admits no plan; there is nothing to train."""

    reason: str


@dataclass
class Session:
    """A run's parts. `rank_K` and `rows_by_client` are the trainers': the clients, or the one central trainer.

    Where clients are `on_devices` of their own, the bank's slots do not have what they keep to themselves. `served` is
    the server as a trainer of its own: its model, where clients train another, with the adapters that are shared.
    """

    recipe: Recipe
    model: ResolvedModel
    tokenizer: Any
    data: PreparedData
    rows_by_client: tuple[Rows, ...]
    batching: Batching
    planner: RoundPlanner
    plan: Plan
    accountant: Accountant
    rank_K: tuple[int, ...]
    cohort: Cohort
    server: Nodes
    door: Door
    precision: str
    servers_architecture: Architecture
    served: Cohort | None = None
    training: ServerTraining | None = None
    on_devices: bool = False
    place: Place = field(init=False)  # where local steps are made
    schedule: State = field(init=False)  # what the planner knows of the rounds that are over
    _planned: tuple[int, Problem, Plan] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.place, self.schedule = self.cohort, self.planner.init()

    @property
    def central(self) -> bool:
        """Whether one trainer holds all data."""
        return self.recipe.method.topology.pooled

    @property
    def one_model(self) -> bool:
        """Whether clients train the model that servers have."""
        return self.recipe.method.client_model is None

    @property
    def serving(self) -> Cohort:
        """What has the servers' model, which is judged and left behind."""
        return self.cohort if self.one_model or self.served is None else self.served

    @property
    def judge(self) -> Place:
        """Where the servers' model is evaluated."""
        return self.place if self.one_model else self.serving

    def send_models(self) -> None:
        """Let the model that clients train pass the door, to each of them."""
        if self.one_model:
            return
        for client in range(self.cohort.placement.num_clients):
            payload = model_message(self.recipe.method, self.cohort)
            spec = {name: Field(tuple(t.shape), str(t.dtype).rpartition(".")[2]) for name, t in payload.items()}
            self.door.pass_on("model_down", client, payload, spec)

    @property
    def servers_table(self) -> CostTable:
        """Costs of the servers' model with the adapters that are shared."""
        method, table = self.recipe.method, self.planner.table
        return replace(table, architecture=self.servers_architecture, adapters=method.shared_beside_lora)

    def server_flop(self, index: int) -> float:
        """Compute of the server's own steps in a round (FLOP)."""
        rank = max(self.rank_K) if self.recipe.method.sharing.shares("lora") else 0
        return 0.0 if self.training is None else self.training.flop(index, self.servers_table, rank)

    @property
    def personal(self) -> bool:
        """Whether clients keep trained adapters of their own, so that there is no one model for all."""
        sharing, bank = self.recipe.method.sharing, self.cohort.bank
        kept = sharing.kept(bank.sites, self.cohort.backbone.num_layers)
        return self.one_model and not self.central and any(name in kept for name, _ in named_matrices(bank.local))

    @property
    def steps_K(self) -> Sequence[int]:
        """Local steps that each trainer makes in a round."""
        return self.planner.steps_K or [self.recipe.run.local_steps] * len(self.rank_K)

    @property
    def batch_size_K(self) -> Sequence[int]:
        """Rows of each trainer's local step."""
        return self.planner.batch_size_K or [self.batching.batch_size] * len(self.rank_K)

    @property
    def uploads_K(self) -> list[bool]:
        """Which trainers have adapters to send up: none where one has all data, or where nothing is shared."""
        accountant = self.accountant.about(self.server.agenda)
        pairs = zip(accountant.cut_K, accountant.rank_K, strict=True)
        return [not self.central and accountant.adapter_bits(cut, rank)[0] > 0 for cut, rank in pairs]

    def planned(self, index: int) -> tuple[Problem, Plan]:
        """Problem and plan of a round; the planner is asked once, whoever needs them."""
        if self._planned is None or self._planned[0] != index:
            agenda = self.server.begin(index)
            self._planned = (index, *self.planner.plan(index, self.plan, self.schedule, agenda))
        return self._planned[1:]

    def settle(self, done: Round) -> None:
        """Tell the planner of the round that is over."""
        self.schedule = self.recipe.method.selection.settle(self.schedule, done)

    def step_rows(self, step: int) -> list[Rows]:
        """Rows of the training set that every trainer takes at a local step, counted over the run."""
        lengths, run, arriving = self.data.train.lengths, self.recipe.run, self.recipe.world.data.stream
        held = [
            self.data.held(arriving, rows, run.seed, client, step // run.local_steps)
            for client, rows in enumerate(self.rows_by_client)
        ]
        batching_K = [replace(self.batching, batch_size=size) for size in self.batch_size_K]
        return [
            own[batch_indices(lengths[own], batching, run.seed, client, step)]
            for client, (own, batching) in enumerate(zip(held, batching_K, strict=True))
        ]


def build(
    recipe: Recipe, planned: Mapping[str, Any] | None = None, say: Callable[[str], None] | None = None
) -> Session | Infeasible:
    """Resolve, load and plan everything. When a run is continued, `planned` is the plan it wrote, which is kept."""
    run, world, say = recipe.run, recipe.world, say or (lambda _sentence: None)
    device = device_of(run.device)
    model = resolve_model(world.model, progress=say)
    tokenizer = load_tokenizer(model.folder)
    say("reading and tokenising the data")
    data = prepare(world.data, tokenizer, world.scenario.population.num_clients, run.seed)
    recipe = replace(recipe, world=replace(world, data=replace(world.data, template=data.template)))
    say(data.told)
    samples_K = [len(rows) for rows in data.rows_by_client]
    architecture = architecture_of(model.folder, say)
    planner = plan_world(recipe, architecture, statistics_of(data.train), samples_K, len(data.classes))
    say("planning")
    method = planner.method  # with the codecs and rounds to the target that were chosen
    recipe = replace(recipe, run=replace(run, local_steps=planner.local_steps), method=method)
    plan = planner.first_plan() if planned is None else _kept_plan(planner, planned)
    if plan.status != "ok":
        return Infeasible(plan.reason)
    if method.privacy is not None:
        require_accountant()
    bf16, data = uses_bf16(run.precision, device), data.with_prompt(method.prompt_tokens)
    say("loading the model's weights")
    targets, opened = planner.table.lora_targets, (model.folder, bf16, device, len(data.classes) or None)
    backbone = backbone_of(recipe, method.lora.on(targets), *opened)
    check_tokens(backbone, data, method.key_tokens)
    door = Door()
    cut_K, rank_K = tuple(map(int, plan.cut_K)), tuple(map(int, plan.rank_K))
    placement, rank_K, rows, batching = _trainers(recipe, data, cut_K, rank_K)
    cohort = cohort_of(recipe, backbone, placement, rank_K, door)
    check_ranks(method, rank_K)
    server = Nodes(
        cohort.bank,
        rank_K,
        method.mixing,
        method.chain(len(rank_K)),
        method.sharing,
        method.server_filters,
        method.exchange,
        run.seed,
        tell=cohort.optimiser.tell,
        ask=cohort.optimiser.tells,
    )
    served, training, judged = None, None, cohort
    if method.client_model is not None:
        lora = method.lora.on(targets) if method.sharing.shares("lora") else ()
        serving = backbone_of(recipe, lora, *opened, of_clients=False)
        judged = served = server_of(recipe, serving, rank_K)
    if method.server_steps is not None:
        served = served or server_of(recipe, backbone, rank_K)
        server.refine = training = ServerTraining(recipe, served, data)
    server.holds = lambda factors: judged.holds(data.validation, one_bank(judged, factors))
    model_bits = 0.0
    if method.client_model is not None:
        model_bits = float(sum(8 * t.numel() * t.element_size() for t in model_message(method, cohort).values()))
    accountant = Accountant(planner.table, method, placement.cut_K, rank_K, max(rank_K), server.sites, model_bits)
    accountant = replace(accountant, steps_K=planner.steps_K)
    precision = precision_of(backbone, run.precision, bf16)
    return Session(
        recipe,
        model,
        tokenizer,
        data,
        rows,
        batching,
        planner,
        plan,
        accountant,
        rank_K,
        cohort,
        server,
        door,
        precision,
        architecture,
        served,
        training,
    )


def backbone_of(
    recipe: Recipe,
    targets: tuple[str, ...],
    folder: Path,
    bf16: bool,
    device: torch.device,
    outputs: int | None,
    of_clients: bool = True,
) -> Backbone:
    """The model of a folder as clients train it, or the servers' own with the adapters that are shared."""
    method, precision = recipe.method, recipe.run.precision
    adapters, make = (method.beside_lora, method.makes) if of_clients else (method.shared_beside_lora, None)
    dtype, int8 = working_dtype(precision), precision == "int8"
    return load_backbone(folder, targets, bf16, device, adapters, outputs, dtype, make, int8)


def server_of(recipe: Recipe, backbone: Backbone, rank_K: tuple[int, ...]) -> Cohort:
    """The server as a trainer of its own on a model, with the adapters that are shared."""
    layers = backbone.num_layers
    placement = Placement(layers, (layers,), (None,), (1.0,), split=False)
    cohort = cohort_of(recipe, backbone, placement, (max(rank_K),), Door())
    shared = recipe.method.sharing.names(cohort.bank.sites, layers, "shared")
    prefixes = {site.name for site in backbone.attended.values()}
    if prefixes & shared and prefixes - shared:
        raise ConfigError(
            "a server that has a model of its own, or trains, reads prefixes in every block, and "
            "method.sharing.shared_layers shares those of some blocks alone; leave it out"
        )
    local = {name: stacks for name, stacks in cohort.bank.local.items() if name in shared}
    bank = replace(cohort.bank, sites=tuple(site for site in cohort.bank.sites if site.name in shared), local=local)
    return replace(cohort, bank=bank, optimiser=StackedOptimiser(bank, recipe.method.optimiser), proximal=0.0, turns=())


def model_message(method: Method, cohort: Cohort) -> dict[str, torch.Tensor]:
    """What clients are sent of their model: its weights, what several places share once, and what was trained in it.

    That is the adapters that are not shared, equal for all.
    """
    model, backbone, found = method.client_model, cohort.backbone, dict[tuple[int, tuple[int, ...]], str]()
    assert model is not None
    own, inside = model.blocks(backbone.num_layers), f"{backbone.structure.blocks}."
    weights: dict[str, torch.Tensor] = backbone.model.state_dict()
    for name, t in weights.items():
        if not name.startswith(inside) or int(name.removeprefix(inside).partition(".")[0]) in own:
            found.setdefault((t.data_ptr(), tuple(t.shape)), name)  # a tied head is the embedding
    taught = {} if model.distillation is None else {n: t[0].detach() for n, t in kept_by_clients(method, cohort)}
    return {name: weights[name] for name in found.values()} | taught


def kept_by_clients(method: Method, cohort: Cohort) -> list[tuple[str, torch.Tensor]]:
    """Stacks of the adapters that clients train and do not share, `[K, ...]`, named by site and matrix."""
    bank = cohort.bank
    kept = method.sharing.kept(bank.sites, cohort.backbone.num_layers)
    return [(name, stack) for name, stack in named_matrices(bank.local) if name in kept]


def check_ranks(method: Method, rank_K: tuple[int, ...]) -> None:
    """Raise ConfigError where privacy would not protect clients of these ranks."""
    if method.privacy is not None and len({*rank_K}) > 1:
        raise ConfigError(
            f"method.privacy needs one rank for all clients, and theirs are {list(rank_K)}: a component that few hold "
            "gets less noise; set method.lora.rank to one number"
        )


def check_tokens(backbone: Backbone, data: PreparedData, key_tokens: int) -> None:
    """Raise ModelError for tokens that the model does not know, ConfigError for rows that are longer than it takes."""
    config = backbone.model.config.get_text_config()
    largest = max(int(part.ids.max()) for part in (data.train, data.validation))
    if largest >= config.vocab_size:
        raise ModelError(
            f"the tokenizer gives token {largest} but the model knows {config.vocab_size} tokens; they do not belong "
            "together, fetch the model again"
        )
    longest = max(int(part.lengths.max()) for part in (data.train, data.validation))
    longest += key_tokens
    shorter = " or the tokens before a row" if key_tokens or data.train.prompt_tokens else ""
    if backbone.max_tokens is not None and longest > backbone.max_tokens:
        why = ", beyond which longrope reads all rows of a pass in another way" if backbone.one_rotation else ""
        raise ConfigError(
            f"a row has {longest} tokens but the model takes {backbone.max_tokens}{why}; lower world.data.max_tokens"
            + shorter
        )


def _kept_plan(planner: RoundPlanner, planned: Mapping[str, Any]) -> Plan:
    try:
        cut, rank, main, fed = allocation_from_json(dict(planned))
        if min(main.power_w_M.min(initial=0), fed.power_w_M.min(initial=0)) < 0:
            raise ValueError("a power is negative")
        share, active = (planned.get(name) for name in ("server_share", "active"))
        return plan_of_decisions(
            planner.known(0),
            np.asarray(cut),
            np.asarray(rank),
            main,
            fed,
            planned["lower_bound_s"],
            None if share is None else np.asarray(share, dtype=np.float64),
            None if active is None else np.asarray(active, dtype=np.bool_),
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise RunFolderError(f"plan.json of the run does not fit its recipe ({error}); start a new run") from error


def _trainers(
    recipe: Recipe, data: PreparedData, cut_K: tuple[int, ...], rank_K: tuple[int, ...]
) -> tuple[Placement, tuple[int, ...], tuple[Rows, ...], Batching]:
    topology, batching, num_layers = recipe.method.topology, recipe.world.data.batching, max(cut_K)
    rows = data.rows_by_client
    if topology.pooled:
        everything = np.sort(np.concatenate(rows))
        whole = Batching(batching.batch_size * len(rows), batching.bucket, batching.pool_batches)
        placement = Placement(num_layers, (num_layers,), (None,), (1.0,), split=False)
        return placement, (max(rank_K),), (everything,), whole
    total = sum(map(len, rows))
    private = recipe.method.privacy is not None  # then nobody may count for more than another
    weights = tuple(1 / len(rows) if private else len(r) / total for r in rows)
    tail = (0 if topology.labels_stay else None,) * len(rows)
    # the number of blocks is filled in by `cohort_of`, which knows the model
    return Placement(0, cut_K, tail, weights, topology.is_split, topology.in_turn), rank_K, rows, batching


def cohort_of(
    recipe: Recipe,
    backbone: Backbone,
    placement: Placement,
    rank_K: tuple[int, ...],
    door: Door,
    largest_rank: int | None = None,
) -> Cohort:
    """The cohort of a model, with new adapters and optimisers. The largest rank may be that of a client elsewhere."""
    method, run = recipe.method, recipe.run
    placement = replace(placement, num_layers=backbone.num_layers)
    largest_rank = largest_rank or max(rank_K)
    bank = new_bank(
        backbone.sites,
        placement.local_LK(),
        rank_K,
        largest_rank,
        method.lora.alpha_at(max(largest_rank, *rank_K)),
        run.seed,
        backbone.device,
        backbone.dtype,
    )
    freeze(bank, {site.name for site in bank.sites if site.ranked}, method.mixing.frozen)
    freeze(bank, method.sharing.names(bank.sites, backbone.num_layers, "frozen"))
    link = CutLink(door, method.activation_codec, method.gradient_codec)
    backbone.recompute = run.recompute_blocks
    budget = run.tokens_per_pass or default_tokens_per_pass(backbone)
    optimiser = StackedOptimiser(bank, method.optimiser)
    frozen, limit_bytes = lowest_trained(bank, backbone.num_layers), run.prefix_mb * 1_000_000
    keeps = frozen and limit_bytes and backbone.way.cuts
    prefix = KeptPrefix(backbone, frozen, limit_bytes) if keeps else None
    return Cohort(
        backbone,
        bank,
        placement,
        link,
        optimiser,
        budget,
        method.proximal,
        method.objective,
        prefix=prefix,
        turns=method.turns_of(run.local_steps),
        tokens_that_fit=tokens_of_a_piece(backbone, run.tokens_per_pass),
    )


def freeze(bank: AdapterBank, sites: AbstractSet[str], matrices: Container[str] | None = None) -> None:
    """Train none of these matrices (None: none at all) of the sites of these names."""
    for stacks in (bank.local, bank.shared):
        for site in sites & stacks.keys():
            for name, stack in stacks[site].items():
                if matrices is None or name in matrices:
                    stack.requires_grad_(False)


def one_bank(cohort: Cohort, factors: Mapping[str, Matrices]) -> AdapterBank:
    """A bank of one client that acts with these factors in every block; where there are none, the base acts alone."""
    shared = {site: {name: t.detach()[None] for name, t in own.items()} for site, own in factors.items()}
    sites = tuple(site for site in cohort.bank.sites if site.name in factors)
    return AdapterBank(sites, np.zeros((cohort.backbone.num_layers, 1), np.bool_), cohort.bank.scale, {}, shared)


def client_factors(bank: AdapterBank, client: int) -> dict[str, Matrices]:
    """The matrices client `client` acts with: its own where it holds the block, else the shared ones."""
    found: dict[str, Matrices] = {}
    for site in bank.sites:
        slot = int(bank.slots(site.layer)[client])
        stacks = bank.local[site.name] if slot >= 0 else bank.shared[site.name]
        found[site.name] = {name: stack[max(slot, 0)].detach().clone() for name, stack in stacks.items()}
    return found
