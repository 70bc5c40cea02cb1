"""What a run had spent, and how good it was, at each evaluation; and what can be read off that.

Legend: E evaluations, the untouched model's first.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from wavetune.estimate import finite_mean
from wavetune.records.reading import Run
from wavetune.records.rounds import Judged
from wavetune.reporting.format import bits, joules, number, percent, seconds


@dataclass(frozen=True)
class Quality:
    """How good a model is, read from an evaluation; `higher` is better, or lower."""

    name: str
    higher: bool
    of: Callable[[Judged], float]

    def show(self, value: float) -> str:
        """The value for people."""
        return percent(value) if self.higher else number(value, 4)

    def better(self, one: float, other: float) -> bool:
        """Whether one value is better than another."""
        return one > other if self.higher else one < other

    def best(self, values: Sequence[float]) -> float:
        """The best of some values."""
        return max(values) if self.higher else min(values)


LOSS = Quality("validation loss", False, lambda judged: judged.loss)
OWN_LOSS = Quality("loss on own domains", False, lambda judged: finite_mean(judged.own_loss_K))
ACCURACY = Quality("validation accuracy", True, lambda judged: judged.accuracy)
OWN_ACCURACY = Quality("accuracy on own classes", True, lambda judged: finite_mean(judged.own_accuracy_K))


def quality_of(runs: Sequence[Run]) -> Quality:
    """What compares between runs: accuracy where all have classes; that on own rows where some models are personal."""
    classes = all(math.isfinite(run.summary.evaluation.before.accuracy) for run in runs)
    personal = any(run.summary.personal for run in runs)
    return {
        (False, False): LOSS,
        (False, True): OWN_LOSS,
        (True, False): ACCURACY,
        (True, True): OWN_ACCURACY,
    }[classes, personal]


@dataclass(frozen=True)
class Resource:
    """What is spent: how it is called, in which unit, and how it is shown."""

    name: str
    unit: str
    show: Callable[[float], str]


RESOURCES = {
    "delay": Resource("simulated delay", "s", seconds),
    "energy": Resource("energy", "J", joules),
    "bits": Resource("bits", "bit", bits),
}


@dataclass(frozen=True)
class Curve:
    """[E] what was spent by each evaluation, by resource, and the quality that it found."""

    spent: dict[str, tuple[float, ...]]
    quality: tuple[float, ...]

    def cost_to(self, target: float, resource: str, quality: Quality) -> float | None:
        """What was spent by the first evaluation that meets the target; None where none does.

        >>> Curve({"bits": (0.0, 5.0, 10.0)}, (3.0, 2.0, 1.0)).cost_to(2.0, "bits", LOSS)
        5.0
        """
        pairs = zip(self.spent[resource], self.quality, strict=True)
        return next((spent for spent, value in pairs if not quality.better(target, value)), None)

    def best_within(self, budget: float, resource: str, quality: Quality) -> float:
        """The best quality that an evaluation found before more than the budget was spent.

        >>> Curve({"bits": (0.0, 5.0, 10.0)}, (3.0, 2.0, 1.0)).best_within(9.0, "bits", LOSS)
        2.0
        """
        pairs = zip(self.spent[resource], self.quality, strict=True)
        return quality.best([value for spent, value in pairs if spent <= budget])


def curve_of(run: Run, quality: Quality) -> Curve:
    """The curve of a finished run. Bits are all that was metered, whichever way they went."""
    charged = [record.charged for record in run.rounds]
    spent = {
        "delay": _sums(one.delay_s for one in charged),
        "energy": _sums(one.energy_j for one in charged),
        "bits": _sums(sum(record.metered_bits.values()) for record in run.rounds),
    }
    found = [quality.of(run.summary.evaluation.before), *(quality.of(record.evaluation) for record in run.rounds)]
    at = [index for index, value in enumerate(found) if math.isfinite(value)]
    return Curve(
        {name: tuple(sums[index] for index in at) for name, sums in spent.items()}, tuple(found[index] for index in at)
    )


def _sums(values: Iterable[float]) -> list[float]:
    return [0.0, *accumulate(values)]
