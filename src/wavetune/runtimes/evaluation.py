"""How good a run's models are on validation rows: over all of them, and for each client on its own and foreign domains.

Client k's own rows are weighted such that domains occur as often as in its training data, foreign ones by what is
missing there to a uniform 1. Legend: K clients, R validation rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavetune.errors import NumericsError
from wavetune.federation.cohort import Evaluation
from wavetune.models.lora import LoraPair
from wavetune.runtimes.session import Session, global_bank

Weights = NDArray[np.float64]


def evaluate(session: Session, factors: Mapping[str, LoraPair], round_index: int) -> dict[str, Any]:
    """Losses (nats) and accuracies after a round, given its mixture. Raises NumericsError if a loss is not finite.

    `loss` is that of the one global model over all rows; where clients keep adapters of their own, the mean over
    clients, by their samples, of the loss on their own domains.
    """
    validation = session.data.validation
    if session.personal:
        found = [
            session.cohort.evaluate(validation, session.cohort.bank, client)
            for client in range(session.cohort.placement.num_clients)
        ]
    else:
        found = [session.cohort.evaluate(validation, global_bank(session, factors))]
    return _judged(
        session,
        found,
        f"round {round_index}: the validation loss after it is {{}}; the last checkpoint is kept, start again with a "
        "lower method.optimiser.learning_rate",
    )


def evaluate_untouched(session: Session) -> dict[str, Any]:
    """The same before training, of the base model alone (with a fresh head, where classes are learned)."""
    head = session.cohort.bank.only(("head",)) if session.data.classes else None
    found = session.cohort.evaluate(session.data.validation, head)
    what = "the validation loss of the untouched model is {}; its weights may be damaged"
    return _judged(session, [found], what)


def _judged(session: Session, found: list[Evaluation], refusal: str) -> dict[str, Any]:
    for one in found:
        if not np.isfinite(one.nll_R).all():
            raise NumericsError(refusal.format(one.loss()))
    own_K, foreign_K = zip(*_weights(session), strict=True)
    each = found * len(own_K) if len(found) == 1 else found
    judged: dict[str, Any] = {"own_loss_K": _losses(each, own_K), "foreign_loss_K": _losses(each, foreign_K)}
    share_K = np.array([len(rows) for rows in session.data.rows_by_client], float)
    judged["loss"] = found[0].loss() if len(found) == 1 else _mean(judged["own_loss_K"], share_K)
    if session.data.classes:
        judged["own_accuracy_K"] = _accuracies(each, own_K)
        judged["foreign_accuracy_K"] = _accuracies(each, foreign_K)
        judged["accuracy"] = found[0].accuracy() if len(found) == 1 else _mean(judged["own_accuracy_K"], share_K)
    return judged


def _weights(session: Session) -> Iterator[tuple[Weights, Weights]]:
    """Weights of the validation rows as each client's own, and as foreign to it, [R] each."""
    domains = session.data.validation.domains
    there = Counter(domains)
    for client in range(len(session.data.rows_by_client)):
        held = session.data.domains_of(client)
        total = sum(held.values())
        share_R = np.array([held.get(domain, 0) / total for domain in domains])
        count_R = np.array([there[domain] for domain in domains], float)
        yield share_R / count_R, (1 - share_R) / count_R


def _losses(each: list[Evaluation], weights: tuple[Weights, ...]) -> list[float | None]:
    return [one.loss(w) if w.any() else None for one, w in zip(each, weights, strict=True)]


def _accuracies(each: list[Evaluation], weights: tuple[Weights, ...]) -> list[float | None]:
    return [one.accuracy(w) if w.any() else None for one, w in zip(each, weights, strict=True)]


def _mean(values: list[float | None], share_K: Weights) -> float:
    known = [(v, w) for v, w in zip(values, share_K, strict=True) if v is not None]
    return sum(v * w for v, w in known) / sum(w for _, w in known) if known else math.nan
