"""Rounds to the target at each rank, as several seeds measured them, and which ranks they tell apart."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wavetune.allocation.participants import of_participants
from wavetune.allocation.plan import Plan, evaluate
from wavetune.allocation.problem import Problem
from wavetune.errors import ConfigError
from wavetune.estimate import Estimate

Rounds = float | tuple[float, ...]  # one number, which stands for every seed, or one a seed, the same at every rank


def require_rounds(table: Mapping[int, Rounds]) -> None:
    """ConfigError unless ranks and rounds are positive and ranks with several seeds have as many."""
    for rank, rounds in table.items():
        if rank < 1 or not all(one > 0 for one in seeds_of(rounds)) or not seeds_of(rounds):
            raise ConfigError(
                f"method.rounds_to_target has {rounds} rounds at rank {rank}; ranks are at least 1, rounds positive"
            )
    counts = {rank: count for rank, rounds in table.items() if (count := len(seeds_of(rounds))) > 1}
    if len({*counts.values()}) > 1:
        few, many = min(counts, key=lambda rank: counts[rank]), max(counts, key=lambda rank: counts[rank])
        raise ConfigError(
            f"method.rounds_to_target has {counts[few]} seeds at rank {few} and {counts[many]} at rank {many}; give "
            "one number for each rank, or the rounds of the same seeds at every rank"
        )


def seeds_of(rounds: Rounds) -> tuple[float, ...]:
    """The rounds of each seed."""
    return rounds if isinstance(rounds, tuple) else (rounds,)


def expected_rounds(table: Mapping[int, Rounds], slowest_seeds: float = 1.0) -> dict[int, float]:
    """E(r): the mean over that share of a rank's seeds which needed the most rounds.

    A delay is linear in E(r), so that the plan for the mean of all seeds has the least expected delay over them; a
    smaller share plans for seeds that learn slowly.

    >>> expected_rounds({1: (4.0, 6.0), 2: 5.5}), expected_rounds({1: (4.0, 6.0)}, slowest_seeds=0.5)
    ({1: 5.0, 2: 5.5}, {1: 6.0})
    """
    slowest = {rank: sorted(seeds_of(rounds), reverse=True) for rank, rounds in table.items()}
    return {rank: float(np.mean(of[: math.ceil(slowest_seeds * len(of))])) for rank, of in slowest.items()}


@dataclass(frozen=True)
class RankChoice:
    """A plan's rank beside the others: by which share of its delay each would take longer, over the seeds of E(r)."""

    rank: int
    longer: Mapping[int, Estimate]

    @property
    def not_told_apart(self) -> tuple[int, ...]:
        """The ranks that may be as good, as far as the seeds can say; all where there is one seed."""
        return tuple(r for r, by in self.longer.items() if not by.mean > by.half_width)

    @property
    def sentence(self) -> str:
        """What the choice of the rank is worth.

        >>> RankChoice(1, {2: Estimate(0.01, 0.02, 3)}).sentence
        'rank 1 over 3 seeds of E(r): 2 (1.0% ± 2.0% longer) cannot be told apart from it'
        >>> RankChoice(1, {2: Estimate(0.01, float("nan"), 1)}).sentence
        'rank 1 by one seed of E(r), which cannot say how surely: 2 (1.0% longer)'
        """
        seeds = next(iter(self.longer.values())).count
        if seeds == 1:
            listed = self._listed(tuple(self.longer))
            return f"rank {self.rank} by one seed of E(r), which cannot say how surely: {listed}"
        alike, slower = self.not_told_apart, tuple(r for r in self.longer if r not in self.not_told_apart)
        said = [f"{self._listed(alike)} cannot be told apart from it"] if alike else []
        said += [f"{self._listed(slower)} {'is' if len(slower) == 1 else 'are'} slower"] if slower else []
        return f"rank {self.rank} over {seeds} seeds of E(r): {'; '.join(said)}"

    def _listed(self, ranks: tuple[int, ...]) -> str:
        def half(by: Estimate) -> str:
            return "" if math.isnan(by.half_width) else f" ± {by.half_width:.1%}"

        return ", ".join(f"{r} ({self.longer[r].mean:.1%}{half(self.longer[r])} longer)" for r in ranks)


def rank_choice(problem: Problem, plan: Plan, table: Mapping[int, Rounds]) -> RankChoice | None:
    """The choice of a plan's rank, seed by seed; None where nothing was chosen, or clients differ.

    Every rank has the plan's owners and powers, and the cut that suits it best with these.
    """
    chosen, ranks = {*plan.rank_K.tolist()}, [rank for rank in problem.ranks if rank in table]
    if plan.status != "ok" or len(chosen) > 1 or len({*plan.cut_K.tolist()}) > 1 or len(ranks) < 2:
        return None
    problem, plan = of_participants(problem, plan)
    rank = chosen.pop()

    def seconds(of: int) -> float:
        delays_s = (evaluate(problem, c, of, plan.main, plan.fed, plan.server_share_K)[1] for c in problem.cuts)
        return min(delays_s) / problem.rounds_to_target[of]

    count = max(len(seeds_of(table[r])) for r in ranks)
    rounds = {r: np.broadcast_to(seeds_of(table[r]), count) for r in ranks}
    own_s = plan.delay_s / problem.rounds_to_target[rank] * rounds[rank]
    others = {r: seconds(r) * rounds[r] for r in ranks if r != rank}
    return RankChoice(rank, {r: Estimate.of((of_s / own_s - 1).tolist()) for r, of_s in others.items()})
