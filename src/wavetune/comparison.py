"""A recipe against its baselines on the same engine: the same data, model, rounds and seeds for every method."""

from __future__ import annotations

import gc
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wavetune import recipes
from wavetune.console import given_command
from wavetune.errors import ConfigError, RunFolderError
from wavetune.estimate import Estimate, caution, finite_mean
from wavetune.federation.folder_lock import locked
from wavetune.federation.run_folder import explained, write_whole
from wavetune.json_reader import read_json
from wavetune.recipe import Recipe, to_dict, with_settings
from wavetune.recipes import PROPOSED
from wavetune.reporting.format import bits, joules, number, percent, seconds
from wavetune.reporting.mixture import mixed_reward
from wavetune.runtimes.continued import as_begun, is_free_or_of
from wavetune.runtimes.engine import Observer
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.session import Infeasible

REWARDS = "rewards"
Summary = Mapping[str, Any]
DIRECTIONS = "↑: more is better, ↓: less is better."


@dataclass(frozen=True)
class Metric:
    """A number of a finished run, by name, and how it is shown; `higher` is better, or lower.

    It is read from the run's summary, and where its unit is the proposed method's from that of its run with that seed.
    """

    name: str
    higher: bool
    of: Callable[[Summary, Summary], float | None]
    show: Callable[[float], str] = number


def _mean_of(values: Sequence[float | None] | None) -> float | None:
    mean = finite_mean(values or ())
    return None if math.isnan(mean) else mean


def _after(key: str) -> Callable[[Summary, Summary], float | None]:
    return lambda summary, _: _mean_of(summary["evaluation"]["after"].get(key))


def _validation_loss(summary: Summary, _: Summary) -> float | None:
    """Of the one model of all clients; where they have models of their own it would be of other rows."""
    return None if summary.get("personal", True) else summary["validation_loss"]["after"]


def _true_mixed(summary: Summary, _: Summary) -> float | None:
    return _mean_of((summary.get("alignment") or {}).get("after", {}).get("true_mixed_K"))


def _mixed(summary: Summary, proposed: Summary) -> float | None:
    """In standard deviations of the proposed method's answers before alignment."""
    own, reference = (one.get("alignment") or {} for one in (summary, proposed))
    return _mean_of([mixed_reward(own.get("after", {}), own.get("lambdas", ()), reference.get("scale", {}))])


def _uplink_bits(summary: Summary, _: Summary) -> float:
    return sum(count for kind, count in summary["bits"].items() if kind.endswith("_up"))


METRICS = (
    Metric("validation loss", False, _validation_loss),
    Metric("own accuracy", True, _after("own_accuracy_K"), percent),
    Metric("foreign accuracy", True, _after("foreign_accuracy_K"), percent),
    Metric("own loss", False, _after("own_loss_K")),
    Metric("foreign loss", False, _after("foreign_loss_K")),
    Metric("mixed reward (sd)", True, _mixed),
    Metric("true mixed score", True, _true_mixed),
    Metric("uplink bits", False, _uplink_bits, bits),
    Metric("delay_s", False, lambda summary, _: summary["delay_s"], seconds),
    Metric("energy_j", False, lambda summary, _: summary["energy_j"], joules),
)


def compare(
    recipe: Recipe, methods: Sequence[str] | None, seeds: int, out: Path, say: Callable[[str], None], watch: Observer
) -> dict[str, Any]:
    """Run every method with every seed under `out` and lay them side by side; what is done already is kept.

    Raises ConfigError for an unknown method; RunFolderError if `out` holds another comparison or is in use.
    """
    baselines = {PROPOSED: (), **recipes.baselines_of(recipe.name)}
    recipes.require_methods(recipe.name, methods)
    chosen = [m for m in baselines if not methods or m in methods or m == PROPOSED]
    with locked(out):
        recipe = _claim(out, recipe)
        runs: dict[str, list[dict[str, Any]]] = {}
        for offset in range(seeds):
            for method in chosen:
                seed = recipe.run.seed + offset
                say(f"{method}, seed {seed}")
                settled = with_settings(replace(recipe, run=replace(recipe.run, seed=seed)), baselines[method])
                folder = out / f"{method}-seed{seed}"
                _reuse(out / f"{PROPOSED}-seed{seed}" / REWARDS, folder / REWARDS)
                runs.setdefault(method, []).append(_finished(settled, folder, watch))
                gc.collect()  # the model and its hooks refer to each other
        table = _table(runs)
        table["command"] = given_command()
        table["seeds"] = [recipe.run.seed + offset for offset in range(seeds)]
        table["model"], table["data"] = runs[PROPOSED][0]["model"], runs[PROPOSED][0]["data"]
        write_whole(out / "comparison.json", json.dumps(table, indent=1, allow_nan=False) + "\n")
        write_whole(out / "comparison.md", as_markdown(recipe, table))
    return table


def _claim(out: Path, recipe: Recipe) -> Recipe:
    """The recipe as of the day that its comparison in this folder was begun, which is today in a new one."""
    if not is_free_or_of(out, recipe):
        raise RunFolderError(f"{out} holds a comparison of other settings; choose another --out")
    recipe = as_begun(recipe, out / "recipe.json")
    write_whole(out / "recipe.json", json.dumps(to_dict(recipe), indent=1) + "\n")
    return recipe


