"""A run whose clients train in workers: each holds the base model and a slice of the cohort.

The run's process keeps what is saved (all adapters, moments and the server's optimiser), hands every slice out as a
round begins and takes it back before the mixing. In between, a local step is one request to every worker; what clients
share in a step, the main server's adapters, goes out with it, and its gradients come back to be added in the order of
the clients.
Legend: K clients.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
import torch

from wavetune.data.partition import Rows
from wavetune.data.templates import TokenSet
from wavetune.errors import ConfigError, NumericsError
from wavetune.federation.cohort import Cohort, Evaluation, StepResult
from wavetune.federation.cut import LossSum
from wavetune.federation.messages import EVERYTHING, Agenda
from wavetune.federation.slices import (
    SliceStep,
    add_server_gradients,
    balanced_slices,
    client_state,
    load_client_state,
    load_server_state,
    scale_server_gradients,
    server_state,
)
from wavetune.models.lora import AdapterBank
from wavetune.runtimes.alignment import workers
from wavetune.runtimes.engine import Trainer
from wavetune.runtimes.fleet import Fleet, WorkerLostError
from wavetune.runtimes.outcome import RoundOutcome
from wavetune.runtimes.round import StepDone, train_round
from wavetune.runtimes.session import Session, client_factors
from wavetune.runtimes.worker import Arrays, Job, arrays, tensors


@dataclass
class FleetSteps:
    """Steps and evaluations that a fleet makes; `cohort` holds what is saved, and the server's optimiser."""

    cohort: Cohort
    fleet: Fleet
    token_sets: dict[str, TokenSet]
    _done: tuple[int, int] = field(default=(0, 0), init=False)  # rounds begun, steps since then
    _begun_with: tuple[dict[str, torch.Tensor], ...] = field(default=(), init=False)  # the server's adapters, moments

    def begin_round(self, names: Collection[str], agenda: Agenda = EVERYTHING) -> None:
        """Hand every worker its clients' adapters and moments, what trains, and what to stay near."""
        self.cohort.optimiser.train(agenda)
        self.cohort.optimiser.begin_round(names)
        server, moments = server_state(self.cohort), self._moments(of_server=True)
        self._begun_with = tuple({name: t.clone() for name, t in named.items()} for named in (server, moments))
        self._done = (self._done[0] + 1, 0)
        requests = [
            (worker, (self._done[0], arrays(client_state(self.cohort, clients)), frozenset(names), agenda))
            for worker, clients in enumerate(self.fleet.slices)
        ]
        self.fleet.ask("load", requests, again=True)

    def step(
        self, tokens: TokenSet, rows: Sequence[Rows], factor: float, active_K: Sequence[bool] | None = None
    ) -> StepResult:
        """One local step of every active client, on rows of the training set. Raises NumericsError, WorkerLostError."""
        placement = self.cohort.placement
        active_K = [True] * placement.num_clients if active_K is None else list(active_K)
        clients = [k for k, on in enumerate(active_K) if on]
        losses, count, given_up = dict[int, LossSum](), 0, dict[int, str]()
        for turn in [[k] for k in clients] if placement.sequential else [clients]:
            for part in self._train({k: rows[k] for k in turn}, factor, active_K):
                count += part.tokens
                given_up |= part.given_up
                losses |= part.losses
                self.cohort.link.door.bits.update(part.bits)
            all_failed = given_up.keys() >= set(clients)
            if wrong := next(iter(given_up.values())) if all_failed else self.cohort.server_fault():
                raise NumericsError(wrong)
            self.cohort.optimiser.step_server(factor)
        return StepResult.of(placement.num_clients, losses, count, given_up)

    def end_round(self) -> None:
        """Take back what the clients trained in the round. Raises WorkerLostError."""
        everyone = range(len(self.fleet.slices))
        states = self.fleet.ask("state", [(worker, (self._done,)) for worker in everyone])
        for clients, state in zip(self.fleet.slices, states, strict=True):
            load_client_state(self.cohort, clients, tensors(state))

    def rewind(self) -> None:
        """Be again what the round began with: until the clients' part is taken back, only the server's has changed."""
        server, moments = self._begun_with
        load_server_state(self.cohort, server)
        self.cohort.optimiser.load_state({**self._moments(of_server=False), **moments})
        for parameter in self.cohort.bank.parameters(local=False):
            parameter.grad = None

    def _train(self, rows: dict[int, Rows], factor: float, active_K: list[bool]) -> list[SliceStep]:
        """A step of these clients; adds to the gradients of the server's adapters."""
        server, requests = self.fleet.share(arrays(server_state(self.cohort))), list[tuple[int, tuple[Any, ...]]]()
        for worker, clients in enumerate(self.fleet.slices):
            own = {k: rows[k] for k in clients if k in rows}
            requests.append((worker, (self._done, server, own, factor, active_K)))
        parts: list[tuple[SliceStep, list[Arrays]]] = self.fleet.ask("step", requests)
        self._done = (self._done[0], self._done[1] + 1)
        for _, server_gradients in parts:
            for gradients in server_gradients:
                add_server_gradients(self.cohort, tensors(gradients))
        placement, gone = self.cohort.placement, [k for step, _ in parts for k in step.given_up]
        weight_K = placement.among(active_K).weight_K
        if gone and not placement.sequential and (left := 1 - sum(weight_K[k] for k in gone)) > 0:
            scale_server_gradients(self.cohort, 1 / left)
        return [step for step, _ in parts]

    def _moments(self, of_server: bool) -> dict[str, torch.Tensor]:
        return {name: t for name, t in self.cohort.optimiser.state().items() if name.startswith("server.") == of_server}

    def evaluate(
        self, tokens: TokenSet, bank: AdapterBank | None, client: int = 0, passes: slice = slice(None)
    ) -> Evaluation:
        """Losses of all rows of a set as one client of a bank sees them; the workers share the passes."""
        name = next((name for name, known in self.token_sets.items() if known is tokens), None)
        if name is None or passes != slice(None):
            return self.cohort.evaluate(tokens, bank, client, passes)
        factors = None
        if bank is not None:
            found = client_factors(bank, client)
            factors = {site: {name: t.cpu().numpy() for name, t in own.items()} for site, own in found.items()}
        factors, count = self.fleet.share(factors), len(self.fleet.slices)
        requests = [(worker, (name, factors, slice(worker, None, count))) for worker in range(count)]
        parts: list[Evaluation] = self.fleet.ask("evaluate", requests, again=True)
        sums = (np.sum([getattr(p, f.name) for p in parts], 0) for f in fields(Evaluation))
        return Evaluation(*sums)


