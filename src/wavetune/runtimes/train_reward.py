"""Train a reward model on preference pairs: one frozen backbone, one set of adapters, validated as it goes.

What is saved after every evaluation (adapters, the best ones, optimiser) is enough to go on to the same end, so
whatever stops the training loses no more than the steps since then.
"""

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from wavetune.console import given_command
from wavetune.data.concierge import concierge_preferences
from wavetune.data.examples import PreferenceCorpus, PreferenceKind
from wavetune.data.preferences import KINDS, load_preferences
from wavetune.errors import ConfigError, NumericsError, RunFolderError, nearest
from wavetune.federation.folder_lock import locked
from wavetune.federation.rewards import RewardTraining
from wavetune.federation.run_folder import RunFolder, explained, part_of
from wavetune.models.reward import ABOUT, read_about, save_reward
from wavetune.runtimes.inputs import changed, digest_of_pairs
from wavetune.runtimes.precision import device_of, uses_bf16
from wavetune.runtimes.reward_training import Training, build_training, share_right
from wavetune.runtimes.reward_truth import correlation_with_truth
from wavetune.runtimes.saved import RewardPlan, RewardStep
from wavetune.units import Array

CONCIERGE_TEST_PAIRS = 400
DEVICES = ("auto", "cpu", "cuda")
PLANNED, PROGRESS = "training.json", "progress.json"


class Watcher(Protocol):
    """What watches a training: a terminal, a log, a test."""

    def message(self, text: str) -> None:
        """Something worth a line happened."""

    def step(self, done: int, steps: int, loss: float) -> None:
        """A step is done."""


