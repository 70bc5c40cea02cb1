"""Which adapters of a run folder answer a prompt. Needs no torch."""

from pathlib import Path

from wavetune.errors import ConfigError, JsonError, RunFolderError
from wavetune.json_reader import read_json
from wavetune.recipe import Recipe, load

_PEFT, _BESIDE = "adapter_model.safetensors", "wavetune_adapter.json"


def recipe_of(run_dir: Path) -> Recipe:
    """The recipe of a run. Raises RunFolderError where there is none."""
    if not (run_dir / "recipe.json").exists():
        raise RunFolderError(f"{run_dir} holds no run (no recipe.json); name a folder that `wavetune run` wrote")
    return load(run_dir / "recipe.json")


def adapter_of(run_dir: Path, client: int | None, base: bool) -> Path | None:
    """Folder of the adapters that answer: a client's, the shared ones, or None for the untouched model.

    Raises RunFolderError where there are none, or where those of a classifier have no head; ConfigError where a client
    is asked for besides the untouched model.
    """
    if base and client is not None:
        raise ConfigError("--client does not go with --base: the untouched model is the same for all clients")
    classifies = not recipe_of(run_dir).world.data.template.writes_text
    if base and classifies:
        raise RunFolderError(f"{run_dir} trained a classifier, whose base knows no classes; leave out --base")
    if base:
        return None
    adapters = run_dir / "adapters"
    found = sorted(p.name for p in adapters.glob("*") if (p / _PEFT).exists() or (p / _BESIDE).exists())
    able = [name for name in found if not classifies or _has_head(adapters / name)]
    wanted = "global" if client is None else f"client-{client:02d}"
    if wanted in able:
        return adapters / wanted
    clients = ", ".join(str(int(name.removeprefix("client-"))) for name in able if name.startswith("client-"))
    if wanted in found and clients:
        raise RunFolderError(
            f"the clients of {run_dir} share no head, each has a classifier of its own; name one of them "
            f"with --client: {clients}"
        )
    have = f"there are {', '.join(able)}" if able else "the run has not finished; continue it with --resume"
    raise RunFolderError(f"{adapters} has no adapter {wanted}: {have}")


def _has_head(adapter: Path) -> bool:
    try:
        return read_json(adapter / _BESIDE).get("head") is not None
    except (JsonError, AttributeError):
        return False
