"""How good each client's answers to held-out prompts are, by every score.

Legend: K clients, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wavetune.data.examples import Example
from wavetune.errors import ConfigError
from wavetune.estimate import Estimate
from wavetune.federation.alignment.answers import answers_of
from wavetune.federation.alignment.learner import Learner
from wavetune.federation.alignment.rewards import MIXED, Rewards
from wavetune.seeds import stream

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """One client's answers to some prompts, and every score of each answer: name -> `[S]`.

    Of a client on a device of its own there are no texts, and no scores where it did not report.
    """

    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    by_name: dict[str, Floats]

    def mean(self, name: str) -> tuple[float, float]:
        """Mean of a score, and half the width of its 95 % confidence interval; NaN where they are not known."""
        found = Estimate.of(self.by_name.get(name, np.empty(0)).tolist())
        return found.mean, found.half_width


@dataclass(frozen=True)
class Evaluation:
    """Scores of every client, on prompts of its own domains and, where asked for, of foreign ones."""

    own: tuple[Scores, ...]
    foreign: tuple[Scores, ...] = ()

    def scale(self) -> dict[str, float]:
        """Standard deviation of either reward over all clients' answers to their own prompts; 0 where none is known."""
        known = [scores.by_name for scores in self.own if scores.by_name]
        return {name: float(np.concatenate([s[name] for s in known]).std()) if known else 0.0 for name in MIXED}

    def mixed_gain(self, before: Evaluation, lambdas: Sequence[float]) -> list[tuple[float, float]]:
        """By how much each client's mixture of rewards on its own prompts has risen, with half its 95 % interval.

        Both rewards are in standard deviations of all clients' answers before; prompts are compared one by one.
        """
        gains: list[tuple[float, float]] = []
        scale = before.scale()
        for weight, was, now in zip(lambdas, before.own, self.own, strict=True):
            if not (was.by_name and now.by_name):
                gains.append((float("nan"), float("nan")))
                continue
            gain_S = np.zeros(len(now.prompts))
            for name, share in zip(MIXED, (weight, 1 - weight), strict=True):
                gain_S += share * (now.by_name[name] - was.by_name[name]) / max(scale[name], 1e-8)
            gains.append(Scores(now.prompts, now.texts, {"gain": gain_S}).mean("gain"))
        return gains


def evaluation_of(
    learner: Learner, rewards: Rewards, parts: Mapping[str, Sequence[Sequence[Example]]], temperature: float | None
) -> Evaluation:
    """All clients' answers to their lists of prompts, `own` and possibly `foreign`, scored."""
    found: dict[str, tuple[Scores, ...]] = {}
    for part, examples_by_client in parts.items():
        if len(examples_by_client) != learner.num_clients or not all(examples_by_client):
            raise ConfigError(f"evaluation on {part} domains needs prompts for each of {learner.num_clients} clients")
        answered = answers_of(learner, examples_by_client, f"evaluation {part}", 0, temperature)
        scores, scored, start = rewards.score(answered.examples, answered.texts), list[Scores](), 0
        for own in examples_by_client:
            span = slice(start, start + len(own))
            prompts = tuple(example.prompt for example in own)
            scored.append(Scores(prompts, tuple(answered.texts[span]), {n: v[span] for n, v in scores.items()}))
            start = span.stop
        found[part] = tuple(scored)
    return Evaluation(**found)


def foreign_prompts(
    held_out_by_client: Sequence[Sequence[Example]], count: int, seed: int, client_ids: Sequence[int] | None = None
) -> tuple[tuple[Example, ...], ...]:
    """For each client up to `count` held-out prompts of domains that it has none of; of the other clients where they
    all have the same domains.
    """
    ids = tuple(range(len(held_out_by_client)) if client_ids is None else client_ids)
    everything = {example.prompt: example for own in held_out_by_client for example in own}
    chosen: list[tuple[Example, ...]] = []
    for identity, own in zip(ids, held_out_by_client, strict=True):
        prompts, domains = {example.prompt for example in own}, {example.domain for example in own}
        others = [everything[prompt] for prompt in sorted(everything) if prompt not in prompts]
        foreign = [example for example in others if example.domain not in domains] or others
        order: list[int] = stream(seed, "foreign prompts", 0, identity).permutation(len(foreign)).tolist()
        chosen.append(tuple(foreign[i] for i in order[:count]))
    return tuple(chosen)
