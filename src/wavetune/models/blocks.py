"""Blocks of bf16 weights that are one node of the graph: norms, maps, turned heads, attention and gated MLP by hand.

Between two products PyTorch would make every value wide, narrow again and keep it more than once. Here each is written
once, by a compiled sweep, in the precision in which the next product reads it; adapters, attention, the residual stream
and all sums stay in fp32, so that the numbers are those of the block as transformers wrote it. A block is known by
what it computes on a few values: `x + o(attention(q, k, v))` of a norm with turned heads, then `x + mlp` of another.

Legend: N tokens, D width, H query heads, G key and value heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from wavetune.models.adapter import Segment
from wavetune.models.fused import LEAST_WIDTH, Gated, gated_mlp, root_mean_square, same, values
from wavetune.models.lora import Factors, FrozenLinear, StackedLoraLinear, add_updates, factors_of, updates_back
from wavetune.models.narrow import computing_wide
from wavetune.models.products import has_bf16_products, product, product_back
from wavetune.models.ragged import Reach, Rule, attended, attending, has_layout, ragged_layout, reach, short_rows
from wavetune.models.short_rows import UNTURNED, Angles, ShortAttention, ShortRows
from wavetune.models.structure import LINEAR

_TOKENS = 3  # of the sample on which a block is tried


class _Names(NamedTuple):
    """Paths of a block's parts: its attention and that module's maps, its MLP, and the norms before both."""

    attention: str
    maps: tuple[str, ...]
    mlp: str
    gated: Gated
    norms: tuple[str, str]
    epsilons: tuple[float, float]
    head: int
    scaling: float

    def linear(self) -> tuple[str, ...]:
        """Paths of the seven maps: query, key, value, output, gate, up, down."""
        own = (self.gated.gate, self.gated.up, self.gated.down)
        return *(f"{self.attention}.{m}" for m in self.maps), *(f"{self.mlp}.{m}" for m in own)


@torch.no_grad()
def shape_of(block: nn.Module) -> _Names | None:
    """Which parts a stock block is made of, None if it computes anything else."""
    children = dict(block.named_children())
    linear = {n: [m for m, c in child.named_children() if isinstance(c, LINEAR)] for n, child in children.items()}
    attentions = [name for name, maps in linear.items() if len(maps) == len(list(children[name].children())) == 4]
    norms = {name: found for name, child in children.items() if (found := root_mean_square(child)) is not None}
    threes = {name: gated_mlp(children[name], maps) for name, maps in linear.items() if len(maps) == 3}
    mlps = [(name, found) for name, found in threes.items() if found is not None]
    if len(children) != 4 or len(attentions) != 1 or len(norms) != 2 or len(mlps) != 1:
        return None
    name = attentions[0]
    with computing_wide(block), attending(ragged_layout([_TOKENS])):
        return _tried(block, name, linear[name], mlps[0], norms)


def _tried(
    block: nn.Module,
    attention: str,
    maps: Sequence[str],
    mlp: tuple[str, Gated],
    norms: dict[str, tuple[Tensor, float]],
) -> _Names | None:
    """Which order of norms and of the attention's maps, which size of a head and which factor yield what it yields."""
    numbers = vars(block.get_submodule(attention)).values()
    x = values(_TOKENS, len(next(iter(norms.values()))[0]))
    for head in sorted({n for n in numbers if type(n) is int and n > 1 and n % 2 == 0}):
        angles = values(_TOKENS, head // 2).repeat(1, 2)
        cos, sin = angles.cos(), angles.sin()
        try:
            wanted = block(x[None], attention_mask=reach(), position_embeddings=(cos[None], sin[None]))
        except Exception:  # whatever a block does that takes something else, or heads of another size
            continue
        if not isinstance(wanted, Tensor):
            return None
        for scaling in {n for n in numbers if isinstance(n, float) and n > 0}:
            for first, second in permutations(norms.items()):
                for order in permutations(maps):
                    weights, epsilons = (first[1][0], second[1][0]), (first[1][1], second[1][1])
                    names = _Names(attention, order, *mlp, (first[0], second[0]), epsilons, head, scaling)
                    try:
                        found = _plain(block, names, weights, x, cos, sin)
                    except RuntimeError:  # shapes that do not fit
                        continue
                    if same(found, wanted[0]):
                        return names
    return None


def _plain(block: nn.Module, names: _Names, weights: Sequence[Tensor], x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What a block of such parts computes of `[N, D]`, in PyTorch's own operations."""

    def normed(x: Tensor, which: int) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + names.epsilons[which]) * weights[which]

    def turned(x: Tensor) -> Tensor:
        low, high = x.chunk(2, -1)
        return x * cos[:, None] + torch.cat([-high, low], -1) * sin[:, None]

    q, k, v, o = (block.get_submodule(path) for path in names.linear()[:4])
    h = normed(x, 0)
    heads = (m(h).view(len(x), -1, names.head) for m in (q, k, v))
    query, key, value = next(heads), next(heads), next(heads)
    rule = Rule(reach(), names.scaling)
    x = x + o(attended(block, turned(query), turned(key), value, rule).reshape(len(x), -1))
    return x + block.get_submodule(names.mlp)(normed(x, 1))


def _forward(
    stock: Callable[..., Any], block: nn.Module, names: _Names, norms: tuple[Tensor, Tensor],
    recomputes: Callable[[], bool], hidden_states: Tensor, *args: Any, **named: Any,
) -> Any:  # fmt: skip
    x, mask, angles = hidden_states, named.get("attention_mask"), named.get("position_embeddings")
    fits = not args and isinstance(angles, tuple) and named.get("past_key_values") is None and has_layout()
    if not fits or not isinstance(mask, Reach) or x.dtype != torch.float32 or recomputes() or _hooked(block):
        return stock(hidden_states, *args, **named)
    maps = tuple(_map(cast(FrozenLinear, block.get_submodule(path))) for path in names.linear())
    if any(m.weight.dtype != torch.bfloat16 or m.weight.device.type != "cpu" for m in maps):
        return stock(hidden_states, *args, **named)
    cos, sin = (angle[0].contiguous() for angle in cast(tuple[Tensor, Tensor], angles))
    turns, rule = (cos, sin), Rule(mask, names.scaling)
    if (places := short_rows(rule)) is not None:
        attention = ShortAttention(places, names.head, names.scaling, turns)
    else:
        attention = _Attention(partial(attended, block.get_submodule(names.attention), rule=rule), names.head, turns)
    parts = _Parts(maps, norms, names.epsilons, names.gated.a, names.gated.b, attention)
    factors = [factor for m in maps for factor in m.factors]
    return _Block.apply(x[0].contiguous(), parts, *factors)[None]


def _hooked(block: nn.Module) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in block.modules() if m is not block)


