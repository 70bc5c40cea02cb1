"""Attention of short samples on a CPU: batched products, and compiled sweeps between them.

Kernels that never write a whole matrix of weights pay where it is large. Of samples of some dozen tokens it is smaller
than what it is made of: it is kept for the backward pass, and the products are those of a matrix library.

Legend: N tokens, P rows of padded samples, S samples of a group, T its longest, H query heads, G key and value heads,
D width of a key, E width of a value.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

LONGEST = 256  # of a sample, in tokens; beyond, fused kernels are as fast
Angles = tuple[Tensor, Tensor]
"""Cosines and sines `[N, D]` by which heads are turned."""
UNTURNED: Angles = (torch.empty(0, 0, dtype=torch.float32), torch.empty(0, 0, dtype=torch.float32))


class ShortRows:
    """Where the tokens of a batch stand among its padded samples: `groups` of (samples, longest) one after another, in
    which each token has its `slot_N`. Tokens read their whole sample where the samples' lengths are given by group, and
    else what stands before them, and themselves.
    """

    def __init__(
        self, groups: Sequence[tuple[int, int]], slot_N: Tensor, lengths: Sequence[Sequence[int]] = ()
    ) -> None:
        self.groups = tuple(groups)
        self.lengths = [torch.tensor(own) for own in lengths] or [torch.empty(0, dtype=torch.long)] * len(self.groups)
        length_P = torch.cat([torch.full((samples * length,), length) for samples, length in groups])
        token_P = torch.full_like(length_P, -1).index_copy_(0, slot_N, torch.arange(len(slot_N)))
        own_P = torch.cat([torch.arange(length).repeat(samples) for samples, length in groups])
        self.of_rows = torch.stack([token_P, torch.arange(len(own_P)) - own_P, own_P, length_P], 1)
        self.of_tokens = self.of_rows[slot_N, 1:].contiguous()


class ShortAttention:
    """What tokens read in their samples, for one pass forward and one back.

    Queries and keys, of heads of so many values, are turned first if there are angles; their products are scaled.
    """

    def __init__(self, places: ShortRows, size: int, scaling: float, angles: Angles | None) -> None:
        self._places, self._size, self._scaling, self._angles = places, size, scaling, angles or UNTURNED

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, keeps: bool, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Query `[N, H D]`, key `[N, G D]`, value `[N, G E]`, in fp32 or bf16; returns `[N, H E]` in fp32, or rounded.

        It `keeps` what the way back needs, or cannot go back.
        """
        from wavetune.models import kernels

        self._few = key.shape[1] // self._size
        self._widths = query.shape[1], key.shape[1], value.shape[1]
        rows, width = self._places.of_rows, value.shape[1] // self._few
        q, k = (kernels.heads_in(x, rows, self._angles, self._size) for x in (query, key))
        stacks, kept = (q, k, kernels.heads_in(value, rows, UNTURNED, width)), list[Tensor]()
        out = q.new_empty(len(q), width)
        self._lengths = [own.repeat_interleave(query.shape[1] // self._size) for own in self._places.lengths]
        for length_B, (q, k, v, read) in zip(self._lengths, self._by_group(*stacks, out), strict=True):
            weights = q @ k.mT
            kernels.attention_weights(weights.view(-1, *k.shape[1:2] * 2), length_B, self._scaling)
            torch.bmm(weights, v, out=read)
            kept.append(weights)
        if keeps:
            self._stacks, self._weights = stacks, kept
        return kernels.heads_out(out, self._places.of_tokens, UNTURNED, len(out) // len(rows) * width, dtype)

    def backward(self, grad: Tensor, dtypes: Sequence[torch.dtype] = (torch.float32,) * 3) -> tuple[Tensor, ...]:
        """Gradients of query, key and value, in these precisions, from that of what is read."""
        from wavetune.models import kernels

        above = kernels.heads_in(grad, self._places.of_rows, UNTURNED, self._stacks[2].shape[1])
        to = tuple(torch.empty_like(x) for x in self._stacks)
        groups = self._by_group(*self._stacks, above, *to)
        kept = zip(self._lengths, self._weights, groups, strict=True)
        for length_B, weights, (q, k, v, g, to_q, to_k, to_v) in kept:
            torch.bmm(weights.mT, g, out=to_v)
            scores = g @ v.mT
            square = (-1, *k.shape[1:2] * 2)
            kernels.attention_weights_back(weights.view(square), scores.view(square), length_B, self._scaling)
            torch.bmm(scores, k, out=to_q)
            torch.bmm(scores.mT, q, out=to_k)
        turned = (self._angles, self._angles, UNTURNED)
        parts = zip(to, turned, self._widths, dtypes, strict=True)
        places = self._places.of_tokens
        return tuple(kernels.heads_out(x, places, angles, width, dtype) for x, angles, width, dtype in parts)

    def _by_group(self, *stacks: Tensor) -> Iterator[list[Tensor]]:
        """Rows of heads `[P H, D]` and `[P G, D]` by group, as matrices of a key's head, `[S G, H/G T, D]`."""
        base, rows = 0, len(self._places.of_rows)
        for samples, length in self._places.groups:
            stop = base + samples * length
            parts = ((x, len(x) // rows) for x in stacks)
            yield [x[base * n : stop * n].view(samples * self._few, -1, x.shape[1]) for x, n in parts]
            base = stop


def attend(query: Tensor, key: Tensor, value: Tensor, places: ShortRows, scaling: float) -> Tensor:
    """Differentiable `ShortAttention` of heads as they are, `[N, H, D]`, `[N, G, D]` and `[N, G, E]` in fp32."""
    return _Attend.apply(query, key, value, places, scaling)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, places: ShortRows, scaling: float) -> Tensor:
        heads = (query, key, value)
        ctx.attention, ctx.sizes = ShortAttention(places, query.shape[2], scaling, None), [x.shape[2] for x in heads]
        q, k, v = (x.flatten(1).contiguous() for x in heads)
        return ctx.attention.forward(q, k, v, any(ctx.needs_input_grad)).view(*query.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        attention: ShortAttention = ctx.attention
        del ctx.attention  # the graph is let go of only when all of it is done
        found = attention.backward(grads[0].flatten(1).contiguous())
        return *(g.view(len(g), -1, size) for g, size in zip(found, ctx.sizes, strict=True)), None, None
