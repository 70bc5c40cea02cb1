"""A model opened in the precision of its file, bf16: its weights stay mapped, and it computes in fp32 all the same.

Large matrices are never widened as a whole. Until the engine has exchanged the maps of the blocks, a module's own
weights are wide while it runs, and no longer.
"""

from collections.abc import Container, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from wavetune.errors import ModelError
from wavetune.models.folder_check import weight_files


def stored_in_bf16(folder: Path | str) -> bool:
    """Whether every matrix of a model's files is bf16, so that opening them so loses nothing."""
    try:
        for path in weight_files(Path(folder)):
            with safe_open(path, "pt") as file:
                slices = (file.get_slice(name) for name in file.keys())  # noqa: SIM118
                if any(s.get_dtype() != "BF16" for s in slices if len(s.get_shape()) > 1):
                    return False
    except (ModelError, OSError, SafetensorError):  # whoever opens it says what is wrong
        return False
    return True


@contextmanager
def computing_wide(model: nn.Module) -> Generator[None]:
    """While in this block a bf16 model computes in fp32, one module's weights at a time."""
    with ExitStack() as hooks:
        for module in model.modules():
            own = [p for p in module.parameters(recurse=False) if p.dtype == torch.bfloat16]
            if own:
                narrow: list[Tensor] = []
                hooks.callback(module.register_forward_pre_hook(_widen(own, narrow)).remove)
                hooks.callback(module.register_forward_hook(_narrow(own, narrow), always_call=True).remove)
        yield


def _widen(own: list[nn.Parameter], narrow: list[Tensor]) -> Any:
    def before(*_: object) -> None:
        narrow[:] = [p.data for p in own]
        for p in own:
            p.data = p.data.float()

    return before


def _narrow(own: list[nn.Parameter], narrow: list[Tensor]) -> Any:
    def after(*_: object) -> None:
        for p, data in zip(own, narrow, strict=False):
            p.data = data
        narrow.clear()

    return after


def widen_others(model: nn.Module, stay: Container[int]) -> None:
    """Make all bf16 parameters fp32 but those with these ids, which the engine computes with as they are."""
    wide: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            if p.dtype == torch.bfloat16 and id(p) not in stay:
                if id(p) not in wide:
                    wide[id(p)] = nn.Parameter(p.data.float(), requires_grad=False)
                module.register_parameter(name, wide[id(p)])
