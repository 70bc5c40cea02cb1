"""Blocks of bf16 weights that are one node of the graph: norms, maps, turned heads, attention and gated MLP by hand.

Between two products PyTorch would make every value wide, narrow again and keep it more than once. Here each is written
once, by a compiled sweep, in the precision in which the next product reads it; adapters, attention, the residual stream
and all sums stay in fp32, so that the numbers are those of the block as transformers wrote it. A block is known by
what it computes on a few values: `x + o(attention(q, k, v))` of a norm with turned heads, then `x + mlp` of another;
queries and keys may have norms of their own, and so may what either half adds. Adapters behind the map that ends a half
act within the node.

Legend: N tokens, D width, H query heads, G key and value heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from wavetune.models.adapter import Segment
from wavetune.models.behind import StackedAdapter
from wavetune.models.fused import LEAST_WIDTH, Gated, gated_mlp, root_mean_square, same, values
from wavetune.models.lora import Factors, FrozenLinear, StackedLoraLinear, add_updates, factors_of, updates_back
from wavetune.models.narrow import computing_wide
from wavetune.models.products import has_bf16_products, product, product_back
from wavetune.models.ragged import (
    RaggedLayout,
    Reach,
    Rule,
    attended,
    attending,
    has_layout,
    ragged_layout,
    reach,
    short_rows,
)
from wavetune.models.short_rows import UNTURNED, Angles, ShortAttention, ShortRows
from wavetune.models.structure import LINEAR

_TOKENS = 3  # of the sample on which a block is tried
_Norm = tuple[Tensor, float] | None
"""A norm's weight and epsilon, None where there is none."""
_BEFORE_ATTENTION, _BEHIND_ATTENTION, _BEFORE_MLP, _BEHIND_MLP, _OF_QUERY, _OF_KEY = range(6)
"""Places of norms in a block."""
_ENDS = 3, 6
"""The maps that end attention and MLP, of query, key, value, output, gate, up, down: adapters may be behind these."""


class _Names(NamedTuple):
    """Paths of a block's parts: its attention and that module's maps, its MLP, and its norms."""

    attention: str
    maps: tuple[str, ...]
    mlp: str
    gated: Gated
    norms: tuple[str | None, ...]
    head: int
    rule: Rule

    def linear(self) -> tuple[str, ...]:
        """Paths of the seven maps: query, key, value, output, gate, up, down."""
        own = (self.gated.gate, self.gated.up, self.gated.down)
        return *(f"{self.attention}.{m}" for m in self.maps), *(f"{self.mlp}.{m}" for m in own)

    def norms_of(self, block: nn.Module) -> tuple[_Norm, ...]:
        """Weights and epsilons of its norms."""
        return tuple(None if path is None else root_mean_square(block.get_submodule(path)) for path in self.norms)


