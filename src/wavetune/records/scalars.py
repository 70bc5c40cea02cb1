"""The numbers of a record by which a run is followed; those that are not known are left out."""

import math

from wavetune.estimate import finite_mean
from wavetune.records.alignment import AlignmentStep
from wavetune.records.rounds import Round

_OF_ALIGNMENT = ("reward", "helpful", "safe", "true_helpful", "true_safe", "kl")


def of_round(record: Round) -> dict[str, float]:
    """Losses, delay, energy and bits of a round."""
    found = {
        "loss/training": record.train_loss,
        "loss/validation": record.validation_loss,
        "charged/delay_s": record.charged.delay_s,
        "charged/energy_j": record.charged.energy_j,
        **{f"bits/{kind}": amount for kind, amount in record.charged.bits.items()},
    }
    return _known(found)


def of_alignment(record: AlignmentStep) -> dict[str, float]:
    """Means over the clients: of training prompts and of held-out ones."""
    found = {
        **{f"alignment/{name}": finite_mean(record.metrics.get(name, ())) for name in _OF_ALIGNMENT},
        **{f"held_out/{name.removesuffix('_K')}": finite_mean(scores) for name, scores in record.evaluation.items()},
        "alignment/delay_s": record.charged.delay_s,
        "alignment/energy_j": record.charged.energy_j,
    }
    return _known(found)


def _known(values: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
