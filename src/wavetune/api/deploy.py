"""Run a recipe with its servers and every device as processes of this machine."""

from collections.abc import Sequence
from pathlib import Path

from wavetune.api.callbacks import callbacks_of
from wavetune.api.load_run import Run, load_run
from wavetune.api.run import is_finished, meant
from wavetune.errors import ConfigError, DeploymentError
from wavetune.logs import LOG
from wavetune.recipe import Recipe, load


def deploy(
    recipe: Recipe | str | Path | None,
    out: str | Path | None = None,
    callbacks: Sequence[str] = (),
    *,
    devices: int | None = None,
    resume: bool = False,
    rounds: int | None = None,
    emulate: bool = False,
    deadline_s: float = 120.0,
) -> Run:
    """Run a recipe with its servers and every device as processes of this machine, over TLS.

    The adapters that come out are those of `run`. A process that dies is started again and goes on. A script that calls
    this is guarded by `if __name__ == "__main__"`.

    Args:
        recipe: a recipe, its name or file; None with `resume`.
        out: the run's folder; by default `runs/RECIPE`, with a number where that exists.
        callbacks: names of trackers, or of one's own as `module:function`; the servers' process imports them.
        devices: how many; as many as the recipe's cell has.
        resume: go on with the deployed run in `out`.
        rounds: how many; with `resume` the new total.
        emulate: pace every stream to the rate that the plan gave it.
        deadline_s: seconds a device has to answer before the round goes on without it.

    Raises:
        ConfigError, DataError, ModelError, RunFolderError: as `run`; DeploymentError: if the servers do not come up, or
            end without a finished run (they say why on standard error).
    """
    names = callbacks if isinstance(callbacks, str) else ",".join(_names(callbacks))
    settings = [] if devices is None else [f"world.scenario.population.num_clients={devices}"]
    chosen, folder = meant(recipe, out, resume, rounds, *settings)
    if chosen is None and is_finished(folder):
        return load_run(folder)
    code = start(chosen, folder, emulate, deadline_s, names)
    if code != 0:
        raise DeploymentError(f"the servers ended with code {code}; they said why, go on with resume once it is mended")
    return load_run(folder)


def start(
    chosen: Recipe | None, folder: Path, emulate: bool, deadline_s: float, track: str = "", as_json: bool = False
) -> int:
    """Start all processes of a run, or with no recipe of that in the folder, until it ends; the servers' exit code."""
    from wavetune.runtimes.launch import deploy as start_all

    callbacks_of([name for name in track.split(",") if name and ":" not in name])  # which refuses what is no tracker
    options = ["--deadline", str(deadline_s), *(["--emulate"] if emulate else []), *(["--json"] if as_json else [])]
    options += ["--track", track] if track else []
    known = load(folder / "recipe.json") if chosen is None else chosen
    return start_all(chosen, folder, known.world.scenario.population.num_clients, options, LOG.info)


def _names(callbacks: Sequence[str]) -> Sequence[str]:
    for one in callbacks:
        if not isinstance(one, str):
            raise ConfigError(
                f"a deployed run is followed in the servers' process, which cannot be given {type(one).__name__}; name "
                "it module:function"
            )
    return callbacks
