"""What may happen to an adapter upload: nothing, or an outage of the fading link, and what the server does then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Lt

from wavetune.seeds import stream
from wavetune.wireless.outage import in_outage


@dataclass(frozen=True)
class Reliable:
    """Every upload arrives."""

    kind: Literal["reliable"] = field(default="reliable", kw_only=True)
    lost: ClassVar[Literal["skip"]] = "skip"

    def sent(self, rate_bit_per_s_K: Sequence[float]) -> list[bool]:
        """Who sends, given the uplink rates."""
        return [True] * len(rate_bit_per_s_K)

    def arrives(self, seed: int, round_index: int, client_id: int) -> bool:
        """Whether a sent upload arrives."""
        return True


@dataclass(frozen=True)
class Outage:
    """A client whose uplink rate is below the minimum does not send; what is sent is lost with a probability.

    A lost update is skipped and the others reweighted, or the client's last one that arrived stands in for it (STFL,
    arXiv 2110.14578). The client learns its rate from the plan, so an outage costs neither time nor energy; an upload
    that is lost on the way costs both.
    """

    kind: Literal["outage"] = field(default="outage", kw_only=True)
    min_rate_bit_per_s: Annotated[float, Ge(0)] = 0.0
    loss_probability: Annotated[float, Ge(0), Lt(1)] = 0.0
    lost: Literal["skip", "reuse"] = "skip"

    def sent(self, rate_bit_per_s_K: Sequence[float]) -> list[bool]:
        """Who sends, given the uplink rates."""
        import numpy as np

        return (~in_outage(np.asarray(rate_bit_per_s_K), self.min_rate_bit_per_s)).tolist()

    def arrives(self, seed: int, round_index: int, client_id: int) -> bool:
        """Whether a sent upload arrives."""
        return bool(stream(seed, "upload lost", round_index, client_id).random() >= self.loss_probability)


Link = Reliable | Outage