@dataclass(frozen=True)
class _Map:
    """A map with what acts on it in a pass."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    segments: tuple[Segment, ...]
    factors: Factors

    @property
    def adapted(self) -> bool:
        return bool(self.segments)


def _map(linear: FrozenLinear) -> _Map:
    if isinstance(linear, StackedLoraLinear) and (acting := linear.acting()) is not None:
        scale, segments, local, shared = acting
        return _Map(linear.weight, linear.bias, scale, segments, (*factors_of(local), *factors_of(shared)))
    return _Map(linear.weight, linear.bias, 1.0, (), (None, None, None, None))


@dataclass(frozen=True)
class _Parts:
    maps: tuple[_Map, ...]
    norms: tuple[Tensor, Tensor]
    epsilons: tuple[float, float]
    a: float
    b: float
    attention: ShortAttention | _Attention

    def adapted(self, indices: Iterable[int]) -> bool:
        """Whether any of these maps is."""
        return any(self.maps[index].adapted for index in indices)

    def precision(self, index: int) -> torch.dtype:
        """Of what a map yields, and of its gradient: that of the product, or of what adapters add to it."""
        return torch.float32 if self.maps[index].adapted else torch.bfloat16


class _Attention:
    """Of any samples what `ShortAttention` is of short ones, by a function of fp32 heads `[N, H, E]`."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor], size: int, angles: Angles) -> None:
        self._attend, self._size, self._angles = attend, size, angles

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keeps: bool, dtype: torch.dtype) -> Tensor:
        from wavetune.models import kernels

        count = len(query)
        self._places = ShortRows([(count, 1)], torch.arange(count))
        turned = (kernels.heads_in(x, self._places.of_rows, self._angles, self._size) for x in (query, key))
        with torch.set_grad_enabled(keeps):
            heads = [y.view(count, -1, self._size).requires_grad_(keeps) for y in (*turned, value.float())]
            read = self._attend(*heads)
        if keeps:
            self._read, self._heads = read, heads
        return read.detach().reshape(count, -1).to(dtype)

    def backward(self, grad: Tensor, dtypes: Sequence[torch.dtype]) -> tuple[Tensor, ...]:
        from wavetune.models import kernels

        found = torch.autograd.grad(self._read, self._heads, grad.float().view(self._read.shape))
        turned = (self._angles, self._angles, UNTURNED)
        parts = zip(found, turned, dtypes, strict=True)
        return tuple(
            kernels.heads_out(g.flatten(0, 1), self._places.of_tokens, angles, g[0].numel(), dtype)
            for g, angles, dtype in parts
        )


