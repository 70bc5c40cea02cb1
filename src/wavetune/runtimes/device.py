"""What attends for a device at the servers of a run, and answers each of their orders with a report."""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from torch import Tensor

from wavetune.data_plane import PROTOCOL_VERSION
from wavetune.data_plane.certificates import Identity, check_identity, client_of
from wavetune.data_plane.client import Stream, connect
from wavetune.data_plane.control import attend
from wavetune.data_plane.diagnosis import diagnose, with_port
from wavetune.data_plane.messages_pb2 import Attend, Hello, RoundOrder, RoundReport
from wavetune.data_plane.refusal import quoted
from wavetune.errors import (
    ConfigError,
    DataError,
    DeploymentError,
    NumericsError,
    RunFolderError,
    WavetuneError,
    first_line,
)
from wavetune.federation.folder_lock import locked
from wavetune.logs import LOG
from wavetune.recipe import Recipe
from wavetune.runtimes import local_round, state_folder
from wavetune.runtimes.alignment.device import OwnAlignment
from wavetune.runtimes.device_half import Device, build_device
from wavetune.runtimes.device_permission import Allowed
from wavetune.runtimes.inputs import differs, settled

_REACH_S = 60.0
_LONGEST_SENTENCE = 2000  # characters


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
    _recipe: str = ""  # with which the present run began
    _states: dict[int, dict[str, Tensor]] = field(default_factory=dict[int, dict[str, Tensor]])
    _channels: dict[tuple[str, int], grpc.Channel] = field(default_factory=dict[tuple[str, int], grpc.Channel])
    _process: bytes = field(default_factory=lambda: secrets.token_bytes(8))

    def __post_init__(self) -> None:
        if self.folder is not None and (latest := state_folder.latest(self.folder)) is not None:
            self._place, (self._run, self._states, self._recipe) = latest, state_folder.read(latest, self.say)

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
        except Exception as error:  # servers that turned bad may order what nobody has thought of
            known = isinstance(error, WavetuneError)
            LOG.debug("an order failed", exc_info=not known)
            why = str(error) if known else f"it cannot be done ({type(error).__name__}: {first_line(error)})"
            self.say(f"round {order.round + 1}: {quoted(why, _LONGEST_SENTENCE)}")
            if isinstance(error, DataError) and self.allowed is not None and self.allowed.data is not None:
                why = "its own data are not such as the recipe reads; its log says why"
            not_finite = isinstance(error, NumericsError)
            return RoundReport(round=order.round, failure=quoted(why, _LONGEST_SENTENCE), not_finite=not_finite)

    def _round(self, order: RoundOrder) -> RoundReport:
        device = self._ready(order)
        if order.HasField("align"):
            return self._align(device, order)
        if order.listen:
            return self._end(device, order)
        hello = Hello(version=PROTOCOL_VERSION, run=order.run, round=order.round, client=self.client, token=order.token,
                      width=device.cohort.backbone.width, cut=order.cuts[self.client])  # fmt: skip
        stream = Stream(self._channel(order.address or self.server, device), hello)
        try:
            if device.cut:
                device.train(order, device.wire(stream, order))
            else:
                upload = local_round.train(device, order)
                parts = [(local_round.UP, payload) for payload in upload.payloads]
                pace, phase = order.fed_bit_per_s, "fed_download_s"
                local_round.receive(device, stream.ask(parts, losses=upload.losses, bit_per_s=pace, phase=phase))
        finally:
            stream.close()
        report = self._end(device, order)
        report.seconds.update({**device.take_seconds(), **stream.measured.seconds})
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
        # whose report came too late is asked for what it has done
        latest = order.round + (order.listen or order.HasField("align"))
        if self._device is None or self._built != wanted or min(self._states, default=0) > latest:
            device = build_device(order, self.client, self.say, self.allowed)
            if device.recipe.method.alignment is not None and self.folder is None:
                raise ConfigError("alignment needs a folder for what this device learns; start it with --state FOLDER")
            self._turn_to(order.run, device.recipe)
            self._device, self._built = device, wanted
            self._states.setdefault(0, device.state())
        self._device.require(order)
        self._states = {done: state for done, state in self._states.items() if done <= latest}
        self._device.load_state(self._states[max(self._states)])
        if order.adapters:
            self._device.start_from(order.adapters)
        return self._device

    def _turn_to(self, run: str, recipe: Recipe) -> None:
        """Have the states of a run at hand, and its folder.

        Raises ConfigError if the run began with another recipe: what that keeps on this device might be shared.
        """
        place, states, began = self._place, self._states, self._recipe
        if self.folder is not None:
            place = state_folder.of_run(self.folder, run)
            if self.allowed is not None and not place.exists():
                state_folder.require_room(self.folder, self.allowed.most_runs, self.allowed.most_bytes)
        if self._run != run:
            states, began = {}, ""
            if place is not None:
                _, states, began = state_folder.read(place, self.say)
        now = settled(recipe)
        if began and (path := differs(json.loads(began), now, recipe)):
            raise ConfigError(f"{path} of the servers' recipe is not what it was when this run began here")
        if place != self._place and place != self.folder:
            self.say(f"keeps this run's state in {place}; {self.folder} has that of another run")
        self._place, self._states, self._run, self._recipe = place, states, run, began or json.dumps(now)

    def _hide(self) -> None:
        if self.folder is not None:
            state_folder.hide(self.folder)

    def _channel(self, address: str, device: Device) -> grpc.Channel:
        """A connection over which no more comes than a round of the device needs.

        Raises DeploymentError where it cannot be made: servers that started anew since they gave an order may show
        another certificate, and an order's address may be none that this device reaches.
        """
        key = with_port(address), device.most_answer_bytes
        channel = self._channels[key] = self._channels.get(key) or connect(key[0], self.identity, key[1])
        try:
            grpc.channel_ready_future(channel).result(_REACH_S)
        except grpc.FutureTimeoutError:
            raise DeploymentError(
                f"the servers that gave this order are not at {key[0]}, or show another certificate there"
            ) from None
        return channel

    def _keep(self, order: RoundOrder, state: Mapping[str, Tensor]) -> None:
        done = order.round + 1
        self._states[done] = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        assert self._device is not None
        kept = self._device.recipe.run.checkpoint_every + 1  # the servers may go back to their last checkpoint
        if self.allowed is not None:
            size = sum(tensor.nbytes for tensor in self._states[done].values())
            kept = int(max(1, min(kept, self.allowed.most_bytes / max(size, 1))))
        self._states = {n: self._states[n] for n in sorted(self._states)[-kept:]}
        if self._place is not None:
            state_folder.write(self._place, order.run, done, self._states, self._recipe)
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
