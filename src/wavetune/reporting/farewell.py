"""The last lines of a finished run on the terminal: what was achieved, where it lies, what to try next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavetune.console import steers
from wavetune.estimate import finite_mean
from wavetune.json_reader import complete_lines, read_json
from wavetune.reporting.format import byte_size, joules, percent, seconds

_PROMPT_CHARACTERS = 500  # of a prompt that is shown in a command


def last_lines(folder: Path, summary: Mapping[str, Any], report: Path) -> list[str]:
    """Lines on a run's summary."""
    model, traffic = summary["model"], sum(summary["bits"].values()) / 8
    return [
        "",
        *_learned(summary),
        *_aligned(folder, summary.get("alignment", {})),
        f"On the simulated cell that took {seconds(summary['delay_s'])}, {joules(summary['energy_j'])} and "
        f"{byte_size(traffic)} on the air; here {seconds(summary['wall_s'])} at "
        f"{summary['tokens_per_s']:,.0f} tokens/s.",
        f"Model: {model['name']} ({model['note']}), {summary['precision']}, seed {summary['seed']}.",
        f"Report:   {report}",
        f"Adapters: {_adapters(folder, summary)}",
        *_next(folder, summary),
    ]


def _learned(summary: Mapping[str, Any]) -> list[str]:
    loss, before, after = summary["validation_loss"], *summary["evaluation"].values()
    length = f"in {summary['rounds']} rounds, {summary['samples']} samples."
    if "accuracy" in after:
        own, foreign = (finite_mean(after[f"{whose}_accuracy_K"]) for whose in ("own", "foreign"))
        lines = [
            f"Validation accuracy went from {percent(before['accuracy'])} to {percent(after['accuracy'])} {length}",
            f"Mean of the clients on what they know: {percent(own)}; on what they do not: {percent(foreign)}.",
        ]
    elif loss["after"] < loss["before"]:
        perplexity = summary["perplexity"]
        lines = [
            f"Validation perplexity fell from {perplexity['before']:.2f} to {perplexity['after']:.2f} "
            f"(loss {loss['before']:.4f} to {loss['after']:.4f}) {length}"
        ]
    else:
        lines = [f"Validation loss did not fall: {loss['before']:.4f} before, {loss['after']:.4f} after."]
    if summary["personal"]:
        sent = summary["bits"].get("adapters_up", 0) / (summary["rounds"] * summary["num_clients"])
        lines.append(
            f"An upload is {byte_size(sent / 8)}, {percent(1 - sent / summary['full_model_bits'])} less than the "
            "whole model in fp32; what is personal never leaves its client."
        )
    return lines


def _aligned(folder: Path, stage: Mapping[str, Any]) -> list[str]:
    if not stage.get("steps"):
        return []
    wall_s = sum(step["wall_s"] for step in complete_lines(folder / "alignment.jsonl"))
    gains = [client["mean"] for client in stage["mixed_gain_K"] if client["mean"] is not None]
    if not gains:
        return [f"Aligned in {stage['steps']} steps, {seconds(wall_s)}; no device told of its answers in the end."]
    risen = sum(gain > 0 for gain in gains)
    lines = [
        f"Aligned in {stage['steps']} steps, {seconds(wall_s)}. On held-out prompts the mixed reward of {risen} of "
        f"{len(gains)} clients rose (gains {min(gains):+.2f} to {max(gains):+.2f} standard deviations)."
    ]
    if "true_mixed_K" in stage["after"]:
        scores = zip(stage["before"]["true_mixed_K"], stage["after"]["true_mixed_K"], strict=True)
        pairs = [pair for pair in scores if None not in pair]
        before, after = (finite_mean([pair[i] for pair in pairs]) for i in (0, 1))
        risen = sum(now > was for was, now in pairs)
        lines.append(
            f"The exact scores behind the rewards rose for {risen}, on average from {before:.3f} to {after:.3f}."
        )
    return lines


def _adapters(folder: Path, summary: Mapping[str, Any]) -> str:
    if _on_devices(folder, summary):
        return f"{folder / 'adapters' / 'global'}, what all share; each device keeps its own model in its state folder"
    if summary["personal"]:
        return f"{folder / 'adapters'}/client-NN, one model a client"
    return f"{folder / 'adapters' / 'global'} (PEFT format)"


def _on_devices(folder: Path, summary: Mapping[str, Any]) -> bool:
    """Whether clients' models are where the run's folder is not."""
    return summary["personal"] and not any((folder / "adapters").glob("client-*"))


def _next(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    if summary["perplexity"] is None:
        return [f"Try next: wavetune compare {summary['recipe']}   # the baselines beside it"]
    if _on_devices(folder, summary):
        return ["Try next: wavetune generate STATE --client N --prompt 'your prompt'   # STATE: the folder of device N"]
    sample = _short_sample(folder)
    client = sample["client"] if sample["client"] is not None else 0
    who = f" --client {client}" if summary["personal"] else ""
    return [
        f"Try next: wavetune generate {folder}{who} --prompt {shlex.quote(sample['prompt'])}",
        f"          wavetune run centralised_lora   # then: wavetune report {folder} runs/centralised_lora",
    ]


def _short_sample(folder: Path) -> Mapping[str, Any]:
    """The first sample of the run whose prompt fits a command that can be pasted."""
    path = folder / "samples.json"
    samples = read_json(path) if path.exists() else []
    short = (s for s in samples if len(s["prompt"]) <= _PROMPT_CHARACTERS and not steers(s["prompt"]))
    return next(short, {"prompt": "your prompt", "client": None})
