"""Train a reward model on preference pairs: one frozen backbone, one set of adapters, validated as it goes.

What is saved after every evaluation (state, optimiser, best adapters) is enough to go on to the same end, and whatever
ends the training, the best reward model so far lies in the folder.
Legend: P pairs.
"""

from __future__ import annotations

import math
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from wavetune.data.answers import tokenise_pairs
from wavetune.data.batching import Batching, batch_indices, collate
from wavetune.data.concierge import concierge_preferences
from wavetune.data.examples import PreferenceCorpus, PreferenceKind, PreferencePair
from wavetune.data.preferences import KINDS, load_preferences
from wavetune.data.templates import TokenSet
from wavetune.errors import ConfigError, DataError, NumericsError, RunFolderError, nearest
from wavetune.federation.accuracy import Accuracy
from wavetune.federation.optimise import AdamW, StackedOptimiser
from wavetune.federation.reward_models import RewardModel, reward_backbone
from wavetune.federation.rewards import RewardTraining
from wavetune.federation.run_folder import RunFolder, explained
from wavetune.models.resolve import ResolvedModel
from wavetune.models.reward import ABOUT, preference_loss, read_about, reward_bank, rewards_of, save_reward
from wavetune.runtimes.reward_truth import correlation_with_truth
from wavetune.runtimes.session import _device, _use_bf16
from wavetune.seeds import stream

CONCIERGE_TEST_PAIRS = 400
DEVICES = ("auto", "cpu", "cuda")
PLANNED, PROGRESS = "training.json", "progress.json"


class Watcher(Protocol):
    """What watches a training: a terminal, a log, a test."""

    def message(self, text: str) -> None:
        """Something worth a line happened."""

    def step(self, done: int, steps: int, loss: float) -> None:
        """A step is done."""


