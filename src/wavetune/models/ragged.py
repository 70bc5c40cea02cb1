"""Ragged batches: every sample keeps its own length, and no layer ever computes a padding token.

The tokens of all samples stand one after another, `[N]`, client by client. Everything in a decoder block but attention
acts per token, so it needs no change. Attention alone needs samples as rows: lengths are sorted into a few groups, each
padded to its longest sample for the product only. Causal attention needs no mask for that, since padding stands behind.

Legend: N tokens of all samples, S samples, T longest sample of a group, H query heads, G key and value heads, D width
of a key, E width of a value, P trained keys before a sample.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    bidirectional_mask_function,
    causal_mask_function,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from wavetune.models.fused import LEAST_WIDTH
from wavetune.models.short_rows import LONGEST, ShortRows, attend

ATTENTION = "wavetune_ragged"
_GROUP_RATIO = 1.25  # a group's longest sample is at most this many times its shortest (plus 8 tokens)


@dataclass(frozen=True, eq=False)
class Reach:
    """Which keys a query reads: `function(0, 0, query position, key position)`, as transformers writes its masks.

    One is made for each pass and pattern (everything before, a window, a chunk), and keeps its masks of the pass.
    """

    function: Callable[..., Any]
    masks: dict[int, tuple[Tensor | None, bool]] = field(default_factory=dict[int, tuple[Tensor | None, bool]])

    def seen(self, query: Tensor, key: Tensor) -> Tensor:
        """True where a query at a position reads the key at another; the positions broadcast."""
        seen = self.function(0, 0, query, key)
        return seen.expand(np.broadcast_shapes(query.shape, key.shape))  # PyTorch's own imports SymPy

    def looks_ahead(self, device: torch.device) -> bool:
        """Whether a query reads what stands behind it."""
        if self.function in (causal_mask_function, bidirectional_mask_function):
            return self.function is bidirectional_mask_function
        first = torch.zeros((), dtype=torch.long, device=device)
        return bool(self.seen(first, first + 1))


def reach(causal: bool = True, window: int | None = None) -> Reach:
    """What stands before a query, or everything; with a window, at most so many positions away, itself included."""
    if window is None:
        return Reach(causal_mask_function if causal else bidirectional_mask_function)
    if causal:
        return Reach(sliding_window_causal_mask_function(window))
    return Reach(sliding_window_bidirectional_mask_function(window - 1))


@dataclass(frozen=True)
class Rule:
    """How a layer attends: which keys a query reads, the factor of its products, and what bends the scores.

    `softcap` bends them as `softcap * tanh(score / softcap)`; `sinks` `[H]` are scores of a key of value zero. `before`
    are keys `[S, P, G, D]` and values `[S, P, G, E]` that stand before those of each sample.
    """

    reach: Reach
    scaling: float | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    before: tuple[Tensor, Tensor] | None = None

    def factor(self, width: int) -> float:
        """Of the products of queries and keys of so many values: 1 / sqrt(width) unless `scaling` says another."""
        return width**-0.5 if self.scaling is None else self.scaling


@dataclass(frozen=True)
class RaggedLayout:
    """Where each token of a batch stands in the padded groups.

    `slot_N` is the row of each token in the concatenation of all padded groups, `groups` lists (samples, padded
    length), `positions_N` the position of each token in its sample; `lengths` are in batch order. A batch whose samples
    all have one length needs no padding (`slot_N` is None). Each row of a group begins with room for `before` keys and
    values which no token has; they take the first positions.
    """

    lengths: tuple[int, ...]
    groups: tuple[tuple[int, int], ...]
    group_lengths: tuple[tuple[int, ...], ...]
    positions_N: Tensor
    slot_N: Tensor | None
    before: int = field(default=0, kw_only=True)

    def room_before(self) -> Tensor:
        """Rows of the room before each sample in the concatenation of all padded groups, `[S P]`."""
        assert self.slot_N is not None
        sizes = torch.tensor(self.lengths, device=self.slot_N.device)
        first_S = self.slot_N[sizes.cumsum(0) - sizes] - self.before
        return (first_S[:, None] + torch.arange(self.before, device=sizes.device)).flatten()

    @cached_property
    def _short(self) -> dict[bool, ShortRows]:
        return {}

    def short_rows(self, rule: Rule) -> ShortRows | None:
        """Where the tokens stand for products of whole samples, if none is long and tokens read what stands before
        them, or their whole sample, and nothing else.
        """
        if rule.softcap is not None or rule.sinks is not None or rule.before is not None or self.before:
            return None
        if max(length for _, length in self.groups) > LONGEST or self.positions_N.device.type != "cpu":
            return None
        masks = [self.mask(group, rule.reach) for group in range(len(self.groups))]
        whole = rule.reach.function is bidirectional_mask_function
        if not whole and any(mask is not None or not causal for mask, causal in masks):
            return None
        if whole not in self._short:
            slot_N = torch.arange(self.padded_tokens) if self.slot_N is None else self.slot_N
            self._short[whole] = ShortRows(self.groups, slot_N, self.group_lengths if whole else ())
        return self._short[whole]

    @property
    def padded_tokens(self) -> int:
        """Number of rows of all padded groups."""
        return sum(samples * length for samples, length in self.groups)

    def attend(self, _layer: Hashable, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """What every token reads in a layer, here from its own sample; see `ragged_attention`."""
        return ragged_attention(query, key, value, self, rule)

    def mask(self, group: int, reach: Reach) -> tuple[Tensor | None, bool]:
        """What the tokens of a group may read (True), or None; and whether it is just what stands before them."""
        if group not in reach.masks:
            reach.masks[group] = self._mask(group, reach)
        return reach.masks[group]

    def _mask(self, group: int, reach: Reach) -> tuple[Tensor | None, bool]:
        if reach.function is causal_mask_function:
            return None, True
        (_, longest), device = self.groups[group], self.positions_N.device
        lengths = self.group_lengths[group]
        place = torch.arange(longest, device=device)
        filled = place < torch.tensor(lengths, device=device)[:, None]
        if reach.function is bidirectional_mask_function:
            return None if min(lengths) == longest else filled[:, None, None, :], False
        seen = reach.seen(place[:, None], place)
        if not reach.looks_ahead(device):  # padding stands behind and is not seen
            return (None, True) if torch.equal(seen, seen.new_ones(seen.shape).tril()) else (seen, False)
        itself = place[:, None] == place  # padding reads itself, as a softmax over nothing is not a number
        return (seen & filled[:, None, None, :]) | itself, False


def ragged_layout(lengths: Sequence[int], device: torch.device | str = "cpu", before: int = 0) -> RaggedLayout:
    """Layout of samples with the given lengths (each at least 1), in the order in which their tokens stand.

    There is room for so many keys and values `before` each.

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
    groups = tuple((len(group), before + lengths[group[-1]]) for group in members)
    first_slot, base = [0] * len(lengths), 0
    for group, (samples, length) in zip(members, groups, strict=True):
        for row, sample in enumerate(group):
            first_slot[sample] = base + row * length
        base += samples * length
    sizes = torch.tensor(lengths)
    positions = before + torch.arange(int(sizes.sum())) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    slots = torch.tensor(first_slot).repeat_interleave(sizes) + positions
    unpadded = base == slots.numel() and len(groups) == 1
    return RaggedLayout(
        tuple(lengths),
        groups,
        tuple(tuple(before + lengths[s] for s in group) for group in members),
        positions.to(device),
        None if unpadded else slots.to(device),
        before=before,
    )


