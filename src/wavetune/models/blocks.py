"""Blocks of bf16 weights that are one node of the graph: norms, maps, turned heads, attention and MLP by hand.

Between two products PyTorch would make every value wide, narrow again and keep it more than once. Here each is written
once, by a compiled sweep, in the precision in which the next product reads it; adapters, attention, the residual stream
and all sums stay in fp32, so that the numbers are those of the block as transformers wrote it. Which blocks are served
is found by `block_shapes`. Adapters behind the map that ends a half act within the node.

Legend: N tokens, D width, H query heads, G key and value heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from wavetune.models.adapter import Segment
from wavetune.models.behind import StackedAdapter
from wavetune.models.block_shapes import (
    BEFORE_ATTENTION,
    BEHIND_ATTENTION,
    BEHIND_MLP,
    END,
    MIDDLE,
    OF_KEY,
    OF_QUERY,
    Shape,
    parts_of,
    shape_of,
    whole_of,
)
from wavetune.models.fused import LEAST_WIDTH
from wavetune.models.lora import Factors, FrozenLinear, StackedLoraLinear, add_updates, factors_of, updates_back
from wavetune.models.norm import Norm
from wavetune.models.products import has_bf16_products, product, product_back
from wavetune.models.ragged import Reach, attended, has_layout, short_rows
from wavetune.models.short_rows import UNTURNED, Angles, ShortAttention, ShortRows

if TYPE_CHECKING:
    from wavetune.models.kernels import Rows

_SAYS_NOTHING = {"attention_mask", "position_embeddings", "position_ids", "cache_position"}


def _forward(
    stock: Callable[..., Any], block: nn.Module, shape: Shape, norms: Sequence[Norm | None],
    recomputes: Callable[[], bool], hidden_states: Tensor, *args: Any, **named: Any,
) -> Any:  # fmt: skip
    x, angles, order = hidden_states, UNTURNED, None
    others = [*args, *(value for name, value in named.items() if name not in _SAYS_NOTHING)]
    masks = [mask for mask in (*args, named.get("attention_mask")) if isinstance(mask, Reach)]
    if shape.turns and (given := named.get("position_embeddings")) is not None and given[0].shape[2] <= shape.head:
        order, angles = shape.turns.placed(shape.head, *(angle[0].contiguous() for angle in given))
    fits = has_layout() and len(masks) == 1 and all(o is None or isinstance(o, int | str | Reach) for o in others)
    fits &= angles[0].shape[1] == (shape.head if shape.turns else 0) and x.dtype == torch.float32
    if not fits or recomputes():
        return stock(hidden_states, *args, **named)
    linear = [cast(FrozenLinear, block.get_submodule(path)) for path in shape.maps()]
    output = len(shape.into)
    if _hooked(block, [linear[output], linear[-1]]):
        return stock(hidden_states, *args, **named)
    maps = tuple(map(_map, linear))
    if any(m.weight.dtype != torch.bfloat16 or m.weight.device.type != "cpu" for m in maps):
        return stock(hidden_states, *args, **named)
    rule = replace(shape.rule, reach=masks[0])
    if (places := short_rows(rule)) is not None:
        attention = ShortAttention(places, shape.head, rule.factor(shape.head), angles)
    else:
        attention = _Attention(partial(attended, block.get_submodule(shape.attention), rule=rule), shape.head, angles)
    parts = _Parts(maps, norms, shape, attention, order, torch.is_grad_enabled())
    factors = [factor for m in maps for factor in m.factors]
    return _Block.apply(x[0].contiguous(), parts, *factors, *(stack for m in maps for stack in m.behind.stacks))[None]


def _hooked(block: nn.Module, ends: Collection[nn.Module]) -> bool:
    """Whether anything acts in a block but adapters behind those of its maps that end a half."""

    def acts(module: nn.Module) -> bool:
        hooks = module._forward_hooks.values()
        known = module in ends and all(isinstance(hook, StackedAdapter) for hook in hooks)
        return bool(module._forward_pre_hooks or (hooks and not known))

    return any(acts(module) for module in block.modules() if module is not block)


class _Behind:
    """Adapters behind a map in a pass, which PyTorch's own graph goes back through."""

    def __init__(self, hooks: Iterable[StackedAdapter]) -> None:
        found = ((hook.adapter, hook.active.stacks(hook.site)) for hook in hooks)
        self._acting = [(adapter, stacks) for adapter, stacks in found if stacks is not None]
        own = [stacks for _, (_, *both) in self._acting for stacks in both if stacks is not None]
        self.stacks = [stack for stacks in own for stack in stacks.values()]
        self.reads_input = any(adapter.reads_input for adapter, _ in self._acting)

    def forward(self, x: Tensor | None, y: Tensor, keeps: bool) -> Tensor:
        """What they make of a map's output, in fp32; `x` is its input, if they read that."""
        if not self._acting:
            return y
        with torch.set_grad_enabled(keeps):
            first = y.float().detach().requires_grad_(keeps)
            inputs = None if x is None else x.detach().requires_grad_(keeps)
            leaves = [stack.detach().requires_grad_(keeps and stack.requires_grad) for stack in self.stacks]
            rest, y = iter(leaves), first
            for adapter, (segments, *both) in self._acting:
                local, shared = (None if own is None else dict(zip(own, rest, strict=False)) for own in both)
                y = adapter.stacked(first if inputs is None else inputs, y, segments, local, shared)
        if keeps:
            self._graph = y, first, inputs, leaves
        return y.detach()

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Gradients of the map's output, of what they read of its input, and of their stacks."""
        if not self._acting:
            return grad, None, []
        y, first, inputs, leaves = self._graph
        wanted = [first, *(leaf for leaf in (inputs, *leaves) if leaf is not None and leaf.requires_grad)]
        found = dict(zip(map(id, wanted), torch.autograd.grad(y, wanted, grad, allow_unused=True), strict=True))
        del self._graph
        onward = found[id(first)]
        return (
            torch.zeros_like(first) if onward is None else onward,
            found.get(id(inputs)),
            [found.get(id(leaf)) for leaf in leaves],
        )


