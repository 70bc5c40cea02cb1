"""What the door of a deployed half carries: on one side of a crossing it sends, on the other it takes what came.

Both halves run the same crossings as a run in one process. For what it does not compute itself a half has a placeholder
of the right shape, which its wire exchanges for what the other half sent.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from wavetune.data_plane.client import Stream
from wavetune.data_plane.contract import Arrived
from wavetune.data_plane.messages_pb2 import Layout, Loss, Part
from wavetune.data_plane.payloads import LABELS, spec_like, unpack
from wavetune.data_plane.refusal import Reason
from wavetune.data_plane.server import Line
from wavetune.federation.codecs import Payload


@dataclass
class Tray:
    """A device's adapters on their way: those that go up gather here, those that come down are taken from here."""

    uploads: list[Payload] = field(default_factory=list[Payload], kw_only=True)
    downloads: deque[Part] = field(default_factory=deque[Part], kw_only=True)

    def carry(self, kind: str, _client: int, payload: Payload) -> Payload:
        """Keep what goes up; what came down takes the payload's place."""
        if kind == "adapters_down":
            return unpack(self.downloads.popleft().tensors, spec_like(payload), kind)
        self.uploads.append(payload)
        return payload


@dataclass
class DeviceWire(Tray):
    """A device's side. Streams of the main and the federated band may be paced to the rates of an emulated radio."""

    stream: Stream
    main_bit_per_s: float = 0.0
    fed_bit_per_s: float = 0.0
    layout: Layout = field(default_factory=Layout)
    loss: Loss | None = None
    waited_s: float = 0.0
    first_ask_s: float | None = None
    _labels: list[tuple[str, Payload]] = field(default_factory=list[tuple[str, Payload]])
    _came: list[Part] = field(default_factory=list[Part])

    def carry(self, kind: str, client: int, payload: Payload) -> Payload:
        """Send what goes up; what comes down takes the payload's place."""
        if kind == LABELS:
            self._labels = [(kind, payload)]
        elif kind == "activations_up":
            self._came = self._ask([(kind, payload), *self._labels], layout=self.layout)
        elif kind == "gradients_up":
            self._came = self._ask([(kind, payload)], loss=self.loss)
        elif kind in ("activations_down", "gradients_down"):
            return unpack(self._came[0].tensors, spec_like(payload), kind)
        else:
            return super().carry(kind, client, payload)
        return payload

    def exchange_adapters(self) -> None:
        """Send all uploads; the downloads come back."""
        parts = [("adapters_up", payload) for payload in self.uploads]
        self.downloads = deque(self.stream.ask(parts, bit_per_s=self.fed_bit_per_s, phase="fed_download_s"))
        self.uploads = []

    def _ask(
        self, parts: Sequence[tuple[str, Payload]], layout: Layout | None = None, loss: Loss | None = None
    ) -> list[Part]:
        started = time.perf_counter()
        self.first_ask_s = self.first_ask_s or started
        came = self.stream.ask(parts, layout, loss, bit_per_s=self.main_bit_per_s, phase="downlink_s")
        self.waited_s += time.perf_counter() - started
        return came


@dataclass
class ServerWire:
    """The servers' side: the lines of a round's devices. Who does not answer in time is `lost`, with a sentence."""

    patience_s: float
    line_of: Callable[[int], Line]
    lost: dict[int, str] = field(default_factory=dict[int, str])
    heard: set[int] = field(default_factory=set[int])  # who took part in a step of the round
    silent: set[int] = field(default_factory=set[int])  # who was told to send no adapters
    arrived: dict[int, Arrived] = field(default_factory=dict[int, Arrived])
    losses: dict[int, tuple[float, int]] = field(default_factory=dict[int, tuple[float, int]])
    gradients: dict[int, Payload] = field(default_factory=dict[int, Payload])  # that came up in this step
    waited_s: float = 0.0
    _again: bool = False
    _uploads: dict[int, Payload] = field(default_factory=dict[int, Payload])
    _downloads: defaultdict[int, list[tuple[str, Payload]]] = field(
        default_factory=lambda: defaultdict[int, list[tuple[str, Payload]]](list)
    )

    def begin(self) -> None:
        """Another round: nobody is lost, nobody has been heard."""
        self.lost.clear()
        self.heard.clear()
        self.silent.clear()
        self._uploads.clear()

    def gather(self, clients: Iterable[int]) -> Mapping[int, Arrived]:
        """The next frame of each of these clients that is still there, all within one patience."""
        until = time.monotonic() + self.patience_s
        self.arrived, self.losses, self.gradients = {}, {}, {}
        for client in clients:
            arrived = self._take(client, until)
            if arrived is not None:
                self.arrived[client] = arrived
        return self.arrived

    def gather_adapters(self, clients: Iterable[int]) -> None:
        """The adapters of each of these clients that is still there."""
        for client, arrived in self.gather(clients).items():
            self._uploads[client] = dict(arrived.payloads).get("adapters_up", {})

    def give_up(self, client: int, sentence: str) -> None:
        """Do not hear a client any more in this round."""
        self.line_of(client).fail(sentence, Reason.NOT_FINITE)
        self.lost.setdefault(client, sentence)

    @contextmanager
    def repeating(self) -> Generator[None]:
        """While a pass is made again: nothing is sent or awaited, and what came is taken once more."""
        self._again = True
        try:
            yield
        finally:
            self._again = False

    def carry(self, kind: str, client: int, payload: Payload) -> Payload:
        """Send what goes down; what came up takes the payload's place."""
        if kind == "adapters_up":
            return self._uploads[client]
        if kind == "adapters_down":
            self._downloads[client].append((kind, payload))
        elif kind in ("activations_down", "gradients_down"):
            if not self._again:
                self.line_of(client).answer([(kind, payload)])
        elif kind == "gradients_up":
            return self._gradients(client, payload)
        else:
            return self.arrived[client].one(kind)
        return payload

    def took_part(self, client: int) -> bool:
        """Whether a client was heard in a step of the round."""
        return client in self.heard

    def can_send(self, client: int) -> bool:
        """Whether a client's adapters are there."""
        return client in self.heard - self.lost.keys() - self.silent

    def end_round(self) -> None:
        """Send every client that is still there what was broadcast."""
        for client in sorted(self.heard - self.lost.keys()):
            self.line_of(client).answer(self._downloads[client])
        self._downloads.clear()

    def _gradients(self, client: int, payload: Payload) -> Payload:
        if self._again and client in self.gradients:
            return self.gradients[client]
        arrived = None if self._again else self._take(client, time.monotonic() + self.patience_s)
        if arrived is None:  # what would have come counts as nothing
            return {name: torch.zeros_like(tensor) for name, tensor in payload.items()}
        self.losses[client] = arrived.nll, arrived.labelled
        self.gradients[client] = arrived.one("gradients_up")
        return self.gradients[client]

    def _take(self, client: int, until: float) -> Arrived | None:
        started = time.monotonic()
        arrived = None if client in self.lost else self.line_of(client).take(until - started)
        self.waited_s += time.monotonic() - started
        if arrived is None:
            self.lost.setdefault(client, self.line_of(client).failure)
        return arrived
