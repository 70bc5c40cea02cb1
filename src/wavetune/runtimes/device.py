"""A device of a deployed run: it holds its own data and its blocks of the model, and answers an order a round.

These are the blocks before its cut or, where nothing is cut, all of them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import torch
from safetensors.torch import load
from torch import Tensor

from wavetune.data.batching import batch_indices
from wavetune.data.settings import PreparedData, prepare
from wavetune.data_plane.certificates import Identity, check_identity, client_of
from wavetune.data_plane.client import Stream, connect
from wavetune.data_plane.contract import PROTOCOL_VERSION
from wavetune.data_plane.control import attend
from wavetune.data_plane.diagnosis import diagnose, with_port
from wavetune.data_plane.halves import DeviceCohort
from wavetune.data_plane.messages_pb2 import Attend, Hello, RoundOrder, RoundReport
from wavetune.data_plane.refusal import quoted
from wavetune.data_plane.uncut import LocalCohort
from wavetune.data_plane.wires import DeviceWire
from wavetune.errors import ConfigError, NumericsError, RunFolderError, WavetuneError
from wavetune.federation.cohort import Placement, StepResult
from wavetune.federation.cut import CutLink
from wavetune.federation.door import Door
from wavetune.federation.folder_lock import locked
from wavetune.federation.nodes import Nodes
from wavetune.federation.optimise import StackedOptimiser
from wavetune.json_reader import parse
from wavetune.models.architecture import architecture_of
from wavetune.models.backbone import load_backbone, load_tokenizer
from wavetune.models.lora import AdapterBank, new_bank
from wavetune.models.part import load_part
from wavetune.models.resolve import resolve_model
from wavetune.recipe import Recipe, from_dict
from wavetune.runtimes import local_round, state_folder
from wavetune.runtimes.device_alignment import OwnAlignment
from wavetune.runtimes.device_permission import Allowed
from wavetune.runtimes.precision import device_of, working_dtype
from wavetune.runtimes.session import check_ranks, freeze, freeze_a


@dataclass
class Device:
    """One client's half of a run."""

    recipe: Recipe
    client: int
    data: PreparedData
    cohort: DeviceCohort | LocalCohort
    adapters: Nodes
    door: Door
    base: str  # folder of the base model

    @property
    def cut(self) -> bool:
        """Whether some blocks are elsewhere."""
        return self.cohort.placement.split

    @property
    def personal(self) -> bool:
        """Whether some adapters are trained here and never leave."""
        bank, sharing = self.cohort.bank, self.recipe.method.sharing
        return bool(sharing.names(bank.sites, self.cohort.backbone.num_layers, "personal"))

    def train(self, order: RoundOrder, wire: DeviceWire) -> None:
        """The local steps of a round before a cut, and its adapter exchange. Raises DeploymentError, NumericsError."""
        assert isinstance(self.cohort, DeviceCohort)
        self.cohort.wire, self.door.carry = wire, wire.carry
        for _ in self.local_steps(order):
            pass
        self.upload(order)
        wire.exchange_adapters()
        self.end_round()

    def local_steps(self, order: RoundOrder) -> Iterator[StepResult]:
        """Do the local steps of a round, one after the other."""
        method, run = self.recipe.method, self.recipe.run
        self.cohort.drop_anchor(self.adapters.current)
        for step in range(order.round * order.local_steps, (order.round + 1) * order.local_steps):
            factor = method.optimiser.factor(step, run.rounds * order.local_steps)
            yield self.cohort.step(self.data.train, [self._rows(step)], factor)

    def upload(self, order: RoundOrder) -> None:
        """Send the shared adapters through the door, unless the order simulates an outage."""
        if not order.outage:
            self.adapters.upload(0, self.door, order.round)

    def end_round(self) -> None:
        """Load the mixture, which comes through the door."""
        self.adapters.download(0, self.door)
        self.adapters.remember_broadcast()
        if self.recipe.method.mixing.rebases:
            self.cohort.optimiser.reset()

    def state(self) -> dict[str, Tensor]:
        """All that a device must remember between rounds, as named tensors."""
        optimiser, adapters = self.cohort.optimiser.state(), self.adapters.state()
        return (
            {f"adapter.{name}": tensor for name, tensor in adapter_tensors(self.cohort.bank, 0).items()}
            | {f"optimiser.{name}": tensor for name, tensor in optimiser.items()}
            | {f"exchange.{name}": tensor for name, tensor in adapters.items()}
        )

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(name): tensor for key, tensor in state.items() if key.startswith(name)}

        load_adapter_tensors(self.cohort.bank, 0, part("adapter."))
        self.cohort.optimiser.load_state(part("optimiser."))
        self.adapters.load_state(part("exchange."))

    def start_from(self, adapters: Mapping[str, Tensor]) -> None:
        """Take the shared adapters that the server says this device has; all else stays."""
        load_adapter_tensors(self.cohort.bank, 0, adapters, self.adapters.current)
        self.adapters.remember_broadcast()

    def _rows(self, step: int) -> Any:
        lengths, own = self.data.train.lengths, self.data.rows_by_client[self.client]
        batching, seed = self.recipe.world.data.batching, self.recipe.run.seed
        return own[batch_indices(lengths[own], batching, seed, self.client, step)]


