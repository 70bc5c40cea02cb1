"""The second stage of a run: local alignment of every client, judged on held-out prompts, saved like the rounds.

Legend: K clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from wavetune.costs.table import Workload
from wavetune.costs.workload import split_work
from wavetune.data.concierge_truth import helpful, safe
from wavetune.data.examples import Example
from wavetune.data.partition import split_alike
from wavetune.data.preferences import load_preferences
from wavetune.data.settings import DataSettings, PreparedData
from wavetune.data.templates import prompt_ids
from wavetune.errors import DataError
from wavetune.federation.alignment import Alignment, ClientPairs, Evaluation, Rewards
from wavetune.federation.alignment.evaluation import Scores, foreign_prompts
from wavetune.federation.local_alignment import LocalAlignment
from wavetune.models.backbone import Backbone
from wavetune.models.lora import AdapterBank
from wavetune.recipe import Recipe
from wavetune.records.alignment import AlignmentInfo, AlignmentMeasured, Answers, ByName, Charged, Gain, HeldOut
from wavetune.records.rounds import Lost
from wavetune.runtimes.rewards import CONCIERGE, check_rewards, open_rewards
from wavetune.runtimes.session import Session
from wavetune.seeds import stream

Prompts = tuple[tuple[Example, ...], ...]


@dataclass(frozen=True)
class Task:
    """What all clients of a run learn from and are judged on, a tuple's entry for each."""

    settings: LocalAlignment
    lambdas: tuple[float, ...]
    prompts: Prompts
    own: Prompts  # held out
    foreign: Prompts  # held out, of domains that the client has none of; may be empty
    prompt_tokens_K: tuple[float, ...]  # mean length of the training prompts


@dataclass(frozen=True)
class Stepped:
    """What a step of alignment was like for each client, by name; on devices, who did not take it and what it took."""

    metrics: ByName
    lost: tuple[Lost, ...] | None = None
    measured: AlignmentMeasured = field(default_factory=AlignmentMeasured)


class Stage(Protocol):
    """Alignment of a run's clients, wherever it happens."""

    def advance(self, steps: int, evaluate: bool) -> tuple[Stepped, Evaluation | None]:
        """Have so many steps done; what the last was like and, if asked for, scores of held-out prompts."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds of it beside the adapters."""
        ...


@dataclass
class StageHere:
    """Alignment of some of a run's clients in this process."""

    task: Task
    clients: Sequence[int]
    alignment: Alignment
    last: Stepped = field(default_factory=lambda: Stepped({}))

    def advance(self, steps: int, evaluate: bool) -> tuple[Stepped, Evaluation | None]:
        """Take the steps that are missing; what the last was like, and if asked for the scores of held-out prompts."""
        while self.alignment.steps_done < steps:
            metrics = self.alignment.step().metrics
            self.last = Stepped({name: tuple(values_K.tolist()) for name, values_K in metrics.items()})
        if not evaluate:
            return self.last, None
        own, foreign = ([part[k] for k in self.clients] for part in (self.task.own, self.task.foreign))
        return self.last, self.alignment.evaluate(own, foreign if all(self.task.foreign) else None)

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds of the stage beside the adapters."""
        return {f"alignment.{name}": tensor for name, tensor in self.alignment.state().items()}

    def load_state(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Continue from a checkpoint of the stage; from its start if there is none."""
        own = {n.removeprefix("alignment."): t for n, t in saved.items() if n.startswith("alignment.")}
        if own:
            self.alignment.load_state(own)


Say = Callable[[str], None]


class Watcher:
    """A reward model's training, told as messages."""

    def __init__(self, say: Say) -> None:
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
    recipe = session.recipe
    data = recipe.world.data
    check_rewards((settings.helpful, settings.safe), data.source, recipe.run.seed, data.columns)
    task_of(recipe, session.data, session.tokenizer)
    example = session.data.corpus.train[session.data.train.example_index[0]]
    for part in (settings.helpful, settings.safe):
        part.try_out([example], [example.answer])


