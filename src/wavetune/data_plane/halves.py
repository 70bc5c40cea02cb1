"""The two halves of the training engine: the stacked cohort with its blocks on either side of the cut.

A device is a cohort of one whose other blocks are absent; the servers hold all clients' slots but run only the blocks
behind the cut. Optimisers, codecs, weights and meters are those of a run in one process.

Legend: K clients, N tokens, P labelled positions, D width.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavetune.data.batching import RaggedBatch
from wavetune.data.templates import TokenSet
from wavetune.data_plane.contract import Arrived
from wavetune.data_plane.messages_pb2 import Layout, Loss
from wavetune.data_plane.payloads import LABELS
from wavetune.data_plane.wires import DeviceWire, ServerWire
from wavetune.errors import NumericsError
from wavetune.federation.cohort import Cohort, Placement, Rows, StepResult
from wavetune.federation.cut import Crossing, CutLink
from wavetune.models.backbone import Between
from wavetune.models.lora import AdapterBank

Seconds = defaultdict[str, float]


@dataclass
class DeviceCohort(Cohort):
    """One client's half: the blocks before the cut and, where its labels stay, the head."""

    wire: DeviceWire = field(init=False)
    seconds: Seconds = field(default_factory=lambda: Seconds(float), kw_only=True)

    def step(
        self, tokens: TokenSet, rows: Sequence[Rows], factor: float, active_K: Sequence[bool] | None = None
    ) -> StepResult:
        """One local step on `rows[0]`; where the server has the labels the loss is not known here and is NaN."""
        started = time.perf_counter()
        self.wire.waited_s, self.wire.first_ask_s = 0.0, None
        result = super().step(tokens, rows, factor, active_K)
        ended, asked = time.perf_counter(), self.wire.first_ask_s or started
        self.seconds["client_forward_s"] += asked - started
        self.seconds["client_backward_s"] += ended - asked - self.wire.waited_s
        return result

    def _one_pass(self, batch: RaggedBatch, clients: list[int], placement: Placement, *sums: Any) -> None:
        positions = batch.label_index.tolist() if placement.tail_K[0] is None else ()
        self.wire.layout = Layout(lengths=batch.lengths.tolist(), label_positions=positions)
        super()._one_pass(batch, clients, placement, *sums)

    def _losses(
        self,
        batch: RaggedBatch,
        clients: Sequence[int],
        counts: Sequence[int],
        labels_P: Tensor,
        weight_P: Tensor,
        bank: AdapterBank | None,
        between: Between | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.placement.tail_K[0] is None:
            return self._hidden(batch, clients, counts, bank, between).sum(), torch.zeros_like(weight_P), None
        loss, nll_P, right_P = super()._losses(batch, clients, counts, labels_P, weight_P, bank, between)
        self.wire.loss = Loss(nll=float(nll_P.double().sum()), labelled=len(nll_P))
        return loss, nll_P, right_P


class ServerLink(CutLink):
    """The cut as the server sees it: what arrives is a leaf whose gradient is sent back."""

    def cross(self, hidden_ND: Tensor, crossings: Sequence[Crossing]) -> Tensor:
        """Hidden states `[N, D]` after these crossings."""
        if crossings and not hidden_ND.requires_grad:
            hidden_ND = hidden_ND.detach().requires_grad_()
        return super().cross(hidden_ND, crossings)


@dataclass
class ServerCohort(Cohort):
    """The servers' half: the blocks behind the cut for all devices, one stacked pass for each cut."""

    wire: ServerWire = field(kw_only=True)
    seconds: Seconds = field(default_factory=lambda: Seconds(float), kw_only=True)

    def step(
        self, tokens: TokenSet, rows: Sequence[Rows], factor: float, active_K: Sequence[bool] | None = None
    ) -> StepResult:
        """One local step with what the active devices send; who is lost on the way counts as if it sat out.

        So does, from here on, whose values make a loss or gradient not finite. Their rows are theirs: `tokens` and
        `rows` are not looked at. Raises NumericsError if that holds for all of several devices.
        """
        num_clients = self.placement.num_clients
        asked = [k for k in range(num_clients) if active_K is None or active_K[k]]
        arrived = self.wire.gather(asked)
        nll_K, labelled_K, given_up = np.zeros(num_clients), np.zeros(num_clients), dict[int, str]()

        def passes(clients: Collection[int]) -> None:
            placement = self.placement.among([k in clients for k in range(num_clients)])
            for group in self._groups({k: arrived[k] for k in clients}):
                self._served_pass(group, [arrived[k] for k in group], placement, nll_K, labelled_K)

        for turn in [[k] for k in sorted(arrived)] if self.placement.sequential else [sorted(arrived)]:
            given_up |= self.without_faults(passes, turn, nll_K)
            self.optimiser.step_server(factor)
        if given_up and given_up.keys() >= set(asked) and len(asked) > min(1, num_clients - 1):
            raise NumericsError(next(iter(given_up.values())))
        for client, why in given_up.items():
            self.wire.give_up(client, f"{why}, and what client {client} sent makes it so")
            nll_K[client], labelled_K[client] = 0.0, 0.0
        there = arrived.keys() - given_up.keys()
        self.wire.heard |= there
        loss_K = np.divide(nll_K, labelled_K, out=np.full(num_clients, np.nan), where=labelled_K > 0)
        return StepResult(loss_K, labelled_K, sum(sum(arrived[k].lengths) for k in there))

    def _repeating(self) -> AbstractContextManager[None]:
        return self.wire.repeating()

    def _groups(self, arrived: Mapping[int, Arrived]) -> Iterator[list[int]]:
        """Clients of one pass: of one cut, as many as fit; in their order where the server steps after each."""

        def blocks(client: int) -> tuple[int, int]:
            return self.placement.cut_K[client], self.placement.tail_K[client] or 0

        order = sorted(arrived) if self.placement.sequential else sorted(arrived, key=lambda k: (blocks(k), k))
        for _, members in groupby(order, blocks):
            group = list(members)
            for positions in self._passes([sum(arrived[k].lengths) for k in group]):
                yield [group[p] for p in positions]

    def _served_pass(
        self,
        clients: list[int],
        arrived: Sequence[Arrived],
        placement: Placement,
        nll_K: NDArray[np.float64],
        labelled_K: NDArray[np.float64],
    ) -> None:
        started, waited = time.perf_counter(), self.wire.waited_s
        last = placement.num_layers - (placement.tail_K[clients[0]] or 0)
        with self.backbone.running(range(placement.cut_K[clients[0]], last)):
            self._one_pass(_batch(arrived, self._filler), clients, placement, nll_K, labelled_K)
        spent = time.perf_counter() - started - (self.wire.waited_s - waited)
        self.seconds["server_backward_s"] += spent - self._forward_s
        self.seconds["server_forward_s"] += self._forward_s
        for client in clients:
            if placement.tail_K[client] is not None:
                nll_K[client], labelled_K[client] = self.wire.losses.get(client, (0.0, 0))

    @property
    def _filler(self) -> int:
        """A token that stands for those that stay with the devices; not padding, at which transformers would warn."""
        return 1 if self.backbone.model.config.pad_token_id == 0 else 0

    def _losses(
        self,
        batch: RaggedBatch,
        clients: Sequence[int],
        counts: Sequence[int],
        labels_P: Tensor,
        weight_P: Tensor,
        bank: AdapterBank | None,
        between: Between | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        started = time.perf_counter()
        if between is not None and self.placement.tail_K[clients[0]] is not None:
            found = self._hidden(batch, clients, counts, bank, between).sum(), torch.zeros_like(weight_P), None
        else:
            found = super()._losses(batch, clients, counts, labels_P, weight_P, bank, between)
        self._forward_s = time.perf_counter() - started
        return found


def _batch(arrived: Sequence[Arrived], filler: int) -> RaggedBatch:
    """The devices' batches as one, without their tokens: those stay where they are.

    Where the labels stay too, each sample's last position stands for them.
    """
    lengths = np.array([n for a in arrived for n in a.lengths])
    tokens = np.array([sum(a.lengths) for a in arrived])
    starts = np.cumsum(tokens) - tokens
    ends = [np.cumsum(a.lengths) - 1 for a in arrived]
    positions = [a.label_positions or end for a, end in zip(arrived, ends, strict=True)]
    label_index = np.concatenate([np.asarray(p, np.int64) + s for p, s in zip(positions, starts, strict=True)])
    labels = [a.one(LABELS)["ids"].numpy() if a.label_positions else np.zeros(len(a.lengths)) for a in arrived]
    return RaggedBatch(
        input_ids=np.full(int(tokens.sum()), filler),
        lengths=lengths,
        client_of_sample=np.repeat(np.arange(len(arrived)), [len(a.lengths) for a in arrived]),
        label_index=label_index,
        label_ids=np.concatenate(labels).astype(np.int64),
        sample_of_label=np.searchsorted(np.cumsum(lengths), label_index, side="right"),
    )
