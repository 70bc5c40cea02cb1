"""Adapters behind linear maps of a model: forward hooks with a client axis, and modules of one client."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from wavetune.costs.adapter import AdapterSite
from wavetune.costs.operations import Projection
from wavetune.errors import ModelError
from wavetune.models.adapter import ModelAdapter
from wavetune.models.lora import ActiveAdapters, FrozenLinear


class StackedAdapter:
    """Forward hook of a linear map: the active bank's adapters of a kind on what it yields."""

    def __init__(self, adapter: ModelAdapter, site: AdapterSite, active: ActiveAdapters) -> None:
        self.adapter, self.site, self.active = adapter, site, active

    def __call__(self, _module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """The map's output `[..., out]`, each token's changed by its own client's adapter."""
        stacks = self.active.stacks(self.site)
        if stacks is None:
            return y
        x_NI, y_NO = (t.reshape(-1, t.shape[-1]) for t in (args[0].to(y.dtype), y))  # bf16 may pass between two maps
        return self.adapter.stacked(x_NI, y_NO, *stacks).view_as(y)


class AdaptedMap(nn.Module):
    """A linear map with one client's adapter behind it."""

    def __init__(self, inner: nn.Module, adapter: ModelAdapter, matrices: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.inner, self.adapter, self.matrices = inner, adapter, nn.ParameterDict(dict(matrices))

    def forward(self, x: Tensor) -> Tensor:
        """The map's output `[..., out]`, adapted."""
        y = self.inner(x)
        x_NI, y_NO = (t.reshape(-1, t.shape[-1]) for t in (x, y))
        return self.adapter.forward(x_NI, y_NO, {name: self.matrices[name] for name in self.matrices}).view_as(y)


@dataclass(frozen=True)
class ModuleMaps:
    """The linear maps of a block of a model at hand whose residual stream is so wide; `paths` can carry adapters.

    `key_width` and `value_width` are values of a token's keys and values that its attention reads.
    """

    block: nn.Module
    paths: Collection[str]
    hidden_size: int
    key_width: int = 0
    value_width: int = 0

    @property
    def projections(self) -> Sequence[Projection]:
        """All that every token goes through."""
        shapes = {path: _shape(self._modules[path]) for path in self._modules if path in self.paths}
        return [Projection(path, shape[1], shape[0]) for path, shape in shapes.items() if shape]

    @property
    def attention_end(self) -> str:
        """The map that ends attention."""
        return self._end(attention=True)

    @property
    def feed_forward_end(self) -> str:
        """The map that ends the feed-forward half."""
        return self._end(attention=False)

    def _end(self, attention: bool) -> str:
        """The last map that yields the residual's width, inside or outside of what is named after attention; "" if
        there is none, or if experts end the half.
        """
        modules = self._modules
        ends = [
            path
            for path, module in modules.items()
            if ("att" in path.lower()) == attention and _shape(module)[:1] == (self.hidden_size,)
        ]
        mixture = not attention and any("experts" in path.split(".") for path in modules)
        return "" if mixture or not ends else ends[-1]

    @cached_property
    def _modules(self) -> dict[str, Any]:
        return dict(self.block.named_modules())


def _shape(module: Any) -> tuple[int, ...]:
    """Widths out and in of a linear map; nothing of another module."""
    if isinstance(module, Conv1D):
        return module.weight.shape[1], module.weight.shape[0]
    return tuple(module.weight.shape) if isinstance(module, nn.Linear | FrozenLinear) else ()


def map_of(block: nn.Module, path: str, adapter: ModelAdapter) -> nn.Module:
    """The linear map that an adapter names. Raises ModelError where there is none."""
    try:
        return block.get_submodule(path or "?")
    except AttributeError:
        raise ModelError(
            f"a {type(block).__name__} has no linear map {path!r} for an adapter of the kind {adapter.name!r} to stand "
            "behind; leave the adapter out"
        ) from None
