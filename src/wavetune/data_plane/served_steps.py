"""Local steps of a run whose clients are devices, as the servers make them or hear of them.

With a cut the servers' half of the cohort runs the blocks behind it on what the devices send. Without one each device
trains the whole model, and tells the losses of its steps with its adapters.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from wavetune.data.batching import RaggedBatch
from wavetune.data.partition import Rows
from wavetune.data.templates import TokenSet
from wavetune.data_plane.contract import Arrived
from wavetune.data_plane.messages_pb2 import Loss
from wavetune.data_plane.payloads import LABELS
from wavetune.data_plane.wires import ServerWire
from wavetune.errors import NumericsError
from wavetune.federation.cohort import Cohort, Evaluation, StepResult
from wavetune.federation.cut import LossSum
from wavetune.federation.messages import EVERYTHING, Agenda
from wavetune.models.lora import AdapterBank


@dataclass
class Arrivals:
    """Samples of devices, of which the servers know the lengths and, where they compute the loss, the labels."""

    arrived: Mapping[int, Arrived]
    filler: int  # the token that stands for those that stay with the devices

    @property
    def tokens(self) -> Mapping[int, int]:
        """Tokens of each device's samples."""
        return {client: sum(each.lengths) for client, each in self.arrived.items()}

    def of(self, clients: Sequence[int]) -> RaggedBatch:
        """These devices' samples. Where the labels stay too, each sample's last position stands for them."""
        arrived = [self.arrived[client] for client in clients]
        lengths = np.array([n for a in arrived for n in a.lengths])
        tokens = np.array([sum(a.lengths) for a in arrived])
        starts = np.cumsum(tokens) - tokens
        ends = [np.cumsum(a.lengths) - 1 for a in arrived]
        positions = [a.label_positions or end for a, end in zip(arrived, ends, strict=True)]
        label_index = np.concatenate([np.asarray(p, np.int64) + s for p, s in zip(positions, starts, strict=True)])
        labels = [a.one(LABELS)["ids"].numpy() if a.label_positions else np.zeros(len(a.lengths)) for a in arrived]
        return RaggedBatch(
            input_ids=np.full(int(tokens.sum()), self.filler),
            lengths=lengths,
            client_of_sample=np.repeat(np.arange(len(arrived)), [len(a.lengths) for a in arrived]),
            label_index=label_index,
            label_ids=np.concatenate(labels).astype(np.int64),
            sample_of_label=np.searchsorted(np.cumsum(lengths), label_index, side="right"),
        )


@dataclass
class _OfDevices:
    """What all steps of devices share: the servers' cohort, the wire to the devices, and the servers' evaluation."""

    cohort: Cohort
    wire: ServerWire

    def evaluate(
        self, tokens: TokenSet, bank: AdapterBank | None, client: int = 0, passes: slice = slice(None)
    ) -> Evaluation:
        """Losses of all rows of a set as one client of a bank, or the plain base, sees them."""
        return self.cohort.evaluate(tokens, bank, client, passes)


@dataclass
class CutSteps(_OfDevices):
    """Steps behind the cut, of a cohort that is the servers' half. The devices choose their rows by the same rule."""

    def begin_round(self, names: Collection[str], agenda: Agenda = EVERYTHING) -> None:
        """Train what is on the agenda here as well; the devices have their orders."""
        self.cohort.begin_round(names, agenda)

    def step(
        self, tokens: TokenSet, rows: Sequence[Rows], factor: float, active_K: Sequence[bool] | None = None
    ) -> StepResult:
        """One local step with what the active devices send; who is lost on the way counts as if it sat out.

        So does, from here on, whose values make a loss or gradient not finite. Raises NumericsError if that holds for
        all of several devices.
        """
        num_clients = self.cohort.placement.num_clients
        asked = [k for k in range(num_clients) if active_K is None or active_K[k]]
        arrived = self.wire.gather(asked)
        # not padding, at which transformers would warn
        filler = 1 if self.cohort.backbone.model.config.pad_token_id == 0 else 0
        result = self.cohort.step_on(Arrivals(arrived, filler), factor)
        if result.given_up.keys() >= set(asked) and len(asked) > min(1, num_clients - 1):
            raise NumericsError(next(iter(result.given_up.values())))
        for client, why in result.given_up.items():
            self.wire.give_up(client, f"{why}, and what client {client} sent makes it so")
        for client in arrived.keys() - result.given_up.keys():
            self.wire.trained.add(client)
            if self.cohort.placement.head_at_client(client):
                nll, labelled = self.wire.losses.get(client, LossSum(0.0, 0))
                result.loss_K[client], result.labelled_K[client] = nll / labelled if labelled else np.nan, labelled
        return replace(result, given_up={})

    def end_round(self) -> None:
        """Await the adapters of the devices that are still there."""
        self.wire.gather(sorted(self.wire.present - self.wire.lost.keys()))


@dataclass
class ReportedSteps(_OfDevices):
    """Steps that devices make by themselves, and report with their adapters."""

    _steps: deque[dict[int, Loss]] = field(default_factory=deque[dict[int, Loss]])

    def begin_round(self, names: Collection[str], agenda: Agenda = EVERYTHING) -> None:
        """Await the adapters of all devices, with the losses of all steps; who is lost by then sits the round out."""
        arrived = self.wire.gather(sorted(self.wire.present))
        self.wire.trained |= arrived.keys()
        most = max((len(each.losses) for each in arrived.values()), default=0)
        told = ({k: each.losses[i] for k, each in arrived.items() if i < len(each.losses)} for i in range(most))
        self._steps = deque(told)

    def step(
        self, tokens: TokenSet, rows: Sequence[Rows], factor: float, active_K: Sequence[bool] | None = None
    ) -> StepResult:
        """What the devices told of the next step."""
        step = self._steps.popleft() if self._steps else dict[int, Loss]()
        losses = {client: LossSum(loss.nll, loss.labelled) for client, loss in step.items()}
        return StepResult.of(self.cohort.placement.num_clients, losses, sum(loss.tokens for loss in step.values()))

    def end_round(self) -> None:
        """Nothing is left to be done: adapters came with the losses."""
