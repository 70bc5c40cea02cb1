"""What the door of a deployed half carries: on one side of a crossing it sends, on the other it takes what came.

Both halves run the same crossings as a run in one process. For what it does not compute itself a half has a placeholder
of the right shape, which its wire exchanges for what the other half sent. A message's kind ends in the way it goes,
`up` to the servers or `down` to a device.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter

import torch

from wavetune.data_plane import messages_pb2
from wavetune.data_plane.client import Stream
from wavetune.data_plane.contract import Arrived
from wavetune.data_plane.messages_pb2 import Part
from wavetune.data_plane.payloads import came_down, check_values
from wavetune.data_plane.refusal import Reason
from wavetune.data_plane.server import DeviceStream
from wavetune.federation.codecs import Codec, Payload
from wavetune.federation.cut import Layout, LossSum


@dataclass
class DeviceWire:
    """A device's side: what goes up gathers in a frame, which leaves when what it is answered by is needed.

    Streams of the main and the federated band may be paced to the rates of an emulated radio. What comes down of a pass
    is to be `width` values a token, as the codec of its kind decodes it.
    """

    stream: Stream
    codecs: Mapping[str, Codec]
    width: int
    main_bit_per_s: float = 0.0
    fed_bit_per_s: float = 0.0
    _up: list[tuple[str, Payload]] = field(default_factory=list[tuple[str, Payload]])
    _down: Part | None = None
    _tokens: int = 0  # of the pass under way
    _layout: messages_pb2.Layout | None = None
    _loss: messages_pb2.Loss | None = None

    def carry(self, kind: str, _client: int, payload: Payload) -> Payload:
        """Send what goes up; what comes down takes the payload's place."""
        if kind.endswith("_up"):
            self._up.append((kind, payload))
            return payload
        if self._down is None:
            self._send(self.main_bit_per_s, "downlink_s")
        part, self._down = self._down, None
        arrived = came_down(part, kind, payload)
        if (codec := self.codecs.get(kind)) is not None:
            check_values(arrived, codec, (self._tokens, self.width), kind)
        return arrived

    def announce(self, _client: int, what: Layout | LossSum) -> None:
        """Have the next frame tell how the tokens are rows, or their loss."""
        if isinstance(what, Layout):
            self._layout = messages_pb2.Layout(lengths=what.lengths, label_positions=what.label_positions)
            self._tokens = sum(what.lengths)
        else:
            self._loss = messages_pb2.Loss(nll=what.nll, labelled=what.labelled)

    def exchange_adapters(self) -> None:
        """Send the adapters, if there are any; what was broadcast comes back."""
        self._send(self.fed_bit_per_s, "fed_download_s")

    def _send(self, bit_per_s: float, phase: str) -> None:
        parts = sorted(self._up, key=itemgetter(0))
        self._down = self.stream.ask(parts, self._layout, self._loss, bit_per_s=bit_per_s, phase=phase)
        self._up, self._layout, self._loss = [], None, None


@dataclass
class ServerWire:
    """The servers' side: the streams of a round's devices. Who does not answer in time is `lost`, with a sentence."""

    patience_s: float
    stream_of: Callable[[int], DeviceStream]
    present: set[int] = field(default_factory=set[int])  # whose streams of the round came
    trained: set[int] = field(default_factory=set[int])  # who took part in a step of the round
    without_upload: set[int] = field(default_factory=set[int])  # who was told to send no adapters
    lost: dict[int, str] = field(default_factory=dict[int, str])
    losses: dict[int, LossSum] = field(default_factory=dict[int, LossSum])  # that devices told in this step
    _frames: dict[int, list[Arrived]] = field(default_factory=dict[int, list[Arrived]])  # of this step
    _answered: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])  # in this step
    _broadcast: dict[int, list[tuple[str, Payload]]] = field(default_factory=dict[int, list[tuple[str, Payload]]])

    def begin_round(self) -> None:
        """Another round: nobody is there yet, and nobody is lost."""
        for one in (self.present, self.trained, self.without_upload, self.lost, self._frames):
            one.clear()

    def gather(self, clients: Iterable[int]) -> Mapping[int, Arrived]:
        """The frames with which these clients begin a step, or end the round, of those that are still there.

        All come within one patience. In a step every message crosses once: where a pass is made again, nothing is sent
        and what came before comes again.
        """
        until = time.monotonic() + self.patience_s
        self._frames, self._answered = {}, set()
        self.losses.clear()
        for client in clients:
            arrived = self._take(client, until)
            if arrived is not None:
                self._frames[client] = [arrived]
        return {client: frames[0] for client, frames in self._frames.items()}

    def give_up(self, client: int, sentence: str) -> None:
        """Do not hear a client any more in this round."""
        self.stream_of(client).fail(sentence, Reason.NOT_FINITE)
        self.lost.setdefault(client, sentence)

    def carry(self, kind: str, client: int, payload: Payload) -> Payload:
        """Send what goes down; what came up takes the payload's place, or zeros where nothing came."""
        if kind == "adapters_down":  # a stream's last frame is answered once, with all that was broadcast
            self._broadcast.setdefault(client, []).append((kind, payload))
        elif kind.endswith("_down"):
            if (kind, client) not in self._answered:
                self._answered.add((kind, client))
                self.stream_of(client).answer([(kind, payload)])
        else:
            found = self._received(kind, client)
            return {name: torch.zeros_like(tensor) for name, tensor in payload.items()} if found is None else found
        return payload

    def took_part(self, client: int) -> bool:
        """Whether a client took part in a step of the round."""
        return client in self.trained

    def can_send(self, client: int) -> bool:
        """Whether a client's adapters are there."""
        return client in self.trained - self.lost.keys() - self.without_upload

    def end_round(self) -> None:
        """Send every client that is still there what was broadcast."""
        for client in sorted(self.trained - self.lost.keys()):
            self.stream_of(client).answer(self._broadcast.get(client, []))
        self._broadcast.clear()

    def _received(self, kind: str, client: int) -> Payload | None:
        """What came of a kind in this step; the next frame is awaited if none has it."""
        frames = self._frames[client]
        for frame in frames:
            if kind in dict(frame.payloads):
                return frame.one(kind)
        arrived = self._take(client, time.monotonic() + self.patience_s)
        if arrived is None:  # what would have come counts as nothing
            return None
        frames.append(arrived)
        self.losses[client] = LossSum(arrived.nll, arrived.labelled)
        return arrived.one(kind)

    def _take(self, client: int, until: float) -> Arrived | None:
        arrived = (
            None if client in self.lost else self.stream_of(client).take(until - time.monotonic(), self.patience_s)
        )
        if arrived is None:
            self.lost.setdefault(client, self.stream_of(client).failure)
        return arrived
