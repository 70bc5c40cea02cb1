"""One round: draw, plan, train the local steps, exchange adapters, account.

A new method changes a part, never this loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from wavetune.allocation.plan import Plan, charge
from wavetune.allocation.problem import Problem
from wavetune.costs.table import Workload
from wavetune.data.partition import Rows
from wavetune.errors import NumericsError
from wavetune.federation.account import Accountant, Bits, account, bits_by_kind, central_load
from wavetune.federation.cohort import StepResult
from wavetune.records.fields import UNKNOWN
from wavetune.records.rounds import Account, Lost, Rates, RoundPrivacy, Straggler
from wavetune.runtimes.outcome import RoundOutcome, mean_losses
from wavetune.runtimes.session import Session
from wavetune.runtimes.world import workload_of

StepDone = Callable[[int, int, StepResult], None]  # (round, step, result)


@dataclass(frozen=True)
class Prepared:
    """What is settled before the first step of a round: plan, who takes part and sends adapters, rows, uplink rates.

    The plan was made on the channel of `known`, and the round is charged by that of `problem`.
    """

    known: Problem
    problem: Problem
    plan: Plan
    active_K: list[bool]
    sent_K: list[bool]
    steps: list[list[Rows]]
    workload: Workload
    rates: Rates
    accountant: Accountant

    def among(self, present_K: Sequence[bool]) -> Prepared:
        """The same for those alone that are present; their plan stays."""
        active_K, sent_K = (
            [on and there for on, there in zip(on_K, present_K, strict=True)] for on_K in (self.active_K, self.sent_K)
        )
        workload = Workload(*(amount * np.array(active_K) for amount in vars(self.workload).values()))
        return replace(self, active_K=active_K, sent_K=sent_K, workload=workload)


def prepare(session: Session, index: int) -> Prepared:
    """Plan a round."""
    run = session.recipe.run
    problem, plan = session.planned(index)
    perfect = session.planner.scenario.knowledge.perfect
    known = problem if perfect else session.planner.known(index, session.server.agenda)
    active_K = [True] * session.cohort.placement.num_clients
    if plan.active_K is not None and not session.central:  # one trainer has no channel
        active_K = plan.active_K.tolist()
    steps = [session.step_rows(index * run.local_steps + i) for i in range(run.local_steps)]
    making_IK = np.arange(run.local_steps)[:, None] < session.steps_K
    workload = workload_of(session.data.train, steps, np.array(active_K) & making_IK)
    accountant = session.accountant.about(session.server.agenda)
    if not session.central:
        bits = accountant.predicted_bits(workload, active_K, index)
        asked = accountant.load(workload, *bits, active_K)
        plan = session.planner.method.planner.within_budgets(known, plan, asked)
    rates = accountant.rates(problem, plan)
    sent_K = _sent(session, rates.fed, active_K)
    return Prepared(known, problem, plan, active_K, sent_K, steps, workload, rates, accountant)


def train_round(
    session: Session,
    index: int,
    on_step: StepDone,
    before_mixing: Callable[[], None] | None = None,
    ready: Prepared | None = None,
) -> RoundOutcome:
    """Train one round, which may have been prepared before; `before_mixing` sees the clients' own adapters.

    Raises NumericsError naming round, client and tensor if a loss or gradient is not finite.
    """
    started, run, method = time.perf_counter(), session.recipe.run, session.recipe.method
    ready = ready or prepare(session, index)
    problem, plan, workload, active_K, sent_K = ready.problem, ready.plan, ready.workload, ready.active_K, ready.sent_K
    accountant, agenda = ready.accountant, session.server.agenda
    predicted = accountant.predicted_bits(workload, sent_K, index)
    session.door.take()
    session.place.begin_round(session.server.names, agenda)

    results, metered, faults, training_K = list[StepResult](), list[Bits](), dict[int, str](), list(active_K)
    steps = range(index * run.local_steps, (index + 1) * run.local_steps)
    factors = [method.optimiser.factor(step, run.rounds * run.local_steps) for step in steps]
    rates = [method.optimiser.learning_rate * factor for factor in factors]
    rates_K = [tuple(rates[:n]) for n in session.steps_K]
    for i, (rows, factor) in enumerate(zip(ready.steps, factors, strict=True)):
        making_K = [on and i < n for on, n in zip(training_K, session.steps_K, strict=True)]
        with _explained(f"round {index}, local step {i}"):
            results.append(_step(session, rows, factor, making_K, others=making_K != training_K))
        faults |= {k: f"given up in local step {i}: {why}" for k, why in results[-1].given_up.items()}
        training_K = [on and k not in faults for k, on in enumerate(training_K)]
        metered.append(session.door.take())
        on_step(index, i, results[-1])

    session.place.end_round()
    if before_mixing is not None:
        before_mixing()
    trained_K = [on and k not in results[0].given_up for k, on in enumerate(active_K)]  # in one step at least
    sent_K = [sent and k not in faults for k, sent in enumerate(sent_K)]
    delivered_K = [
        sent and (not uploads or method.link.arrives(run.seed, index, k))
        for k, (sent, uploads) in enumerate(zip(sent_K, session.uploads_K, strict=True))
    ]
    door = None if session.central else session.door
    if index == 0:  # it is charged with the round's exchange
        session.send_models()
    with _explained(f"round {index}"):
        weight_K, losses = session.cohort.placement.weight_K, mean_losses(results)
        if method.mixing.rebases:
            session.cohort.optimiser.reset()
        mixed = session.server.exchange(weight_K, door, trained_K, sent_K, delivered_K, index, losses, rates_K)
    session.cohort.optimiser.train()
    exchanged = session.door.take()

    band_hz = problem.fed.subchannel_hz * len(plan.fed.owner_M)
    link_s = 0.0 if session.central else accountant.link_s(sent_K, index, band_hz)
    server_flop = session.server_flop(index)
    beside = link_s, server_flop
    planned, _ = _account(session, accountant, ready.known, plan, workload, active_K, *predicted, *beside)
    charged, straggler = _account(session, accountant, problem, plan, workload, active_K, metered, exchanged, *beside)
    better, informed_s = session.planner.informed(index, problem, session.plan, plan), UNKNOWN
    if better is not None:
        asked = workload, active_K, metered, exchanged, *beside
        informed_s = _account(session, accountant, problem, better, *asked)[0].delay_s
    return RoundOutcome(
        round=index,
        plan=plan,
        rate_bit_per_s=ready.rates,
        learning_rate=rates[0],
        placement=session.cohort.placement,
        results=results,
        samples=int(np.sum(workload.samples)),
        planned=planned,
        charged=charged,
        informed_s=informed_s,
        straggler=Straggler(*straggler),
        metered_bits=bits_by_kind([*metered, exchanged]),
        trained_K=trained_K,
        lost=(
            *(Lost(client, why) for client, why in sorted(faults.items())),
            *_lost([on and k not in faults for k, on in enumerate(trained_K)], sent_K, delivered_K),
            *(Lost(client, f"rejected: {why}") for client, why in mixed.rejected.items()),
        ),
        mixed=mixed,
        agenda=agenda,
        privacy=_privacy(session),
        wall_s=time.perf_counter() - started,
        server_loss=UNKNOWN if session.training is None else session.training.loss,
    )


def _step(session: Session, rows: Sequence[Rows], factor: float, making_K: Sequence[bool], others: bool) -> StepResult:
    """A local step of those who make it; where there are `others`, who make fewer, the round goes on without these."""
    clients = [k for k, on in enumerate(making_K) if on]
    given_up = dict[int, str]()
    if clients or not others:
        try:
            return session.place.step(session.data.train, rows, factor, making_K)
        except NumericsError as error:
            if not others:
                raise
            given_up = dict.fromkeys(clients, str(error))
    return StepResult.of(len(making_K), {}, 0, given_up)


@contextmanager
def _explained(where: str) -> Generator[None]:
    try:
        yield
    except NumericsError as error:
        raise not_finite(where, error) from error


def not_finite(where: str, why: object) -> NumericsError:
    """What is not finite where all clients are at fault, and what to do."""
    return NumericsError(
        f"{where}: {why}; the last checkpoint is kept, start again with a lower method.optimiser.learning_rate"
    )


def _sent(session: Session, rate_bit_per_s_K: Sequence[float], active_K: Sequence[bool]) -> list[bool]:
    """Who of the active clients sends its update, given the uplink rates; no outage stops an empty one."""
    uploads_K = session.uploads_K
    if not any(uploads_K):
        return list(active_K)
    sent_K = session.recipe.method.link.sent(rate_bit_per_s_K)
    return [on and (sent or not uploads) for on, sent, uploads in zip(active_K, sent_K, uploads_K, strict=True)]


def _lost(active_K: Sequence[bool], sent_K: Sequence[bool], delivered_K: Sequence[bool]) -> list[Lost]:
    """Whose update is missing from the mixture, and why."""
    return [
        Lost(client, "lost on the way" if sent else "outage")
        for client, (on, sent, there) in enumerate(zip(active_K, sent_K, delivered_K, strict=True))
        if on and not there
    ]


def _privacy(session: Session) -> RoundPrivacy:
    """What the rounds so far gave away of any one client, where updates are private."""
    part, server = session.recipe.method.privacy, session.server
    if part is None:
        return RoundPrivacy()
    clients, norms = len(server.rank_K), server.norms
    spent = part.spent(server.mixed_by_round, clients)
    norm_K = tuple(norms.get(k, UNKNOWN) for k in range(clients))
    return RoundPrivacy(**vars(spent), mixed=server.mixed_by_round[-1], update_norm_K=norm_K)


def _account(
    session: Session,
    accountant: Accountant,
    problem: Problem,
    plan: Plan,
    workload: Workload,
    active_K: Sequence[bool],
    steps: list[Bits],
    exchange: Bits,
    link_s: float,
    server_flop: float,
) -> tuple[Account, tuple[int, str]]:
    exchange = {} if session.central else exchange
    load = accountant.load(workload, steps, exchange, active_K)
    if session.central:
        load = central_load(load, problem.num_clients)
    beside_s = {"link_s": link_s, "server_steps_s": server_flop / problem.server_flop_per_s}
    phases, energy = charge(problem, load, plan.main, plan.fed, plan.server_share_K, sum(beside_s.values()))
    own_j = server_flop * problem.server_energy_j_per_flop
    energy = replace(energy, server_compute_j=energy.server_compute_j + own_j)
    return account(phases, energy, steps, exchange, **beside_s), phases.straggler()
