"""What a stock block is made of, found by trying: which of its maps and norms stands where, and what joins them.

A block is known by what it computes on a few values: what it adds to its input is `o(attention(q, k, v))`, then or
beside it `down(act(gate) * up)` or `down(act(up))`, each of the stream or a norm of it; other norms may follow either
half, or either sum, or stand before the products of queries and keys.

Legend: N tokens, D width, H heads, E width of a head, R of its part that is turned.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from wavetune.models.fused import activated, activation, norm_of, values
from wavetune.models.narrow import computing_wide
from wavetune.models.norm import Norm, normed
from wavetune.models.ragged import RaggedLayout, Rule, attended, attending, ragged_layout, reach
from wavetune.models.structure import LINEAR

_TOKENS = 3  # of the sample on which a block is tried
_CLOSE = 1e-5  # of the largest value
PLACES = BEFORE_ATTENTION, BEHIND_ATTENTION, MIDDLE, BEHIND_MLP, END, OF_QUERY, OF_KEY = range(7)
"""Places of norms in a block. Where there is one at the end, of the second sum, that in the middle is of the first, and
the stream goes on from either; else the middle's is what the MLP reads.
"""
_PLAIN = BEHIND_ATTENTION, BEHIND_MLP, OF_QUERY, OF_KEY
"""Of these the node knows root-mean-square norms alone."""
_ORDERS = {
    (1, 0, 0): ((BEFORE_ATTENTION, MIDDLE),),  # one norm, which both halves read side by side
    (1, 1, 0): ((BEFORE_ATTENTION, MIDDLE),),
    (0, 1, 0): ((MIDDLE,),),
    (1, 2, 1): ((BEFORE_ATTENTION, BEHIND_ATTENTION, MIDDLE, BEHIND_MLP),),
    (0, 1, 1): ((MIDDLE, END), (BEHIND_ATTENTION, BEHIND_MLP)),
}
"""Which places norms may have, by how many are called before attention, between the halves and at last."""


class Turns(NamedTuple):
    """Which of a head's first R values are turned together: neighbours if `adjacent`, else those R/2 apart. Of R given
    angles each takes its own, or the pairs `take_first` R/2 in turn.
    """

    adjacent: bool = False
    take_first: bool = False

    def placed(self, head: int, cos: Tensor, sin: Tensor) -> tuple[Tensor | None, tuple[Tensor, Tensor]]:
        """Which of a head's E values stands where, so that those E/2 apart are turned together, None if they do; and
        the angles `[N, E]` that they take there, of the given `[N, R]`.
        """
        given = cos.shape[1]
        if given == head and not self.adjacent:
            return None, (cos, sin)
        pairs = torch.arange(given).view(-1, 2).mT if self.adjacent else torch.arange(given).view(2, -1)
        taken = torch.arange(given // 2).expand(2, -1) if self.take_first else pairs
        rest = torch.arange(given, head).view(2, -1)
        takes = torch.cat([taken, torch.full_like(rest, given)], 1).flatten()
        ends = cos.new_ones(len(cos), 1), sin.new_zeros(len(sin), 1)
        at = tuple(torch.cat(both, 1)[:, takes] for both in zip((cos, sin), ends, strict=True))
        return torch.cat([pairs, rest], 1).flatten(), cast(tuple[Tensor, Tensor], at)


_TURNS = Turns(), Turns(adjacent=True), Turns(adjacent=True, take_first=True)


class Shape(NamedTuple):
    """Paths of a block's maps, in the order in which they act: `into` attention (query, key and value, or one map that
    yields all three, one after another or `by_head`), `output`, `into_mlp` (gate and up, one that yields both, or up
    alone) and `down`; those of its norms by place; a and b of its activation; the factor of what either half adds. The
    MLP reads the sum of the stream and attention, or where both stand `beside` each other the stream.
    """

    attention: str
    into: tuple[str, ...]
    output: str
    into_mlp: tuple[str, ...]
    down: str
    norms: tuple[str | None, ...]
    act: tuple[float, float]
    is_gated: bool
    head: int
    turns: Turns | None
    factor: float
    beside: bool
    by_head: bool
    rule: Rule

    def maps(self) -> tuple[str, ...]:
        """Paths of all maps."""
        return *self.into, self.output, *self.into_mlp, self.down

    def norms_of(self, block: nn.Module) -> tuple[Norm | None, ...]:
        """Its norms by place."""
        return tuple(None if path is None else norm_of(block.get_submodule(path)) for path in self.norms)


@dataclass(frozen=True)
class _Heard(RaggedLayout):
    """A layout that keeps who attended, by which rule, and with heads of which width, among `called`."""

    called: list[str] = field(default_factory=list[str], kw_only=True)
    rules: list[tuple[Hashable, Rule, int]] = field(default_factory=list[tuple[Hashable, Rule, int]], kw_only=True)

    def attend(self, _layer: Hashable, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        self.called.append("")
        self.rules.append((_layer, rule, query.shape[2]))
        return super().attend(_layer, query, key, value, rule)


def parts_of(y: Tensor, shape: Shape, output_width: int) -> tuple[Tensor, ...]:
    """Queries, as wide as what the map behind attention reads, keys and values of a map that yields all three."""
    if shape.by_head:
        return tuple(part.flatten(1) for part in y.view(len(y), -1, 3, shape.head).unbind(2))
    rest = (y.shape[-1] - output_width) // 2
    return y.split([output_width, rest, rest], -1)


def whole_of(parts: Sequence[Tensor], shape: Shape) -> Tensor:
    """What `parts_of` parts."""
    if shape.by_head:
        return torch.stack([part.view(len(part), -1, shape.head) for part in parts], 2).flatten(1)
    return torch.cat([*parts], 1)


@torch.no_grad()
def shape_of(block: nn.Module, width: int) -> Shape | None:
    """Which parts a stock block of a stream of so many values is made of, None if it computes anything else."""
    with computing_wide(block):
        leaves = {path: module for path, module in block.named_modules() if not list(module.children())}
        maps = [path for path, module in leaves.items() if isinstance(module, LINEAR)]
        norms = {p: norm for p, m in leaves.items() if p not in maps and (norm := norm_of(m)) is not None}
        rest = [module for path, module in leaves.items() if path not in maps and path not in norms]
        acts = [found for module in rest if (found := activation(module)) is not None]
        own = sum(len(list(leaves[path].parameters())) for path in (*maps, *norms))
        if not 4 <= len(maps) <= 7 or len(acts) != 1 or own != len(list(block.parameters())):
            return None
        inner = [m for m in block.modules() if list(m.children()) and m is not block]
        numbers = [n for module in inner for n in vars(module).values() if type(n) is int]
        for size in sorted({n for n in numbers if n > 2 and n % 2 == 0}):  # of two values all turns are one
            shape, head = _tried(block, values(_TOKENS, width), size, maps, norms, acts[0])
            if shape is None and head not in (None, size):  # it does not mind the angles, unless they are of its heads
                shape, _ = _tried(block, values(_TOKENS, width), head, maps, norms, acts[0])
            if head is not None:
                return shape
    return None


def _tried(
    block: nn.Module, x: Tensor, size: int, maps: Sequence[str], norms: dict[str, Norm], act: tuple[float, float]
) -> tuple[Shape | None, int | None]:
    """What the block's parts are if they yield what it yields, given angles for heads of this size, and how wide its
    heads are; None twice if it does not take such angles.
    """
    angles = values(_TOKENS, size // 2).repeat(1, 2)
    turns = angles.cos(), angles.sin()
    heard = _Heard(**vars(ragged_layout([_TOKENS])))
    with attending(heard), _telling(block, [*norms, *maps], heard.called):
        try:
            wanted = block(x[None], attention_mask=reach(), position_embeddings=tuple(t[None] for t in turns))
        except Exception:  # whatever a block does that takes something else, or heads of another size
            return None, None
    called = heard.called
    layer, rule, head = heard.rules[0] if heard.rules else ("", Rule(reach()), size)
    if not isinstance(wanted, Tensor) or sorted(called) != sorted(["", *norms, *maps]):
        return None, head
    paths = {module: path for path, module in block.named_modules()}
    begins, attends = called.index(next(path for path in called if path in maps)), called.index("")
    into = tuple(path for path in called[:attends] if path in maps)
    then = [path for path in called[attends:] if path in maps]
    if len(into) not in (1, 3) or len(then) not in (3, 4) or rule.sinks is not None or layer not in paths:
        return None, head
    output, *into_mlp, down = then
    ends = called.index(down)
    stretches = (0, begins), (begins, attends), (attends, ends), (ends, len(called))
    first, of_heads, middle, last = ([path for path in called[slice(*s)] if path in norms] for s in stretches)
    orders = _ORDERS.get((len(first), len(middle), len(last)), ())
    if len(of_heads) not in (0, 2):
        return None, head
    factors = [1.0, *(n for n in vars(block).values() if isinstance(n, float) and n not in (0.0, 1.0))]
    ways = [into_mlp, into_mlp[::-1]][: len(into_mlp)]
    is_gated = len(into_mlp) == 2 or _width(block, into_mlp[0]) == 2 * _width(block, down, reads=True)
    turnings = (*_TURNS, None) if size <= head and (head - size) % 2 == 0 else (None,)
    one_norm = (len(first), len(middle), len(last)) == (1, 0, 0)
    of_halves = (*first, *first) if one_norm else (*first, *middle, *last)
    sides, by_heads = (True,) if one_norm else (False, True), (False,) if len(into) == 3 else (False, True)
    halves = ((o, way, f, beside) for o in orders for way in ways for f in factors for beside in sides)
    for (order, mlp, factor, beside), turned, by_head in product(halves, turnings, by_heads):
        placed = dict(zip((*order, OF_QUERY, OF_KEY), (*of_halves, *of_heads), strict=False))
        at = tuple(placed.get(place) for place in PLACES)
        if not all(norms[path].plain for place in _PLAIN if (path := at[place]) is not None):
            continue
        own = output, tuple(mlp), down, at
        shape = Shape(paths[layer], into, *own, act, is_gated, head, turned, factor, beside, by_head, rule)
        with attending(heard):
            try:
                found = _plain(block, shape, norms, x, *turns)
            except RuntimeError:  # shapes that do not fit
                continue
        if (found - wanted[0]).abs().max() <= _CLOSE * wanted.abs().max():
            return shape, head
    return None, head


def _width(block: nn.Module, path: str, reads: bool = False) -> int:
    """How many values of a token a map yields, or reads."""
    module = block.get_submodule(path)
    weight: Tensor = module.weight  # pyright: ignore[reportAssignmentType]
    return weight.shape[isinstance(module, nn.Linear) == reads]


@contextmanager
def _telling(block: nn.Module, paths: Iterable[str], called: list[str]) -> Iterator[None]:
    """While in this block, these modules add their paths to the list whenever they are called."""
    hooks = [block.get_submodule(p).register_forward_hook(lambda *_, path=p: called.append(path)) for p in paths]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _plain(block: nn.Module, shape: Shape, norms: dict[str, Norm], x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What a block of such a shape computes of `[N, D]`, in PyTorch's own operations."""

    def norm(place: int, x: Tensor) -> Tensor:
        return x if (path := shape.norms[place]) is None else normed(x, norms[path])

    def of_heads(place: int, x: Tensor) -> Tensor:
        path = shape.norms[place]
        flat = path is not None and len(norms[path].weight) == x.shape[-1]
        heads = (norm(place, x) if flat else x).view(len(x), -1, shape.head)
        return heads if flat else norm(place, heads)

    def turned(x: Tensor) -> Tensor:
        if shape.turns is None:
            return x
        order, (c, s) = shape.turns.placed(shape.head, cos, sin)
        x = x if order is None else x[..., order]
        low, high = x.chunk(2, -1)
        return x * c[:, None] + torch.cat([-high, low], -1) * s[:, None]

    def after(place: int, x: Tensor) -> Tensor:
        return x if shape.norms[END] is None else norm(place, x)

    stream, h = x, norm(BEFORE_ATTENTION, x)
    ways = [block.get_submodule(path)(h) for path in shape.into]
    query, key, value = ways if len(ways) == 3 else parts_of(ways[0], shape, _width(block, shape.output, reads=True))
    query, key = turned(of_heads(OF_QUERY, query)), turned(of_heads(OF_KEY, key))
    read = attended(block, query, key, value.view(len(x), -1, shape.head), shape.rule)
    more = block.get_submodule(shape.output)(read.reshape(len(x), -1))
    x = after(MIDDLE, x + shape.factor * norm(BEHIND_ATTENTION, more))
    h = norm(MIDDLE, stream if shape.beside else x) if shape.norms[END] is None else x
    ways = [block.get_submodule(path)(h) for path in shape.into_mlp]
    gate, *up = ways[0].chunk(2, -1) if shape.is_gated and len(ways) == 1 else ways
    inner = activated(gate, *shape.act) * (up[0] if up else 1)
    return after(END, x + shape.factor * norm(BEHIND_MLP, block.get_submodule(shape.down)(inner)))
