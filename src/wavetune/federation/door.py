"""The one door through which everything that moves passes: encoded, metered, carried, decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wavetune.federation.codecs import Codec, Payload
from wavetune.federation.messages import Spec, bits_of

Carry = Callable[[str, int, Payload], Payload]
"""Takes (kind, client position, payload) to the other side and returns what arrives there."""


def stay_here(_kind: str, _client: int, payload: Payload) -> Payload:
    """Carry of a run in one process: what is sent arrives as it is."""
    return payload


@dataclass
class Door:
    """Meters bits by (kind, client position) since the last `take`."""

    carry: Carry = stay_here
    bits: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])

    def send(self, kind: str, client: int, x: Tensor, codec: Codec) -> Tensor:
        """Move `x [rows, width]` and return what the other side decodes, in the dtype of `x`."""
        payload = codec.encode(x)
        self._meter(kind, client, payload)
        return codec.decode(self.carry(kind, client, payload)).to(x.dtype)

    def pass_on(self, kind: str, client: int, payload: Payload, declared: Spec) -> Payload:
        """Move a message as it was declared, and return what arrives. One that comes from elsewhere is empty here."""
        shapes = {name: tuple(t.shape) for name, t in payload.items()}
        if payload and shapes != {name: field.shape for name, field in declared.items()}:
            raise AssertionError(f"{kind} of client {client} is not what was declared")
        found = {name: t.to(getattr(torch, declared[name].format)) for name, t in payload.items()}
        self.bits[kind, client] += round(bits_of(declared))
        return self.carry(kind, client, found)

    def send_ids(self, kind: str, client: int, ids: Tensor) -> Tensor:
        """Move token ids, 32 bits each."""
        payload = {"ids": ids.to(torch.int32)}
        self._meter(kind, client, payload)
        return self.carry(kind, client, payload)["ids"].to(ids.dtype)

    def take(self) -> Counter[tuple[str, int]]:
        """Bits since the last call, and start again from zero."""
        taken, self.bits = self.bits, Counter()
        return taken

    def _meter(self, kind: str, client: int, payload: Payload) -> None:
        self.bits[kind, client] += sum(8 * t.numel() * t.element_size() for t in payload.values())
