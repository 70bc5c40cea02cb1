"""What to try after a run: commands that repeat its own model, data, settings and seed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavetune.console import steers
from wavetune.json_reader import read_json

_PROMPT_CHARACTERS = 500  # of a prompt that is shown in a command
_CENTRAL = ("centralised_lora", "Centralised LoRA: one trainer with all data", "central")
_FEDERATED = ("fedavg_lora", "FedAvg-LoRA: whole model on every client, adapters averaged", "federated")


def next_steps(folder: Path, summary: Mapping[str, Any], comparable: bool) -> list[str]:
    """Lines with commands to paste; `comparable` says whether the run's recipe has baselines of its own."""
    found = [_generate(folder, summary)]
    recipe = read_json(folder / "recipe.json")
    if comparable:
        found.append(
            f"wavetune compare {quoted(folder / 'recipe.json')}   # beside its baselines: same model, data, seed"
        )
    elif not summary["personal"] and recipe["method"]["alignment"] is None:
        found += _beside(folder, recipe, summary)
    return [f"{'' if index else 'Try next:':9} {line}" for index, line in enumerate(found)]


def on_devices(folder: Path, summary: Mapping[str, Any]) -> bool:
    """Whether clients' models are where the run's folder is not."""
    return summary["personal"] and not any((folder / "adapters").glob("client-*"))


def quoted(value: object) -> str:
    """A word as a shell takes it."""
    return shlex.quote(str(value))


def _generate(folder: Path, summary: Mapping[str, Any]) -> str:
    if on_devices(folder, summary):
        return "wavetune generate STATE --client N --prompt 'your prompt'   # STATE: the folder of device N"
    sample = _short_sample(folder)
    client = sample["client"] if sample["client"] is not None else 0
    who = f" --client {client}" if summary["personal"] else ""
    return f"wavetune generate {quoted(folder)}{who} --prompt {quoted(sample['prompt'])}"


def _beside(folder: Path, recipe: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    """The same run with another topology: centralised or, where it was that, federated."""
    method = recipe["method"]
    name, title, topology = _FEDERATED if method["topology"]["kind"] == "central" else _CENTRAL
    out = folder.with_name(f"{folder.name}-{name}")
    settings = [f"name={name}", f"method.title={title}", f"method.topology.kind={topology}"]
    if topology == "central":  # what only clients have
        parts = {"selection": "all", "link": "reliable", "planner": "optimal"}
        settings += [f"method.{part}.kind={kind}" for part, kind in parts.items() if method[part]["kind"] != kind]
        off = {"choose_codecs": "false", "privacy": "null", "screening": "null"}
        settings += [f"method.{part}={value}" for part, value in off.items() if method[part]]
        settings += ["method.server_shares=together"] * (method["server_shares"] != "together")
    if not isinstance(method["lora"]["rank"], int):
        settings.append(f"method.lora.rank={max(summary['plan']['rank_K'])}")
    if not recipe["run"]["local_steps"]:
        settings.append(f"run.local_steps={summary['local_steps']}")
    options = " ".join(f"--set {quoted(setting)}" for setting in settings)
    return [
        f"wavetune run {quoted(folder / 'recipe.json')} {options} --out {quoted(out)}",
        f"wavetune report {quoted(folder)} {quoted(out)}   # side by side",
    ]


def _short_sample(folder: Path) -> Mapping[str, Any]:
    """The first sample of the run whose prompt fits a command that can be pasted."""
    path = folder / "samples.json"
    samples = read_json(path) if path.exists() else []
    short = [s for s in samples if len(s["prompt"]) <= _PROMPT_CHARACTERS and not steers(s["prompt"])]
    short.sort(key=lambda sample: "\n" in sample["prompt"])  # one line first
    return next(iter(short), {"prompt": "your prompt", "client": None})
