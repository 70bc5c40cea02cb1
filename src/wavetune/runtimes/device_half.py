"""A device of a deployed run: its own data and its blocks of the model, and its half of a round.

These are the blocks before its cut or, where nothing is cut, all of them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wavetune.data.batching import batch_indices
from wavetune.data.settings import PreparedData, prepare
from wavetune.data_plane.client import LONGEST_ORDER, Stream
from wavetune.data_plane.messages_pb2 import RoundOrder
from wavetune.data_plane.payloads import read_tensors
from wavetune.data_plane.wires import DeviceWire
from wavetune.errors import ConfigError, JsonError, NumericsError, RunFolderError
from wavetune.federation.cohort import Cohort, Seconds, StepResult
from wavetune.federation.door import Door
from wavetune.federation.messages import Agenda
from wavetune.federation.nodes import Nodes
from wavetune.federation.placement import OF_CLIENTS, WHOLE, Placement
from wavetune.federation.run_folder import part_of
from wavetune.json_reader import parse
from wavetune.models.architecture import architecture_of
from wavetune.models.backbone import load_tokenizer
from wavetune.models.lora import AdapterBank
from wavetune.models.part import load_part
from wavetune.models.resolve import resolve_model
from wavetune.recipe import Recipe, from_dict
from wavetune.runtimes.device_permission import Allowed, require_plan, require_round
from wavetune.runtimes.precision import device_of, working_dtype
from wavetune.runtimes.session import backbone_of, check_ranks, check_tokens, cohort_of

_ANSWER_BYTES = 4 << 20  # beside values
_RECIPE_LETTERS = 4 << 20  # read, they take twenty times as much


@dataclass
class Device:
    """One client's half of a run."""

    recipe: Recipe
    client: int
    data: PreparedData
    cohort: Cohort  # of this client alone
    adapters: Nodes
    base: str  # folder of the base model

    @property
    def door(self) -> Door:
        """What everything that moves between this device and the servers passes."""
        return self.cohort.link.door

    @property
    def cut(self) -> bool:
        """Whether some blocks are elsewhere."""
        return self.cohort.placement.split

    @property
    def personal(self) -> bool:
        """Whether some adapters are trained here and never leave."""
        bank, sharing = self.cohort.bank, self.recipe.method.sharing
        return bool(sharing.kept(bank.sites, self.cohort.backbone.num_layers))

    def wire(self, stream: Stream, order: RoundOrder) -> DeviceWire:
        """What carries the messages of an order's round over a stream."""
        link = self.cohort.link
        codecs = {"activations_down": link.activation_codec, "gradients_down": link.gradient_codec}
        width = self.cohort.backbone.width
        return DeviceWire(stream, codecs, width, order.main_bit_per_s, order.fed_bit_per_s)

    @property
    def most_answer_bytes(self) -> int:
        """No answer of the servers in a round is larger: values of fp64 for a batch's tokens, or for the adapters."""
        lengths = self.data.train.lengths[self.data.rows_by_client[self.client]]
        tokens = int(max(lengths, default=0)) * self.recipe.world.data.batching.batch_size
        adapters = sum(matrix.numel() for matrix in self.cohort.bank.parameters(local=True))
        adapters *= 1 + len(self.recipe.method.mixing.beside)
        return min(_ANSWER_BYTES + 8 * max(tokens * self.cohort.backbone.width, adapters), LONGEST_ORDER)

    def train(self, order: RoundOrder, wire: DeviceWire) -> None:
        """The local steps of a round before a cut, and its adapter exchange.

        Raises DeploymentError, NumericsError, RefusedError.
        """
        self.door.carry, self.door.announce = wire.carry, wire.announce
        for _ in self.local_steps(order):
            pass
        self.upload(order)
        wire.exchange_adapters()
        self.end_round()

    def local_steps(self, order: RoundOrder) -> Iterator[StepResult]:
        """Do the local steps of a round, one after the other."""
        method, run = self.recipe.method, self.recipe.run
        self.adapters.agenda = Agenda(tuple(order.blocks) or None, frozenset(order.frozen))
        self.cohort.begin_round(self.adapters.names, self.adapters.agenda)
        first = order.round * run.local_steps
        for step in range(first, first + order.local_steps):
            factor = method.optimiser.factor(step, run.rounds * run.local_steps)
            yield self.cohort.step(self.data.train, [self._rows(step, order)], factor)

    def upload(self, order: RoundOrder) -> None:
        """Send the shared adapters through the door, unless the order simulates an outage."""
        if not order.outage:
            self.adapters.upload(0, self.door, order.round)

    def end_round(self) -> None:
        """Load the mixture, which comes through the door."""
        if self.recipe.method.mixing.rebases:
            self.cohort.optimiser.reset()
        self.adapters.download(0, self.door)
        self._require_finite()
        self.adapters.remember_broadcast()
        self.cohort.optimiser.train()

    def take_seconds(self) -> dict[str, float]:
        """Seconds spent on computing since the last call, by phase."""
        seconds, self.cohort.seconds = self.cohort.seconds, Seconds(float)
        return {f"client_{phase}": spent_s for phase, spent_s in seconds.items()}

    def state(self) -> dict[str, Tensor]:
        """All that a device must remember between rounds, as named tensors."""
        optimiser, adapters = self.cohort.optimiser.state(), self.adapters.state()
        return (
            {f"adapter.{name}": tensor for name, tensor in self.cohort.bank.copies(0).items()}
            | {f"optimiser.{name}": tensor for name, tensor in optimiser.items()}
            | {f"exchange.{name}": tensor for name, tensor in adapters.items()}
        )

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""

        load_adapter_tensors(self.cohort.bank, 0, part_of(state, "adapter."))
        self.cohort.optimiser.load_state(part_of(state, "optimiser."))
        self.adapters.load_state(part_of(state, "exchange."))

    def require(self, order: RoundOrder) -> None:
        """Raise ConfigError for an order that the recipe of this device has no place for."""
        require_round(order, self.recipe, self.cohort.backbone.num_layers)

    def start_from(self, content: bytes) -> None:
        """Take the shared adapters that the server says this device has; all else stays. Raises RefusedError too."""
        adapters = read_tensors(content, "the adapters of the order")
        kept = self.recipe.method.sharing.kept_factors  # which the servers have but as they were at first
        load_adapter_tensors(self.cohort.bank, 0, adapters, self.adapters.names, kept)
        self.cohort.optimiser.tell(0, adapters)
        self._require_finite()
        self.adapters.remember_broadcast()

    def _require_finite(self) -> None:
        sent = (*self.cohort.bank.parameters(local=True), *self.cohort.optimiser.told(0).values())
        if not all(torch.isfinite(matrix).all() for matrix in sent):
            raise NumericsError("the adapters that the servers sent hold values that are not finite")

    def _rows(self, step: int, order: RoundOrder) -> Any:
        settings, seed, client = self.recipe.world.data, self.recipe.run.seed, self.client
        own = self.data.held(settings.stream, self.data.rows_by_client[client], seed, client, order.round)
        batching = replace(settings.batching, batch_size=order.batch_size)
        return own[batch_indices(self.data.train.lengths[own], batching, seed, client, step)]


