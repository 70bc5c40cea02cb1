"""Ragged batches: every sample keeps its own length, and no layer ever computes a padding token.

The tokens of all samples stand one after another, `[N]`, client by client. Everything in a decoder block but attention
acts per token, so it needs no change. Attention alone needs samples as rows: lengths are sorted into a few groups, each
padded to its longest sample for the product only. Causal attention needs no mask for that, since padding stands behind.

Legend: N tokens of all samples, S samples, T longest sample of a group, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "wavetune_ragged"
_GROUP_RATIO = 1.25  # a group's longest sample is at most this many times its shortest (plus 8 tokens)


@dataclass(frozen=True)
class RaggedLayout:
    """Where each token of a batch stands in the padded groups.

    `slot_N` is the row of each token in the concatenation of all padded groups, `groups` lists (samples, padded
    length), `positions_N` the position of each token in its sample; `lengths` are in batch order. A batch whose samples
    all have one length needs no padding (`slot_N` is None).
    """

    lengths: tuple[int, ...]
    groups: tuple[tuple[int, int], ...]
    group_lengths: tuple[tuple[int, ...], ...]
    positions_N: Tensor
    slot_N: Tensor | None

    @property
    def padded_tokens(self) -> int:
        """Number of rows of all padded groups."""
        return sum(samples * length for samples, length in self.groups)

    def attend(
        self, _layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, causal: bool,
        window: int | None,
    ) -> Tensor:  # fmt: skip
        """What every token reads in a layer, here from its own sample; see `ragged_attention`."""
        return ragged_attention(query, key, value, self, scaling, causal, window)

    def mask(self, group: int, causal: bool, window: int | None) -> Tensor | None:
        """What the tokens of a group may read (True), or None where causality alone suffices."""
        return _mask(self.group_lengths[group], self.groups[group][1], causal, window, self.positions_N.device)


def ragged_layout(lengths: Sequence[int], device: torch.device | str = "cpu") -> RaggedLayout:
    """Layout of samples with the given lengths (each at least 1), in the order in which their tokens stand.

    >>> ragged_layout([3, 9, 3]).groups
    ((3, 9),)
    >>> ragged_layout([3, 90]).groups
    ((1, 3), (1, 90))
    """
    order = sorted(range(len(lengths)), key=lambda s: (lengths[s], s))
    members: list[list[int]] = []
    for sample in order:
        if members and lengths[sample] <= _GROUP_RATIO * lengths[members[-1][0]] + 8:
            members[-1].append(sample)
        else:
            members.append([sample])
    groups = tuple((len(group), lengths[group[-1]]) for group in members)
    first_slot, base = [0] * len(lengths), 0
    for group, (samples, length) in zip(members, groups, strict=True):
        for row, sample in enumerate(group):
            first_slot[sample] = base + row * length
        base += samples * length
    sizes = torch.tensor(lengths)
    positions = torch.arange(int(sizes.sum())) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    slots = torch.tensor(first_slot).repeat_interleave(sizes) + positions
    unpadded = base == slots.numel() and len(groups) == 1
    return RaggedLayout(
        tuple(lengths),
        groups,
        tuple(tuple(lengths[s] for s in group) for group in members),
        positions.to(device),
        None if unpadded else slots.to(device),
    )


@dataclass(frozen=True)
class BranchedLayout(RaggedLayout):
    """Samples that are trees of one fork: a trunk, then branches that follow the trunk and do not see each other.

    `branch_N` is 0 on a trunk, and counts a sample's branches from 1.
    """

    branch_N: Tensor
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict[tuple[int, int | None], Tensor])

    def mask(self, group: int, causal: bool, window: int | None) -> Tensor | None:
        """Of a decoder: what stands before a token on its trunk and its own branch."""
        if not causal:
            raise NotImplementedError("an encoder reads both ways, so what branches share is not the same for all")
        key = (group, window)
        if key not in self.masks:
            branch, position = self._padded(self.branch_N, group), self._padded(self.positions_N, group)
            back = position[:, :, None] - position[:, None, :]
            seen = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
            seen &= (back >= 0) if window is None else (back >= 0) & (back < window)
            self.masks[key] = seen[:, None]
        return self.masks[key]

    def _padded(self, values_N: Tensor, group: int) -> Tensor:
        """Values in a group's rows; padding looks like a branch of its own that starts with the sample."""
        rows = (
            values_N
            if self.slot_N is None
            else values_N.new_full((self.padded_tokens,), -1).index_copy_(0, self.slot_N, values_N)
        )
        sizes = [samples * length for samples, length in self.groups]
        return rows.split(sizes)[group].view(self.groups[group])


