"""Where a run computes, and in which precision."""

from pathlib import Path

import torch

from wavetune.errors import ConfigError
from wavetune.models.backbone import Backbone


def device_of(wanted: str) -> torch.device:
    """The device that a recipe means. Raises ConfigError if there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("run.device is 'cuda' but PyTorch sees no CUDA device here; use auto or cpu")
    return torch.device("cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu")


def working_dtype(precision: str) -> torch.dtype:
    """What activations and adapters are of in a run of this precision."""
    return torch.float64 if precision == "fp64" else torch.float32


def precision_of(backbone: Backbone, precision: str, bf16: bool) -> str:
    """What a run computes in, in words, with how far int8 weights are from those that were opened."""
    if precision == "int8":
        error = f"{100 * backbone.weight_error:.2g} % from what they were"
        return f"int8 weights ({error}), fp32 activations and adapters"
    if bf16:
        return "bf16 weights, fp32 activations and adapters"
    return "fp64" if precision == "fp64" else "fp32"


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether frozen weights are kept in bf16: as asked for, or where the processor has bf16 products."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.backends.cpu.get_cpu_capability() == "AVX512" and _cpu_has_bf16())


def _cpu_has_bf16() -> bool:
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
