"""`wavetune runs`: what runs there are, and where each is."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from wavetune.cli.json_output import result
from wavetune.console import echo


def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to look, folders in it included.")] = Path(
        "runs"
    ),
) -> None:
    """List the runs in a folder: recipe, model, state, rounds, size and age, the latest first.

    For example: wavetune runs, or: wavetune runs /data/runs --json
    """
    from wavetune.reporting.format import byte_size, seconds
    from wavetune.reporting.run_state import run_states

    found = run_states(folder)
    result([asdict(one) for one in found])
    if not found:
        echo(f"there is no run in {folder}; start one with: wavetune run sflllm --model tiny --set run.rounds=2")
        return
    head = ("run", "recipe", "model", "state", "rounds", "size", "age")
    rows = [
        (
            one.name,
            one.recipe,
            one.model,
            one.state,
            f"{one.rounds_done}/{'?' if one.rounds is None else one.rounds}",
            byte_size(one.size_bytes),
            seconds(round(one.age_s)),
        )
        for one in found
    ]
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    for row, why in zip((head, *rows), ("", *(one.why for one in found)), strict=True):
        cells = "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        echo(" ".join(f"{cells}  {why}".split("\n")).rstrip())
