"""Who takes part in a round. A selection may remember what rounds cost: its state is passed in and returned.

Legend: K clients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from wavetune.allocation.plan import Plan
from wavetune.allocation.problem import Problem
from wavetune.allocation.selection import PlanOf
from wavetune.errors import ConfigError
from wavetune.federation.facts import CLIENTS, NEW_PLANS
from wavetune.guarded import Checks, pair_of
from wavetune.parts import Extent, Part
from wavetune.records.rounds import Round
from wavetune.units import Array

Chosen = tuple[Sequence[int], Plan | None]
State = dict[str, Array]


def _check_chosen(_: Selection, found: Any, problem: Problem, *__: Any) -> str:
    pair = pair_of(found)
    chosen = list(pair[0]) if pair is not None and isinstance(pair[1], Plan | None) else [-1]
    fits = {*chosen} <= {*range(problem.num_clients)} and len({*chosen}) == len(chosen)
    return "" if fits else f"clients from 0 to {problem.num_clients - 1}, each once, and their Plan or None"


def _check_state(_: Selection, found: Any, *__: Any) -> str:
    held = cast("dict[str, Any]", found).values() if isinstance(found, dict) else [None]
    return "" if all(isinstance(one, np.ndarray) for one in held) else "what it remembers, a dict of NumPy arrays"


class Selection(Part):
    """Who takes part in a round, chosen on its channel and by what rounds so far have cost."""

    needs = (CLIENTS, NEW_PLANS)
    checks: ClassVar[Checks] = {"choose": _check_chosen, "init": _check_state, "settle": _check_state}
    everyone: ClassVar[bool] = False  # nobody is left out
    wants: ClassVar[str] = ""  # the field that says how many clients it takes at least, where there is one

    def fits(self, path: str, extent: Extent) -> None:
        """Refuse more clients than there are."""
        wanted = getattr(self, self.wants) if self.wants else 0
        if wanted > extent.num_clients:
            raise ConfigError(
                f"{path}.{self.wants} is {wanted} but there are {extent.num_clients} clients; give at most that"
            )

    @property
    def deadline_s(self) -> float:
        """When those that are chosen must be done."""
        return math.inf

    def init(self, num_clients: int) -> State:
        """The state before the first round."""
        return {}

    def choose(
        self, problem: Problem, lone_s_K: Array, plan_of: PlanOf, state: State, draw: np.random.Generator
    ) -> Chosen:
        """The clients that take part, and their plan; None where there is none.

        Args:
            problem: of the round, with all clients.
            lone_s_K: least round of each client with both bands and the server to itself (s).
            plan_of: the plan of some of the clients, who alone would take part.
            state: of the rounds before.
            draw: the round's own random numbers.
        """
        raise NotImplementedError

    def settle(self, state: State, done: Round) -> State:
        """The state after a round: who took part, what it was charged, what its clients' training losses were."""
        return state


@dataclass(frozen=True)
class All(Selection):
    """Everyone takes part in every round."""

    needs = ()
    everyone = True
