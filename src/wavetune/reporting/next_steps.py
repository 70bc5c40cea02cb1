"""What to try after a run: commands that repeat its own model, data, settings and seed."""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavetune.console import steers
from wavetune.errors import WavetuneError
from wavetune.json_reader import read_json
from wavetune.records.reading import Run

_PROMPT_CHARACTERS = 500  # of a prompt that is shown in a command


@dataclass(frozen=True)
class Step:
    """A command to paste, and what it is for."""

    command: str
    why: str


def next_steps(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    """Lines with commands to paste."""
    beside = f"{_beside(folder).command}   # beside its baselines: same model, data, seed"
    return [f"{'Try next:':9} {_generate(folder, summary).command}", f"{'':9} {beside}"]


def next_in_report(run: Run) -> list[Step]:
    """What a reader of a report does next: go on with a run that is not finished, else use and question its model."""
    folder = run.folder
    if run.summary.status != "finished":
        servers = str(run.state.get("command", "")).split()[1:2]
        command = servers[0] if servers in (["deploy"], ["serve"]) else "run"
        return [
            Step(f"wavetune watch {quoted(folder)}", "See where it is while it goes on:"),
            Step(f"wavetune {command} --resume --out {quoted(folder)}", "Go on with it if it was stopped:"),
        ]
    found = list[Step]()
    with suppress(WavetuneError, KeyError, TypeError, ValueError):  # of a folder that somebody changed
        found.append(_generate(folder, {"personal": run.summary.personal}))
    return [*found, _beside(folder)]


def on_devices(folder: Path, summary: Mapping[str, Any]) -> bool:
    """Whether clients' models are where the run's folder is not."""
    return summary["personal"] and not any((folder / "adapters").glob("client-*"))


def quoted(value: object) -> str:
    """A word as a shell takes it."""
    return shlex.quote(str(value))


def _generate(folder: Path, summary: Mapping[str, Any]) -> Step:
    why = "Ask the model:"
    if on_devices(folder, summary):
        return Step("wavetune generate STATE --client N --prompt 'your prompt'   # STATE: the folder of device N", why)
    sample = _short_sample(folder)
    client = sample.get("client") or 0
    who = f" --client {client}" if summary["personal"] else ""
    return Step(f"wavetune generate {quoted(folder)}{who} --prompt {quoted(sample['prompt'])}", why)


def _beside(folder: Path) -> Step:
    why = "Set it beside its baselines, with the same model, data and seed:"
    return Step(f"wavetune compare {quoted(folder / 'recipe.json')}", why)


def _short_sample(folder: Path) -> Mapping[str, Any]:
    """The first sample of the run whose prompt fits a command that can be pasted."""
    path = folder / "samples.json"
    samples = read_json(path) if path.exists() else []
    short = [s for s in samples if len(s["prompt"]) <= _PROMPT_CHARACTERS and not steers(s["prompt"])]
    short.sort(key=lambda sample: "\n" in sample["prompt"])  # one line first
    return next(iter(short), {"prompt": "your prompt", "client": None})
