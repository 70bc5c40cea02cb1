"""The last lines of a finished run on the terminal: what was achieved, where it lies, what to try next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavetune.estimate import finite_mean
from wavetune.json_reader import complete_lines
from wavetune.reporting.accounts import sent
from wavetune.reporting.format import bits, joules, percent, plural, seconds
from wavetune.reporting.next_steps import next_steps, on_devices


def last_lines(folder: Path, summary: Mapping[str, Any], report: Path, elapsed_s: float | None = None) -> list[str]:
    """Lines on a run's summary; `elapsed_s` is what the command took."""
    model = summary["model"]
    return [
        "",
        *_learned(summary),
        *_aligned(folder, summary.get("alignment", {})),
        f"{_charged(summary)} {_took(summary, elapsed_s)}",
        f"Model: {model['name']} ({model['note']}), {summary['precision']}, seed {summary['seed']}.",
        f"Report:   {report}",
        f"Adapters: {_adapters(folder, summary)}",
        *next_steps(folder, summary),
    ]


def _took(summary: Mapping[str, Any], elapsed_s: float | None) -> str:
    rounds = f"{seconds(summary['wall_s'])} for the rounds at {summary['tokens_per_s']:,.0f} tokens/s"
    return f"Here {rounds}." if elapsed_s is None else f"Here {seconds(elapsed_s)} in all, {rounds}."


def _charged(summary: Mapping[str, Any]) -> str:
    spent = f"{seconds(summary['delay_s'])} and {joules(summary['energy_j'])}"
    if not any(summary["phases"]["client_forward_s"]):
        return f"Its computation was charged {spent}; moving the data to one place is not charged."
    return f"On the simulated cell that took {spent}, with {sent(summary['bits'])}."


def _learned(summary: Mapping[str, Any]) -> list[str]:
    loss, before, after = summary["validation_loss"], *summary["evaluation"].values()
    length = f"in {plural(summary['rounds'], 'round')}, {plural(summary['samples'], 'sample')}."
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
        upload = finite_mean(summary["upload_bits_K"])
        lines.append(
            f"An upload is {bits(upload)}, {percent(1 - upload / summary['full_model_bits'])} less than the "
            "whole model in fp32; what is personal never leaves its client."
        )
    return lines


def _aligned(folder: Path, stage: Mapping[str, Any]) -> list[str]:
    if not stage.get("steps"):
        return []
    wall_s = sum(step["wall_s"] for step in complete_lines(folder / "alignment.jsonl"))
    steps = plural(stage["steps"], "step")
    gains = [client["mean"] for client in stage["mixed_gain_K"] if client["mean"] is not None]
    if not gains:
        return [f"Aligned in {steps}, {seconds(wall_s)}; no device told of its answers in the end."]
    risen = sum(gain > 0 for gain in gains)
    lines = [
        f"Aligned in {steps}, {seconds(wall_s)}. On held-out prompts the mixed reward of {risen} of "
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
    if on_devices(folder, summary):
        return f"{folder / 'adapters' / 'global'}, what all share; each device keeps its own model in its state folder"
    if summary["personal"]:
        return f"{folder / 'adapters'}/client-NN, one model a client"
    return f"{folder / 'adapters' / 'global'} (PEFT format)"
