"""Which modules of a block one compiled sweep can stand for, found by trying: norms and gated MLPs.

A module is known by what it computes on a few values, never by its name, so that a new family is served, or left as
transformers wrote it. Small passes, other devices and fp64 take transformers' own code.
"""

from collections.abc import Callable
from functools import partial
from itertools import permutations, product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wavetune.models.lora import FrozenLinear
from wavetune.models.norm import Norm, normed
from wavetune.models.structure import LINEAR

LEAST_WIDTH = 256  # of a residual stream; a smaller model is quick anyway, and starts sooner without a compiler
_TANH_GELU = 2 * (2 / torch.pi) ** 0.5
ACTIVATIONS = {
    "SiLU": (1.0, 0.0),
    "GELU by tanh": (_TANH_GELU, 0.044715 * _TANH_GELU),
    "quick GELU": (1.702, 0.0),
    "GELU": (0.0, 0.0),
}
"""a and b of `x sigmoid(a x + b x^3)`; both zero: GELU itself, x times the probability of a normal number below x."""


class Gated(NamedTuple):
    """Names of a gated MLP's three maps, and its activation's a and b."""

    gate: str
    up: str
    down: str
    a: float
    b: float


def fuse(frozen: nn.Module, width: int) -> None:
    """Let kernels compute what they can in frozen blocks of so many values, whatever later takes their maps' place."""
    if width < LEAST_WIDTH:
        return
    known: dict[object, Gated | None] = {}
    for module in frozen.modules():
        maps = [name for name, child in module.named_children() if isinstance(child, LINEAR)]
        if (norm := norm_of(module)) is not None:
            if norm.plain:
                module.forward = partial(_norm, module.forward, norm.weight, norm.epsilon)
        elif len(maps) == 3:
            kind = (type(module), *maps, *(tuple(p.shape) for p in module.parameters()))
            if kind not in known:
                known[kind] = gated_mlp(module, maps)
            if (found := known[kind]) is not None:
                module.forward = partial(_mlp, module.forward, module, found)


def _served(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"


def _norm(stock: Callable[[Tensor], Tensor], weight: Tensor, epsilon: float, x: Tensor) -> Tensor:
    if not _served(x):
        return stock(x)
    from wavetune.models.kernels import rms_norm

    return rms_norm(x.reshape(-1, x.shape[-1]), weight, epsilon).view(x.shape)


def _mlp(stock: Callable[[Tensor], Tensor], module: nn.Module, names: Gated, x: Tensor) -> Tensor:
    if not _served(x):
        return stock(x)
    from wavetune.models.kernels import gated_product

    gate, up = (_in_own_precision(module.get_submodule(name), x) for name in (names.gate, names.up))
    if gate.dtype != up.dtype:
        gate, up = gate.float(), up.float()
    width = gate.shape[-1]
    product = gated_product(gate.reshape(-1, width), up.reshape(-1, width), names.a, names.b)
    down: Any = module.get_submodule(names.down)
    return down(product.view(gate.shape))


def _in_own_precision(linear: nn.Module, x: Tensor) -> Tensor:
    """A map's output as its product leaves it, where nothing acts on it."""
    if type(linear) is FrozenLinear and not linear._forward_hooks:
        return linear.product(x)
    return linear(x)


@torch.no_grad()
def norm_of(module: nn.Module) -> Norm | None:
    """What norm of rows a module is, None if it is none."""
    parameters, shapes = list(module.parameters()), {p.shape for p in module.parameters()}
    if len(parameters) > 2 or [len(shape) for shape in shapes] != [1] or len(list(module.modules())) > 1:
        return None
    own, shift = (p.detach().float() for p in (*parameters, torch.zeros_like(parameters[0]))[:2])
    x = 1e-3 * values(2, len(own))  # so small that its mean square is not far from an epsilon
    try:
        wanted = module(x)
    except Exception:  # whatever a module does with an input that is not its own
        return None
    epsilons = [v for v in vars(module).values() if isinstance(v, float)]
    for norm in product([own, 1 + own], [shift], epsilons, (False, True)):
        if same(normed(x, found := Norm(*norm)), wanted):
            return found
    return None


@torch.no_grad()
def gated_mlp(module: nn.Module, maps: list[str]) -> Gated | None:
    """What a module with three maps is, if `down(act(gate(x)) * up(x))` is what it computes."""
    others = [child for child in module.children() if not isinstance(child, LINEAR)]
    if len(others) != 1 or (numbers := activation(others[0])) is None:
        return None
    for gate, up, down in permutations(maps):
        first, second, last = (module.get_submodule(name) for name in (gate, up, down))
        try:
            weight = next(first.parameters())
            x = values(2, weight.shape[1 if isinstance(first, nn.Linear) else 0]).to(weight)
            wanted, found = module(x), last(others[0](first(x)) * second(x))
        except RuntimeError:  # shapes that do not fit: another order
            continue
        if isinstance(wanted, Tensor) and same(found, wanted):
            return Gated(gate, up, down, *numbers)
    return None


def activation(module: nn.Module) -> tuple[float, float] | None:
    """a and b of an activation, None if it is another."""
    x = torch.linspace(-9, 9, 73)
    try:
        wanted = module(x)
    except Exception:  # a module of another kind
        return None
    return next((pair for pair in ACTIVATIONS.values() if same(activated(x, *pair), wanted)), None)


def activated(x: Tensor, a: float, b: float) -> Tensor:
    """An activation in PyTorch's own operations."""
    return x * (torch.sigmoid(a * x + b * x**3) if a or b else torch.special.ndtr(x))


def values(rows: int, width: int) -> Tensor:
    """Values on which a module is tried, the same each time."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def same(found: Tensor, wanted: object) -> bool:
    """Whether what a formula yields is what a module did, to rounding."""
    if not isinstance(wanted, Tensor) or found.shape != wanted.shape:
        return False
    return torch.allclose(found.float(), wanted.float(), rtol=1e-5, atol=1e-6)