def build_device(order: RoundOrder, client: int, say: Callable[[str], None], allowed: Allowed | None = None) -> Device:
    """Load what an order asks for: this client's rows and its blocks of the base model.

    Raises: ConfigError for what is not allowed (None: all is).
    """
    recipe = from_dict(parse(order.recipe), None if allowed is None else allowed.others)
    recipe = recipe if allowed is None else allowed.applied(recipe)
    method, run, world = recipe.method, recipe.run, recipe.world
    device, dtype = device_of(run.device), working_dtype(run.precision)
    folder = resolve_model(world.model, progress=say).folder
    data = prepare(world.data, load_tokenizer(folder), world.scenario.population.num_clients, run.seed)
    cut, rank, largest = order.cuts[client], order.ranks[client], max(order.ranks)
    split, at_client = method.topology.is_split, method.topology.labels_stay
    targets = method.lora.targets or architecture_of(folder).default_lora_targets
    if split:
        backbone = load_part(folder, range(cut), at_client, targets, order.bf16, device, method.bottleneck, dtype)
    else:
        outputs = len(data.classes) or None
        backbone = load_backbone(folder, targets, order.bf16, device, method.bottleneck, outputs, dtype)
    placement = Placement(backbone.num_layers, (cut,), (0 if at_client else None,), (1.0,), split)
    alpha = method.lora.alpha
    bank = new_bank(backbone.sites, placement.local_LK(), (rank,), largest, alpha, run.seed, device, dtype)
    if not method.mixing.trains_a:
        freeze_a(bank)
    freeze(bank, method.sharing.names(bank.sites, backbone.num_layers, "frozen"))
    door = Door()
    link = CutLink(door, method.activation_codec, method.gradient_codec)
    optimiser = StackedOptimiser(bank, method.optimiser)
    budget = max(int(data.train.lengths.max()) * world.data.batching.batch_size, 1)
    engine = DeviceCohort if split else LocalCohort
    cohort = engine(backbone, bank, placement, link, optimiser, budget, method.proximal)
    check_ranks(method, tuple(order.ranks))
    chain, share, part = method.chain(len(order.ranks)), method.sharing, method.exchange
    adapters = Nodes(bank, (rank,), method.mixing, chain, share, (), part, run.seed, (client,), with_servers=False)
    say(data.told)
    say(f"holds {len(data.rows_by_client[client])} rows and {cut} of {backbone.num_layers} blocks")
    return Device(recipe, client, data, cohort, adapters, door, str(folder))


