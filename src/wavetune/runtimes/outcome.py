"""What a round came to, from which its record is made.

Legend: K clients.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wavetune.allocation import plan
from wavetune.federation.cohort import StepResult
from wavetune.federation.messages import Agenda
from wavetune.federation.nodes import Mixed
from wavetune.federation.placement import Placement
from wavetune.records import rounds
from wavetune.records.fields import UNKNOWN
from wavetune.records.rounds import Account, Allocation, BandUse, Judged, Lost, Measured, Refused, Round, RoundPrivacy
from wavetune.runtimes.evaluation import Scores


@dataclass(frozen=True)
class Witness:
    """What the servers of a round saw of its devices, where clients are devices.

    Who was heard in a step, whose updates are missing and why, who or what was refused, and what the round really took.
    The losses of those who are `unbelieved` count in no mean.
    Where clients' own adapters are on devices alone, `scores` are what these found on validation rows when it was due.
    """

    heard_K: Sequence[bool]
    lost: tuple[Lost, ...]
    refused: tuple[Refused, ...]
    measured: Measured
    unbelieved: Collection[int] = ()
    scores: Mapping[int, Scores] | None = None


@dataclass(frozen=True)
class RoundOutcome:
    """A round that is over: its plan, what it cost, who did what, and the mixture that came out of it."""

    round: int
    plan: plan.Plan
    rate_bit_per_s: rounds.Rates
    learning_rate: float
    placement: Placement
    results: Sequence[StepResult]  # of the local steps
    samples: int
    planned: Account
    charged: Account
    informed_s: float
    straggler: rounds.Straggler
    metered_bits: rounds.Bits
    trained_K: Sequence[bool]  # in one step at least
    lost: tuple[Lost, ...]
    mixed: Mixed
    agenda: Agenda  # what was trained and sent
    privacy: RoundPrivacy
    wall_s: float
    server_loss: float = UNKNOWN
    witness: Witness | None = None

    def losses(self) -> dict[int, float]:
        """Each client's mean training loss over the round's steps, in nats per labelled token, where it is known."""
        return {k: loss for k, loss in mean_losses(self.results).items() if self.trained_K[k]}

    def record(self, evaluation: Judged | None = None) -> Round:
        """The line of rounds.jsonl, with the evaluation where there was one."""
        active_K = self.trained_K if self.witness is None else self.witness.heard_K
        loss_of = {k: loss for k, loss in self.losses().items() if active_K[k]}
        counted = loss_of.keys() - (() if self.witness is None else self.witness.unbelieved)
        weight_K = self.placement.among([k in counted for k in range(len(active_K))]).weight_K if counted else ()
        tokens = sum(r.tokens for r in self.results)
        return Round(
            round=self.round,
            cut_K=tuple(map(int, self.plan.cut_K)),
            rank_K=tuple(map(int, self.plan.rank_K)),
            train_loss=sum(weight_K[k] * loss_of[k] for k in sorted(counted)) if counted else UNKNOWN,
            train_loss_K=tuple(loss_of.get(k, UNKNOWN) for k in range(len(active_K))),
            validation_loss=UNKNOWN if evaluation is None else evaluation.loss,
            samples=self.samples,
            tokens=tokens,
            learning_rate=self.learning_rate,
            planned=self.planned,
            charged=self.charged,
            informed_s=self.informed_s,
            metered_bits=self.metered_bits,
            measured=Measured() if self.witness is None else self.witness.measured,
            straggler=self.straggler,
            allocation=Allocation(*(_use(band) for band in (self.plan.main, self.plan.fed))),
            rate_bit_per_s=self.rate_bit_per_s,
            aggregation_error=self.mixed.error,
            active_K=tuple(active_K),
            lost=self.lost + (() if self.witness is None else self.witness.lost),
            server_loss=self.server_loss,
            blocks=self.agenda.blocks or (),
            frozen=tuple(sorted(self.agenda.frozen)),
            refused=() if self.witness is None else self.witness.refused,
            evaluation=evaluation or Judged(),
            privacy=self.privacy,
            wall_s=self.wall_s,
            tokens_per_s=tokens / self.wall_s,
        )


def mean_losses(results: Sequence[StepResult]) -> dict[int, float]:
    """Each client's mean loss over local steps, in nats per labelled token, where it is known."""
    labelled_K = np.sum([r.labelled_K for r in results], axis=0)
    summed_K = np.nansum([r.loss_K * r.labelled_K for r in results], axis=0)
    return {k: float(summed_K[k] / labelled_K[k]) for k in np.flatnonzero(labelled_K).tolist()}


def _use(band: plan.Allocation) -> BandUse:
    return BandUse(tuple(band.owner_M.tolist()), tuple(band.power_w_M.tolist()))
