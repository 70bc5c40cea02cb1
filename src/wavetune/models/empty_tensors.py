"""Models are built on the meta device before their weights are read, without what PyTorch computes there in Python.

For the first operator or random number on that device PyTorch imports SymPy: half a second, and 50 MB, of a start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class RangesOfValues(TorchFunctionMode):
    """While in this block ranges, and what models compute of them, have values whatever the device, and initial values
    on the meta device are not drawn.

    A model that mixes them with tensors of that device makes PyTorch raise a RuntimeError.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch, or what stands for it."""
        named = kwargs or {}
        if func is torch.arange:
            return func(*args, **{**named, "device": "cpu"})
        if getattr(func, "__module__", "") == nn.init.__name__:
            tensor = args[0] if args else named["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **named)