@dataclass
class Training:
    """A reward model in training and the pairs that it sees; `best` holds the adapters of the best evaluation."""

    settings: RewardTraining
    model: RewardModel
    optimiser: StackedOptimiser
    train: TokenSet
    validation: TokenSet
    seed: int
    best: dict[str, torch.Tensor]

    def step(self, index: int) -> float:
        """One step on the pairs of that index; returns the mean loss in nats. Raises NumericsError."""
        settings, bank = self.settings, self.model.bank
        longest_P = self.train.lengths.reshape(-1, 2).max(axis=1)
        pairs = batch_indices(longest_P, Batching(settings.pairs_per_step), self.seed, 0, index)
        batch = collate(self.train, [np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel()])
        ids, lengths = torch.from_numpy(batch.input_ids), batch.lengths.tolist()
        loss, _ = preference_loss(rewards_of(self.model.backbone, bank, ids, lengths))
        loss.backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NumericsError(f"step {index}: the loss of the reward model is {value}; lower the learning rate")
        self.optimiser.step_clients(self.optimiser.settings.factor(index, settings.steps))
        return value

    def margins(self, tokens: TokenSet) -> np.ndarray:
        """Reward of the chosen answer less that of the rejected one, [P]."""
        scores = self.model.score_rows([tokens.row(i).tolist() for i in range(len(tokens))])
        return scores[0::2] - scores[1::2]

    def adapters(self) -> dict[str, torch.Tensor]:
        """The tensors that a reward model consists of, by name."""
        stacks = self.model.bank.local
        return {
            f"{name}.{part}": t.detach() for name, pair in stacks.items() for part, t in zip("AB", pair, strict=True)
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take adapters as `adapters` gives them."""
        for name, tensor in self.adapters().items():
            tensor.copy_(tensors[name])


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
        source: where the corpus is from, for `continue_training`; by default its name.
    Raises: RunFolderError if `out` holds a reward model already, or with `resume` none that fits; DataError if there
        are no validation pairs; NumericsError if the loss is not finite.
    """
    folder, started = RunFolder(out), time.perf_counter()
    values = {**asdict(settings), "targets": settings.targets and list(settings.targets)}
    plan = {"kind": corpus.kind, "source": source or corpus.name, "seed": seed, "training": values}
    _begin(folder, plan, resume)
    watcher.message(f"loading {settings.model}")
    training, parts, base = _build(corpus, settings, seed, device, bf16)
    done, history = _restore(folder, training)
    watcher.message(
        f"{'going on after step ' + str(done) if done else 'training'} on {len(training.train) // 2} pairs of "
        f"{corpus.name} ({corpus.kind}), {'bf16 weights' if bf16 else 'fp32'}"
    )
    elapsed_s = history[-1]["seconds"] if history else 0.0
    while done < settings.steps and not _ended(history, settings):
        loss = training.step(done)
        done += 1
        watcher.step(done, settings.steps, loss)
        if done % settings.evaluate_every == 0 or done == settings.steps:
            margin_P = training.margins(training.validation)
            entry = _entry(done, loss, margin_P, elapsed_s + time.perf_counter() - started)
            if not history or entry["validation_loss"] < min(e["validation_loss"] for e in history):
                training.best = {name: t.clone() for name, t in training.adapters().items()}
            history.append(entry)
            _keep(folder, training, done, history)
            watcher.message(
                f"step {done}/{settings.steps}  loss {loss:.4f}  validation loss {entry['validation_loss']:.4f}, "
                f"accuracy {entry['validation_accuracy']:.1%}"
            )
    training.load(training.best)
    return _finish(folder, training, parts, corpus, plan, history, base)


def begin_training(
    kind: str | None, source: str, changed: Mapping[str, Any], out: Path, watcher: Watcher, seed: int, device: str
) -> dict[str, Any]:
    """Train with the default settings but for those `changed`, on the device of that name; returns reward.json.

    Raises: ConfigError if there is no such kind or device, and what `train_reward` raises.
    """
    if kind not in KINDS:
        raise ConfigError(f"--kind is {kind!r}; {nearest(str(kind), KINDS)}")
    chosen = _chosen(device)
    settings = RewardTraining(**changed)
    watcher.message(f"loading {source}")
    corpus = preference_corpus(source, kind, settings, seed)
    return train_reward(corpus, settings, out, watcher, seed, chosen, _use_bf16("auto", chosen), source=source)


def continue_training(out: Path, watcher: Watcher, device: str = "auto") -> dict[str, Any]:
    """Go on with the training in a folder to the end it would have had; returns its reward.json.

    Raises: RunFolderError if there is none, or it cannot be read.
    """
    plan = RunFolder(out).read_json(PLANNED)
    if plan is None:
        raise RunFolderError(f"{out} holds no training of a reward model (no {PLANNED}); start one without --resume")
    if (out / ABOUT).exists():
        watcher.message(f"{out} holds a finished reward model already")
        return read_about(out)
    try:
        settings = TypeAdapter(RewardTraining).validate_python(plan["training"])
        kind, source, seed = plan["kind"], plan["source"], plan["seed"]
    except (KeyError, TypeError, ValidationError) as error:
        raise RunFolderError(f"{out / PLANNED} is damaged or of another version; train into another folder") from error
    chosen = _chosen(device)
    corpus = preference_corpus(source, kind, settings, seed)
    return train_reward(corpus, settings, out, watcher, seed, chosen, _use_bf16("auto", chosen), True, source)


def _chosen(device: str) -> torch.device:
    if device not in DEVICES:
        raise ConfigError(f"--device is {device!r}; {nearest(device, DEVICES)}")
    return _device(device)


def preference_corpus(source: str, kind: PreferenceKind, training: RewardTraining, seed: int) -> PreferenceCorpus:
    """Pairs of a source: of the embedded concierge as many as the training can see, else all."""
    if source != "concierge":
        return load_preferences(source, kind, seed)
    wanted = training.train_pairs or training.steps * training.pairs_per_step
    validation, test = training.validation_pairs, training.test_pairs or CONCIERGE_TEST_PAIRS
    return concierge_preferences(kind, wanted, validation, test, seed)


def _begin(folder: RunFolder, plan: Mapping[str, Any], resume: bool) -> None:
    planned = folder.read_json(PLANNED)
    if not resume and planned is not None:
        raise RunFolderError(f"{folder.path} already holds a reward model; choose another --out, or --resume it")
    if resume and planned != plan:
        differing = next((key for key in plan if (planned or {}).get(key) != plan[key]), "plan")
        raise RunFolderError(f"{folder.path} was trained with another {differing}; repeat its options or start afresh")
    with explained(folder.path, "choose another place"):
        (folder.path / "checkpoints").mkdir(parents=True, exist_ok=True)
    folder.write_json(PLANNED, plan)


def _build(
    corpus: PreferenceCorpus, settings: RewardTraining, seed: int, device: torch.device | str, bf16: bool
) -> tuple[Training, dict[str, tuple[PreferencePair, ...]], ResolvedModel]:
    parts = {
        "train": _sample(corpus.train, settings.train_pairs, seed, "train"),
        "validation": _sample(corpus.validation, settings.validation_pairs, seed, "validation"),
        "test": _sample(corpus.test or corpus.validation, settings.test_pairs, seed, "test"),
    }
    if not parts["validation"]:
        raise DataError(f"{corpus.name} has no validation pairs; a reward model needs some to be measured on")
    backbone, tokenizer, base = reward_backbone(settings.model, settings.targets, device, bf16)
    longest = min(settings.max_tokens, backbone.max_tokens or settings.max_tokens)
    bank = reward_bank(backbone, settings.rank, settings.alpha, seed)
    model = RewardModel(f"{corpus.kind} on {corpus.name}", backbone, tokenizer, bank, longest)
    optimiser = StackedOptimiser(bank, AdamW(learning_rate=settings.learning_rate))
    train, validation = (tokenise_pairs(parts[name], tokenizer, longest) for name in ("train", "validation"))
    return Training(settings, model, optimiser, train, validation, seed, {}), parts, base


def _sample(pairs: tuple[PreferencePair, ...], count: int | None, seed: int, part: str) -> tuple[PreferencePair, ...]:
    if count is None or count >= len(pairs):
        return pairs
    chosen = stream(seed, f"sample {part} pairs").permutation(len(pairs))[:count]
    return tuple(pairs[i] for i in sorted(chosen))


def _entry(step: int, loss: float, margin_P: np.ndarray, seconds: float) -> dict[str, float]:
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


def share_right(margin_P: np.ndarray) -> Accuracy:
    """How many pairs have a higher reward for the chosen answer; a tie counts half."""
    return Accuracy(float((margin_P > 0).sum() + 0.5 * (margin_P == 0).sum()), len(margin_P))


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

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}

    training.load(part("adapter."))
    device = training.model.backbone.device
    training.best = {name: t.to(device) for name, t in part("best.").items()}
    training.optimiser.load_state(part("optimiser."))
    return done, [entry for entry in folder.read_json(PROGRESS) or [] if entry["step"] <= done]