def _reuse(trained: Path, wanted: Path) -> None:
    """Copy the reward models of a finished run to one that has none yet: they depend on the seed and the data alone."""
    if not trained.exists() or wanted.exists():
        return
    with explained(wanted):
        part = wanted.with_name(wanted.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(trained, part)
        part.rename(wanted)


def _finished(recipe: Recipe, folder: Path, watch: Observer) -> dict[str, Any]:
    """Summary of a run, which is made, continued or read."""
    if (folder / "summary.json").exists():
        return read_json(folder / "summary.json")
    outcome = run(recipe, folder, watch, resume=(folder / "recipe.json").exists())
    if isinstance(outcome, Infeasible):
        raise ConfigError(f"no plan exists for {folder.name}: {outcome.reason}")
    return outcome


def _table(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Means over seeds with 95 % intervals, and the paired gain of the proposed method over each baseline."""
    values: dict[str, dict[str, list[float | None]]] = {
        method: {m.name: [m.of(*both) for both in zip(own, runs[PROPOSED], strict=True)] for m in METRICS}
        for method, own in runs.items()
    }
    values["full model, accounted"] = {m.name: [None] * len(runs[PROPOSED]) for m in METRICS}
    values["full model, accounted"] |= _full_model(runs[PROPOSED])
    rows: dict[str, Any] = {}
    for method, found in values.items():
        rows[method] = {
            name: _with_interval([v for v in each if v is not None])
            for name, each in found.items()
            if any(v is not None for v in each)
        }
        for name, each in found.items():
            ours = values[PROPOSED][name]
            if method != PROPOSED and None not in (*each, *ours):
                differences = [a - b for a, b in zip(ours, each, strict=True) if a is not None and b is not None]
                rows[method][name]["proposed_minus_this"] = _with_interval(differences)
    return {"metrics": {m.name: m.higher for m in METRICS if m.name in rows[PROPOSED]}, "methods": rows}


def _with_interval(values: Sequence[float]) -> dict[str, Any]:
    found = Estimate.of(values)
    half = None if math.isnan(found.half_width) else found.half_width
    return {"mean": found.mean, "half_width_95": half, "values": list(values)}


def rows_of(table: Mapping[str, Any], differences: bool = False) -> list[tuple[str, ...]]:
    """A comparison as rows of text: a heading, then a row a metric with a column a method, means and half widths.

    With `differences` the cells are those by which the proposed method is above each other one, paired over seeds.
    """
    methods = [method for method in table["methods"] if method != PROPOSED or not differences]
    rows = [("proposed minus" if differences else "", *(method.replace("_", " ") for method in methods))]
    for metric in METRICS:
        if metric.name in table["metrics"]:
            found = [table["methods"][method].get(metric.name) for method in methods]
            if differences:
                found = [value and value.get("proposed_minus_this") for value in found]
            name = f"{metric.name.removesuffix('_s').removesuffix('_j')} {'↑' if metric.higher else '↓'}"
            rows.append((name, *(_cell(metric, value, differences) for value in found)))
    return rows


def _cell(metric: Metric, value: Mapping[str, Any] | None, signed: bool) -> str:
    if not value:
        return "-"
    half, sign = value["half_width_95"], "+" if signed and value["mean"] > 0 else ""
    return sign + metric.show(value["mean"]) + (f"\n± {metric.show(half)}" if half else "")


def as_markdown(recipe: Recipe, table: Mapping[str, Any]) -> str:
    """A comparison as a page: where its numbers are from, means, and differences."""
    model, data = table["model"], table["data"]
    facts = {
        "Command": f"`{table['command']}`",
        "Seeds": ", ".join(map(str, table["seeds"])),
        "Model": f"{model['name']}: {model['note']}",
        "Data": f"{data['name']}, {data['train_samples']} training and {data['validation_samples']} validation rows, "
        f"{data['partition']} over {recipe.world.scenario.population.num_clients} clients",
        "Method": recipe.method.title,
    }
    return "\n".join(
        [
            f"# {recipe.name} and its baselines",
            "",
            *(f"- {name}: {words}" for name, words in facts.items()),
            "",
            "Means over seeds, ± half of the 95 % interval (Student's t); a run's number is the mean of its clients. "
            f"{DIRECTIONS} {caution(len(table['seeds']))}".rstrip(),
            "",
            *_markdown_table(rows_of(table)),
            "",
            "By how much the proposed method is above each other one: differences of runs of the same seed.",
            "",
            *_markdown_table(rows_of(table, differences=True)),
            "",
        ]
    )


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    heading, *body = ["| " + " | ".join(cell.replace("\n", " ") for cell in row) + " |" for row in rows]
    return [heading, "| --- |" + " ---: |" * (len(rows[0]) - 1), *body]


def _full_model(summaries: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """What sending the whole model in fp32 would take at the same rates; its training is not charged, so a bound."""
    found: dict[str, list[float | None]] = {"uplink bits": [], "delay_s": []}
    for summary in summaries:
        up, bits = summary["bits"].get("adapters_up", 0), summary["full_model_bits"]
        sent = bits * summary["num_clients"] * summary["rounds"]
        upload_s = max(summary["phases"]["fed_upload_s"])
        found["uplink bits"].append(sent)
        found["delay_s"].append(summary["delay_s"] + (upload_s * (sent / up - 1) if up else 0.0))
    return found
