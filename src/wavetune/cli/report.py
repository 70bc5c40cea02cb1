"""`wavetune report`: the page of a run, or of several side by side."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from wavetune.cli.json_output import result
from wavetune.console import echo


def report(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR...", help="One run folder, or several to compare.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Page to write; RUN_DIR/report.html or comparison.html by default.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Also save each run's figures as PNG and SVG here.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Also write scalars for TensorBoard here.")] = None,
) -> None:
    """Write the report of a run, or of several side by side."""
    from wavetune.reporting import save_figures
    from wavetune.reporting.html import write_report
    from wavetune.reporting.tensorboard import write_tensorboard

    default = run_dirs[0] / "report.html" if len(run_dirs) == 1 else Path("comparison.html")
    written = write_report(run_dirs, out or default)
    result({"report": str(written), "runs": [_told(run_dir) for run_dir in run_dirs]})
    echo(f"wrote {written}")
    for run_dir, name in zip(run_dirs, _names(run_dirs), strict=True):
        if figures is not None:
            save_figures(run_dir, figures / name)
            echo(f"wrote figures into {figures / name}")
        if tensorboard is not None:
            write_tensorboard(run_dir, tensorboard / name)
            echo(f"wrote scalars into {tensorboard / name}")


def _names(run_dirs: Sequence[Path]) -> list[str]:
    """What each run's files are called: its folder's name, with a number where runs of that name came before.

    >>> _names([Path("a/sflllm"), Path("b/sflllm"), Path("b/pwff")])
    ['sflllm', 'sflllm-2', 'pwff']
    """
    taken = list[str]()
    for run_dir in run_dirs:
        name = run_dir.resolve().name
        numbered = (f"{name}-{number}" for number in count(2))
        taken.append(name if name not in taken else next(other for other in numbered if other not in taken))
    return taken


def _told(run_dir: Path) -> dict[str, Any]:
    """What came out of a run, and its rounds."""
    from wavetune.api.load_run import load_run
    from wavetune.records.fields import as_json

    run = load_run(run_dir)
    rounds = [as_json(record) for record in run.records.rounds]
    summary = run.summary if run.status == "finished" else None
    return {"folder": str(run_dir), "status": run.status, "summary": summary, "rounds": rounds}