def train_reward(
    corpus: PreferenceCorpus,
    settings: RewardTraining,
    out: Path,
    watcher: Watcher,
    seed: int = 0,
    device: torch.device | str = "cpu",
    bf16: bool = False,
    resume: bool = False,
    source: str = "",
    columns: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train on a corpus's pairs and write the reward model into a folder; returns what its reward.json says.

    Args:
        corpus: pairs; the test part (else the validation part) gives the accuracy that is reported.
        settings: model, LoRA and length of the training.
        out: where it is written.
        watcher: what is told.
        seed: of the order of pairs and the initial adapters.
        device, bf16: where and in which precision the frozen weights are.
        resume: go on with what is in `out`.
        source, columns: where the corpus is from, and by which columns it was read, for `continue_training`; by default
            its name, and those that are known.
    Raises: RunFolderError if `out` is in use or holds a reward model already, or with `resume` none that fits;
        DataError if there are no validation pairs; NumericsError if the loss is not finite.
    """
    with locked(out):
        folder, started = RunFolder(out), time.perf_counter()
        values = {**asdict(settings), "targets": settings.targets and list(settings.targets)}
        plan = {"kind": corpus.kind, "source": source or corpus.name, "seed": seed, "training": values}
        plan["columns"] = dict(columns or {})
        plan["pairs"] = digest_of_pairs(corpus.train)
        _check(folder, plan, resume)
        watcher.message(f"loading {settings.model}")
        training = build_training(corpus, settings, seed, device, bf16)
        watcher.message("; ".join((f"data: {corpus.kind} pairs of {corpus.name}", *corpus.notes, *training.notes)))
        with explained(out, "choose another place"):
            (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        folder.write_json(PLANNED, plan)
        done, history = _restore(folder, training)
        watcher.message(
            f"{'going on after step ' + str(done) if done else 'training'} on {len(training.train) // 2} pairs of "
            f"{corpus.name} ({corpus.kind}), {'bf16 weights' if bf16 else 'fp32'}"
        )
        started -= history[-1]["seconds"] if history else 0.0
        while done < settings.steps and not _ended(history, settings):
            loss = training.step(done)
            done += 1
            watcher.step(done, settings.steps, loss)
            if done % settings.evaluate_every == 0 or done == settings.steps:
                margin_P = training.margins(training.validation)
                entry = _entry(done, loss, margin_P, time.perf_counter() - started)
                if not history or entry["validation_loss"] < min(e["validation_loss"] for e in history):
                    training.best = {name: t.clone() for name, t in training.adapters().items()}
                history.append(entry)
                _keep(folder, training, done, history)
                watcher.message(
                    f"step {done}/{settings.steps}  loss {loss:.4f}  validation loss {entry['validation_loss']:.4f}, "
                    f"accuracy {entry['validation_accuracy']:.1%}"
                )
        training.load(training.best)
        return _finish(folder, training, corpus, plan, history)


def begin_training(
    kind: str | None,
    source: str,
    changed: Mapping[str, Any],
    out: Path,
    watcher: Watcher,
    seed: int,
    device: str,
    columns: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train with the default settings but for those `changed`, on the device of that name; returns reward.json.

    Raises: ConfigError if there is no such kind or device, and what `train_reward` raises.
    """
    if kind not in KINDS:
        raise ConfigError(f"--kind is {kind!r}; {nearest(str(kind), KINDS)}")
    chosen = _chosen(device)
    settings = RewardTraining(**changed)
    watcher.message(f"loading {source}")
    corpus = preference_corpus(source, kind, settings, seed, columns)
    bf16 = uses_bf16("auto", chosen)
    return train_reward(corpus, settings, out, watcher, seed, chosen, bf16, source=source, columns=columns)


def continue_training(out: Path, watcher: Watcher, device: str = "auto") -> dict[str, Any]:
    """Go on with the training in a folder to the end it would have had; returns its reward.json.

    Raises: RunFolderError if there is none, or it cannot be read.
    """
    plan = RunFolder(out).read_json(PLANNED, RewardPlan)
    if plan is None:
        raise RunFolderError(f"{out} holds no training of a reward model (no {PLANNED}); start one without --resume")
    if (out / ABOUT).exists():
        watcher.message(f"{out} holds a finished reward model already")
        return read_about(out)
    try:
        settings = TypeAdapter(RewardTraining).validate_python(plan["training"])
        kind, source, seed, columns = plan["kind"], plan["source"], plan["seed"], plan["columns"]
    except (KeyError, TypeError, ValidationError) as error:
        raise RunFolderError(f"{out / PLANNED} is damaged or of another version; train into another folder") from error
    chosen = _chosen(device)
    corpus = preference_corpus(source, kind, settings, seed, columns)
    bf16 = uses_bf16("auto", chosen)
    return train_reward(corpus, settings, out, watcher, seed, chosen, bf16, True, source, columns)


def _chosen(device: str) -> torch.device:
    if device not in DEVICES:
        raise ConfigError(f"--device is {device!r}; {nearest(device, DEVICES)}")
    return device_of(device)


def preference_corpus(
    source: str,
    kind: PreferenceKind,
    training: RewardTraining,
    seed: int,
    columns: Mapping[str, str] | None = None,
) -> PreferenceCorpus:
    """Pairs of a source: of the embedded concierge as many as the training can see, else all."""
    if source != "concierge":
        return load_preferences(source, kind, seed, columns)
    wanted = training.train_pairs or training.steps * training.pairs_per_step
    validation, test = training.validation_pairs, training.test_pairs or CONCIERGE_TEST_PAIRS
    return concierge_preferences(kind, wanted, validation, test, seed)


def _check(folder: RunFolder, plan: Mapping[str, Any], resume: bool) -> None:
    planned = folder.read_json(PLANNED, RewardPlan)
    if not resume and planned is not None:
        raise RunFolderError(f"{folder.path} already holds a reward model; choose another --out, or --resume it")
    if resume and planned != plan:
        differing = next((key for key in plan if (planned or {}).get(key) != plan[key]), "plan")
        if differing == "pairs":
            difference = changed((planned or {}).get("pairs", {}), plan["pairs"])
            raise RunFolderError(
                f"the training pairs of {plan['source']} have changed since the training in {folder.path} began "
                f"({difference}): put back what was there, or train into another --out"
            )
        raise RunFolderError(f"{folder.path} was trained with another {differing}; repeat its options or start afresh")


def _entry(step: int, loss: float, margin_P: Array, seconds: float) -> dict[str, float]:
    validation_loss = float(np.logaddexp(0, -margin_P).mean())
    if not math.isfinite(validation_loss):
        raise NumericsError(f"step {step}: the validation loss is {validation_loss}; lower the learning rate")
    return {
        "step": step,
        "loss": loss,
        "validation_loss": validation_loss,
        "validation_accuracy": share_right(margin_P).share,
        "seconds": seconds,
    }


def _ended(history: list[dict[str, float]], settings: RewardTraining) -> bool:
    if not history:
        return False
    losses = [entry["validation_loss"] for entry in history]
    best = losses.index(min(losses))
    return losses[best] <= settings.target_loss or len(losses) - 1 - best >= settings.patience


def _keep(folder: RunFolder, training: Training, done: int, history: list[dict[str, float]]) -> None:
    state = {f"adapter.{name}": t for name, t in training.adapters().items()}
    state |= {f"best.{name}": t for name, t in training.best.items()}
    state |= {f"optimiser.{name}": t for name, t in training.optimiser.state().items()}
    folder.write_json(PROGRESS, history)
    folder.save_checkpoint(done, state)


def _restore(folder: RunFolder, training: Training) -> tuple[int, list[dict[str, float]]]:
    """Steps done and evaluations of the newest checkpoint, whose state is loaded; 0 and none if there is none."""
    saved = folder.load_checkpoint()
    if saved is None:
        return 0, []
    done, state = saved
    training.load(part_of(state, "adapter."))
    device = training.model.backbone.device
    training.best = {name: t.to(device) for name, t in part_of(state, "best.").items()}
    training.optimiser.load_state(part_of(state, "optimiser."))
    return done, [entry for entry in folder.read_json(PROGRESS, list[RewardStep]) or [] if entry["step"] <= done]


def _finish(
    folder: RunFolder,
    training: Training,
    corpus: PreferenceCorpus,
    plan: Mapping[str, Any],
    history: list[dict[str, float]],
) -> dict[str, Any]:
    model, settings, base = training.model, training.settings, training.base
    sets = {"train": training.train, "validation": training.validation, "test": training.test}
    accuracy = share_right(training.margins(training.test))
    low, high = accuracy.interval
    truth = correlation_with_truth(model, plan["seed"]) if plan["source"] == "concierge" else None
    losses = [entry["validation_loss"] for entry in history]
    about = {
        "kind": corpus.kind,
        "model": base.name if base.name == settings.model else str(base.folder),
        "model_note": base.note,
        "targets": sorted({model.backbone.path_in_block(s) for s in model.bank.sites if s.kind == "lora"}),
        "rank": settings.rank,
        "alpha": settings.alpha,
        "max_tokens": model.max_tokens,
        "data": {"name": corpus.name, "notes": [*corpus.notes, *training.notes]}
        | {f"{name}_pairs": len(tokens) // 2 for name, tokens in sets.items()}
        | {f"{name}_truncated": tokens.truncated_prompts for name, tokens in sets.items()},
        "tested_on": "test" if corpus.test else "validation",
        "accuracy": accuracy.share,
        "accuracy_interval_95": [low, high],
        "correlation_with_truth": truth,
        "steps": history[-1]["step"],
        "best_step": history[losses.index(min(losses))]["step"],
        "validation_loss": min(losses),
        "seconds": history[-1]["seconds"],
        "seed": plan["seed"],
        "training": plan["training"],
        "history": history,
        "command": given_command(),
    }
    with explained(folder.path):
        save_reward(folder.path, model.backbone, model.bank, str(base.folder), about)
    shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
    return about