@dataclass(frozen=True)
class BranchedLayout(RaggedLayout):
    """Samples that are trees of one fork: a trunk, then branches that follow the trunk and do not see each other.

    `branch_N` is 0 on a trunk, and counts a sample's branches from 1.
    """

    branch_N: Tensor

    def _mask(self, group: int, reach: Reach) -> tuple[Tensor | None, bool]:
        """Of a decoder: what stands before a token on its trunk and its own branch."""
        if reach.looks_ahead(self.positions_N.device):
            raise NotImplementedError("an encoder reads both ways, so what branches share is not the same for all")
        room = torch.arange(self.before, device=self.positions_N.device)
        branch = self._padded(self.branch_N, group, torch.zeros_like(room))
        position = self._padded(self.positions_N, group, room)
        seen = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
        seen &= reach.seen(position[:, :, None], position[:, None, :])
        return seen[:, None], False

    def _padded(self, values_N: Tensor, group: int, room: Tensor) -> Tensor:
        """Values in a group's rows, with those of the room before a sample; padding looks like a branch of its own that
        starts with the sample.
        """
        rows = values_N
        if self.slot_N is not None:
            rows = values_N.new_full((self.padded_tokens,), -1).index_copy_(0, self.slot_N, values_N)
        if self.before:  # of all branches
            rows[self.room_before()] = torch.cat([room] * len(self.lengths))
        sizes = [samples * length for samples, length in self.groups]
        return rows.split(sizes)[group].view(self.groups[group])


def branched_layout(
    trunks: Sequence[int], branches: Sequence[Sequence[int]], device: torch.device | str = "cpu", before: int = 0
) -> RaggedLayout:
    """Layout of samples with trunks of so many tokens, and branches of so many, in the order in which they stand.

    A trunk has at least one token, a branch may have none.

    >>> layout = branched_layout([2], [[2, 1]])
    >>> layout.positions_N.tolist()
    [0, 1, 2, 3, 2]
    """
    plain = ragged_layout([trunk + sum(own) for trunk, own in zip(trunks, branches, strict=True)], device, before)
    if all(sum(size > 0 for size in own) < 2 for own in branches):
        return plain
    branch = [n for trunk, own in zip(trunks, branches, strict=True) for n in _numbered(trunk, own)]
    position = [n for trunk, own in zip(trunks, branches, strict=True) for n in _positions(trunk, own)]
    shape: dict[str, Any] = vars(plain) | {"positions_N": before + torch.tensor(position, device=device)}
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