@dataclass
class Agent:
    """What attends for a device: builds it from its first order, keeps its state, answers every order with a report.

    With a folder the state outlives the process: it is written whole after every round, for its owner's eyes alone. The
    folder is that of the first run that uses it; each further run has one of its own in it. Without `allowed` the
    servers may name any data, model and reward of this machine.
    """

    client: int
    server: str
    identity: Identity
    folder: Path | None = None
    say: Callable[[str], None] = lambda _text: None
    allowed: Allowed | None = None
    _place: Path | None = None  # where the states of the present run are
    _device: Device | None = None
    _built: tuple[Any, ...] = ()
    _alignment: OwnAlignment | None = None
    _run: str = ""
    _states: dict[int, dict[str, Tensor]] = field(default_factory=dict[int, dict[str, Tensor]])
    _channels: dict[str, grpc.Channel] = field(default_factory=dict[str, grpc.Channel])
    _process: bytes = field(default_factory=lambda: secrets.token_bytes(8))

    def __post_init__(self) -> None:
        if self.folder is not None and (latest := state_folder.latest(self.folder)) is not None:
            self._place, (self._run, self._states) = latest, state_folder.read(latest)

    def introduce(self) -> Attend:
        """Who this is and which states it can go on from."""
        states = sorted(self._states)
        return Attend(version=PROTOCOL_VERSION, client=self.client, run=self._run, states=states, process=self._process)

    def handle(self, order: RoundOrder) -> RoundReport:
        """Do a round. What goes wrong is the report's failure; the device is then as it was before the round."""
        if order.notice:
            self.say(quoted(order.notice))
        try:
            return self._round(order)
        except WavetuneError as error:
            self.say(f"round {order.round + 1}: {error}")
            not_finite = isinstance(error, NumericsError)
            return RoundReport(round=order.round, failure=str(error), not_finite=not_finite)

    def _round(self, order: RoundOrder) -> RoundReport:
        device = self._ready(order)
        if order.HasField("align"):
            return self._align(device, order)
        if order.listen:
            return self._end(device, order)
        hello = Hello(version=PROTOCOL_VERSION, run=order.run, round=order.round, client=self.client, token=order.token,
                      width=device.cohort.backbone.width, cut=order.cuts[self.client])  # fmt: skip
        stream = Stream(self._channel(order.address or self.server), hello)
        try:
            if device.cut:
                device.train(order, DeviceWire(stream, order.main_bit_per_s, order.fed_bit_per_s))
            else:
                upload = local_round.train(device, order)
                parts = [(local_round.UP, payload) for payload in upload.payloads]
                pace, phase = order.fed_bit_per_s, "fed_download_s"
                local_round.receive(device, stream.ask(parts, losses=upload.losses, bit_per_s=pace, phase=phase))
        finally:
            stream.close()
        report = self._end(device, order)
        seconds, device.cohort.seconds = device.cohort.seconds, type(device.cohort.seconds)(float)
        report.seconds.update({**seconds, **stream.measured.seconds})
        report.payload_bytes.update(stream.measured.payload_bytes)
        report.frame_bytes.update(stream.measured.frame_bytes)
        if not report.failure:
            self.say(f"round {order.round + 1}: done")
        return report

    def _align(self, device: Device, order: RoundOrder) -> RoundReport:
        """Steps of the device's own alignment. Their states are numbered on from those of the rounds."""
        started = time.perf_counter()
        assert self._place is not None
        if self._alignment is None or self._alignment.device is not device:
            self._alignment = OwnAlignment(device, self._place, self.say)
        aligned, state = self._alignment.go_on(order.align, self._states[max(self._states)])
        self._keep(order, state)
        if aligned.metrics:
            self.say(f"step {aligned.steps} of alignment: done")
        return RoundReport(round=order.round, aligned=aligned, seconds={"align_s": time.perf_counter() - started})

    def _end(self, device: Device, order: RoundOrder) -> RoundReport:
        """Keep the state and report. What the disk refuses is told; all else of the round has been done."""
        try:
            self._keep(order, device.state())
            report = local_round.ended(device, order, self._place)
            self._hide()
            return report
        except RunFolderError as error:
            self.say(f"round {order.round + 1}: {error}")
            report = local_round.ended(device, order, None)
            report.failure = str(error)
            return report

    def _ready(self, order: RoundOrder) -> Device:
        """The device as it is at the start of the order's round."""
        wanted = (order.run, order.recipe, tuple(order.cuts), tuple(order.ranks), order.bf16)
        if self._device is None or self._built != wanted:
            self._device, self._built = build_device(order, self.client, self.say, self.allowed), wanted
            if self._device.recipe.method.alignment is not None and self.folder is None:
                raise ConfigError("alignment needs a folder for what this device learns; start it with --state FOLDER")
            self._turn_to(order.run)
            self._states.setdefault(0, self._device.state())
        # whose report came too late is asked for what it has done
        latest = order.round + (order.listen or order.HasField("align"))
        self._states = {done: state for done, state in self._states.items() if done <= latest}
        self._device.load_state(self._states[max(self._states)])
        if order.adapters:
            self._device.start_from(load(order.adapters))
        return self._device

    def _turn_to(self, run: str) -> None:
        """Have the states of a run at hand, and its folder."""
        if self.folder is not None:
            place = state_folder.of_run(self.folder, run)
            if place != self._place and place != self.folder:
                self.say(f"keeps this run's state in {place}; {self.folder} has that of another run")
            if self._run != run:
                self._states = state_folder.read(place)[1]
            self._place = place
        elif self._run != run:
            self._states = {}
        self._run = run

    def _hide(self) -> None:
        if self.folder is not None:
            state_folder.hide(self.folder)

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self._channels:
            self._channels[address] = connect(address, self.identity)
        return self._channels[address]

    def _keep(self, order: RoundOrder, state: Mapping[str, Tensor]) -> None:
        done = order.round + 1
        self._states[done] = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        assert self._device is not None
        kept = self._device.recipe.run.checkpoint_every + 1  # the servers may go back to their last checkpoint
        self._states = {n: self._states[n] for n in sorted(self._states)[-kept:]}
        if self._place is not None:
            state_folder.write(self._place, order.run, done, self._states)
            self._hide()


