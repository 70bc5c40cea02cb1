"""K clients and the main server trained together in one stacked model.

Legend: K clients, N tokens, P labelled positions, D width.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch and safetensors leave parts of their types open)

from __future__ import annotations

import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wavetune.data.batching import RaggedBatch, collate, runs, runs_by_length
from wavetune.data.partition import Rows
from wavetune.data.templates import TokenSet
from wavetune.errors import NumericsError
from wavetune.federation.cut import CutLink, Layout, LossSum
from wavetune.federation.messages import EVERYTHING, Agenda
from wavetune.federation.objectives import Likelihood, Supervised
from wavetune.federation.optimise import StackedOptimiser
from wavetune.federation.outputs import Outputs, outputs_of
from wavetune.federation.pieces import Roots, gradients_in_pieces
from wavetune.federation.placement import WHOLE, Half, Placement
from wavetune.federation.prefix import KeptPrefix, lowest_trained
from wavetune.models.backbone import Backbone, Between
from wavetune.models.lora import AdapterBank, Matrices, named_matrices
from wavetune.models.ragged import ragged_layout
from wavetune.models.soft_prompt import PROMPT
from wavetune.units import Array

Named = dict[str, Tensor]
Seconds = defaultdict[str, float]
Passes = Callable[[Collection[int]], Mapping[int, LossSum]]
Turns = tuple[tuple[str, ...], ...]
_OVERFLOW = 1e30  # of a square, where fp32 ends at 3e38


class Batches(Protocol):
    """The samples of one local step, by client."""

    @property
    def tokens(self) -> Mapping[int, int]:
        """Tokens of each client that takes part."""
        ...

    def of(self, clients: Sequence[int]) -> RaggedBatch:
        """The samples of these clients, client by client."""
        ...


@dataclass
class RowBatches:
    """Samples that are rows of a set."""

    rows_of_all: TokenSet
    rows: Mapping[int, Rows]
    tokens: Mapping[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = {client: int(self.rows_of_all.lengths[own].sum()) for client, own in self.rows.items()}

    def of(self, clients: Sequence[int]) -> RaggedBatch:
        """The rows of these clients, client by client."""
        return collate(self.rows_of_all, [self.rows[client] for client in clients])


@dataclass(frozen=True)
class StepResult:
    """Mean loss of each client on its batch, in nats, with the number of labelled positions behind it.

    The loss of a client that sat out is NaN, and so is that of one whose values did not stay finite: `given_up` says
    which. Nothing of its step is left. NaN is also a loss that is computed elsewhere and not known here.
    """

    loss_K: Array
    labelled_K: Array
    tokens: int
    given_up: Mapping[int, str] = field(default_factory=dict[int, str])

    @classmethod
    def of(
        cls, num_clients: int, losses: Mapping[int, LossSum], tokens: int, given_up: Mapping[int, str] | None = None
    ) -> StepResult:
        """The result of those clients whose losses are known."""
        loss_K, labelled_K = np.full(num_clients, np.nan), np.zeros(num_clients)
        for client, (nll, labelled) in losses.items():
            loss_K[client], labelled_K[client] = nll / labelled if labelled else np.nan, labelled
        return cls(loss_K, labelled_K, tokens, given_up or {})


@dataclass(frozen=True)
class Evaluation:
    """Of every evaluated row: summed loss in nats, labelled positions, and how many of them were predicted right.

    Right predictions are counted where rows have classes; a next token's are not.
    """

    nll_R: Array
    positions_R: Array
    correct_R: Array

    def loss(self, weight_R: Array | None = None) -> float:
        """Mean loss of a position in nats, rows weighted if asked."""
        weight_R = np.ones_like(self.nll_R) if weight_R is None else weight_R
        return float(weight_R @ self.nll_R / (weight_R @ self.positions_R))

    def accuracy(self, weight_R: Array | None = None) -> float:
        """Share of the positions that were predicted right, rows weighted if asked."""
        weight_R = np.ones_like(self.nll_R) if weight_R is None else weight_R
        return float(weight_R @ self.correct_R / (weight_R @ self.positions_R))


@dataclass
class Cohort:
    """The stacked training engine. `tokens_per_pass` bounds how many clients' tokens go through the base at once, and
    `tokens_that_fit` how many of one client's: its rows are divided where they are more.

    What is learned is the next token, or a row's class where the rows have classes, by an `objective`; evaluated is
    always the likelihood. Half of `proximal` times the squared distance of a client's adapters to their `anchor` is
    added to its loss. Of a model that is cut only `half` is computed here; the link's door leads to the other. Where
    the server's optimiser is elsewhere, its gradients of every pass gather in `server_gradients`. Where nothing is
    trained in the first blocks, a `prefix` keeps what rows come to behind them. With `turns` there is one for
    each local step of a round, which trains its kinds of adapters alone.
    """

    backbone: Backbone
    bank: AdapterBank
    placement: Placement
    link: CutLink
    optimiser: StackedOptimiser
    tokens_per_pass: int
    proximal: float = 0.0
    objective: Supervised = field(default_factory=Likelihood)
    anchor: Mapping[str, Matrices] = field(default_factory=dict[str, Matrices])
    half: Half = WHOLE
    server_gradients: list[Named] | None = None
    prefix: KeptPrefix | None = None
    turns: Turns = ()
    tokens_that_fit: int = sys.maxsize
    seconds: Seconds = field(default_factory=lambda: Seconds(float))  # spent on `forward_s` and `backward_s`
    _agenda: Agenda = field(default=EVERYTHING, init=False)  # of the round
    _steps: Counter[int] = field(default_factory=Counter[int], init=False)  # of the round, by client

    def begin_round(self, names: Collection[str], agenda: Agenda = EVERYTHING) -> None:
        """Train what is on the agenda alone in the round that begins.

        The clients' adapters of these names are remembered: the round's training is to stay near them.
        """
        self.optimiser.train(agenda)
        self.optimiser.begin_round(names)
        self._agenda, self._steps = agenda, Counter[int]()
        if self.proximal:
            found = {name: pair for name, pair in self.bank.local.items() if name in names}
            self.anchor = {site: {n: t.detach().clone() for n, t in own.items()} for site, own in found.items()}

    def step(
        self, tokens: TokenSet, rows: Sequence[Rows], factor: float, active_K: Sequence[bool] | None = None
    ) -> StepResult:
        """One local step of every active client (all if None) at `factor` of the full rate.

        Client k trains on `rows[k]` of the set; the others' rows are not looked at. Raises NumericsError if no active
        client's values stay finite.
        """
        active = [k for k in range(self.placement.num_clients) if active_K is None or active_K[k]]
        result = self.step_on(RowBatches(tokens, {k: rows[k] for k in active}), factor)
        if result.given_up and result.given_up.keys() >= set(active):
            raise NumericsError(next(iter(result.given_up.values())))
        return result

    def end_round(self) -> None:
        """Nothing more is to be done: what the clients trained is in the bank."""

    def step_on(self, batches: Batches, factor: float) -> StepResult:
        """One local step of the clients that have batches, at `factor` of the full rate."""
        started, before_s = self._computing_s(), self.seconds["forward_s"]
        clients, losses, given_up = sorted(batches.tokens), dict[int, LossSum](), dict[int, str]()
        for turn in [[k] for k in clients] if self.placement.sequential else [clients]:
            known, faults = self.gradients(batches, turn)
            losses |= known
            given_up |= faults
            self.optimiser.step_server(factor)
        self.step_clients(factor, losses)
        spent_s = self._computing_s() - started
        self.seconds["backward_s"] += spent_s - (self.seconds["forward_s"] - before_s)
        count = sum(batches.tokens[client] for client in losses)
        return StepResult.of(self.placement.num_clients, losses, count, given_up)

    def gradients(
        self, batches: Batches, clients: Sequence[int], taking_part: Collection[int] | None = None
    ) -> tuple[dict[int, LossSum], dict[int, str]]:
        """Add the gradients of these clients; returns the losses, and who was given up and why.

        The weights of those that take part in the step add up to 1; None: of these clients, without those given up.
        """
        everyone = range(self.placement.num_clients)
        if self.turns and clients:
            self.optimiser.train(self._agenda, self.turns[self._steps[clients[0]] % len(self.turns)])

        def passes(kept: Collection[int]) -> dict[int, LossSum]:
            losses, counted = dict[int, LossSum](), kept if taking_part is None else taking_part
            placement = self.placement.among([k in counted for k in everyone])
            for group in self._groups({k: batches.tokens[k] for k in kept}):
                losses |= self._pass(batches.of(group), group, placement)
            return losses

        return self.without_faults(passes, clients)

    def step_clients(self, factor: float, clients: Collection[int]) -> None:
        """Let these clients go a step along their gradients; those of the others are dropped."""
        self._pull_to_anchor()
        self._steps.update(iter(clients))
        self.optimiser.step_clients(factor, [k in clients for k in range(self.placement.num_clients)])

    def without_faults(self, passes: Passes, clients: Collection[int]) -> tuple[dict[int, LossSum], dict[int, str]]:
        """Make the passes of those clients whose values stay finite; returns their losses, and whose do not, and which.

        `passes` adds the gradients of the clients that it is given, and returns their losses. Where the server's
        gradient is not finite and no client's own value tells why, those are at fault who make it so alone, or else who
        gives it most. Nothing of a client at fault is left, neither gradient nor bits.
        """
        given_up, kept, bits = dict[int, str](), list(clients), self.link.door.bits.copy()
        while kept:
            losses = dict(passes(kept))
            found = self._faults(losses)
            if not found and (wrong := self.server_fault()):
                found = dict.fromkeys(self._blamed(passes, kept), wrong)
            if not found:
                return losses, given_up
            given_up |= found
            self._drop(kept, bits)
            kept = [k for k in kept if k not in found]
        return {}, given_up

    def _blamed(self, passes: Passes, clients: list[int]) -> list[int]:
        """Who of these makes the server's gradient not finite alone, or else who gives it most."""
        if len(clients) == 1:
            return clients
        bits, square = self.link.door.bits.copy(), dict[int, float]()
        for client in clients:
            self._drop(clients, bits)
            passes([client])
            square[client] = sum(float(g.double().square().sum()) for g in self._shared_gradients())
            if self.server_fault():
                square[client] = math.inf
        most = max(square.values())
        return [client for client in clients if square[client] == most]

    def _drop(self, clients: Collection[int], bits: Counter[tuple[str, int]]) -> None:
        """Take back the gradients of these clients' passes, and what crossed in them."""
        self.link.door.bits = bits.copy()
        if self.server_gradients is not None:
            self.server_gradients.clear()
        for parameter in self.bank.parameters(local=False):
            parameter.grad = None
        for site in self.bank.sites:
            slots = [int(slot) for slot in self.bank.slots(site.layer)[list(clients)] if slot >= 0]
            for parameter in self.bank.local.get(site.name, {}).values():
                if parameter.grad is not None:
                    parameter.grad[slots] = 0.0

    def _groups(self, tokens: Mapping[int, int]) -> Iterator[list[int]]:
        """Clients of a pass: consecutive ones whose tokens fit, for whom the same blocks are run here.

        Each is alone where the server steps after every client.
        """

        def blocks(client: int) -> tuple[int, int]:
            own = self._blocks(client)
            return own.start, -own.stop

        order = sorted(tokens, key=lambda client: (() if self.placement.sequential else blocks(client), client))
        most = 0 if self.placement.sequential else self.tokens_per_pass
        for _, alike in groupby(order, blocks):
            together = list(alike)
            yield from (together[part] for part in runs([tokens[client] for client in together], most))

    def _blocks(self, client: int) -> range:
        """The blocks that are run for a client in every step: without those whose outcome is kept."""
        own = self.half.blocks(self.placement, client)
        if self.prefix is None or own.start:
            return own
        cut = self.placement.cut_K[client] if self.placement.split else own.stop
        return range(min(self.prefix.blocks, cut), own.stop)

    def _pass(self, batch: RaggedBatch, clients: list[int], placement: Placement) -> dict[int, LossSum]:
        """Forward and backward of clients for whom the same blocks are run here; adds to the gradients.

        A client whose rows do not fit goes piece by piece. A loss that is computed elsewhere is 0 over 0 positions.
        """
        started, work = self._computing_s(), batch.work_by_client(len(clients))
        counts, labelled = [int(n) for n in work["tokens"]], work["labelled"]
        has_head = self.half.has_head(placement, clients[0])
        labels_P = self._announced(batch, clients, placement, labelled)
        owner_P = batch.client_of_sample[batch.sample_of_label]
        factors = np.array([placement.loss_weight(k) for k in clients]) / labelled
        weight_P = torch.from_numpy(factors[owner_P]).to(labels_P.device, self.backbone.dtype)
        pieces = batch.pieces(self.tokens_that_fit) if len(clients) == 1 else [batch]
        sizes, nll, unwanted = [len(piece.label_ids) for piece in pieces], list[Tensor](), list[Tensor]()
        labels, weights = iter(labels_P.split(sizes)), iter(weight_P.split(sizes))
        trained_from, own = lowest_trained(self.bank, placement.num_layers), self._blocks(clients[0])

        def between(done: int, hidden: Tensor) -> Tensor:
            crossed = self.link.cross(hidden, placement.crossings(done, clients, counts))
            known = self.half.servers or done <= placement.cut_K[clients[0]]  # whether all in front of it stands here
            if crossed.requires_grad and known and done <= trained_from:  # nobody there trains: zeros go back
                unwanted.append(crossed)
                crossed = crossed.detach()
            return crossed

        def run(piece: RaggedBatch, blocks: range, entering: Tensor | None, between: Between | None = None) -> Tensor:
            here = range(max(blocks.start, own.start), min(blocks.stop, own.stop))
            if entering is None:
                kept = own.start if self.half.clients else 0
                return self._hidden(piece, clients, self.bank, between, here, kept)
            return (
                self._hidden(piece, clients, self.bank, _starting(blocks.start, entering), here) if here else entering
            )

        def loss_of(piece: RaggedBatch, hidden_ND: Tensor) -> Tensor:
            if not has_head:  # the gradient of the sum is exchanged for that which comes over the cut
                return hidden_ND.sum()
            outputs = self._outputs(hidden_ND, piece, clients, next(labels), self.bank)
            loss, nll_P = self.objective.losses(outputs, next(weights))
            nll.append(nll_P.detach())
            return loss

        num_layers = placement.num_layers
        if len(pieces) == 1:
            hidden_ND = run(batch, range(num_layers), None, between if placement.split else None)
            roots: Roots = [(loss_of(batch, hidden_ND), None)]
        else:
            ends = [done for done in range(1, num_layers + 1) if placement.crossings(done, clients, counts)]
            roots = gradients_in_pieces(pieces, (*ends, num_layers), run, between, loss_of, self._back)
        found = dict.fromkeys(clients, LossSum(0.0, 0))
        if has_head:
            sums = np.bincount(owner_P, torch.cat(nll).double().cpu().numpy(), len(clients)).tolist()
            found = {k: LossSum(sums[p], int(labelled[p])) for p, k in enumerate(clients)}
            for client, each in found.items() if placement.split and not self.half.servers else ():
                self.link.door.announce(client, each)
        self.seconds["forward_s"] += self._computing_s() - started
        roots = [root for root in roots if root[0].requires_grad]  # a half that trains nothing has none of its own
        roots += [(crossed, torch.zeros_like(crossed)) for crossed in unwanted]
        if roots:
            torch.autograd.backward([tensor for tensor, _ in roots], [gradient for _, gradient in roots])
        if self.server_gradients is not None:
            self.server_gradients.append(self._take_server_gradients())
        return found

    def _announced(self, batch: RaggedBatch, clients: list[int], placement: Placement, labelled: Array) -> Tensor:
        """The labels of a pass, which cross where they are of use at the servers, who learn what they must know."""
        labels_P = torch.from_numpy(batch.label_ids).to(self.backbone.device)
        if placement.split and not self.half.servers:
            for position, client in enumerate(clients):
                self.link.door.announce(client, Layout.of(batch, position, placement.head_at_client(client)))
        return self._send_labels(labels_P, clients, labelled) if placement.split else labels_P

    def _back(self, loss: Tensor) -> None:
        """Go back from the loss of a piece; this is no part of going forward."""
        started = self._computing_s()
        loss.backward()
        self.seconds["forward_s"] -= self._computing_s() - started

    def _computing_s(self) -> float:
        """A clock that stands still while the other half is waited for."""
        return time.perf_counter() - self.link.door.away_s

    def _outputs(
        self, hidden_ND: Tensor, batch: RaggedBatch, clients: Sequence[int], labels_P: Tensor, bank: AdapterBank | None
    ) -> Outputs:
        """What a bank's clients have for the labels of a pass, of its hidden states behind the last block."""

        def untouched() -> Tensor:
            return self._hidden(batch, clients, None)

        return outputs_of(self.backbone, bank, hidden_ND, batch, clients, labels_P, untouched)

    def _hidden(
        self,
        batch: RaggedBatch,
        clients: Sequence[int],
        bank: AdapterBank | None,
        between: Between | None = None,
        blocks: range | None = None,
        kept: int = 0,
    ) -> Tensor:
        """Hidden states of a pass behind the last block, `[N, D]`; what the `kept` first blocks yield is looked up."""
        device = self.backbone.device
        input_ids_N, layout = (
            torch.from_numpy(batch.input_ids).to(device),
            ragged_layout(batch.lengths.tolist(), device, self.backbone.key_tokens(bank)),
        )
        if self.prefix is not None and kept:
            blocks = range(kept, self.backbone.num_layers if blocks is None else blocks.stop)
            between = _starting(kept, self.prefix.hidden(batch, clients, bank, kept), between)
        counts = [int(n) for n in batch.work_by_client(len(clients))["tokens"]]
        return self.backbone.forward(input_ids_N, layout, bank, clients, counts, between, blocks)

    @torch.no_grad()
    def _pull_to_anchor(self) -> None:
        for site, there in self.anchor.items():
            for name, parameter in self.bank.local[site].items():
                if parameter.grad is not None:
                    parameter.grad += self.proximal * (parameter - there[name])

    def _send_labels(self, labels_P: Tensor, clients: list[int], labelled: Array) -> Tensor:
        """Labels cross to the server for the clients whose head runs there."""
        parts = list(labels_P.split([int(n) for n in labelled]))
        for position, client in enumerate(clients):
            if self.placement.tail_K[client] is None:
                parts[position] = self.link.door.send_ids("labels_up", client, parts[position])
        return torch.cat(parts)

    def _faults(self, losses: Mapping[int, LossSum]) -> dict[int, str]:
        """Of these clients those whose loss or own gradient is not finite, and which that is."""
        found = {k: f"the loss of client {k} is {nll}" for k, (nll, _) in losses.items() if not math.isfinite(nll)}
        gradients = [p.grad for p in self.bank.parameters(local=True) if p.grad is not None]
        if not gradients or _are_finite(gradients):
            return found
        for site in self.bank.sites:
            slots = self.bank.slots(site.layer)
            for name, p in self.bank.local.get(site.name, {}).items():
                for k in losses:
                    if p.grad is not None and slots[k] >= 0 and not _are_finite([p.grad[slots[k]]]):
                        found.setdefault(k, f"the gradient of {site.name}.{name} of client {k} is not finite")
        return found

    def _shared_gradients(self) -> Iterable[Tensor]:
        """The gradients of the server's adapters."""
        yield from (gradient for apart in self.server_gradients or () for gradient in apart.values())
        yield from (p.grad for p in self.bank.parameters(local=False) if p.grad is not None)

    def _take_server_gradients(self) -> Named:
        """The gradients of the server's adapters, which then have none."""
        found = Named()
        for name, parameter in named_matrices(self.bank.shared):
            if parameter.grad is not None:
                found[name], parameter.grad = parameter.grad, None
        return found

    def server_fault(self) -> str:
        """Which gradient of the server is not finite; empty if all are."""
        gradients = list(self._shared_gradients())
        if not gradients or _are_finite(gradients):
            return ""
        given = ((name, p.grad) for name, p in named_matrices(self.bank.shared))
        wrong = (name for name, g in given if g is not None and not _are_finite([g]))
        return f"the gradient of {next(wrong, 'an adapter')} of the server is not finite"

    @torch.enable_grad()
    def holds(self, tokens: TokenSet, bank: AdapterBank) -> bool:
        """Whether the first row's hidden states and gradients stay far from overflow under a bank of all blocks."""
        batch = collate(tokens, [np.array([0])])
        parameters = [p.requires_grad_() for p in bank.parameters(local=False)]
        loss = self._hidden(batch, [0], bank).double().square().mean()
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
        prompted = bank is not None and any(site.name == PROMPT for site in bank.sites)
        sums, tokens = np.zeros((3, len(tokens))), tokens if prompted else tokens.with_prompt(0)
        kept = 0 if self.prefix is None else self.prefix.blocks
        for rows in list(runs_by_length(tokens.lengths, self.tokens_per_pass))[passes]:
            batch = collate(tokens, [rows])
            labels_P = torch.from_numpy(batch.label_ids).to(self.backbone.device)
            weight_P = torch.ones(len(labels_P), device=labels_P.device, dtype=self.backbone.dtype)
            hidden_ND = self._hidden(batch, [client], bank, kept=kept)
            outputs = self._outputs(hidden_ND, batch, [client], labels_P, bank)
            nll_P, right_P = outputs.nll(weight_P)[1], outputs.right()
            values = (nll_P, torch.ones_like(nll_P), torch.zeros_like(nll_P) if right_P is None else right_P)
            for row, value_P in enumerate(values):
                np.add.at(sums[row], rows[batch.sample_of_label], value_P.double().cpu().numpy())
        return Evaluation(*sums)


def _starting(done_before: int, hidden_ND: Tensor, between: Between | None = None) -> Between:
    """What happens between blocks where these hidden states are what the first blocks yield."""

    def start(done: int, hidden: Tensor) -> Tensor:
        hidden = hidden_ND if done == done_before else hidden
        return hidden if between is None else between(done, hidden)

    return start


def _are_finite(gradients: Sequence[Tensor]) -> bool:
    """Whether all are finite, and so is the norm by which they are clipped and scaled."""
    return bool(torch.isfinite(torch.stack([g.square().sum() for g in gradients]).sum()))
