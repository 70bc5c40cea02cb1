"""What may happen to an adapter upload: nothing, or an outage of the fading link, and what the server does then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Lt

from wavetune.federation.facts import ADAPTERS, BY_SERVER
from wavetune.federation.filters.filter import Fill, Skip
from wavetune.guarded import Checks
from wavetune.parts import Part
from wavetune.seeds import stream


def _check_sent(_: Link, found: Any, rate_bit_per_s_K: Sequence[float]) -> str:
    fits = np.shape(found) == (len(rate_bit_per_s_K),) and np.asarray(found).dtype == bool
    return "" if fits else f"whether each of {len(rate_bit_per_s_K)} clients sends, true or false"


def _check_arrives(_: Link, found: Any, *__: Any) -> str:
    return "" if isinstance(found, bool | np.bool_) else "true or false"


class Link(Part):
    """What may happen to an adapter upload on its way; nothing, unless it says so."""

    needs = (ADAPTERS, BY_SERVER)
    checks: ClassVar[Checks] = {"sent": _check_sent, "arrives": _check_arrives}
    min_rate_bit_per_s: float = 0.0  # below which nothing is sent
    loss_probability: float = 0.0  # that what is sent is lost on the way
    lost: Fill = Skip()  # what stands in for an update that does not arrive

    def sent(self, rate_bit_per_s_K: Sequence[float]) -> list[bool]:
        """Who sends, given the uplink rates."""
        return [True] * len(rate_bit_per_s_K)

    def arrives(self, seed: int, round_index: int, client_id: int) -> bool:
        """Whether a sent upload arrives."""
        return True

    def losing(self, probability: float) -> Link:
        """The same link where this share of what is sent is lost on the way, and by chance no more."""
        if not probability:
            return self
        return Outage(self.min_rate_bit_per_s, loss_probability=probability, lost=self.lost)


@dataclass(frozen=True)
class Reliable(Link):
    """Every upload arrives."""

    needs = ()


@dataclass(frozen=True)
class Outage(Link):
    """A client whose uplink rate is below the minimum does not send; what is sent is lost with a probability.

    A lost update is skipped and the others reweighted, or the client's last one that arrived stands in for it (STFL,
    arXiv 2110.14578). The client learns its rate from the plan, so an outage costs neither time nor energy; an upload
    that is lost on the way costs both.
    """

    min_rate_bit_per_s: Annotated[float, Ge(0)] = 0.0
    loss_probability: Annotated[float, Ge(0), Lt(1)] = 0.0
    lost: Fill = field(default_factory=Skip)

    def sent(self, rate_bit_per_s_K: Sequence[float]) -> list[bool]:
        """Who sends, given the uplink rates."""
        return [bool(rate > 0 and rate >= self.min_rate_bit_per_s) for rate in rate_bit_per_s_K]

    def arrives(self, seed: int, round_index: int, client_id: int) -> bool:
        """Whether a sent upload arrives."""
        return bool(stream(seed, "upload lost", round_index, client_id).random() >= self.loss_probability)

    def losing(self, probability: float) -> Link:
        """The same link with this probability of a loss."""
        return replace(self, loss_probability=probability)
