"""The report: one self-contained HTML page of one or several runs."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wavetune.console import visible
from wavetune.errors import ConfigError
from wavetune.federation.run_folder import ELSEWHERE, write_whole
from wavetune.records.fields import as_json, finite_json, flat
from wavetune.records.reading import Run, read_run
from wavetune.records.summary import Sample
from wavetune.reporting import format as fmt
from wavetune.reporting import story
from wavetune.reporting.chart import Figure
from wavetune.reporting.compare import compare
from wavetune.reporting.live import Live
from wavetune.reporting.next_steps import Step, next_in_report
from wavetune.reporting.numbers import Numbers
from wavetune.reporting.run_state import RUNNING
from wavetune.reporting.sections import Section, run_sections
from wavetune.reporting.sections.learning import loss_by_round
from wavetune.templating import template


@dataclass(frozen=True)
class RunView:
    """What the template shows of one run."""

    anchor: str
    label: str
    method: str
    status: str
    note: str
    lead: list[str]
    tiles: list[story.Tile]
    notices: list[str]
    sections: list[Section]
    samples: tuple[Sample, ...]
    figure: Figure | None
    next: list[Step]
    facts: list[tuple[str, str]]
    files: list[tuple[str, str]]
    command: str
    recipe: str


def write_report(run_dirs: list[Path], out: Path) -> Path:
    """Write the report of one run, or of several side by side, and return its path.

    Raises: ConfigError without a run folder; RunFolderError if a folder holds no run records, or the page
    cannot be written.
    """
    if not run_dirs:
        raise ConfigError("A report needs at least one run folder; name one that a run has written.")
    page = render([read_run(Path(folder)) for folder in run_dirs])
    write_whole(out, page, ELSEWHERE)
    return out


def render(runs: list[Run], live: Live | None = None) -> str:
    """HTML of the page; of one that is watched with what goes on now, and of no run yet without a report."""
    labels = run_labels(runs)
    views = [_view(run, label, f"run{index}") for index, (run, label) in enumerate(zip(runs, labels, strict=True))]
    if live and live.state == RUNNING:
        views = [_going(view) for view in views]
    title = labels[0] if len(runs) == 1 else f"{len(runs)} runs side by side" if runs else live.name if live else ""
    comparison = compare(runs, labels) if len(runs) > 1 else None
    page = template(__file__, "report.html.j2", escaped=True).render(
        title=title, comparison=comparison, runs=views, live=live
    )
    return visible(page)  # of names, prompts and answers: control characters shown, not kept


def run_labels(runs: list[Run]) -> list[str]:
    """Short distinct names: the recipe, its folder where recipes repeat, a number where folders do too."""
    recipes = [run.summary.recipe or str(run.recipe.get("name") or "") for run in runs]
    folders = [run.folder.resolve().name for run in runs]
    names = [
        recipe if recipe and recipes.count(recipe) == 1 else f"{recipe} · {folder}" if recipe else folder
        for recipe, folder in zip(recipes, folders, strict=True)
    ]
    return [f"{name} ({index + 1})" if names.count(name) > 1 else name for index, name in enumerate(names)]


def _view(run: Run, label: str, anchor: str) -> RunView:
    summary = run.summary
    return RunView(
        anchor=anchor,
        label=label,
        method=summary.method,
        status=story.status(run),
        note=summary.model.note,
        lead=story.lead(run),
        tiles=story.tiles(run),
        notices=story.notices(run),
        sections=run_sections(run),
        samples=run.samples,
        figure=loss_by_round(run),
        next=next_in_report(run),
        facts=_facts(run),
        files=_files(run),
        command=summary.command or str(run.state.get("command") or ""),
        recipe=json.dumps(run.recipe, indent=2, ensure_ascii=False) if run.recipe else "",
    )


def _going(view: RunView) -> RunView:
    """Of a run that goes on: that it has no end yet, and what to do about that, is told above it."""
    notices = [words for words in view.notices if not words.endswith("is missing.") and "still going" not in words]
    return replace(view, status=RUNNING, notices=notices, next=[])


def _files(run: Run) -> list[tuple[str, str]]:
    """Names and addresses of files that the page holds: the rounds as a table, what the run's files say as JSON."""
    records = [flat({**as_json(record), "planned": {}}) for record in run.rounds]  # as charged, or told in the page
    scalars = [{name: v for name, v in record.items() if isinstance(v, str | int | float)} for record in records]
    names = tuple(dict.fromkeys(name for record in scalars for name in record))
    rounds = Numbers(names, tuple(tuple(record.get(name, "") for name in names) for record in scalars))
    whole = {"recipe": run.recipe, "summary": as_json(run.summary), "world": as_json(run.world)}
    found = [("rounds.csv", rounds.link)] if scalars else []
    return [*found, ("run.json", "data:application/json;charset=utf-8," + quote(finite_json(whole), safe=" (){}[],:"))]


def _facts(run: Run) -> list[tuple[str, str]]:
    summary, data = run.summary, run.summary.data
    facts: dict[str, Any] = {
        "Seed": story.setting(run, "run", "seed") if summary.seed is None else summary.seed,
        "Model": summary.model.name or story.setting(run, "world", "model"),
        "Parameters": fmt.si(summary.model.parameters, "", 0).strip(),
        "Trainable on a client": fmt.count(summary.trainable_parameters.client),
        "Trainable on the server": fmt.count(summary.trainable_parameters.server),
        "Data": data.name or story.setting(run, "world", "data", "source"),
        "Training samples": fmt.count(data.train_samples),
        "Validation samples": fmt.count(data.validation_samples),
        "Rows drawn, held out, dropped or cut": "; ".join(data.notes),
        "Partition": data.partition,
        "Aggregation": summary.aggregation.name,
        "Precision": summary.precision,
        "Device": summary.device,
        "Hardware": summary.hardware,
        "Started": summary.started or run.state.get("started"),
        "Ended": summary.ended,
        "Tokens": fmt.count(summary.tokens),
        "Tokens per second": fmt.number(summary.tokens_per_s),
        "Wall-clock time of the rounds": fmt.seconds(summary.wall_s),
        "Peak memory": fmt.byte_size(summary.peak_memory_bytes),
        "Source commit": summary.commit,
        **summary.versions,
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "", fmt.DASH)]
