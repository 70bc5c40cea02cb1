"""The second stage of a run: local alignment of every client, evaluated on held-out prompts, saved like the rounds.

Legend: K clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavetune.costs.table import Workload
from wavetune.costs.workload import split_work
from wavetune.data.concierge_truth import helpful, safe
from wavetune.data.examples import Example
from wavetune.data.preferences import load_preferences
from wavetune.errors import DataError
from wavetune.federation.alignment import Alignment, ClientPairs, Evaluation, Rewards
from wavetune.federation.alignment.evaluation import Scores, foreign_prompts
from wavetune.federation.local_alignment import LocalAlignment
from wavetune.federation.objectives import Dpo
from wavetune.runtimes.rewards import CONCIERGE, check_rewards, open_rewards
from wavetune.runtimes.session import Session
from wavetune.seeds import stream

Prompts = tuple[tuple[Example, ...], ...]


@dataclass
class Stage:
    """Alignment of a session's clients and the held-out prompts that they are judged on."""

    settings: LocalAlignment
    alignment: Alignment
    lambdas: tuple[float, ...]
    own: Prompts
    foreign: Prompts
    prompt_tokens_K: tuple[float, ...]  # mean length of the training prompts

    def evaluate(self) -> Evaluation:
        """Answers of all clients to their held-out prompts, scored."""
        return self.alignment.evaluate(self.own, self.foreign if all(self.foreign) else None)


class _Watcher:
    """A reward model's training, told as messages."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def message(self, text: str) -> None:
        """Told as it is."""
        self.say(text)

    def step(self, done: int, steps: int, loss: float) -> None:
        """A line a quarter is enough."""
        if done % max(1, steps // 4) == 0:
            self.say(f"  reward model: step {done} of {steps}, loss {loss:.3f}")


def check(session: Session, settings: LocalAlignment) -> None:
    """Raise before anything is trained what `begin` would raise after the federated rounds."""
    source, seed = session.recipe.world.data.source, session.recipe.run.seed
    check_rewards((settings.helpful, settings.safe), source, seed)
    _held_out(session, settings.held_out_prompts)


def begin(session: Session, settings: LocalAlignment, folder: Path, say: Callable[[str], None]) -> Stage:
    """Open or train the rewards and set the stage up. Raises as the parts do."""
    recipe, data, cohort = session.recipe, session.data, session.cohort
    source, seed, learning = recipe.world.data.source, recipe.run.seed, settings.learning
    clients = range(cohort.placement.num_clients)
    scores = open_rewards(
        (settings.helpful, settings.safe), source, folder, _Watcher(say), seed, cohort.backbone.device
    )
    known = {"helpful": helpful, "safe": safe} if source == CONCIERGE else {}
    rewards = Rewards(scores[0].score, scores[1].score, known)
    examples = [data.corpus.train[i] for i in data.train.example_index]
    lambdas = tuple(settings.lambda_of(client) for client in clients)
    alignment = Alignment(
        cohort.backbone,
        cohort.bank,
        session.tokenizer,
        [_distinct(examples[row] for row in data.rows_by_client[client]) for client in clients],
        lambdas,
        rewards,
        learning,
        seed,
        template=recipe.world.data.template,
        pairs_by_client=_pairs(session, source, seed) if isinstance(learning.objective, Dpo) else (),
        tokens_per_pass=cohort.tokens_per_pass,
    )
    own = _held_out(session, settings.held_out_prompts)
    foreign = foreign_prompts(own, -(-settings.held_out_prompts // 3), seed)
    lengths = (
        float(np.mean([len(ids) for ids in alignment.learner.prompt_ids(prompts)]))
        for prompts in alignment.prompts_by_client
    )
    return Stage(settings, alignment, lambdas, own, foreign, tuple(lengths))


def _distinct(examples: Any) -> tuple[Example, ...]:
    return tuple({example.prompt: example for example in examples}.values())


def _held_out(session: Session, count: int) -> Prompts:
    """Validation prompts of each client's own domains, in the shares in which it holds them."""
    data, seed = session.data, session.recipe.run.seed
    trained = {example.prompt for example in data.corpus.train}
    pool = _distinct(e for e in data.corpus.validation if e.prompt not in trained)
    if not pool:
        raise DataError("no validation prompt is left that is not also trained on; give the data a validation part")
    chosen: list[tuple[Example, ...]] = []
    for client in range(len(data.rows_by_client)):
        held = data.domains_of(client)
        weights = np.array([held.get(example.domain, 0) for example in pool], float)
        candidates = int((weights > 0).sum())
        if not candidates:
            weights, candidates = np.ones(len(pool)), len(pool)
        draw = stream(seed, "held-out prompts", 0, client)
        rows = draw.choice(len(pool), min(count, candidates), replace=False, p=weights / weights.sum())
        chosen.append(tuple(pool[row] for row in sorted(rows.tolist())))
    return tuple(chosen)


