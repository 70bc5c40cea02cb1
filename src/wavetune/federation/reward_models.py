"""Rewards that are models: one trained here (LoRA and a head on a frozen backbone), or a stock sequence classifier.

Legend: N answers, C classes.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch and transformers leave parts of their types open)

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import torch

from wavetune.costs.operations import ALL_LINEAR
from wavetune.data.answer_rows import answer_rows
from wavetune.data.batching import runs_by_length
from wavetune.data.examples import Example
from wavetune.errors import ConfigError, ModelError, nearest
from wavetune.federation.answer_scores import check_finite
from wavetune.models.backbone import (
    Backbone,
    is_encoder,
    load_stock_model,
    load_tokenizer,
    opened_as,
    prepare_backbone,
)
from wavetune.models.lora import AdapterBank
from wavetune.models.quiet import no_progress_bars
from wavetune.models.resolve import ResolvedModel, resolve_model
from wavetune.models.reward import load_reward, read_about, rewards_of
from wavetune.models.stock import LOCAL
from wavetune.units import Array

_TOKENS_PER_PASS, _TOKENS_THERE = 1024, 4096  # of answers of similar length, on a CPU and on an accelerator


@dataclass(frozen=True)
class RewardModel:
    """A reward model in memory."""

    name: str
    backbone: Backbone
    tokenizer: Any
    bank: AdapterBank
    max_tokens: int

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> Array:
        """Reward of each answer, [N]; short ones go through the model first, whatever the order."""
        prompts = [example.prompt for example in examples]
        rows, _, _ = answer_rows(prompts, answers, self.tokenizer, self.max_tokens)
        return check_finite(self.score_rows(rows), f"reward {self.name}", answers)

    @torch.no_grad()
    def score_rows(self, rows: Sequence[Sequence[int]]) -> Array:
        """Reward of each row of token ids, [N]."""
        scores = np.empty(len(rows))
        for group in runs_by_length([len(row) for row in rows], tokens_per_pass(self.backbone.device)):
            ids = torch.tensor([token for i in group for token in rows[i]])
            rewards = rewards_of(self.backbone, self.bank, ids, [len(rows[i]) for i in group])
            scores[group] = rewards.double().cpu().numpy()
        return scores


def tokens_per_pass(device: torch.device) -> int:
    """Tokens of answers that go through a reward model at once. More are slower where they leave the cache."""
    return _TOKENS_PER_PASS if device.type == "cpu" else _TOKENS_THERE


def reward_backbone(
    model: str, targets: Sequence[str] | None, device: torch.device | str, bf16: bool
) -> tuple[Backbone, Any, ResolvedModel]:
    """A frozen model with a scalar head, its tokenizer and where it is from; loaded once for rewards that share it.

    Each thread has its own, as a pass that goes on is noted in the model.

    LoRA goes on `targets`; by default on all linear maps of an encoder's blocks, and where PEFT puts it in a decoder.
    """
    resolved = resolve_model(model)
    return (*_loaded(resolved.folder, tuple(targets or ()), str(device), bf16, get_ident()), resolved)


@lru_cache(maxsize=2)
def _loaded(folder: Path, targets: tuple[str, ...], device: str, bf16: bool, _thread: int) -> tuple[Backbone, Any]:
    stock = load_stock_model(folder, opened_as(folder, torch.float32, bf16), predicts=False)
    chosen = targets or (ALL_LINEAR if is_encoder(stock.config) else None)
    return prepare_backbone(stock, chosen, bf16, device, outputs=1), load_tokenizer(folder)


def open_trained(folder: Path, device: torch.device | str, bf16: bool) -> RewardModel:
    """The reward model of a folder. Raises ModelError if there is none or it does not fit its base model."""
    about = read_about(folder)
    try:
        model, targets, max_tokens = str(about["model"]), tuple(about["targets"]), int(about["max_tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / 'reward.json'} is incomplete ({error}): train the reward model again") from error
    backbone, tokenizer, _ = reward_backbone(model, targets, device, bf16)
    return RewardModel(folder.name, backbone, tokenizer, load_reward(folder, backbone, about), max_tokens)


@dataclass(frozen=True)
class StockClassifier:
    """A stock sequence classifier in memory; `output` is the class whose log-odds count, None if there is but one."""

    name: str
    model: Any
    tokenizer: Any
    output: int | None
    reads: str

    @torch.no_grad()
    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> Array:
        """Log-odds of the class for each answer, or the model's one output, [N]."""
        texts = [list(answers)] if self.reads == "answer" else [[e.prompt for e in examples], list(answers)]
        room = min(getattr(self.model.config, "max_position_embeddings", None) or 512, 512)
        keep = {"truncation": True if self.reads == "answer" else "only_first", "max_length": room}
        try:
            lengths = [len(ids) for ids in self.tokenizer(*texts, **keep)["input_ids"]]
        except Exception as error:  # an answer alone is longer than the model takes
            raise ConfigError(f"reward {self.name} takes {room} tokens and an answer has more ({error})") from error
        scores = np.empty(len(answers))
        pads = None not in (self.tokenizer.pad_token_id, self.model.config.pad_token_id)
        for group in runs_by_length(lengths, tokens_per_pass(self.model.device) if pads else 1):
            part = [[column[i] for i in group] for column in texts]
            inputs = self.tokenizer(*part, **keep, padding=pads, return_tensors="pt").to(self.model.device)
            logits_NC = self.model(**inputs).logits.double().cpu()
            scores[group] = (logits_NC[:, 0] if self.output is None else _log_odds(logits_NC, self.output)).numpy()
        return check_finite(scores, f"reward {self.name}", answers)


def _log_odds(logits_NC: torch.Tensor, label: int) -> torch.Tensor:
    others = [c for c in range(logits_NC.shape[1]) if c != label]
    return logits_NC[:, label] - logits_NC[:, others].logsumexp(1)


def open_classifier(name: str, label: str | None, reads: str, device: torch.device | str) -> StockClassifier:
    """A stock classifier from a folder or the hub.

    Raises: ModelError if it cannot be loaded or is no classifier, ConfigError if it has no such label.
    """
    from transformers import AutoModelForSequenceClassification

    folder = resolve_model(name).folder
    try:
        with no_progress_bars():
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                str(folder), dtype=torch.float32, use_safetensors=True, output_loading_info=True, **LOCAL
            )
    except Exception as error:
        raise ModelError(f"cannot load a sequence classifier from {folder}: {error}") from error
    model, info = loaded
    if info["missing_keys"]:
        raise ModelError(f"{folder} is no sequence classifier: it holds no weights for {min(info['missing_keys'])}")
    return StockClassifier(
        name, model.eval().to(device), load_tokenizer(folder), _output(model.config, name, label), reads
    )


def _output(config: Any, name: str, label: str | None) -> int | None:
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    if len(names) == 1:
        return None
    if label not in names:
        raise ConfigError(f"{name} has no label {label!r}; {nearest(str(label), names)}")
    return names.index(label)
