"""Clients against virtual energy queues, so that each one's mean energy of a round meets a budget in the long run.

Q_k <- max(0, Q_k + E_k - budget) after a round that cost client k the energy E_k (0 where it sat out). A round takes
the clients with V budget^2 w_k > Q_k E_k, w_k the share of the samples that client k has, times K: drift plus penalty,
split by client. For T rounds mean E_k <= budget + Q_k / T, whatever is chosen.
Source: reconstruction of CRE (arXiv 2308.03521), whose bound of the loss is replaced by the samples that take part.
Ignores: how much clients' data diverge, the number of local steps, and that fewer senders have wider bands when it
estimates E_k, which is that of the plan with all clients.
Legend: K clients.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from wavetune.allocation.problem import Problem
from wavetune.allocation.selection import PlanOf, most_within
from wavetune.federation.selection import Chosen, Selection, State
from wavetune.records.rounds import Round
from wavetune.units import Array


@dataclass(frozen=True)
class EnergyQueues(Selection):
    """Who may spend energy, by what each has spent so far above its budget.

    Args:
        budget_j: most that a client may spend in a round on average, computing and sending.
        patience: V, how much overdrawn an average client may be, in budgets, before it sits out; more trains on more
            samples and meets the budget later.
    """

    budget_j: Annotated[float, Ge(1e-12), Le(1e12)] = 1.0
    patience: Annotated[float, Ge(0), Le(1e12)] = 1.0

    def init(self, num_clients: int) -> State:
        """Empty queues."""
        return {"queue_j": np.zeros(num_clients)}

    def choose(
        self, problem: Problem, lone_s_K: Array, plan_of: PlanOf, state: State, draw: np.random.Generator
    ) -> Chosen:
        """The clients worth their energy; of all that can have a plan together, if not all can."""
        some, plan = most_within(plan_of, math.inf, lone_s_K, np.ones(problem.num_clients), 1)
        if plan is None or not len(some):
            return some, None
        energy_j = plan.energy.client_compute_j_K + plan.energy.client_radio_j_K
        chosen = self.worthy(problem.num_samples_K[list(some)], energy_j, state["queue_j"][list(some)])
        return [some[i] for i in chosen], plan if len(chosen) == len(some) else plan_of([some[i] for i in chosen])

    def worthy(self, samples_K: Array, energy_j_K: Array, queue_j_K: Array) -> Sequence[int]:
        """The clients whose samples outweigh what they would spend; the best one where none do.

        >>> EnergyQueues(budget_j=2.0).worthy(np.ones(3), np.array([1.0, 2.0, 4.0]), np.array([3.0, 3.0, 0.0]))
        [0, 2]
        """
        gain_K = self.patience * self.budget_j**2 * samples_K / np.mean(samples_K) - queue_j_K * energy_j_K
        return np.flatnonzero(gain_K > 0).tolist() or [int(np.argmax(gain_K))]

    def settle(self, state: State, done: Round) -> State:
        """The queues after a round: what each client spent above its budget, never below 0."""
        spent_j_K = np.add(done.charged.energy.client_compute_j, done.charged.energy.client_radio_j)
        return {"queue_j": np.maximum(0.0, state["queue_j"] + spent_j_K - self.budget_j)}