def _pairs(session: Session, source: str, seed: int) -> tuple[ClientPairs, ...]:
    """Every client's preference pairs of both kinds: those of its domains, all where it has none of its own."""
    kinds = [load_preferences(source, kind, seed).train for kind in ("helpful", "harmless")]
    found: list[ClientPairs] = []
    for client in range(len(session.data.rows_by_client)):
        domains = session.data.domains_of(client)
        own = (tuple(p for p in pairs if p.domain in domains) or pairs for pairs in kinds)
        found.append(ClientPairs(*own))
    return tuple(found)


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Every client's prompts, answers and scores, on own and foreign domains."""
    return {
        part: [
            {
                "prompts": list(one.prompts),
                "answers": list(one.texts),
                "scores": {name: values.tolist() for name, values in one.by_name.items()},
            }
            for one in getattr(evaluation, part)
        ]
        for part in ("own", "foreign")
    }


def from_json(values: Mapping[str, Any]) -> Evaluation:
    """What `to_json` wrote."""
    parts = {
        part: tuple(
            Scores(tuple(c["prompts"]), tuple(c["answers"]), {n: np.array(v) for n, v in c["scores"].items()})
            for c in values[part]
        )
        for part in ("own", "foreign")
    }
    return Evaluation(**parts)


def charge(session: Session, stage: Stage, record: Mapping[str, Any]) -> dict[str, float]:
    """Seconds and joules of a step: the slowest client's and all clients' computing. Nothing is sent.

    Counted are the policy's passes: answering, measuring with and without LoRA, and every epoch's forward and backward
    pass; the answers to a prompt share its tokens. Scoring by the reward models is not. DPO's answers are counted at
    their longest.
    """
    learning, planner = stage.settings.learning, session.planner
    epochs = 1 if isinstance(learning.objective, Dpo) else learning.objective.epochs
    prompts, answers, prompt_K = learning.prompts_per_step, learning.answers_per_step, np.array(stage.prompt_tokens_K)
    answer_K = np.array(record.get("answer_tokens", [learning.max_new_tokens] * len(prompt_K)), float)
    work = split_work(
        planner.table,
        planner.table.num_layers,
        np.array(session.rank_K),
        0,
        Workload(
            answers,
            prompts * prompt_K + answers * answer_K,
            prompts * prompt_K**2 + answers * ((prompt_K + answer_K) ** 2 - prompt_K**2),
            answers * answer_K,
        ),
    )
    flop_K = (3 + epochs) * work.client_forward_flop_K + epochs * work.client_backward_flop_K
    speed_K = np.array([device.flop_per_s for device in planner.devices])
    price_K = np.array([device.energy_j_per_flop for device in planner.devices])
    return {"delay_s": float(np.max(flop_K / speed_K)), "energy_j": float(flop_K @ price_K)}


def summary(stage: Stage, before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """What the stage came to, for a run's summary: scores before and after, and each client's gain in its own mixture.

    A gain is in standard deviations of all answers before, so that both rewards count alike.
    """
    gains = after.mixed_gain(before, stage.lambdas)
    return {
        "lambdas": list(stage.lambdas),
        "objective": stage.settings.learning.objective.kind,
        "steps": stage.settings.learning.steps,
        "before": by_name(before, stage.lambdas),
        "after": by_name(after, stage.lambdas),
        "mixed_gain_K": [{"mean": mean, "half_width_95": half if half == half else None} for mean, half in gains],
    }


def by_name(evaluation: Evaluation, lambdas: Sequence[float]) -> dict[str, list[float]]:
    """Means of every score of each client's answers to own prompts, and of its mixture, in the scores' own units."""
    found = {f"{name}_K": [s.mean(name)[0] for s in evaluation.own] for name in evaluation.own[0].by_name}
    for name, prefix in (("mixed_reward_K", ""), ("true_mixed_K", "true_")):
        if f"{prefix}helpful_K" in found:
            pairs = zip(lambdas, found[f"{prefix}helpful_K"], found[f"{prefix}safe_K"], strict=True)
            found[name] = [weight * first + (1 - weight) * second for weight, first, second in pairs]
    return found


def state_of(alignment: Alignment) -> dict[str, torch.Tensor]:
    """What a checkpoint holds of the stage beside the adapters."""
    return {f"alignment.{name}": tensor for name, tensor in alignment.state().items()}


def restore(alignment: Alignment, saved: Mapping[str, torch.Tensor]) -> None:
    """Continue from a checkpoint of the stage; from its start if there is none."""
    own = {n.removeprefix("alignment."): t for n, t in saved.items() if n.startswith("alignment.")}
    if own:
        alignment.load_state(own)
