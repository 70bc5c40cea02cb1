"""Double precision for stock models: their code computes norms and softmax in fp32, whatever it is given."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class StaysDouble(TorchFunctionMode):
    """Within this context no function turns an fp64 tensor into an fp32 one.

    >>> with StaysDouble():
    ...     torch.ones(1, dtype=torch.float64).float().dtype, torch.ones(1).float().dtype
    (torch.float64, torch.float32)
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's value, computed in fp64 where it is asked for fp32 of an fp64 tensor."""
        named = dict(kwargs or {})
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            named = {name: torch.float64 if a is torch.float32 else a for name, a in named.items()}
        return func(*args, **named)


def compute_in_double(*modules: nn.Module) -> None:
    """Have these modules compute so from now on; what hooks on them do is left alone."""
    for module in modules:
        module.forward = _in_double(module.forward)


def _in_double(forward: Callable[..., Any]) -> Callable[..., Any]:
    def wide(*args: Any, **named: Any) -> Any:
        with StaysDouble():
            return forward(*args, **named)

    return wide