def _finish(
    folder: RunFolder,
    training: Training,
    parts: Mapping[str, tuple[PreferencePair, ...]],
    corpus: PreferenceCorpus,
    plan: Mapping[str, Any],
    history: list[dict[str, float]],
    base: ResolvedModel,
) -> dict[str, Any]:
    model, settings = training.model, training.settings
    tested = tokenise_pairs(parts["test"], model.tokenizer, model.max_tokens)
    accuracy = share_right(training.margins(tested))
    low, high = accuracy.interval
    truth = correlation_with_truth(model, plan["seed"]) if plan["source"] == "concierge" else None
    losses = [entry["validation_loss"] for entry in history]
    about = {
        "kind": corpus.kind,
        "model": base.name if base.name == settings.model else str(base.folder),
        "model_note": base.note,
        "targets": sorted({s.name.rsplit(".", 1)[-1] for s in model.bank.sites if s.kind == "lora"}),
        "rank": settings.rank,
        "alpha": settings.alpha,
        "max_tokens": model.max_tokens,
        "data": {"name": corpus.name, "notes": list(corpus.notes)}
        | {f"{name}_pairs": len(pairs) for name, pairs in parts.items()}
        | {"truncated_prompts": tested.truncated_prompts, "truncated_answers": tested.truncated_answers},
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
        "command": shlex.join(["wavetune", *sys.argv[1:]]),
    }
    with explained(folder.path):
        save_reward(folder.path, model.backbone, model.bank, str(base.folder), about)
    shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
    return about
