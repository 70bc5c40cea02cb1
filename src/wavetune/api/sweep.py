"""Plans over a range of one field, with several planners and seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavetune.api.folders import named_after
from wavetune.api.load_run import framed
from wavetune.api.recipe import as_recipe
from wavetune.console import given_command
from wavetune.errors import ConfigError
from wavetune.json_reader import read_json
from wavetune.recipe import Recipe

if TYPE_CHECKING:
    from wavetune.sweep.summary import Summary


@dataclass(frozen=True)
class Swept:
    """A finished sweep: its folder with figure and tables, its estimates, and what they say in words."""

    folder: Path
    summary: Summary
    reading: str
    feasible: bool  # whether any cell has a plan

    def to_dict(self) -> dict[str, Any]:
        """summary.json of the folder."""
        return read_json(self.folder / "summary.json")

    def _repr_png_(self) -> bytes:
        """The figure, which a notebook shows of it."""
        return (self.folder / "figure.png").read_bytes()

    @property
    def points(self) -> Any:
        """A row a method and value: a pandas frame, or a list of dicts without pandas."""
        from wavetune.records.fields import flat

        return framed([flat(point) for point in self.to_dict()["points"]])


def sweep(
    recipe: Recipe | str | Path,
    over: str | Mapping[str, Sequence[Any]],
    *,
    seeds: int = 10,
    methods: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    jobs: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Swept:
    """Plan over a range of one field with several planners and seeds, without training; what is there is kept.

    Args:
        recipe: a recipe, its name or file.
        over: `FIELD=V1,V2,...`, or the field with its values: `{"bandwidth_hz": [5e6, 10e6]}`.
        seeds: draws of devices and channel to average over.
        methods: planners to compare; None: all.
        out: the sweep's folder; `sweeps/RECIPE-FIELD` by default.
        jobs: processes; more than 1 only from a script that is guarded by `if __name__ == "__main__"`.
        progress: told what is counted, how many are done, and of how many.

    Raises:
        ConfigError: no such field or method, or a value that does not suit; RunFolderError: of the folder.
    """
    from wavetune.sweep.axis import axis_of
    from wavetune.sweep.methods import methods_of
    from wavetune.sweep.run import Sweep
    from wavetune.sweep.run import run as plan_all
    from wavetune.sweep.summary import summarise
    from wavetune.sweep.write import write_outcome

    base = as_recipe(recipe)
    if jobs < 1:
        raise ConfigError(f"--jobs is {jobs} but must be at least 1")
    wanted = methods if isinstance(methods, str) or methods is None else ",".join(methods)
    planned = Sweep(base, axis_of(_over(over), base), seeds, methods_of(wanted))
    folder = Path("sweeps") / f"{named_after(base.name)}-{planned.axis.field}" if out is None else Path(out)
    records = plan_all(planned, folder, jobs, progress or (lambda _what, _done, _total: None))
    summary = summarise(planned, records)
    reading = write_outcome(summary, folder, given_command())
    return Swept(folder, summary, reading, any(record["status"] != "infeasible" for record in records))


def _over(over: str | Mapping[str, Sequence[Any]]) -> str:
    if isinstance(over, str):
        return over
    if len(over) != 1:
        raise ConfigError(f"a sweep varies one field, not {len(over)}: {', '.join(map(str, over))}; give one")
    [(field, values)] = over.items()
    try:
        return f"{field}={','.join(map(json.dumps, values))}"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the values of {field} must be numbers, texts or lists of them ({error})") from None