@dataclass(frozen=True)
class _Heard(RaggedLayout):
    """A layout that keeps by which rules it was asked to attend."""

    rules: list[Rule] = field(default_factory=list[Rule], kw_only=True)

    def attend(self, _layer: Hashable, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        self.rules.append(rule)
        return super().attend(_layer, query, key, value, rule)


@torch.no_grad()
def shape_of(block: nn.Module) -> _Names | None:
    """Which parts a stock block is made of, None if it computes anything else."""
    children = dict(block.named_children())
    linear = {n: [m for m, c in child.named_children() if isinstance(c, LINEAR)] for n, child in children.items()}
    own, inner = _norms_in(block), {name: _norms_in(child) for name, child in children.items()}
    attentions = [name for name, maps in linear.items() if len(maps) == 4 and len(inner[name]) in (0, 2)]
    mlps = [(n, found) for n, m in linear.items() if len(m) == 3 and (found := gated_mlp(children[n], m)) is not None]
    if len(attentions) != 1 or len(mlps) != 1 or len(own) not in (2, 4) or len(children) != 2 + len(own):
        return None
    attention = attentions[0]
    if len(list(children[attention].children())) != 4 + len(inner[attention]):
        return None
    with computing_wide(block):
        return _tried(block, attention, linear[attention], mlps[0], own, inner[attention])


def _norms_in(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_children() if root_mean_square(child) is not None]


def _tried(
    block: nn.Module,
    attention: str,
    maps: Sequence[str],
    mlp: tuple[str, Gated],
    norms: Sequence[str],
    of_heads: Sequence[str],
) -> _Names | None:
    """What the block's parts are, in the order in which it calls them, if they yield what it yields."""
    called, heard = list[str](), _Heard(**vars(ragged_layout([_TOKENS])))
    inner = [f"{attention}.{name}" for name in (*maps, *of_heads)]
    x = values(_TOKENS, len(next(block.get_submodule(norms[0]).parameters())))
    numbers = vars(block.get_submodule(attention)).values()
    for head in sorted({n for n in numbers if type(n) is int and n > 1 and n % 2 == 0}):
        angles = values(_TOKENS, head // 2).repeat(1, 2)
        turns = angles.cos(), angles.sin()
        called.clear()
        heard.rules.clear()
        with attending(heard), _telling(block, [*norms, *inner], called):
            try:
                wanted = block(x[None], attention_mask=reach(), position_embeddings=tuple(t[None] for t in turns))
            except Exception:  # whatever a block does that takes something else, or heads of another size
                continue
        if len(called) != len(norms) + len(inner) or len(heard.rules) != 1 or heard.rules[0].sinks is not None:
            return None
        own = [name for name in called if name in norms]
        places = own if len(own) == 4 else (own[0], None, own[1], None)
        heads = [name for name in called if name in inner[4:]] or (None, None)
        order = tuple(name.rsplit(".", 1)[1] for name in called if name in inner[:4])
        names = _Names(attention, order, *mlp, (*places, *heads), head, heard.rules[0])
        with attending(heard):
            try:
                found = _plain(block, names, x, *turns)
            except RuntimeError:  # shapes that do not fit
                continue
        if isinstance(wanted, Tensor) and same(found, wanted[0]):
            return names
    return None


@contextmanager
def _telling(block: nn.Module, paths: Iterable[str], called: list[str]) -> Iterator[None]:
    """While in this block, these modules add their paths to the list whenever they are called."""
    hooks = [block.get_submodule(p).register_forward_hook(lambda *_, path=p: called.append(path)) for p in paths]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _plain(block: nn.Module, names: _Names, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What a block of such parts computes of `[N, D]`, in PyTorch's own operations."""
    before_attention, behind_attention, before_mlp, behind_mlp, of_query, of_key = names.norms_of(block)

    def normed(x: Tensor, norm: _Norm) -> Tensor:
        if norm is None:
            return x
        weight, epsilon = norm
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight

    def turned(x: Tensor) -> Tensor:
        low, high = x.chunk(2, -1)
        return x * cos[:, None] + torch.cat([-high, low], -1) * sin[:, None]

    q, k, v, o = (block.get_submodule(path) for path in names.linear()[:4])
    h = normed(x, before_attention)
    heads = (m(h).view(len(x), -1, names.head) for m in (q, k, v))
    query, key, value = next(heads), next(heads), next(heads)
    query, key = turned(normed(query, of_query)), turned(normed(key, of_key))
    x = x + normed(o(attended(block, query, key, value, names.rule).reshape(len(x), -1)), behind_attention)
    return x + normed(block.get_submodule(names.mlp)(normed(x, before_mlp)), behind_mlp)


def _forward(
    stock: Callable[..., Any], block: nn.Module, names: _Names, norms: Sequence[_Norm],
    recomputes: Callable[[], bool], hidden_states: Tensor, *args: Any, **named: Any,
) -> Any:  # fmt: skip
    x, mask, angles = hidden_states, named.get("attention_mask"), named.get("position_embeddings")
    fits = not args and isinstance(angles, tuple) and named.get("past_key_values") is None and has_layout()
    if not fits or not isinstance(mask, Reach) or x.dtype != torch.float32 or recomputes():
        return stock(hidden_states, *args, **named)
    linear = tuple(cast(FrozenLinear, block.get_submodule(path)) for path in names.linear())
    if _hooked(block, [linear[index] for index in _ENDS]):
        return stock(hidden_states, *args, **named)
    maps = tuple(map(_map, linear))
    if any(m.weight.dtype != torch.bfloat16 or m.weight.device.type != "cpu" for m in maps):
        return stock(hidden_states, *args, **named)
    cos, sin = (angle[0].contiguous() for angle in cast(tuple[Tensor, Tensor], angles))
    turns, rule = (cos, sin), replace(names.rule, reach=mask)
    if (places := short_rows(rule)) is not None:
        attention = ShortAttention(places, names.head, rule.factor(names.head), turns)
    else:
        attention = _Attention(partial(attended, block.get_submodule(names.attention), rule=rule), names.head, turns)
    parts = _Parts(maps, norms, names.gated.a, names.gated.b, attention)
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
    maps: tuple[_Map, ...]
    norms: Sequence[_Norm]
    a: float
    b: float
    attention: ShortAttention | _Attention

    def adapted(self, indices: Iterable[int]) -> bool:
        """Whether any of these maps is."""
        return any(self.maps[index].adapted for index in indices)

    def precision(self, index: int) -> torch.dtype:
        """Of what a map yields, and of its gradient: that of the product, or of what adapters add to it."""
        return torch.float32 if self.maps[index].adapted else torch.bfloat16

    def norm(self, place: int) -> tuple[Tensor, float]:
        """Weight and epsilon of a norm that every block has."""
        return cast(tuple[Tensor, float], self.norms[place])


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
    """What the backward pass of a block reads. `wide` are the inputs of adapted maps, `reduced` these times A; `normed`
    are those of norms of a map's output, and what their rows were multiplied by.
    """

    def __init__(self) -> None:
        self.wide = dict[int, Tensor]()
        self.reduced = dict[int, list[Tensor]]()
        self.normed = dict[int, tuple[Tensor, Tensor]]()

    def norm(self, parts: _Parts, place: int, x: Tensor) -> Tensor:
        """A map's output, or its norm in fp32 where there is one in this place."""
        from wavetune.models import kernels

        if (norm := parts.norms[place]) is None:
            return x
        y, inverse = kernels.rows_normed(x, *norm)
        self.normed[place] = x, inverse
        return y

    def norm_back(self, parts: _Parts, place: int, grad: Tensor, dtype: torch.dtype) -> Tensor:
        """The gradient of a map's output, of this precision where a norm follows it, from that of `norm`."""
        from wavetune.models import kernels

        if (norm := parts.norms[place]) is None:
            return grad
        return kernels.rows_norm_back(*self.normed[place], grad, norm[0], dtype)

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

        kept, keeps = _Kept(), any(ctx.needs_input_grad)
        _, narrow, wide, inverse = kernels.normed(x, None, *parts.norm(_BEFORE_ATTENTION), parts.adapted(range(3)))
        query, key, value = (kept.forward(parts, i, narrow, wide) for i in range(3))
        query, key = kept.norm(parts, _OF_QUERY, query), kept.norm(parts, _OF_KEY, key)
        seen = parts.attention.forward(query, key, value, keeps, parts.precision(3))
        more = kept.forward(parts, 3, seen.to(torch.bfloat16), seen, keeps)
        more = kept.norm(parts, _BEHIND_ATTENTION, more)
        middle, narrow, wide, middle_inverse = kernels.normed(
            x, more, *parts.norm(_BEFORE_MLP), parts.adapted(range(4, 6))
        )
        gate, up = (kept.forward(parts, i, narrow, wide) for i in (4, 5))
        if gate.dtype != up.dtype:
            gate, up = gate.float(), up.float()
        inner = kernels.gated(gate, up, parts.a, parts.b)
        more = kept.forward(parts, 6, inner.to(torch.bfloat16), inner, keeps)
        more = kept.norm(parts, _BEHIND_MLP, more)
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
        of_behind = dict[int, list[Tensor | None]]()

        def through(index: int, gradient: Tensor, narrow: Tensor) -> Tensor:
            m = parts.maps[index]
            before, to_input, of_behind[index] = m.behind.backward(gradient)
            onto = product_back(narrow if before is gradient else before, m.weight).to(parts.precision(index))
            of_factors[index] = kept.backward(parts, index, before, onto, wanted)
            return onto if to_input is None else (onto + to_input).to(onto.dtype)

        def through_norm(
            indices: range, gradients: Sequence[Tensor], base: Tensor, x: Tensor, inverse: Tensor, narrow: bool
        ) -> tuple[Tensor, Tensor]:
            more = torch.zeros_like(x) if parts.adapted(indices) else None
            found = list[Tensor]()
            for index, gradient in zip(indices, gradients, strict=True):
                found.append(product_back(gradient, parts.maps[index].weight))
                of_factors[index] = kept.backward(parts, index, gradient, more, wanted)
            weight, _ = parts.norm(_BEFORE_MLP if indices.start else _BEFORE_ATTENTION)
            return kernels.norm_back_onto(base, x, inverse, found, more, weight, narrow)

        to_stream = grads[0].contiguous()
        to_down = kept.norm_back(parts, _BEHIND_MLP, to_stream, torch.float32)
        to_inner = through(6, to_down, to_down).to(gate.dtype)
        to_both = kernels.gated_back(gate, up, to_inner, parts.a, parts.b)
        to_middle, narrow = through_norm(range(4, 6), to_both, to_stream, middle, middle_inverse, narrow=True)
        to_output = kept.norm_back(parts, _BEHIND_ATTENTION, to_middle, torch.float32)
        to_seen = through(3, to_output, narrow if to_output is to_middle else to_output)
        norms = parts.norms[_OF_QUERY], parts.norms[_OF_KEY], None
        of_maps = [parts.precision(index) if norm is None else torch.float32 for index, norm in enumerate(norms)]
        to_query, to_key, to_value = parts.attention.backward(to_seen, of_maps)
        to_query = kept.norm_back(parts, _OF_QUERY, to_query, parts.precision(0))
        to_key = kept.norm_back(parts, _OF_KEY, to_key, parts.precision(1))
        to_maps = to_query, to_key, to_value
        if onward:
            to_middle, _ = through_norm(range(3), to_maps, to_middle, x, inverse, narrow=False)
        else:
            of_factors |= {i: kept.backward(parts, i, g, None, wanted) for i, g in enumerate(to_maps)}
        del ctx.kept, ctx.parts  # the graph is let go of only when all of its blocks are done
        returned = (factor for index in range(len(parts.maps)) for factor in of_factors[index])
        return to_middle if onward else None, None, *returned, *of_behind[_ENDS[0]], *of_behind[_ENDS[1]]


def serve(blocks: Iterable[nn.Module], shapes: dict[nn.Module, _Names | None], recomputes: Callable[[], bool]) -> None:
    """Let the blocks whose shape was found, and whose maps were exchanged since, run as one node wherever nothing else
    acts within them.
    """
    for block in blocks:
        if (names := shapes.get(block)) is None:
            continue
        if all(isinstance(block.get_submodule(path), FrozenLinear) for path in names.linear()):
            block.forward = partial(_forward, block.forward, block, names, names.norms_of(block), recomputes)


def shapes_of(blocks: Iterable[nn.Module], bf16: bool, width: int) -> dict[nn.Module, _Names | None]:
    """The shapes of stock blocks that are to have bf16 weights, where this processor multiplies such matrices."""
    if not bf16 or width < LEAST_WIDTH or not has_bf16_products():
        return {}
    return {block: shape_of(block) for block in blocks}
