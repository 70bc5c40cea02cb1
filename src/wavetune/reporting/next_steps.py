"""What to try after a run: commands that repeat its own model, data, settings and seed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from wavetune.console import steers
from wavetune.errors import ConfigError, WavetuneError
from wavetune.federation.method import Method
from wavetune.federation.topology import Central, Federated
from wavetune.json_reader import read_json
from wavetune.part_values import values_of
from wavetune.parts import Part
from wavetune.recipe import Recipe, load
from wavetune.records.reading import Run

_PROMPT_CHARACTERS = 500  # of a prompt that is shown in a command
_CENTRAL = ("centralised_lora", "Centralised LoRA: one trainer with all data")
_FEDERATED = ("fedavg_lora", "FedAvg-LoRA: whole model on every client, adapters averaged")
_OF_CLIENTS = {(name, "central") for name in ("selection", "planner", "server_shares")}  # without a meaning for one
_ENOUGH = 10**6  # blocks and width, which the run's own settings fit


@dataclass(frozen=True)
class Step:
    """A command to paste, and what it is for."""

    command: str
    why: str


def next_steps(folder: Path, summary: Mapping[str, Any], comparable: bool) -> list[str]:
    """Lines with commands to paste; `comparable` says whether the run's recipe has baselines of its own."""
    found = [_generate(folder, summary).command]
    recipe = load(folder / "recipe.json")
    if comparable:
        found.append(
            f"wavetune compare {quoted(folder / 'recipe.json')}   # beside its baselines: same model, data, seed"
        )
    else:
        found += [step.command for step in _beside(folder, recipe, summary)]
    return [f"{'' if index else 'Try next:':9} {line}" for index, line in enumerate(found)]


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
    try:
        found.append(_generate(folder, {"personal": run.summary.personal}))
        found += _beside(folder, load(folder / "recipe.json"), read_json(folder / "summary.json"))
    except (WavetuneError, KeyError, TypeError, ValueError):  # a folder that somebody changed
        pass
    return found


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


def _beside(folder: Path, recipe: Recipe, summary: Mapping[str, Any]) -> list[Step]:
    """The same run with another topology, centralised or, where it was that, federated; where models are shared."""
    if summary["personal"] or recipe.method.alignment is not None:
        return []
    method, topology = recipe.method, Federated() if recipe.method.topology.pooled else Central()
    name, title = _CENTRAL if topology.pooled else _FEDERATED
    out = folder.with_name(f"{folder.name}-{name}")
    settings = [f"name={name}", f"method.title={title}", f"method.topology.kind={topology.kind}"]
    if not isinstance(method.lora.rank, int):
        rank = max(summary["plan"]["rank_K"])
        settings.append(f"method.lora.rank={rank}")
        method = replace(method, lora=replace(method.lora, rank=rank))
    settings += _reset(method, topology, recipe.world.scenario.population.num_clients)
    if not recipe.run.local_steps:
        settings.append(f"run.local_steps={summary['local_steps']}")
    options = " ".join(f"--set {quoted(setting)}" for setting in settings)
    where = "all data in one place" if topology.pooled else "the data where they are, on clients"
    return [
        Step(
            f"wavetune run {quoted(folder / 'recipe.json')} {options} --out {quoted(out)}",
            f"Train the same with {where}:",
        ),
        Step(f"wavetune report {quoted(folder)} {quoted(out)}   # side by side", "Then set both side by side:"),
    ]


def _reset(method: Method, topology: Central | Federated, num_clients: int) -> Iterator[str]:
    """Settings that bring back the default of whatever does not go with another topology, even alone."""
    plain = Method(method.title, topology, method.lora)

    def fits(name: str, part: Any, **changes: Any) -> bool:
        try:
            changed = replace(part, **changes) if changes else part
            replace(plain, **{name: changed}).check(num_clients, _ENOUGH, _ENOUGH)
        except ConfigError:
            return False
        return True

    for name, usual in ((field.name, getattr(plain, field.name)) for field in fields(plain)):
        own = getattr(method, name)
        if own == usual or name == "topology" or (fits(name, own) and (name, topology.kind) not in _OF_CLIENTS):
            continue
        if type(own) is not type(usual) or not is_dataclass(own):
            yield (
                f"method.{name}.kind={usual.kind}"
                if isinstance(usual, Part)
                else f"method.{name}={json.dumps(values_of(usual))}"
            )
            continue
        for inner in (field.name for field in fields(own)):
            value = getattr(usual, inner)
            if not fits(name, usual, **{inner: getattr(own, inner)}):
                yield f"method.{name}.{inner}={json.dumps(value)}"


def _short_sample(folder: Path) -> Mapping[str, Any]:
    """The first sample of the run whose prompt fits a command that can be pasted."""
    path = folder / "samples.json"
    samples = read_json(path) if path.exists() else []
    short = [s for s in samples if len(s["prompt"]) <= _PROMPT_CHARACTERS and not steers(s["prompt"])]
    short.sort(key=lambda sample: "\n" in sample["prompt"])  # one line first
    return next(iter(short), {"prompt": "your prompt", "client": None})