def task_of(recipe: Recipe, data: PreparedData, tokenizer: Any) -> Task:
    """The task of every client. Raises DataError if there is nothing to judge them on."""
    settings, template = recipe.method.alignment, recipe.world.data.template
    assert settings is not None
    examples = [data.corpus.train[i] for i in data.train.example_index]
    prompts = tuple(_distinct(examples[row] for row in rows) for rows in data.rows_by_client)
    own = held_out(data, settings.held_out_prompts, recipe.run.seed)
    room = settings.learning.max_prompt_tokens
    lengths = ([len(ids) for ids in prompt_ids(part, tokenizer, template, room)] for part in prompts)
    return Task(
        settings,
        tuple(settings.lambda_of(client) for client in range(len(data.rows_by_client))),
        prompts,
        own,
        foreign_prompts(own, -(-settings.held_out_prompts // 3), recipe.run.seed),
        tuple(float(np.mean(own_lengths)) for own_lengths in lengths),
    )


def begin(session: Session, task: Task, folder: Path, saved: Mapping[str, torch.Tensor], say: Say) -> StageHere:
    """Set the stage up for all clients, from where a checkpoint left it; rewards are in the folder or trained into it.

    Raises as the parts do.
    """
    cohort = session.cohort
    rewards = rewards_of(session.recipe, task, folder, cohort.backbone, say)
    clients = range(cohort.placement.num_clients)
    parts = session.recipe, session.data, task, clients, cohort.backbone, cohort.bank, session.tokenizer, rewards
    return stage_of(*parts, cohort.tokens_per_pass, saved)


def rewards_of(recipe: Recipe, task: Task, folder: Path, backbone: Backbone, say: Say) -> Rewards:
    """Both rewards, and the true scores where they are known. Raises as the parts do."""
    source, parts = recipe.world.data.source, (task.settings.helpful, task.settings.safe)
    columns = recipe.world.data.columns
    scores = open_rewards(parts, source, folder, Watcher(say), recipe.run.seed, backbone.device, columns=columns)
    known = {"helpful": helpful, "safe": safe} if source == CONCIERGE else {}
    return Rewards(scores[0].score, scores[1].score, known)


def stage_of(
    recipe: Recipe,
    data: PreparedData,
    task: Task,
    clients: Sequence[int],
    backbone: Backbone,
    bank: AdapterBank,
    tokenizer: Any,
    rewards: Rewards,
    tokens_per_pass: int,
    saved: Mapping[str, torch.Tensor],
) -> StageHere:
    """Alignment of some clients, whose adapters the bank holds; their positions in it are those in `clients`."""
    seed, learning = recipe.run.seed, task.settings.learning
    from_pairs = learning.objective.learns_from == "pairs"
    pairs = _pairs(data, clients, recipe.world.data, seed) if from_pairs else ()
    alignment = Alignment(
        backbone,
        bank,
        tokenizer,
        [task.prompts[k] for k in clients],
        [task.lambdas[k] for k in clients],
        rewards,
        learning,
        seed,
        client_ids=clients,
        template=recipe.world.data.template,
        pairs_by_client=pairs,
        tokens_per_pass=tokens_per_pass,
    )
    stage = StageHere(task, clients, alignment)
    stage.load_state(saved)
    return stage


def _distinct(examples: Any) -> tuple[Example, ...]:
    return tuple({example.prompt: example for example in examples}.values())


def held_out(data: PreparedData, count: int, seed: int) -> Prompts:
    """Validation prompts of each client's own domains, in the shares in which it holds them."""
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


def _pairs(data: PreparedData, clients: Sequence[int], read: DataSettings, seed: int) -> tuple[ClientPairs, ...]:
    """Clients' preference pairs of both kinds: each pair is one client's, in the shares in which domains are held."""
    kinds = [load_preferences(read.source, kind, seed, read.columns).train for kind in ("helpful", "harmless")]
    held_K = [data.domains_of(client) for client in range(len(data.rows_by_client))]
    rows = [split_alike([pair.domain for pair in pairs], held_K, seed) for pairs in kinds]
    return tuple(
        ClientPairs(*(tuple(pairs[i] for i in own[client]) for pairs, own in zip(kinds, rows, strict=True)))
        for client in clients
    )


def held_out_of(evaluation: Evaluation) -> HeldOut:
    """Every client's prompts, answers and scores, on own and foreign domains."""
    return HeldOut(
        *(
            tuple(
                Answers(one.prompts, one.texts, {name: tuple(values.tolist()) for name, values in one.by_name.items()})
                for one in part
            )
            for part in (evaluation.own, evaluation.foreign)
        )
    )


def from_json(values: Mapping[str, Any]) -> Evaluation:
    """An evaluation whose `held_out_of` was written."""
    parts = {
        part: tuple(
            Scores(tuple(c["prompts"]), tuple(c["answers"]), {n: np.array(v) for n, v in c["scores"].items()})
            for c in values[part]
        )
        for part in ("own", "foreign")
    }
    return Evaluation(**parts)


def charge(session: Session, task: Task, metrics: ByName) -> Charged:
    """Seconds and joules of a step: the slowest client's and all clients' computing. Nothing is sent.

    Counted are the policy's passes: answering, measuring with and without LoRA, and every epoch's forward and backward
    pass; the answers to a prompt share its tokens. Scoring by the reward models is not. DPO's answers are counted at
    their longest.
    """
    learning, planner = task.settings.learning, session.planner
    epochs = learning.objective.epochs
    prompts, answers, prompt_K = learning.prompts_per_step, learning.answers_per_step, np.array(task.prompt_tokens_K)
    answer_K = np.array(metrics.get("answer_tokens", [learning.max_new_tokens] * len(prompt_K)), float)
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
    flop_K[np.isnan(answer_K)] = 0.0
    return Charged(float(np.max(flop_K / speed_K)), float(flop_K @ price_K))


def summary(task: Task, before: Evaluation, after: Evaluation) -> AlignmentInfo:
    """What the stage came to, for a run's summary: scores before and after, and each client's gain in its own mixture.

    A gain is in standard deviations of all answers before, so that both rewards count alike.
    """
    gains = after.mixed_gain(before, task.lambdas)
    return AlignmentInfo(
        lambdas=task.lambdas,
        objective=task.settings.learning.objective.kind,
        steps=task.settings.learning.steps,
        before=by_name(before, task.lambdas, before.scale()),
        after=by_name(after, task.lambdas, before.scale()),
        scale=before.scale(),
        mixed_gain_K=tuple(Gain(*gain) for gain in gains),
    )


def by_name(evaluation: Evaluation, lambdas: Sequence[float], scale: Mapping[str, float]) -> ByName:
    """Means of every score of each client's answers to own prompts, and of its mixtures.

    The rewards are in their own units, and mixed in those of `scale` (a reward without any spread in its own); exact
    scores, all from 0 to 1, as they are.
    """
    names = sorted({name for scores in evaluation.own for name in scores.by_name})
    found = {f"{name}_K": np.array([scores.mean(name)[0] for scores in evaluation.own]) for name in names}
    lambda_K = np.array(lambdas)
    exact = {"true_helpful": 1.0, "true_safe": 1.0}
    for name, (helps, guards), units in (
        ("mixed_reward_K", ("helpful", "safe"), scale),
        ("true_mixed_K", ("true_helpful", "true_safe"), exact),
    ):
        if f"{helps}_K" in found:
            found[name] = lambda_K * found[f"{helps}_K"] / (units[helps] or 1.0)
            found[name] += (1 - lambda_K) * found[f"{guards}_K"] / (units[guards] or 1.0)
    return {name: tuple(values_K.tolist()) for name, values_K in found.items()}
