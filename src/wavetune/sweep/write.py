"""The files that a finished sweep leaves: figure, table, summary, and a page on them."""

import csv
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from wavetune.federation.run_folder import ELSEWHERE, explained, write_whole
from wavetune.records.fields import as_json
from wavetune.reporting.format import DASH, percent, seconds
from wavetune.reporting.origin import origin_of
from wavetune.sweep.figure import save_figure
from wavetune.sweep.methods import BOUND, method_of, title
from wavetune.sweep.reading import interval, reading
from wavetune.sweep.summary import Point, Summary
from wavetune.templating import template

FILES = ("figure.svg", "figure.png", "table.csv", "summary.json", "sweep.md")


def write_outcome(summary: Summary, folder: Path, command: str) -> str:
    """Write `FILES` into a folder; returns the reading."""
    with explained(folder, ELSEWHERE):
        save_figure(summary, folder / "figure", command)
    write_whole(folder / "table.csv", table(summary), ELSEWHERE)
    write_whole(folder / "summary.json", json.dumps(as_json(to_dict(summary, command)), indent=1) + "\n", ELSEWHERE)
    write_whole(folder / "sweep.md", page(summary, command), ELSEWHERE)
    return reading(summary)


def table(summary: Summary) -> str:
    """The points as CSV: means with the half widths of their intervals, empty where there is no number."""
    head = (
        *("method", "seeds", "planned", "common", "delay_s", "ci95_delay_s", "gain", "ci95_gain", "worst_gain"),
        *("change", "ci95_change", "wall_s", "cpu_s", "reason"),
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((summary.sweep.axis.field, *head))
    for p in summary.points:
        delay, gain, change = ((e.mean, e.half_width) for e in (p.delay_s, p.gain, p.change))
        numbers = (*delay, *gain, p.worst_gain, *change, p.wall_s, p.cpu_s)
        shown = ("" if math.isnan(n) else f"{n:.6g}" for n in numbers)
        counts = (len(summary.sweep.seeds), p.planned, p.delay_s.count)
        writer.writerow((p.value, p.method, *counts, *shown, p.reason))
    return text.getvalue()


def to_dict(summary: Summary, command: str) -> dict[str, Any]:
    """The whole summary as plain values."""
    axis = summary.sweep.axis
    return {
        "command": command,
        "origin": _origin(summary),
        "recipe": summary.sweep.recipe.name,
        "field": axis.field,
        "values": axis.values,
        "seeds": summary.sweep.seeds,
        "methods": {name: method_of(name).note for name in summary.sweep.methods if name != BOUND},
        "samples": summary.samples,
        "gains": {name: asdict(gain) for name, gain in summary.gains.items()},
        "worst_gains": summary.worst_gains,
        "largest_gap": summary.largest_gap,
        "choices": [{"cut": cut, "rank": rank, "cells": n} for (cut, rank), n in summary.choices.items()],
        "points": [asdict(point) for point in summary.points],
        "reading": reading(summary),
    }


def page(summary: Summary, command: str) -> str:
    """Figure, command, reading and a table of the methods, in Markdown."""
    axis, seeds = summary.sweep.axis, summary.sweep.seeds
    over = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    return template(__file__, "sweep.md.j2").render(
        title=axis.title,
        command=command,
        origin=_origin(summary),
        reading=reading(summary),
        over=over,
        rows=[_row(summary, name) for name in summary.sweep.methods if name != BOUND],
    )


def _origin(summary: Summary) -> dict[str, str]:
    return origin_of(summary.sweep.recipe, summary.sweep.seeds)


def _row(summary: Summary, method: str) -> list[str]:
    points = [p for p in summary.of(method) if p.gain.count]

    def at(p: Point) -> str:
        return f"{percent(p.gain.mean)} at {summary.sweep.axis.show(p.value)}"

    cells = [DASH] * 4
    if points:
        gain = summary.gains[method]
        least, largest = (choose(points, key=lambda p: p.gain.mean) for choose in (min, max))
        mean = f"{percent(gain.mean)} ({interval(gain)})".replace(" ()", "")
        cells = [mean, percent(summary.worst_gains[method]), at(least), at(largest)]
    wall_s, cpu_s = np.median([(p.wall_s, p.cpu_s) for p in summary.of(method)], axis=0)
    return [title(method), *cells, seconds(wall_s), seconds(cpu_s)]