class _Kept:
    """What the backward pass of a block reads. `wide` are the inputs of adapted maps, `reduced` these times A."""

    def __init__(self) -> None:
        self.wide = dict[int, Tensor]()
        self.reduced = dict[int, list[Tensor]]()

    def forward(self, parts: _Parts, index: int, narrow: Tensor, wide: Tensor | None) -> Tensor:
        """A map's output: in bf16 of a plain one, in fp32 of one that is adapted, which reads its input `wide`."""
        m = parts.maps[index]
        y = product(narrow, m.weight, m.bias)
        if not m.adapted:
            return y
        y, self.wide[index] = y.float(), narrow.float() if wide is None else wide
        self.reduced[index] = add_updates(y, self.wide[index], m.scale, m.segments, m.factors)
        return y

    def backward(
        self, parts: _Parts, index: int, gradient: Tensor, onto: Tensor | None, wanted: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """Gradients of a map's factors; what their updates pass on is added `onto` that of its input."""
        m, own = parts.maps[index], wanted[4 * index : 4 * index + 4]
        if not m.adapted:
            return (None,) * 4
        return updates_back(gradient, self.wide[index], onto, self.reduced[index], m.scale, m.segments, m.factors, own)


class _Block(torch.autograd.Function):
    """A block from one residual stream `[N, D]` to the next."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: _Parts, *factors: Tensor | None) -> Tensor:
        from wavetune.models import kernels

        kept, keeps = _Kept(), any(ctx.needs_input_grad)
        _, narrow, wide, inverse = kernels.normed(x, None, parts.norms[0], parts.epsilons[0], parts.adapted(range(3)))
        query, key, value = (kept.forward(parts, i, narrow, wide) for i in range(3))
        seen = parts.attention.forward(query, key, value, keeps, parts.precision(3))
        more = kept.forward(parts, 3, seen.to(torch.bfloat16), seen)
        middle, narrow, wide, middle_inverse = kernels.normed(
            x, more, parts.norms[1], parts.epsilons[1], parts.adapted(range(4, 6))
        )
        gate, up = (kept.forward(parts, i, narrow, wide) for i in (4, 5))
        if gate.dtype != up.dtype:
            gate, up = gate.float(), up.float()
        inner = kernels.gated(gate, up, parts.a, parts.b)
        more = kept.forward(parts, 6, inner.to(torch.bfloat16), inner.float() if parts.maps[6].adapted else None)
        if keeps:
            ctx.save_for_backward(x, inverse, middle, middle_inverse, gate, up)
            ctx.kept, ctx.parts = kept, parts
        return kernels.added(middle, more)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from wavetune.models import kernels

        x, inverse, middle, middle_inverse, gate, up = ctx.saved_tensors
        kept, parts, wanted = cast(_Kept, ctx.kept), cast(_Parts, ctx.parts), ctx.needs_input_grad[2:]
        onward, of_factors = bool(ctx.needs_input_grad[0]), dict[int, tuple[Tensor | None, ...]]()

        def through(index: int, gradient: Tensor, narrow: Tensor) -> Tensor:
            onto = product_back(narrow, parts.maps[index].weight).to(parts.precision(index))
            of_factors[index] = kept.backward(parts, index, gradient, onto, wanted)
            return onto

        def through_norm(
            indices: range, gradients: Sequence[Tensor], base: Tensor, x: Tensor, inverse: Tensor, narrow: bool
        ) -> tuple[Tensor, Tensor]:
            more = torch.zeros_like(x) if parts.adapted(indices) else None
            found = list[Tensor]()
            for index, gradient in zip(indices, gradients, strict=True):
                found.append(product_back(gradient, parts.maps[index].weight))
                of_factors[index] = kept.backward(parts, index, gradient, more, wanted)
            norm = parts.norms[indices.start // 4]
            return kernels.norm_back_onto(base, x, inverse, found, more, norm, narrow)

        to_stream = grads[0].contiguous()
        to_inner = through(6, to_stream, to_stream).to(gate.dtype)
        to_both = kernels.gated_back(gate, up, to_inner, parts.a, parts.b)
        to_middle, narrow = through_norm(range(4, 6), to_both, to_stream, middle, middle_inverse, narrow=True)
        to_seen = through(3, to_middle, narrow)
        to_maps = parts.attention.backward(to_seen, [parts.precision(index) for index in range(3)])
        if onward:
            to_middle, _ = through_norm(range(3), to_maps, to_middle, x, inverse, narrow=False)
        else:
            of_factors |= {i: kept.backward(parts, i, g, None, wanted) for i, g in enumerate(to_maps)}
        del ctx.kept, ctx.parts  # the graph is let go of only when all of its blocks are done
        returned = (factor for index in range(len(parts.maps)) for factor in of_factors[index])
        return to_middle if onward else None, None, *returned


def serve(blocks: Iterable[nn.Module], shapes: dict[nn.Module, _Names | None], recomputes: Callable[[], bool]) -> None:
    """Let the blocks whose shape was found, and whose maps were exchanged since, run as one node wherever nothing else
    acts within them.
    """
    for block in blocks:
        if (names := shapes.get(block)) is None:
            continue
        norms = [found[0] for name in names.norms if (found := root_mean_square(block.get_submodule(name))) is not None]
        if len(norms) == 2 and all(isinstance(block.get_submodule(path), FrozenLinear) for path in names.linear()):
            block.forward = partial(_forward, block.forward, block, names, (norms[0], norms[1]), recomputes)


def shapes_of(blocks: Iterable[nn.Module], bf16: bool, width: int) -> dict[nn.Module, _Names | None]:
    """The shapes of stock blocks that are to have bf16 weights, where this processor multiplies such matrices."""
    if not bf16 or width < LEAST_WIDTH or not has_bf16_products():
        return {}
    return {block: shape_of(block) for block in blocks}