def ragged_attention(query: Tensor, key: Tensor, value: Tensor, layout: RaggedLayout, rule: Rule) -> Tensor:
    """Attention within each sample. Query `[N, H, D]`, key `[N, G, D]` and value `[N, G, E]` with G dividing H; returns
    `[N, H, E]`.
    """
    wide = query.dtype == torch.float32 and query[0].numel() >= LEAST_WIDTH
    if wide and (places := layout.short_rows(rule)) is not None:
        return attend(query, key, value, places, rule.factor(query.shape[2]))
    if layout.slot_N is not None:
        rows = layout.padded_tokens
        query, key, value = (_Pad.apply(x, layout.slot_N, rows) for x in (query, key, value))
    if rule.before is not None:
        room = layout.room_before()
        key, value = (
            x.index_copy(0, room, own.flatten(0, 1)) for x, own in zip((key, value), rule.before, strict=True)
        )
    sizes = [samples * length for samples, length in layout.groups]
    outputs: list[Tensor] = []
    parts = zip(query.split(sizes), key.split(sizes), value.split(sizes), strict=True)
    for group, own in enumerate(parts):
        samples, length = layout.groups[group]
        q, k, v = (x.view(samples, length, *x.shape[1:]).transpose(1, 2) for x in own)
        sinks = None if rule.sinks is None else rule.sinks[:, None, None]
        attended = attention(q, k, v, *layout.mask(group, rule.reach), rule, sinks)
        outputs.append(attended.transpose(1, 2).reshape(samples * length, *attended.shape[1:2], -1))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output if layout.slot_N is None else _Unpad.apply(output, layout.slot_N)


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, rule: Rule, sinks: Tensor | None
) -> Tensor:
    """Attention of whole rows: query `[S, H, Q, D]`, key `[S, G, T, D]`, value `[S, G, T, E]`; returns `[S, H, Q, E]`.

    `mask` says what may be read (True), `causal` that it is what stands before; `sinks` broadcast to `[H, Q, 1]`.
    """
    if rule.softcap is None and sinks is None:
        shared = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=rule.scaling, enable_gqa=shared
        )
    heads = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(heads, 1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * rule.factor(query.shape[-1])
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    if causal:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.expand(*scores.shape[:3], 1)], -1)
    return torch.softmax(scores, -1)[..., : key.shape[2]] @ value


KeysBefore = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
"""What stands before a pass's keys `[N, G, D]` and values `[N, G, E]` in an attention module."""

_LAYOUT: ContextVar[tuple[RaggedLayout, KeysBefore | None] | None] = ContextVar("layout of the pass", default=None)
_SAYS_NOTHING = {"position_ids", "cache_position", "position_embeddings"}  # acted on before attention is called


@contextmanager
def attending(layout: RaggedLayout, before: KeysBefore | None = None) -> Iterator[None]:
    """While in this block, models loaded with ragged attention take a batch of this layout; with `before`, of that."""
    token = _LAYOUT.set((layout, before))
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def _attention_interface(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Reach | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The form in which transformers calls attention: query `[1, H, N, D]`, returns `[1, N, H, D]`.

    Raises: NotImplementedError for whatever it does not know how to take into account.
    """
    layout, _ = _LAYOUT.get() or (None, None)
    unknown = [name for name, value in others.items() if not (value is None or isinstance(value, bool))]
    unknown = sorted(set(unknown) - _SAYS_NOTHING)
    if layout is None or isinstance(attention_mask, Tensor) or dropout or unknown or len(query) > 1:
        raise NotImplementedError(
            "ragged attention takes one row with a layout, and neither a finished mask nor dropout"
            + (f" nor {', '.join(unknown)}" if unknown else "")
        )
    if attention_mask is None:
        causal = is_causal if is_causal is not None else bool(getattr(module, "is_causal", True))
        attention_mask = reach(causal, sliding_window)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attended(module, q, k, v, Rule(attention_mask, scaling, softcap, s_aux))[None], None


def attended(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
    """What the tokens of the pass that is going on read in an attention module, with what stands before its keys."""
    layout, before = cast(tuple[RaggedLayout, KeysBefore | None], _LAYOUT.get())
    if before is not None:
        rule = replace(rule, before=before(module, key, value))
    return layout.attend(module, query, key, value, rule)


def short_rows(rule: Rule) -> ShortRows | None:
    """Of the pass that is going on: where its tokens stand if its samples are short and read what stands before."""
    layout, _ = cast(tuple[RaggedLayout, KeysBefore | None], _LAYOUT.get())
    return layout.short_rows(rule) if type(layout).attend is RaggedLayout.attend else None


def has_layout() -> bool:
    """Whether a pass is going on whose tokens read nothing but each other."""
    found = _LAYOUT.get()
    return found is not None and found[1] is None


def _mask_interface(*, mask_function: Callable[..., Tensor], **_: Any) -> Reach:
    """The form in which transformers asks for a mask."""
    return Reach(mask_function)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention_interface)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, _mask_interface)
