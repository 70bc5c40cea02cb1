"""What every client of a run learns in its local alignment, and what it is judged on.

Legend: K clients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavetune.data.concierge_truth import helpful, safe
from wavetune.data.examples import Example
from wavetune.data.partition import split_alike
from wavetune.data.preferences import load_preferences
from wavetune.data.settings import DataSettings, PreparedData
from wavetune.data.templates import prompt_ids
from wavetune.errors import DataError
from wavetune.federation.alignment import Client, ClientPairs, Rewards
from wavetune.federation.alignment.evaluation import foreign_prompts
from wavetune.federation.local_alignment import LocalAlignment
from wavetune.federation.rewards import EmbeddedReward, RewardPart, RewardTraining
from wavetune.recipe import Recipe
from wavetune.runtimes.rewards import CONCIERGE, RewardFolder, Say, check_rewards, read_files
from wavetune.runtimes.session import Session
from wavetune.seeds import stream

Prompts = tuple[tuple[Example, ...], ...]


@dataclass(frozen=True)
class Task:
    """What all clients of a run learn from and are judged on, a tuple's entry for each."""

    recipe: Recipe
    data: PreparedData
    tokenizer: Any
    settings: LocalAlignment
    lambdas: tuple[float, ...]
    prompts: Prompts
    own: Prompts  # held out
    foreign: Prompts  # held out, of domains that the client has none of; may be empty
    prompt_tokens_K: tuple[float, ...]  # mean length of the training prompts

    @property
    def asked_foreign(self) -> Prompts:
        """The held-out prompts of foreign domains, where every client has some; else none."""
        return self.foreign if all(self.foreign) else ()


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
        recipe,
        data,
        tokenizer,
        settings,
        tuple(settings.lambda_of(client) for client in range(len(data.rows_by_client))),
        prompts,
        own,
        foreign_prompts(own, -(-settings.held_out_prompts // 3), recipe.run.seed),
        tuple(float(np.mean(own_lengths)) for own_lengths in lengths),
    )


def checked_task(session: Session) -> Task | None:
    """The task of a session's clients, None without alignment.

    Raises before anything is trained what would fail after the federated rounds.
    """
    recipe = session.recipe
    settings, read = recipe.method.alignment, recipe.world.data
    if settings is None:
        return None
    check_rewards(_parts(recipe), read.source, recipe.run.seed, read.columns)
    task = task_of(recipe, session.data, session.tokenizer)
    example = session.data.corpus.train[session.data.train.example_index[0]]
    for part in _parts(recipe):
        part.try_out([example], [example.answer])
    return task


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


def pairs_of(data: PreparedData, clients: Sequence[int], read: DataSettings, seed: int) -> tuple[ClientPairs, ...]:
    """Clients' preference pairs of both kinds: each pair is one client's, in the shares in which domains are held."""
    kinds = [load_preferences(read.source, kind, seed, read.columns).train for kind in ("helpful", "harmless")]
    held_K = [data.domains_of(client) for client in range(len(data.rows_by_client))]
    rows = [split_alike([pair.domain for pair in pairs], held_K, seed) for pairs in kinds]
    return tuple(
        ClientPairs(*(tuple(pairs[i] for i in own[client]) for pairs, own in zip(kinds, rows, strict=True)))
        for client in clients
    )


@dataclass(frozen=True)
class Share:
    """What some clients of a task learn from and are judged on; `foreign` is empty where a client of the run has no
    such prompts.
    """

    clients: tuple[Client, ...]
    own: Prompts
    foreign: Prompts


def share_of(task: Task, clients: Sequence[int]) -> Share:
    """The share of these clients in a task, in their order."""
    read, from_pairs = task.recipe.world.data, task.settings.learning.objective.learns_from == "pairs"
    pairs = pairs_of(task.data, clients, read, task.recipe.run.seed) if from_pairs else [ClientPairs() for _ in clients]
    wishes = (Client(k, task.lambdas[k], task.prompts[k], own) for k, own in zip(clients, pairs, strict=True))
    own, foreign = (tuple(part[k] for k in clients if part) for part in (task.own, task.asked_foreign))
    return Share(tuple(wishes), own, foreign)


def rewards_of(recipe: Recipe, path: Path, device: torch.device, say: Say) -> Rewards:
    """Both rewards of a recipe, opened from a folder or trained into it, and the true scores where they are known.

    Raises as the parts do.
    """
    folder = _folder(recipe, path, device, say)
    scores = folder.open(_parts(recipe))
    known = {"helpful": helpful, "safe": safe} if folder.source == CONCIERGE else {}
    return Rewards(scores[0].score, scores[1].score, known)


def trained_files(recipe: Recipe, path: Path, device: torch.device, say: Say) -> dict[str, dict[str, bytes]]:
    """The files of the rewards that a recipe embeds, by name, for those who are to open them elsewhere.

    What is not in the folder is trained into it. Raises as the parts do.
    """
    folder, found = _folder(recipe, path, device, say), dict[str, dict[str, bytes]]()

    def train(part: EmbeddedReward) -> Path:
        own = folder.train(part)
        found[part.preference] = read_files(own)
        return own

    for part in _parts(recipe):
        part.trained_by(train)
    return found


def trainings(recipe: Recipe) -> dict[str, RewardTraining]:
    """How the rewards that a recipe embeds are trained, by name."""
    found = dict[str, RewardTraining]()

    def note(part: EmbeddedReward) -> Path:
        found[part.preference] = part.training
        return Path()

    for part in _parts(recipe):
        part.trained_by(note)
    return found


def _folder(recipe: Recipe, path: Path, device: torch.device, say: Say) -> RewardFolder:
    read = recipe.world.data
    return RewardFolder(path, read.source, say, recipe.run.seed, device, read.columns)


def _parts(recipe: Recipe) -> tuple[RewardPart, RewardPart]:
    """The helpful and the safe one."""
    settings = recipe.method.alignment
    assert settings is not None
    return settings.helpful, settings.safe
