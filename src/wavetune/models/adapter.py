"""A kind of adapter as a model sees it: where it stands, and what it makes of what a linear map yields.

LoRA acts inside its linear maps, whose products it shares (`wavetune.models.lora`). Nothing here imports torch until
something is computed. Legend: N tokens, S slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from wavetune.costs.adapter import FixedAdapter

if TYPE_CHECKING:
    from torch import Tensor

Stacks = Mapping[str, "Tensor"]
"""The matrices of an adapter by name, each of many slots: `[S, ...]`."""


class Segment(NamedTuple):
    """Tokens `start:stop` belong to `slot` of the local stack, or of the shared one."""

    local: bool
    slot: int
    start: int
    stop: int


class ModelAdapter(FixedAdapter):
    """Base of kinds of adapters beside LoRA. It declares its matrices; that is all that is known of it elsewhere."""

    name: ClassVar[str]  # what method.sharing.shared calls its kind, and the end of its sites' names
    reads_input: ClassVar[bool] = True  # whether `forward` looks at the map's input

    @property
    def prompt_tokens(self) -> int:
        """Positions that it takes before every text."""
        return 0

    def forward(self, x: Tensor, y: Tensor, matrices: Mapping[str, Tensor]) -> Tensor:
        """What comes of a map's output `y` `[N, out]` on its input `x` `[N, in]`, given one client's matrices."""
        raise NotImplementedError

    def stacked(
        self, x: Tensor, y: Tensor, segments: Sequence[Segment], local: Stacks | None, shared: Stacks | None
    ) -> Tensor:
        """The same with each segment's own slot; None: no segment is of that stack."""
        import torch

        own, common = (_by_slot(stacks) for stacks in (local, shared))
        parts = [
            self.forward(x[start:stop], y[start:stop], (own if is_local else common)[slot])
            for is_local, slot, start, stop in segments
        ]
        return torch.cat(parts)


def _by_slot(stacks: Stacks | None) -> list[dict[str, Tensor]]:
    """Each slot's matrices. They are taken apart at once, so that their gradients come back as one."""
    if stacks is None:
        return []
    slots: Iterator[tuple[Tensor, ...]] = zip(*(stack.unbind(0) for stack in stacks.values()), strict=True)
    return [dict(zip(stacks, matrices, strict=True)) for matrices in slots]
