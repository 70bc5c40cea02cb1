"""One round: draw, plan, train the local steps, exchange adapters, account.

A new method changes a part, never this loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from wavetune.allocation.plan import Plan
from wavetune.allocation.problem import Problem
from wavetune.errors import NumericsError
from wavetune.federation.account import Bits, account, bits_by_kind, central_load, charge
from wavetune.federation.cohort import StepResult
from wavetune.federation.exchange import Mixed, exchange_adapters
from wavetune.runtimes.session import Session
from wavetune.runtimes.world import workload_of

StepDone = Callable[[int, int, StepResult], None]  # (round, step, result)


@dataclass(frozen=True)
class RoundOutcome:
    """The record of a round and the adapter that came out of it."""

    record: dict[str, Any]
    mixed: Mixed


def train_round(
    session: Session, index: int, on_step: StepDone, before_mixing: Callable[[], None] | None = None
) -> RoundOutcome:
    """Train one round; `before_mixing` sees the clients' own adapters.

    Raises NumericsError naming round, client and tensor if a loss or gradient is not finite.
    """
    started, run, method = time.perf_counter(), session.recipe.run, session.recipe.method
    problem, plan = session.planner.plan(index, session.plan)
    steps = [session.step_rows(index * run.local_steps + i) for i in range(run.local_steps)]
    workload = workload_of(session.data.train, steps)
    predicted = session.accountant.predicted_bits(workload)
    session.door.take()

    results, metered = list[StepResult](), list[Bits]()
    for i, rows in enumerate(steps):
        factor = method.optimiser.factor(index * run.local_steps + i, run.rounds * run.local_steps)
        try:
            results.append(session.cohort.step(session.data.train, rows, factor))
        except NumericsError as error:
            raise NumericsError(
                f"round {index}, local step {i}: {error}; the last checkpoint is kept, start again with a lower "
                "method.optimiser.learning_rate"
            ) from error
        metered.append(session.door.take())
        on_step(index, i, results[-1])

    if before_mixing is not None:
        before_mixing()
    door = None if session.central else session.door
    mixed = exchange_adapters(
        session.cohort.bank,
        session.rank_K,
        session.cohort.placement.weight_K,
        method.mixing,
        method.adapter_codec,
        door,
    )
    if method.mixing.rebases:
        session.cohort.optimiser.reset()
    sent = session.door.take()

    accounts = [_account(session, problem, plan, workload, *bits) for bits in (predicted, (metered, sent))]
    labelled_K = np.sum([r.labelled_K for r in results], axis=0)
    loss_K = np.sum([r.loss_K * r.labelled_K for r in results], axis=0) / labelled_K
    wall_s, tokens = time.perf_counter() - started, sum(r.tokens for r in results)
    client, phase = accounts[1][1]
    record = {
        "round": index,
        "cut_K": list(map(int, plan.cut_K)),
        "rank_K": list(map(int, plan.rank_K)),
        "train_loss": float(loss_K @ session.cohort.placement.weight_K),
        "train_loss_K": loss_K.tolist(),
        "validation_loss": None,
        "samples": int(np.sum(workload.samples)),
        "tokens": tokens,
        "learning_rate": method.optimiser.learning_rate
        * method.optimiser.factor(index * run.local_steps, run.rounds * run.local_steps),
        "planned": accounts[0][0],
        "charged": accounts[1][0],
        "metered_bits": bits_by_kind([*metered, sent]),
        "straggler": {"client": client, "phase": phase},
        "allocation": {
            name: {"owner": band.owner_M.tolist(), "power_w": band.power_w_M.tolist()}
            for name, band in (("main", plan.main), ("fed", plan.fed))
        },
        "rate_bit_per_s": session.accountant.rates(problem, plan),
        "aggregation_error": mixed.error,
        "lost": [],
        "wall_s": wall_s,
        "tokens_per_s": tokens / wall_s,
    }
    return RoundOutcome(record, mixed)


def _account(
    session: Session, problem: Problem, plan: Plan, workload: Any, steps: list[Bits], exchange: Bits
) -> tuple[dict[str, Any], tuple[int, str]]:
    exchange = {} if session.central else exchange
    load = session.accountant.load(workload, steps, exchange)
    if session.central:
        load = central_load(load, problem.num_clients)
    phases, energy = charge(problem, plan, load)
    return account(phases, energy, steps, exchange), phases.straggler()