@dataclass(frozen=True)
class _Map:
    """A map with what acts on it in a pass."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    segments: tuple[Segment, ...]
    factors: Factors
    behind: _Behind

    @property
    def adapted(self) -> bool:
        return bool(self.segments)


def _map(linear: FrozenLinear) -> _Map:
    behind = _Behind(cast(Iterable[StackedAdapter], linear._forward_hooks.values()))
    if isinstance(linear, StackedLoraLinear) and (acting := linear.acting()) is not None:
        scale, segments, local, shared = acting
        return _Map(linear.weight, linear.bias, scale, segments, (*factors_of(local), *factors_of(shared)), behind)
    return _Map(linear.weight, linear.bias, 1.0, (), (None, None, None, None), behind)


@dataclass(frozen=True)
class _Parts:
    """A block in a pass, through which gradients may be asked for; its maps are those `into` attention, `output`, those
    `into_mlp` and `down`.
    """

    maps: tuple[_Map, ...]
    norms: Sequence[Norm | None]
    shape: Shape
    attention: ShortAttention | _Attention
    order: Tensor | None
    """Of a head's values, as attention turns them."""
    graded: bool

    @property
    def output(self) -> int:
        """Which map ends attention."""
        return len(self.shape.into)

    @property
    def down(self) -> int:
        """Which map ends the MLP."""
        return len(self.maps) - 1

    @property
    def into(self) -> range:
        """The maps that read the stream before attention."""
        return range(self.output)

    @property
    def into_mlp(self) -> range:
        """The maps that read it before the MLP."""
        return range(self.output + 1, self.down)

    @property
    def ends_normed(self) -> bool:
        """Whether the stream goes on from norms of both sums."""
        return self.norms[END] is not None

    def adapted(self, indices: Iterable[int]) -> bool:
        """Whether any of these maps is."""
        return any(self.maps[index].adapted for index in indices)

    def ordered(self, x: Tensor, back: bool = False) -> Tensor:
        """Heads `[N, H E]` as attention turns them, or back from there."""
        if self.order is None:
            return x
        order = self.order.argsort() if back else self.order
        return x.view(-1, len(order)).index_select(1, order).view_as(x)

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
        self._places = _alone(count)
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


@lru_cache(maxsize=4)
def _alone(count: int) -> ShortRows:
    """Of so many tokens, each the only one of its sample."""
    return ShortRows([(count, 1)], torch.arange(count))


