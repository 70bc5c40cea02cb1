"""K clients and the main server trained together in one stacked model.

Legend: K clients, N tokens, P labelled positions, D width.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch and safetensors leave parts of their types open)

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavetune.data.batching import RaggedBatch, collate
from wavetune.data.templates import TokenSet
from wavetune.errors import NumericsError
from wavetune.federation.cut import Crossing, CutLink
from wavetune.federation.optimise import StackedOptimiser
from wavetune.models.backbone import Backbone, Between
from wavetune.models.classifier import classification_loss, head_site, stacked_head
from wavetune.models.lora import AdapterBank, LoraPair
from wavetune.models.ragged import ragged_layout

Rows = NDArray[np.int64]
_OVERFLOW = 1e30  # of a square, where fp32 ends at 3e38


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

    def among(self, active_K: Sequence[bool]) -> Placement:
        """The same with the weights of those alone that take part."""
        total = sum(w for w, active in zip(self.weight_K, active_K, strict=True) if active)
        weights = (w / total if active else 0.0 for w, active in zip(self.weight_K, active_K, strict=True))
        return replace(self, weight_K=tuple(weights))

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
    """Mean loss of each client on its batch, in nats, with the number of labelled positions behind it.

    The loss of a client that sat out is NaN, and so is that of one whose values did not stay finite: `given_up` says
    which. Nothing of its step is left.
    """

    loss_K: NDArray[np.float64]
    labelled_K: NDArray[np.float64]
    tokens: int
    given_up: Mapping[int, str] = field(default_factory=dict[int, str])


@dataclass(frozen=True)
class Evaluation:
    """Of every evaluated row: summed loss in nats, labelled positions, and how many of them were predicted right.

    Right predictions are counted where rows have classes; a next token's are not.
    """

    nll_R: NDArray[np.float64]
    positions_R: NDArray[np.float64]
    correct_R: NDArray[np.float64]

    def loss(self, weight_R: NDArray[np.float64] | None = None) -> float:
        """Mean loss of a position in nats, rows weighted if asked."""
        weight_R = np.ones_like(self.nll_R) if weight_R is None else weight_R
        return float(weight_R @ self.nll_R / (weight_R @ self.positions_R))

    def accuracy(self, weight_R: NDArray[np.float64] | None = None) -> float:
        """Share of the positions that were predicted right, rows weighted if asked."""
        weight_R = np.ones_like(self.nll_R) if weight_R is None else weight_R
        return float(weight_R @ self.correct_R / (weight_R @ self.positions_R))


@dataclass
class Cohort:
    """The stacked training engine. `tokens_per_pass` bounds how many clients' tokens go through the base at once.

    What is learned is the next token, or a row's class where the rows have classes. Half of `proximal` times
    the squared distance of a client's adapters to their `anchor` is added to its loss.
    """

    backbone: Backbone
    bank: AdapterBank
    placement: Placement
    link: CutLink
    optimiser: StackedOptimiser
    tokens_per_pass: int
    proximal: float = 0.0
    anchor: Mapping[str, LoraPair] = field(default_factory=dict[str, LoraPair])

    def step(
        self, tokens: TokenSet, rows: Sequence[Rows], factor: float, active_K: Sequence[bool] | None = None
    ) -> StepResult:
        """One local step of every active client (all if None) at `factor` of the full rate.

        Client k trains on `rows[k]` of the set; the others' rows are not looked at. Raises NumericsError if no active
        client's values stay finite.
        """
        num_clients = self.placement.num_clients
        active = [k for k in range(num_clients) if active_K is None or active_K[k]]
        lengths = {k: int(tokens.lengths[rows[k]].sum()) for k in active}
        nll_K, labelled_K, given_up = np.zeros(num_clients), np.zeros(num_clients), dict[int, str]()

        def passes(clients: Collection[int]) -> None:
            placement = self.placement.among([k in clients for k in range(num_clients)])
            for group in self._passes([lengths[k] if k in clients else 0 for k in range(num_clients)]):
                batch = collate(tokens, [rows[k] for k in group])
                self._one_pass(batch, group, placement, nll_K, labelled_K)

        for turn in [[k] for k in active] if self.placement.sequential else [active]:
            given_up |= self.without_faults(passes, turn, nll_K)
            self.optimiser.step_server(factor)
        if given_up and given_up.keys() >= set(active):
            raise NumericsError(next(iter(given_up.values())))
        self._pull_to_anchor()
        self.optimiser.step_clients(factor, [k in active and k not in given_up for k in range(num_clients)])
        for client in given_up:
            nll_K[client], labelled_K[client], lengths[client] = 0.0, 0.0, 0
        loss_K = np.divide(nll_K, labelled_K, out=np.full(num_clients, np.nan), where=labelled_K > 0)
        return StepResult(loss_K, labelled_K, sum(lengths.values()), given_up)

    def without_faults(
        self, passes: Callable[[Collection[int]], None], clients: Collection[int], nll_K: NDArray[np.float64]
    ) -> dict[int, str]:
        """Make the passes of those clients whose values stay finite; returns whose do not, and which.

        `passes` adds the gradients of the clients that it is given, and their losses. Where the server's gradient is
        not finite and no client's own value tells why, those are at fault who make it so alone, or else who gives it
        most. Nothing of a client at fault is left, neither gradient nor bits.
        """
        given_up, kept, bits = dict[int, str](), list(clients), self.link.door.bits.copy()
        repeating = nullcontext()
        while kept:
            with repeating:
                passes(kept)
            repeating = self._repeating()
            found = self._faults(kept, nll_K)
            if not found and (wrong := self._shared_fault()):
                found = dict.fromkeys(self._blamed(passes, kept), wrong)
            if not found:
                break
            given_up |= found
            self._drop(kept, bits)
            kept = [k for k in kept if k not in found]
        return given_up

    def _repeating(self) -> AbstractContextManager[None]:
        """The context in which passes are made again."""
        return nullcontext()

    def _blamed(self, passes: Callable[[Collection[int]], None], clients: list[int]) -> list[int]:
        """Who of these makes the server's gradient not finite alone, or else who gives it most."""
        if len(clients) == 1:
            return clients
        bits, square = self.link.door.bits.copy(), dict[int, float]()
        for client in clients:
            self._drop(clients, bits)
            with self._repeating():
                passes([client])
            square[client] = sum(float(g.double().square().sum()) for g in self._shared_gradients())
            if self._shared_fault():
                square[client] = math.inf
        most = max(square.values())
        return [client for client in clients if square[client] == most]

    def _drop(self, clients: Collection[int], bits: Counter[tuple[str, int]]) -> None:
        """Take back the gradients of these clients' passes, and what crossed in them."""
        self.link.door.bits = bits.copy()
        for parameter in self.bank.parameters(local=False):
            parameter.grad = None
        for site in self.bank.sites:
            slots = [int(slot) for slot in self.bank.slots(site.layer)[list(clients)] if slot >= 0]
            for parameter in self.bank.local.get(site.name, ()):
                if parameter.grad is not None:
                    parameter.grad[slots] = 0.0

    def _passes(self, counts: Sequence[int]) -> Iterator[list[int]]:
        """Consecutive clients whose tokens fit a pass; each alone where the server steps after every client."""
        waiting, total = list[int](), 0
        for client, count in enumerate(counts):
            if not count:
                continue
            if waiting and (self.placement.sequential or total + count > self.tokens_per_pass):
                yield waiting
                waiting, total = [], 0
            waiting.append(client)
            total += count
        if waiting:
            yield waiting

    def _one_pass(
        self,
        batch: RaggedBatch,
        clients: list[int],
        placement: Placement,
        nll_K: NDArray[np.float64],
        labelled_K: NDArray[np.float64],
    ) -> None:
        """Forward and backward; adds to the gradients and to each client's summed loss."""
        work = batch.work_by_client(len(clients))
        counts, labelled = [int(n) for n in work["tokens"]], work["labelled"]
        owner_P = batch.client_of_sample[batch.sample_of_label]
        factors = np.array([placement.loss_weight(k) for k in clients]) / labelled
        labels_P = torch.from_numpy(batch.label_ids).to(self.backbone.device)
        if placement.split:
            labels_P = self._send_labels(labels_P, clients, labelled)

        def between(done: int, hidden: Tensor) -> Tensor:
            return self.link.cross(hidden, placement.crossings(done, clients, counts))

        weight_P = torch.from_numpy(factors[owner_P]).to(self.backbone.device, self.backbone.dtype)
        loss, nll_P, _ = self._losses(
            batch, clients, counts, labels_P, weight_P, self.bank, between if placement.split else None
        )
        loss.backward()
        sums = np.bincount(owner_P, nll_P.double().cpu().numpy(), len(clients))
        for position, client in enumerate(clients):
            nll_K[client], labelled_K[client] = sums[position], labelled[position]

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
        """Weighted sum of the losses of a pass, each position's own, and which classes were predicted right, if any."""
        device, hidden_ND = self.backbone.device, self._hidden(batch, clients, counts, bank, between)
        if bank is None or not any(site.kind == "head" for site in bank.sites):
            index_P = torch.from_numpy(batch.label_index).to(device)
            return *self.backbone.labelled_loss(hidden_ND, index_P, labels_P, weight_P), None
        samples = np.bincount(batch.client_of_sample, minlength=len(clients)).tolist()
        segments = bank.segments(head_site(bank).layer, clients, samples)
        logits_SC = stacked_head(self.backbone.pooled(hidden_ND, batch.lengths.tolist()), bank, segments)
        return *classification_loss(logits_SC, labels_P, weight_P), logits_SC.argmax(1) == labels_P

    def _hidden(
        self,
        batch: RaggedBatch,
        clients: Sequence[int],
        counts: Sequence[int],
        bank: AdapterBank | None,
        between: Between | None,
    ) -> Tensor:
        """Hidden states of a pass behind the last block, `[N, D]`."""
        device = self.backbone.device
        input_ids_N, layout = (
            torch.from_numpy(batch.input_ids).to(device),
            ragged_layout(batch.lengths.tolist(), device),
        )
        return self.backbone.forward(input_ids_N, layout, bank, clients, counts, between)

    def begin_round(self, names: Collection[str], blocks: Collection[int] | None = None) -> None:
        """Train the adapters of these blocks alone (None: all) in the round that begins.

        The clients' adapters of these names are remembered: the round's training is to stay near them.
        """
        self.optimiser.train(blocks)
        if self.proximal:
            found = {name: pair for name, pair in self.bank.local.items() if name in names}
            self.anchor = {name: LoraPair(*(t.detach().clone() for t in pair)) for name, pair in found.items()}

    @torch.no_grad()
    def _pull_to_anchor(self) -> None:
        for name, pair in self.anchor.items():
            for parameter, there in zip(self.bank.local[name], pair, strict=True):
                if parameter.grad is not None:
                    parameter.grad += self.proximal * (parameter - there)

    def _send_labels(self, labels_P: Tensor, clients: list[int], labelled: NDArray[np.float64]) -> Tensor:
        """Labels cross to the server for the clients whose head runs there."""
        parts = list(labels_P.split([int(n) for n in labelled]))
        for position, client in enumerate(clients):
            if self.placement.tail_K[client] is None:
                parts[position] = self.link.door.send_ids("labels_up", client, parts[position])
        return torch.cat(parts)

    def _faults(self, clients: Collection[int], nll_K: NDArray[np.float64]) -> dict[int, str]:
        """Of these clients those whose loss or own gradient is not finite, and which that is."""
        found = {k: f"the loss of client {k} is {nll_K[k]}" for k in clients if not math.isfinite(nll_K[k])}
        gradients = [p.grad for p in self.bank.parameters(local=True) if p.grad is not None]
        if not gradients or _are_finite(gradients):
            return found
        for site in self.bank.sites:
            slots = self.bank.slots(site.layer)
            for factor, p in zip("AB", self.bank.local.get(site.name, ()), strict=False):
                for k in clients:
                    if p.grad is not None and slots[k] >= 0 and not _are_finite([p.grad[slots[k]]]):
                        found.setdefault(k, f"the gradient of {site.name}.lora_{factor} of client {k} is not finite")
        return found

    def _shared_gradients(self) -> Iterable[Tensor]:
        """The gradients of the server's adapters."""
        return (p.grad for p in self.bank.parameters(local=False) if p.grad is not None)

    def _shared_fault(self) -> str:
        """Which gradient of the server is not finite; empty if all are."""
        gradients = list(self._shared_gradients())
        if not gradients or _are_finite(gradients):
            return ""
        names = [f"{s.name}.lora_{f}" for s in self.bank.sites for f in "AB" if s.name in self.bank.shared]
        given = [p.grad for s in self.bank.sites for p in self.bank.shared.get(s.name, ())]
        wrong = (name for name, g in zip(names, given, strict=True) if g is not None and not _are_finite([g]))
        return f"the gradient of {next(wrong, 'an adapter')} of the server is not finite"

    @torch.enable_grad()
    def holds(self, tokens: TokenSet, bank: AdapterBank) -> bool:
        """Whether the first row's hidden states and gradients stay far from overflow under a bank of all blocks."""
        batch = collate(tokens, [np.array([0])])
        parameters = [p.requires_grad_() for p in bank.parameters(local=False)]
        loss = self._hidden(batch, [0], [len(batch.input_ids)], bank, None).double().square().mean()
        if not float(loss.detach()) < _OVERFLOW:
            return False
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return float(torch.stack([g.double().square().sum() for g in gradients]).sum()) < _OVERFLOW

    @torch.no_grad()
    def evaluate(
        self, tokens: TokenSet, bank: AdapterBank | None, client: int = 0, passes: slice = slice(None)
    ) -> Evaluation:
        """Losses of all rows of a set as one client of a bank, or the plain base, sees them.

        With `passes` only these of its passes are made; the rows of the others count nothing.
        """
        sums = np.zeros((3, len(tokens)))
        for rows in list(_row_groups(tokens, self.tokens_per_pass))[passes]:
            batch = collate(tokens, [rows])
            labels_P = torch.from_numpy(batch.label_ids).to(self.backbone.device)
            weight_P = torch.ones(len(labels_P), device=labels_P.device, dtype=self.backbone.dtype)
            _, nll_P, right_P = self._losses(batch, [client], [len(batch.input_ids)], labels_P, weight_P, bank)
            values = (nll_P, torch.ones_like(nll_P), torch.zeros_like(nll_P) if right_P is None else right_P)
            for row, value_P in enumerate(values):
                np.add.at(sums[row], rows[batch.sample_of_label], value_P.double().cpu().numpy())
        return Evaluation(*sums)


def _are_finite(gradients: Sequence[Tensor]) -> bool:
    """Whether all are finite, and so is the norm by which they are clipped and scaled."""
    return bool(torch.isfinite(torch.stack([g.square().sum() for g in gradients]).sum()))


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