def take_part(
    server: str,
    identity: Identity,
    state: Path | None,
    patience_s: float,
    say: Callable[[str], None],
    allowed: Allowed | None = None,
) -> str:
    """Attend at a server until it says goodbye; returns its reason.

    Raises: ConfigError for certificates that the servers would not take, DeploymentError if they cannot be reached or
    refuse, RunFolderError if the state folder is in use.
    """
    check_identity(identity)
    server = with_port(server)
    with nullcontext() if state is None else locked(state):
        if state is not None:
            state_folder.hide(state)
        agent = Agent(client_of(identity), server, identity, state, say, allowed)
        say(f"device {agent.client} attends at {server}")
        channel = connect(server, identity)
        return attend(channel, agent.introduce, agent.handle, patience_s, say, lambda: diagnose(server, identity))


@torch.no_grad()
def adapter_tensors(bank: AdapterBank, client: int, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Copies of the factors that a client holds, at these sites (all if None), named by site."""
    found: dict[str, Tensor] = {}
    for site in bank.sites:
        slot = int(bank.slots(site.layer)[client])
        if slot >= 0 and (names is None or site.name in names):
            pair = bank.local[site.name]
            found |= {f"{site.name}.{f}": t[slot].detach().clone() for f, t in zip("AB", pair, strict=True)}
    return found


@torch.no_grad()
def load_adapter_tensors(
    bank: AdapterBank, client: int, tensors: Mapping[str, Tensor], names: Collection[str] | None = None
) -> None:
    """Put back what `adapter_tensors` returned. Raises RunFolderError where it does not fit."""
    for site in bank.sites:
        slot = int(bank.slots(site.layer)[client])
        for factor, stack in zip("AB", bank.local.get(site.name, ()), strict=False):
            found = tensors.get(f"{site.name}.{factor}")
            if slot < 0 or (names is not None and site.name not in names):
                continue
            if found is None or found.shape != stack[slot].shape:
                raise RunFolderError(
                    f"the saved adapters of client {client} do not fit at {site.name}; start a new run"
                )
            stack[slot].copy_(found)