def job_of(session: Session) -> Job:
    """What the workers of a session's run need to know."""
    cohort, data = session.cohort, session.data
    return Job(
        recipe=session.recipe,
        folder=session.model.folder.resolve(),
        targets=session.recipe.method.lora.on(session.planner.table.lora_targets),
        bf16=any(p.dtype == torch.bfloat16 for p in cohort.backbone.model.parameters()),
        placement=cohort.placement,
        rank_K=session.rank_K,
        num_classes=len(data.classes) or None,
        token_sets={"train": data.train, "validation": data.validation},
    )


def slices_of(session: Session, workers: int) -> tuple[range, ...]:
    """Clients of each worker, balanced by the tokens of a step. Raises ConfigError for more workers than clients."""
    if workers > len(session.rows_by_client):
        raise ConfigError(
            f"there are {workers} workers but {len(session.rows_by_client)} clients to share among them; give at most "
            "as many workers"
        )
    lengths = session.data.train.lengths
    return balanced_slices([float(lengths[rows].mean()) for rows in session.rows_by_client], workers)


@contextmanager
def training_in(session: Session, fleet: Fleet, say: Callable[[str], None]) -> Iterator[Trainer]:
    """What trains a session's rounds in a fleet for as long as the context lasts."""
    sets = {"train": session.data.train, "validation": session.data.validation}
    here, session.place = session.place, (steps := FleetSteps(session.cohort, fleet, sets))

    def train(
        session: Session, index: int, on_step: StepDone, before_mixing: Callable[[], None] | None = None
    ) -> RoundOutcome:
        while True:
            try:
                return train_round(session, index, on_step, before_mixing)
            except WorkerLostError as lost:
                say(f"{lost}; round {index + 1} is computed again")
                steps.rewind()

    try:
        yield Trainer(train, partial(workers.begin, fleet))
    finally:
        session.place = here
