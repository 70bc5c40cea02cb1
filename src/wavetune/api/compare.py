"""A recipe beside its baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavetune import recipes
from wavetune.api.folders import named_after
from wavetune.api.load_run import Run, load_run
from wavetune.api.preflight import check
from wavetune.api.recipe import as_recipe
from wavetune.logs import LOG
from wavetune.recipe import Recipe

if TYPE_CHECKING:
    from wavetune.runtimes.engine import Observer


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder, its table as comparison.json holds it, and the report of the first seed."""

    folder: Path
    table: dict[str, Any]
    report: Path

    def rows(self, differences: bool = False) -> list[tuple[str, ...]]:
        """A heading, then a row a metric with a column a method; with `differences` proposed minus each other."""
        from wavetune.comparison import rows_of

        return rows_of(self.table, differences)

    def run(self, method: str = recipes.PROPOSED, seed: int | None = None) -> Run:
        """One of its runs. Raises RunFolderError where there is none of this method and seed."""
        return load_run(self.folder / f"{method}-seed{self.table['seeds'][0] if seed is None else seed}")


def compare(
    recipe: Recipe | str | Path,
    *,
    seeds: int = 3,
    methods: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    display: Observer | None = None,
) -> Comparison:
    """Run a recipe and its baselines on the same data, model and seeds; what is done already is kept.

    Args:
        recipe: a recipe with baselines, its name or file.
        seeds: how many seeds each method is run with, from the recipe's on.
        methods: baselines to run; None: all. The recipe itself always runs, as `proposed`.
        out: the comparison's folder; `runs/RECIPE-comparison` by default.
        display: what shows the progress of each run; the logger `wavetune` by default.

    Raises:
        ConfigError: an unknown method, or a recipe without baselines; RunFolderError: of the folder.
    """
    chosen = as_recipe(recipe)
    folder = _folder_of(chosen) if out is None else Path(out)
    check(chosen)
    check(out=folder)
    wanted = [one.strip() for one in methods.split(",")] if isinstance(methods, str) else methods and [*methods]
    recipes.require_methods(chosen.name, wanted)
    LOG.info("loading PyTorch and transformers")
    from wavetune.callbacks import Watched
    from wavetune.comparison import compare as run_all
    from wavetune.reporting.html import write_report

    watch = display or Watched(folder, None, ())
    table = run_all(chosen, wanted, seeds, folder, watch.message, watch)
    first = [folder / f"{method}-seed{chosen.run.seed}" for method in table["methods"]]
    report = write_report([path for path in first if path.exists()], folder / "report.html")
    return Comparison(folder, table, report)


def _folder_of(recipe: Recipe) -> Path:
    """`runs/RECIPE-comparison`, or, beside comparisons of other settings, the first such name with a number."""
    from wavetune.runtimes.continued import is_free_or_of

    named = Path("runs") / f"{named_after(recipe.name)}-comparison"
    folders = (named if number == 1 else named.with_name(f"{named.name}-{number}") for number in count(1))
    return next(folder for folder in folders if is_free_or_of(folder, recipe))
