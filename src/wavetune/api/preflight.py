"""What can be found wrong before anything large is imported: paths, names, devices, a cut beyond the model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from wavetune.errors import ConfigError

if TYPE_CHECKING:
    from wavetune.recipe import Recipe

_GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg", "/dev/kfd")
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_UNKNOWN = 10**9


def check(
    recipe: Recipe | None = None,
    *,
    source: str | None = None,
    model: str | None = None,
    device: str | None = None,
    out: Path | None = None,
) -> None:
    """Raise what a run of the recipe, or of these alone, would raise later, after seconds of loading."""
    if recipe is not None:
        source, model, device = recipe.world.data.source, recipe.world.model, recipe.run.device
    if source is not None:
        from wavetune.data.source import kind_of

        if kind_of(source) == "function":
            from wavetune.data.given_rows import required

            required(source)
    if model is not None:
        from wavetune.models.resolve import require_known

        require_known(model)
    if device == "cuda":
        _check_cuda()
    if out is not None:
        check_writable(out)
    if recipe is not None:
        layers = _num_layers(recipe.world.model) or _UNKNOWN
        recipe.method.check(recipe.world.scenario.population.num_clients, layers, _UNKNOWN)


def check_writable(folder: Path) -> None:
    """RunFolderError unless a folder can be made there; nothing is left behind."""
    from wavetune.federation.run_folder import ELSEWHERE, explained

    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    with explained(folder, ELSEWHERE):
        probe = existing / f".wavetune-{os.getpid()}"
        probe.mkdir()
        probe.rmdir()


def sees_gpu() -> bool:
    """Whether a process here may see a CUDA device: PyTorch with CUDA, and the driver's files."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not (_without_cuda() or hidden or (os.name == "posix" and not any(map(os.path.exists, _GPU_FILES))))


def _without_cuda() -> bool:
    from importlib.metadata import PackageNotFoundError, version  # a tenth of the time that help takes

    try:
        return "+cpu" in version("torch")
    except PackageNotFoundError:
        return False


def _check_cuda() -> None:
    """ConfigError where no process could see a CUDA device."""
    if not sees_gpu():
        reason = "this PyTorch is built without CUDA" if _without_cuda() else "PyTorch sees no CUDA device here"
        raise ConfigError(f"run.device is 'cuda' but {reason}; use auto or cpu (no CUDA device)")


def _num_layers(model: str) -> int | None:
    """Blocks of a model that is a preset or on this disk."""
    from wavetune.costs.architecture import PRESETS
    from wavetune.models.folder_check import read_object
    from wavetune.models.resolve import local_folder

    if (folder := local_folder(model)) is None:
        return PRESETS[model].num_layers if model in PRESETS else None
    config = read_object(folder / "config.json")
    values = (config.get(key) for key in _LAYER_KEYS)
    return next((value for value in values if isinstance(value, int)), None)
