"""How good a run's models are on validation rows: over all of them, and for each client on its own and foreign domains.

Client k's own rows are weighted such that domains occur as often as in its training data, foreign ones by what is
missing there to a uniform 1. Legend: K clients, R validation rows.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from wavetune.data.settings import PreparedData
from wavetune.errors import DeploymentError, NumericsError
from wavetune.federation.cohort import Evaluation
from wavetune.federation.prefix import KeptPrefix
from wavetune.models.lora import Matrices
from wavetune.records.fields import UNKNOWN
from wavetune.records.rounds import Judged, Lost
from wavetune.runtimes.session import Session, one_bank
from wavetune.runtimes.untouched_cache import recalled_losses
from wavetune.units import Array

Weights = Array


class Score(NamedTuple):
    """Weighted sums over validation rows: loss in nats, labelled positions, and how many were predicted right."""

    nll: float
    positions: float
    correct: float

    @property
    def loss(self) -> float | None:
        """Mean loss of a position in nats; None where no row counts, or the sums are not finite."""
        return self.nll / self.positions if self.positions and math.isfinite(self.nll) else None

    @property
    def accuracy(self) -> float | None:
        """Share of the positions that were predicted right; None where no row counts."""
        return self.correct / self.positions if self.positions else None


Scores = tuple[Score, Score]
"""On a client's own and on foreign domains."""


def evaluate(
    session: Session,
    factors: Mapping[str, Matrices],
    round_index: int,
    reported: Mapping[int, Scores] | None = None,
    lost: Sequence[Lost] = (),
) -> Judged:
    """Losses (nats) and accuracies after a round, given its mixture, or what devices found of models of their own.

    `loss` is that of the one global model over all rows; where clients keep adapters of their own, the mean over
    clients, by their samples, of the loss on their own domains. Raises NumericsError if a loss is not finite,
    DeploymentError if no device reported any, with what is known of those that were `lost` in the round.
    """
    validation, clients = session.data.validation, range(session.cohort.placement.num_clients)
    if reported is not None:
        if not any(own.loss is not None for own, _ in reported.values()):
            said = "; ".join(one.claim or one.why for one in lost)
            raise DeploymentError(
                f"round {round_index}: no device told its validation loss{said and f' ({said})'}; go on with --resume"
            )
        return _summed_up(session, [reported.get(client) for client in clients])
    if session.personal:
        with _common_blocks_kept(session):
            found = [session.place.evaluate(validation, session.cohort.bank, client) for client in clients]
    else:
        found = [session.judge.evaluate(validation, one_bank(session.serving, factors))]
    return _judged(
        session,
        found,
        f"round {round_index}: the validation loss after it is {{}}; the last checkpoint is kept, start again with a "
        "lower method.optimiser.learning_rate",
    )


@contextmanager
def _common_blocks_kept(session: Session) -> Iterator[None]:
    """Within this context rows go once through the first blocks, as far up as all clients share their adapters."""
    cohort, run = session.cohort, session.recipe.run
    backbone, sites, usual = cohort.backbone, cohort.bank.sites, cohort.prefix
    kept = session.recipe.method.sharing.kept(sites, backbone.num_layers)
    common = min((s.layer for s in sites if any(f"{s.name}.{m.name}" in kept for m in s.matrices)), default=0)
    if common > (usual.blocks if usual else 0) and run.prefix_mb and backbone.way.cuts:
        cohort.prefix = KeptPrefix(backbone, common, run.prefix_mb * 1_000_000)
    try:
        yield
    finally:
        cohort.prefix = usual


def evaluate_untouched(session: Session) -> Judged:
    """The same before training, of the base model alone (with a fresh head, where classes are learned)."""
    rows = session.data.validation
    if session.data.classes:
        found = session.judge.evaluate(rows, session.serving.bank.only(("head",)))
    else:
        found = recalled_losses(session.serving, session.model.folder, session.precision, rows, session.judge)
    what = "the validation loss of the untouched model is {}; its weights may be damaged"
    return _judged(session, [found], what)


def own_and_foreign(data: PreparedData, client: int, found: Evaluation) -> Scores:
    """What an evaluation of all validation rows comes to for one client."""
    own_R, foreign_R = _weights(data, client)
    return _score(found, own_R), _score(found, foreign_R)


def _judged(session: Session, found: list[Evaluation], refusal: str) -> Judged:
    for one in found:
        if not np.isfinite(one.nll_R).all():
            raise NumericsError(refusal.format(one.loss()))
    num_clients = len(session.data.rows_by_client)
    each = found * num_clients if len(found) == 1 else found
    judged = _summed_up(session, [own_and_foreign(session.data, client, one) for client, one in enumerate(each)])
    if len(found) > 1:
        return judged
    return replace(judged, loss=found[0].loss(), accuracy=found[0].accuracy() if session.data.classes else UNKNOWN)


def _summed_up(session: Session, scores: Sequence[Scores | None]) -> Judged:
    """Every client's losses and accuracies, and the means of those on own domains."""
    share_K = [len(rows) for rows in session.data.rows_by_client]
    judged: dict[str, Any] = {}
    for name in ("loss", "accuracy") if session.data.classes else ("loss",):
        for place, whose in enumerate(("own", "foreign")):
            known = [None if one is None else getattr(one[place], name) for one in scores]
            judged[f"{whose}_{name}_K"] = tuple(UNKNOWN if value is None else value for value in known)
        judged[name] = _mean(judged[f"own_{name}_K"], share_K)
    return Judged(**judged)


def _weights(data: PreparedData, client: int) -> tuple[Weights, Weights]:
    """Weights of the validation rows as a client's own, and as foreign to it, [R] each."""
    domains, held = data.validation.domains, data.domains_of(client)
    there, total = Counter(domains), sum(held.values())
    share_R = np.array([held.get(domain, 0) / total for domain in domains])
    count_R = np.array([there[domain] for domain in domains], float)
    return share_R / count_R, (1 - share_R) / count_R


def _score(found: Evaluation, weight_R: Weights) -> Score:
    return Score(*(float(weight_R @ sum_R) for sum_R in (found.nll_R, found.positions_R, found.correct_R)))


def _mean(values: Sequence[float], share_K: Sequence[int]) -> float:
    known = [(v, w) for v, w in zip(values, share_K, strict=True) if not math.isnan(v)]
    return sum(v * w for v, w in known) / sum(w for _, w in known) if known else math.nan
