"""The one door through which everything that moves passes: encoded, metered, carried, decoded."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wavetune.federation.codecs import Codec, Payload
from wavetune.federation.messages import Spec, bits_of

Carry = Callable[[str, int, Payload], Payload]
"""Takes (kind, client position, payload) to the other side and returns what arrives there.

Where the other side is elsewhere, what is sent returns as it is. What is to come from there has a payload of the right
shape in its place, and returns as it came.
"""


def stay_here(_kind: str, _client: int, payload: Payload) -> Payload:
    """Carry of a run in one process: what is sent arrives as it is."""
    return payload


def need_not_tell(_client: int, _what: Any) -> None:
    """Announcement of a run in one process: who would be told knows."""


@dataclass
class Door:
    """Meters bits by (kind, client position) since the last `take`.

    What the other side must know of a client's pass beside what is metered is announced to it: how its tokens are rows
    before its activations cross, its loss before its gradients do. `away_s` are seconds spent in `carry`.
    """

    carry: Carry = stay_here
    announce: Callable[[int, Any], None] = need_not_tell
    bits: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    away_s: float = 0.0

    def send(self, kind: str, client: int, x: Tensor, codec: Codec) -> Tensor:
        """Move `x [rows, width]` and return what the other side decodes, in the dtype of `x`."""
        payload = codec.encode(x)
        self._meter(kind, client, payload)
        return codec.decode(self._carried(kind, client, payload)).to(x.dtype)

    def pass_on(self, kind: str, client: int, payload: Payload, declared: Spec) -> Payload:
        """Move a message as it was declared, and return what arrives. One that comes from elsewhere is empty here."""
        shapes = {name: tuple(t.shape) for name, t in payload.items()}
        if payload and shapes != {name: field.shape for name, field in declared.items()}:
            raise AssertionError(f"{kind} of client {client} is not what was declared")
        found = {name: t.to(getattr(torch, declared[name].format)) for name, t in payload.items()}
        self.bits[kind, client] += round(bits_of(declared))
        return self._carried(kind, client, found)

    def send_ids(self, kind: str, client: int, ids: Tensor) -> Tensor:
        """Move token ids, 32 bits each."""
        payload = {"ids": ids.to(torch.int32)}
        self._meter(kind, client, payload)
        return self._carried(kind, client, payload)["ids"].to(ids.dtype)

    def take(self) -> Counter[tuple[str, int]]:
        """Bits since the last call, and start again from zero."""
        taken, self.bits = self.bits, Counter()
        return taken

    def _carried(self, kind: str, client: int, payload: Payload) -> Payload:
        started = time.perf_counter()
        arrived = self.carry(kind, client, payload)
        self.away_s += time.perf_counter() - started
        return arrived

    def _meter(self, kind: str, client: int, payload: Payload) -> None:
        self.bits[kind, client] += sum(8 * t.numel() * t.element_size() for t in payload.values())
