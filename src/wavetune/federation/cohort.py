"""K clients and the main server trained together in one stacked model.

Legend: K clients, N tokens, P labelled positions, D width.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch and safetensors leave parts of their types open)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavetune.data.batching import RaggedBatch, collate
from wavetune.data.templates import TokenSet
from wavetune.errors import NumericsError
from wavetune.federation.cut import Crossing, CutLink
from wavetune.federation.optimise import StackedOptimiser
from wavetune.models.backbone import Backbone
from wavetune.models.lora import AdapterBank
from wavetune.models.ragged import ragged_layout

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """Which blocks each client runs: the first `cut_K[k]`, and with `tail_K[k]` not None the last `tail_K[k]` and the
    head.

    A client that runs all blocks (`cut_K[k] == num_layers`, tail None) and has its labels itself is not split at all:
    `split` False. Weights w_K sum to 1 over the cohort.
    """

    num_layers: int
    cut_K: tuple[int, ...]
    tail_K: tuple[int | None, ...]
    weight_K: tuple[float, ...]
    split: bool = True
    sequential: bool = False

    @property
    def num_clients(self) -> int:
        """Size of the cohort."""
        return len(self.cut_K)

    def local_LK(self) -> NDArray[np.bool_]:
        """Which blocks each client holds, `[L, K]`."""
        layer = np.arange(self.num_layers)[:, None]
        tail = np.array([0 if t is None else t for t in self.tail_K])
        return (layer < np.array(self.cut_K)) | (layer >= self.num_layers - tail)

    def loss_weight(self, client: int) -> float:
        """Factor of F_k in the sum that is differentiated: 1 where the labels stay with the client."""
        return self.server_weight(client) if self.split and self.tail_K[client] is None else 1.0

    def server_weight(self, client: int) -> float:
        """w_k in the server's sum; the sequential server sees one client at a time."""
        return 1.0 if self.sequential else self.weight_K[client]

    def crossings(self, done: int, clients: Sequence[int], tokens: Sequence[int]) -> list[Crossing]:
        """Who crosses a cut after `done` blocks, in a pass over these clients."""
        found, start = list[Crossing](), 0
        for client, count in zip(clients, tokens, strict=True):
            span, weight = (start, start + count), self.server_weight(client)
            if self.split and done == self.cut_K[client]:
                found.append(Crossing(client, *span, weight, to_server=True))
            tail = self.tail_K[client]
            if self.split and tail is not None and done == self.num_layers - tail:
                found.append(Crossing(client, *span, weight, to_server=False))
            start += count
        return found


@dataclass(frozen=True)
class StepResult:
    """Mean loss of each client on its batch, in nats, with the number of labelled positions behind it."""

    loss_K: NDArray[np.float64]
    labelled_K: NDArray[np.float64]
    tokens: int