class _Kept:
    """What the backward pass of a block reads. `wide` are the inputs of adapted maps, `reduced` these times A; `normed`
    are those of norms of a map's output, and what their rows were multiplied by; `end` are rows of the norm at the end.
    """

    end: Rows

    def __init__(self) -> None:
        self.wide = dict[int, Tensor]()
        self.reduced = dict[int, list[Tensor]]()
        self.normed = dict[int, tuple[Tensor, Tensor]]()

    def norm(self, parts: _Parts, place: int, x: Tensor) -> Tensor:
        """A map's output, or its norm in fp32 where there is one in this place."""
        from wavetune.models import kernels

        if (norm := parts.norms[place]) is None:
            return x
        y, inverse = kernels.rows_normed(x, norm.weight, norm.epsilon)
        self.normed[place] = x, inverse
        return y

    def norm_back(self, parts: _Parts, place: int, grad: Tensor, dtype: torch.dtype) -> Tensor:
        """The gradient of a map's output, of this precision where a norm follows it, from that of `norm`."""
        from wavetune.models import kernels

        if (norm := parts.norms[place]) is None:
            return grad
        return kernels.rows_norm_back(*self.normed[place], grad, norm.weight, dtype)

    def forward(self, parts: _Parts, index: int, narrow: Tensor, wide: Tensor | None, keeps: bool = False) -> Tensor:
        """A map's output: in bf16 of a plain one, in fp32 of one that is adapted, which reads its input `wide`. Of what
        stands behind it this `keeps` what gradients need.
        """
        m = parts.maps[index]
        y = product(narrow, m.weight, m.bias)
        if m.adapted or m.behind.reads_input:
            wide = narrow.float() if wide is None else wide.float()
        if m.adapted:
            y, self.wide[index] = y.float(), cast(Tensor, wide)
            self.reduced[index] = add_updates(y, self.wide[index], m.scale, m.segments, m.factors)
        return m.behind.forward(wide if m.behind.reads_input else None, y, keeps)

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
    def forward(ctx: Any, x: Tensor, parts: _Parts, *adapters: Tensor | None) -> Tensor:
        from wavetune.models import kernels

        kept, keeps = _Kept(), parts.graded and any(ctx.needs_input_grad)
        norms, factor = parts.norms, parts.shape.factor
        _, narrow, wide, before = kernels.normed(x, None, norms[BEFORE_ATTENTION], parts.adapted(parts.into))
        heads = [kept.forward(parts, index, narrow, wide) for index in parts.into]
        if len(heads) == 1:
            split = parts_of(heads[0], parts.shape, parts.maps[parts.output].weight.shape[1])
            heads = [part.contiguous() for part in split]
        query, key, value = heads
        query, key = (parts.ordered(kept.norm(parts, *one)) for one in ((OF_QUERY, query), (OF_KEY, key)))
        seen = parts.attention.forward(query, key, value, keeps, parts.precision(parts.output))
        more = kept.forward(parts, parts.output, seen.to(torch.bfloat16), seen, keeps)
        more = kept.norm(parts, BEHIND_ATTENTION, more)
        is_wide = parts.ends_normed or parts.adapted(parts.into_mlp)
        if parts.shape.beside:
            middle = kernels.added(x, more, factor)
            _, narrow, wide, between = kernels.normed(x, None, norms[MIDDLE], is_wide)
        else:
            middle, narrow, wide, between = kernels.normed(x, more, norms[MIDDLE], is_wide, factor=factor)
        middle = wide if parts.ends_normed else middle
        gate, *up = (kept.forward(parts, index, narrow, wide) for index in parts.into_mlp)
        if parts.shape.is_gated and not up:
            gate, *up = (half.contiguous() for half in gate.chunk(2, 1))
        if up and gate.dtype != up[0].dtype:
            gate, up = gate.float(), [up[0].float()]
        inner = kernels.gated(gate, up[0] if up else None, *parts.shape.act)
        more = kept.forward(parts, parts.down, inner.to(torch.bfloat16), inner, keeps)
        more = kept.norm(parts, BEHIND_MLP, more)
        if parts.ends_normed:
            *_, out, kept.end = kernels.normed(middle, more, norms[END], True, is_narrow=False, factor=factor)
        else:
            out = kernels.added(middle, more, factor)
        if keeps:
            ctx.save_for_backward(*before, *between, gate, *up)
            ctx.kept, ctx.parts = kept, parts
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from wavetune.models import kernels

        before, between, (gate, *up) = ctx.saved_tensors[:3], ctx.saved_tensors[3:6], ctx.saved_tensors[6:]
        kept, parts, wanted = cast(_Kept, ctx.kept), cast(_Parts, ctx.parts), ctx.needs_input_grad[2:]
        factor, onward, of_factors = (
            parts.shape.factor,
            bool(ctx.needs_input_grad[0]),
            dict[int, tuple[Tensor | None, ...]](),
        )
        of_behind = dict[int, list[Tensor | None]]()

        def through(index: int, place: int, to_stream: Tensor, narrow: Tensor) -> Tensor:
            """Back through what a half adds to a stream, to what the map reads that ends it."""
            m = parts.maps[index]
            added = to_stream if factor == 1 else to_stream * factor
            gradient = kept.norm_back(parts, place, added, torch.float32)
            before, to_input, of_behind[index] = m.behind.backward(gradient)
            onto = product_back(narrow if before is to_stream else before, m.weight).to(parts.precision(index))
            of_factors[index] = kept.backward(parts, index, before, onto, wanted)
            return onto if to_input is None else (onto + to_input).to(onto.dtype)

        def through_norm(
            indices: range, gradients: Sequence[Tensor], place: int, base: Tensor, rows: Any, is_narrow: bool
        ) -> tuple[Tensor, Tensor]:
            """Back through maps that read a stream or its norm, onto the stream's gradient."""
            more = torch.zeros_like(base) if parts.adapted(indices) else None
            found = list[Tensor]()
            for index, gradient in zip(indices, gradients, strict=True):
                found.append(product_back(gradient, parts.maps[index].weight))
                of_factors[index] = kept.backward(parts, index, gradient, more, wanted)
            within = place == MIDDLE and parts.ends_normed
            return kernels.norm_back_onto(base, rows, found, more, parts.norms[place], is_narrow, within)

        to_stream = narrow = grads[0].contiguous()
        if parts.ends_normed:
            to_stream, narrow = kernels.norm_back_onto(to_stream, kept.end, [], None, parts.norms[END], True, True)
        to_inner = through(parts.down, BEHIND_MLP, to_stream, narrow).to(gate.dtype)
        to_both = [
            one for one in kernels.gated_back(gate, up[0] if up else None, to_inner, *parts.shape.act) if len(one)
        ]
        to_both = to_both if len(to_both) == len(parts.into_mlp) else [torch.cat(to_both, 1)]
        to_middle, narrow_middle = through_norm(parts.into_mlp, to_both, MIDDLE, to_stream, between, is_narrow=True)
        to_attention = (to_stream, narrow) if parts.shape.beside else (to_middle, narrow_middle)
        to_seen = through(parts.output, BEHIND_ATTENTION, *to_attention)
        source = parts.into if len(parts.into) == 3 else (0, 0, 0)
        norms = parts.norms[OF_QUERY], parts.norms[OF_KEY], None
        of_maps = [parts.precision(i) if n is None else torch.float32 for i, n in zip(source, norms, strict=True)]
        to_query, to_key, to_value = parts.attention.backward(to_seen, of_maps)
        to_query, to_key = parts.ordered(to_query, back=True), parts.ordered(to_key, back=True)
        to_query = kept.norm_back(parts, OF_QUERY, to_query, parts.precision(source[0]))
        to_key = kept.norm_back(parts, OF_KEY, to_key, parts.precision(source[1]))
        to_maps = [to_query, to_key, to_value]
        to_maps = to_maps if len(parts.into) == 3 else [whole_of(to_maps, parts.shape)]
        if onward:
            to_middle, _ = through_norm(parts.into, to_maps, BEFORE_ATTENTION, to_middle, before, is_narrow=False)
        else:
            of_factors |= {i: kept.backward(parts, i, g, None, wanted) for i, g in enumerate(to_maps)}
        del ctx.kept, ctx.parts  # the graph is let go of only when all of its blocks are done
        returned = (factor for index in range(len(parts.maps)) for factor in of_factors[index])
        return to_middle if onward else None, None, *returned, *of_behind[parts.output], *of_behind[parts.down]


def serve(blocks: Iterable[nn.Module], shapes: dict[nn.Module, Shape | None], recomputes: Callable[[], bool]) -> None:
    """Let the blocks whose shape was found, and whose maps were exchanged since, run as one node wherever nothing else
    acts within them.
    """
    for block in blocks:
        if (shape := shapes.get(block)) is None:
            continue
        if all(isinstance(block.get_submodule(path), FrozenLinear) for path in shape.maps()):
            block.forward = partial(_forward, block.forward, block, shape, shape.norms_of(block), recomputes)


def shapes_of(blocks: Iterable[nn.Module], bf16: bool, width: int) -> dict[nn.Module, Shape | None]:
    """The shapes of stock blocks that are to have bf16 weights, where this processor multiplies such matrices."""
    if not bf16 or width < LEAST_WIDTH or not has_bf16_products():
        return {}
    return {block: shape_of(block, width) for block in blocks}