def build_device(order: RoundOrder, client: int, say: Callable[[str], None], allowed: Allowed | None = None) -> Device:
    """Load what an order asks for: this client's rows and its blocks of the base model.

    Raises: ConfigError for what is not allowed (None: all is).
    """
    if len(order.recipe) > _RECIPE_LETTERS:
        raise ConfigError(f"the recipe of the order has {len(order.recipe)} letters; it may have {_RECIPE_LETTERS}")
    try:
        values = parse(order.recipe)
    except JsonError as error:
        raise ConfigError(f"the recipe of the order: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError("the recipe of the order is no JSON object")
    recipe = from_dict(values, None if allowed is None else allowed.others)
    recipe = recipe if allowed is None else allowed.applied(recipe)
    method, run, world = recipe.method, recipe.run, recipe.world
    device, dtype = device_of(run.device), working_dtype(run.precision)
    folder = resolve_model(world.model, progress=say).folder
    model = architecture_of(folder)
    require_plan(order, recipe, model.num_layers, model.hidden_size)
    method.check(len(order.cuts), model.num_layers, model.hidden_size)  # as privacy, for one, is void beside some parts
    data = prepare(world.data, load_tokenizer(folder), len(order.cuts), run.seed).with_prompt(method.prompt_tokens)
    cut, rank = order.cuts[client], order.ranks[client]
    int8, beside = run.precision == "int8", method.beside_lora
    split, at_client = method.topology.is_split, method.topology.labels_stay
    targets = method.lora.on(model.default_lora_targets)
    if split:
        backbone = load_part(folder, range(cut), at_client, targets, order.bf16, device, beside, dtype, int8)
    else:
        backbone = backbone_of(recipe, targets, folder, order.bf16, device, len(data.classes) or None)
    check_tokens(backbone, data, method.key_tokens)
    placement = Placement(backbone.num_layers, (cut,), (0 if at_client else None,), (1.0,), split)
    cohort = cohort_of(recipe, backbone, placement, (rank,), Door(), max(order.ranks))
    cohort.half = OF_CLIENTS if split else WHOLE
    check_ranks(method, tuple(order.ranks))
    chain, share, part = method.chain(len(order.ranks)), method.sharing, method.exchange
    adapters = Nodes(cohort.bank, (rank,), method.mixing, chain, share, (), part, run.seed, (client,), half=OF_CLIENTS)
    adapters.tell, adapters.ask = cohort.optimiser.tell, cohort.optimiser.tells
    say(data.told)
    say(f"holds {len(data.rows_by_client[client])} rows and {cut} of {backbone.num_layers} blocks")
    return Device(recipe, client, data, cohort, adapters, str(folder))


@torch.no_grad()
def load_adapter_tensors(
    bank: AdapterBank,
    client: int,
    tensors: Mapping[str, Tensor],
    names: Collection[str] | None = None,
    kept: Collection[str] = (),
) -> None:
    """Put back what `AdapterBank.copies` returned: of the sites of these `names` (None: of all), but for those factors
    of LoRA that are `kept`. Raises RunFolderError where it does not fit.
    """
    for site in bank.sites:
        slot = int(bank.slots(site.layer)[client])
        for name, stack in bank.local.get(site.name, {}).items():
            found = tensors.get(f"{site.name}.{name}")
            if slot < 0 or (names is not None and site.name not in names) or (site.ranked and name in kept):
                continue
            if found is None or found.shape != stack[slot].shape:
                raise RunFolderError(
                    f"the saved adapters of client {client} do not fit at {site.name}; start a new run"
                )
            stack[slot].copy_(found)