@dataclass
class Cohort:
    """The stacked training engine. `tokens_per_pass` bounds how many clients' tokens go through the base at once."""

    backbone: Backbone
    bank: AdapterBank
    placement: Placement
    link: CutLink
    optimiser: StackedOptimiser
    tokens_per_pass: int

    def step(self, tokens: TokenSet, rows: Sequence[Rows], factor: float) -> StepResult:
        """One local step of every client: client k trains on `rows[k]` of the set, at `factor` of the full rate."""
        counts = [int(tokens.lengths[r].sum()) for r in rows]
        num_clients = self.placement.num_clients
        nll_K, labelled_K = np.zeros(num_clients), np.zeros(num_clients)
        for clients in self._passes(counts):
            batch = collate(tokens, [rows[k] for k in clients])
            self._one_pass(batch, clients, nll_K, labelled_K)
            if self.placement.sequential:
                self._check_gradients()
                self.optimiser.step_server(factor)
        if not self.placement.sequential:
            self._check_gradients()
            self.optimiser.step_server(factor)
        self.optimiser.step_clients(factor)
        return StepResult(nll_K / labelled_K, labelled_K, sum(counts))

    def _passes(self, counts: Sequence[int]) -> Iterator[list[int]]:
        """Consecutive clients whose tokens fit a pass; each alone where the server steps after every client."""
        waiting, total = list[int](), 0
        for client, count in enumerate(counts):
            if waiting and (self.placement.sequential or total + count > self.tokens_per_pass):
                yield waiting
                waiting, total = [], 0
            waiting.append(client)
            total += count
        yield waiting

    def _one_pass(
        self, batch: RaggedBatch, clients: list[int], nll_K: NDArray[np.float64], labelled_K: NDArray[np.float64]
    ) -> None:
        """Forward and backward; adds to the gradients and to each client's summed loss."""
        work = batch.work_by_client(len(clients))
        counts, labelled = [int(n) for n in work["tokens"]], work["labelled"]
        owner_P = batch.client_of_sample[batch.sample_of_label]
        factors = np.array([self.placement.loss_weight(k) for k in clients]) / labelled
        device = self.backbone.device
        index_P, labels_P = (torch.from_numpy(x).to(device) for x in (batch.label_index, batch.label_ids))
        if self.placement.split:
            labels_P = self._send_labels(labels_P, clients, labelled)

        def between(done: int, hidden: Tensor) -> Tensor:
            return self.link.cross(hidden, self.placement.crossings(done, clients, counts))

        hidden = self.backbone.forward(
            torch.from_numpy(batch.input_ids).to(device),
            ragged_layout(batch.lengths.tolist(), device),
            self.bank,
            clients,
            counts,
            between,
        )
        weight_P = torch.from_numpy(factors[owner_P].astype(np.float32)).to(device)
        loss, nll_P = self.backbone.labelled_loss(hidden, index_P, labels_P, weight_P)
        loss.backward()
        sums = np.bincount(owner_P, nll_P.double().cpu().numpy(), len(clients))
        for position, client in enumerate(clients):
            nll_K[client], labelled_K[client] = sums[position], labelled[position]
            if not np.isfinite(sums[position]):
                raise NumericsError(f"the loss of client {client} is {sums[position]}")

    def _send_labels(self, labels_P: Tensor, clients: list[int], labelled: NDArray[np.float64]) -> Tensor:
        """Labels cross to the server for the clients whose head runs there."""
        parts = list(labels_P.split([int(n) for n in labelled]))
        for position, client in enumerate(clients):
            if self.placement.tail_K[client] is None:
                parts[position] = self.link.door.send_ids("labels_up", client, parts[position])
        return torch.cat(parts)

    def _check_gradients(self) -> None:
        gradients = [p.grad for side in (True, False) for p in self.bank.parameters(side) if p.grad is not None]
        if not gradients or torch.isfinite(torch.stack([g.abs().sum() for g in gradients]).sum()):
            return
        for side, stacks in (("client", self.bank.local), ("server", self.bank.shared)):
            for site in self.bank.sites:
                for factor, p in zip("AB", stacks.get(site.name, ()), strict=False):
                    if p.grad is not None and not torch.isfinite(p.grad).all():
                        slot = int((~torch.isfinite(p.grad).flatten(1).all(1)).nonzero()[0])
                        owner = int(self.bank.local_LK[site.layer].nonzero()[0][slot]) if side == "client" else slot
                        who = f"client {owner}" if side == "client" else "the server"
                        raise NumericsError(f"the gradient of {site.name}.lora_{factor} of {who} is not finite")

    @torch.no_grad()
    def evaluate(self, tokens: TokenSet, bank: AdapterBank | None) -> tuple[float, int]:
        """Summed loss in nats and labelled positions of all rows, under a one-client bank or the plain base."""
        total, positions = 0.0, 0
        for rows in _row_groups(tokens, self.tokens_per_pass):
            batch = collate(tokens, [rows])
            hidden = self.backbone.forward(
                torch.from_numpy(batch.input_ids).to(self.backbone.device),
                ragged_layout(batch.lengths.tolist(), self.backbone.device),
                bank,
                [0],
                [len(batch.input_ids)],
            )
            index_P, labels_P = (torch.from_numpy(x).to(hidden.device) for x in (batch.label_index, batch.label_ids))
            weight_P = torch.ones(len(labels_P), device=hidden.device)
            _, nll_P = self.backbone.labelled_loss(hidden, index_P, labels_P, weight_P)
            total += float(nll_P.double().sum())
            positions += len(labels_P)
        return total, positions


def _row_groups(tokens: TokenSet, tokens_per_pass: int) -> Iterator[Rows]:
    """All rows, shortest first, in groups that fit a pass."""
    waiting, total = list[int](), 0
    for row in np.argsort(tokens.lengths, kind="stable"):
        if waiting and total + tokens.lengths[row] > tokens_per_pass:
            yield np.array(waiting)
            waiting, total = [], 0
        waiting.append(int(row))
        total += int(tokens.lengths[row])
    if waiting:
        yield np.array(waiting)