def branched_layout(
    trunks: Sequence[int], branches: Sequence[Sequence[int]], device: torch.device | str = "cpu"
) -> RaggedLayout:
    """Layout of samples with trunks of so many tokens, and branches of so many, in the order in which they stand.

    A trunk has at least one token, a branch may have none.

    >>> layout = branched_layout([2], [[2, 1]])
    >>> layout.positions_N.tolist()
    [0, 1, 2, 3, 2]
    """
    plain = ragged_layout([trunk + sum(own) for trunk, own in zip(trunks, branches, strict=True)], device)
    if all(sum(size > 0 for size in own) < 2 for own in branches):
        return plain
    branch = [n for trunk, own in zip(trunks, branches, strict=True) for n in _numbered(trunk, own)]
    position = [n for trunk, own in zip(trunks, branches, strict=True) for n in _positions(trunk, own)]
    shape: dict[str, Any] = vars(plain) | {"positions_N": torch.tensor(position, device=device)}
    return BranchedLayout(**shape, branch_N=torch.tensor(branch, device=device))


def _numbered(trunk: int, branches: Sequence[int]) -> list[int]:
    return [0] * trunk + [i for i, size in enumerate(branches, 1) for _ in range(size)]


def _positions(trunk: int, branches: Sequence[int]) -> list[int]:
    return [*range(trunk), *(trunk + i for size in branches for i in range(size))]


class _Pad(torch.autograd.Function):
    """Rows of `[N, ...]` to their slots of `[P, ...]`, zeros elsewhere; cheaper than an accumulating backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot_N: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(slot_N)
        return x.new_zeros(rows, *x.shape[1:]).index_copy_(0, slot_N, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """The inverse of `_Pad`: the occupied rows of `[P, ...]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot_N: Tensor) -> Tensor:
        ctx.save_for_backward(slot_N)
        ctx.rows = x.shape[0]
        return x.index_select(0, slot_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0]
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_copy_(0, ctx.saved_tensors[0], grad), None


def ragged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: RaggedLayout,
    scaling: float | None = None,
    causal: bool = True,
    window: int | None = None,
) -> Tensor:
    """Attention within each sample. Query `[N, H, D]`, key and value `[N, G, D]` with G dividing H; returns `[N, H,
    D]`.

    `window` limits a query to that many positions back, itself included (sliding-window layers).
    """
    if layout.slot_N is not None:
        rows = layout.padded_tokens
        query, key, value = (_Pad.apply(x, layout.slot_N, rows) for x in (query, key, value))
    sizes = [samples * length for samples, length in layout.groups]
    outputs: list[Tensor] = []
    parts = zip(query.split(sizes), key.split(sizes), value.split(sizes), strict=True)
    for group, (q, k, v) in enumerate(parts):
        (samples, length), mask = layout.groups[group], layout.mask(group, causal, window)
        attended = F.scaled_dot_product_attention(
            *(x.view(samples, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v)),
            attn_mask=mask,
            is_causal=causal and mask is None,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        outputs.append(attended.transpose(1, 2).reshape(samples * length, *q.shape[1:]))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output if layout.slot_N is None else _Unpad.apply(output, layout.slot_N)


def _mask(
    lengths: Sequence[int], longest: int, causal: bool, window: int | None, device: torch.device
) -> Tensor | None:
    """Mask of one group, or None where causality alone suffices. True = may attend."""
    if causal:
        if window is None or window >= longest:
            return None
        back = torch.arange(longest, device=device)[:, None] - torch.arange(longest, device=device)
        return (back >= 0) & (back < window)
    if min(lengths) == longest:
        return None
    valid = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
    return valid[:, None, None, :]


def _attention_interface(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    ragged: RaggedLayout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The form in which transformers calls attention: query `[1, H, N, D]`, returns `[1, N, H, D]`."""
    if ragged is None or attention_mask is not None or dropout or softcap is not None:
        raise NotImplementedError("ragged attention takes a layout, and neither a mask nor dropout nor soft-capping")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    causal = bool(getattr(module, "is_causal", True))
    layer = getattr(module, "layer_idx", 0)
    return ragged.attend(layer, q, k, v, scaling, causal, sliding_window)[None], None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention_interface)
