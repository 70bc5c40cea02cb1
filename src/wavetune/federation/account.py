"""What a round costs: planned from its batches before it starts, charged from the meters after it ended.

Both go through the one objective of `wavetune.allocation.delay`. Shape letters: I local steps, K clients.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from wavetune.allocation import delay
from wavetune.allocation.delay import RoundLoad
from wavetune.allocation.plan import Plan, speeds_of
from wavetune.allocation.problem import Problem
from wavetune.costs.adapter import AdapterSite
from wavetune.costs.table import CostTable, Workload
from wavetune.costs.workload import split_work
from wavetune.federation.codecs.codec import on_the_wire
from wavetune.federation.codecs.precision import way_back
from wavetune.federation.exchanges.exchange import Hop
from wavetune.federation.messages import EVERYTHING, Agenda, adapter_spec, beside, bits_of, server_bits, step_messages
from wavetune.federation.method import Method
from wavetune.records.rounds import BIT_KINDS, Account, Energy, Phases, Rates
from wavetune.units import Array

Bits = Mapping[tuple[str, int], float]
_CUT = ("activations", "gradients", "labels")  # what crosses a cut
_UP, _DOWN = (
    tuple(kind for kind, (what, its_way) in BIT_KINDS.items() if its_way == way and what in _CUT)
    for way in ("up", "down")
)


@dataclass(frozen=True)
class Accountant:
    """Turns work and bits into seconds and joules for one plan's cuts and ranks."""

    table: CostTable
    method: Method
    cut_K: tuple[int, ...]
    rank_K: tuple[int, ...]
    server_rank: int
    sites: tuple[AdapterSite, ...]  # that are shared
    model_bits: float = 0.0  # of the model that every client is sent in the first round
    frozen: frozenset[str] = frozenset()  # the factors of LoRA that a round is not about
    steps_K: tuple[int, ...] = ()  # local steps that each client makes; empty: all

    def about(self, agenda: Agenda) -> Accountant:
        """The same for a round with this agenda."""
        if agenda == EVERYTHING:
            return self
        sites = tuple(site for site in self.sites if agenda.has(site.layer))
        return replace(self, table=self.table.with_trained(agenda.blocks), sites=sites, frozen=agenda.frozen)

    @property
    def unsent(self) -> frozenset[str]:
        """The factors of shared LoRA that do not cross."""
        return self.method.unsent | self.frozen

    def predicted_bits(
        self, workload: Workload, sent_K: Sequence[bool] | None = None, round_index: int = 0
    ) -> tuple[list[Bits], Bits]:
        """Bits by (kind, client or server) of every local step, and of a round's exchange, from the batches alone.

        Only the clients of `sent_K` send their adapters (all if None); the broadcast is for everyone.
        """
        tokens_IK, labelled_IK = np.asarray(workload.tokens), np.asarray(workload.labelled)
        clients = range(len(self.cut_K))
        steps: list[Bits] = [
            {
                entry: n
                for k in clients
                if tokens_K[k]
                for entry, n in self._step_bits(k, float(tokens_K[k]), float(labelled_K[k]))
            }
            for tokens_K, labelled_K in zip(tokens_IK, labelled_IK, strict=True)
        ]
        exchange, part = defaultdict[tuple[str, int], float](float), self.method.exchange
        bits_K = [self.adapter_bits(cut, rank) for cut, rank in zip(self.cut_K, self.rank_K, strict=True)]
        if self.model_bits and round_index == 0:
            exchange |= {("model_down", k): self.model_bits for k in clients}
        for hop in self._hops(sent_K, round_index):
            for sender, receivers in hop.ways:
                if isinstance(sender, int):
                    exchange[hop.kind, sender] += bits_K[sender][0] * bool(receivers)
                for receiver in receivers if isinstance(sender, str) else ():
                    down = isinstance(receiver, int)
                    number = receiver if isinstance(receiver, int) else part.servers.index(sender)
                    exchange[hop.kind, number] += bits_K[receiver][1] if down else self.backhaul_bits
        return steps, exchange

    def link_s(self, sent_K: Sequence[bool], round_index: int, band_hz: float) -> float:
        """Seconds of a round's messages that are not planned with the bands, one hop after the other."""
        spec = adapter_spec(self.sites, max(self.rank_K), self.unsent)
        values = float(sum(math.prod(field.shape) for field in spec.values()))
        up = max(self.adapter_bits(cut, rank)[0] for cut, rank in zip(self.cut_K, self.rank_K, strict=True))
        return sum(
            self.method.exchange.link_s(hop, values, self.backhaul_bits if hop.kind == "backhaul" else up, band_hz)
            for hop in self._hops(sent_K, round_index)
        )

    @property
    def backhaul_bits(self) -> float:
        """Bits of a server's message to another."""
        return server_bits(self.sites, max(self.rank_K), self.unsent)

    def _hops(self, sent_K: Sequence[bool] | None, round_index: int) -> tuple[Hop, ...]:
        clients = range(len(self.cut_K))
        sending = [k for k in clients if sent_K is None or sent_K[k]]
        return self.method.exchange.hops(clients, sending, round_index)

    def _step_bits(self, client: int, tokens: float, labelled: float) -> Iterator[tuple[tuple[str, int], float]]:
        method = self.method
        if not method.topology.is_split:
            return
        messages = step_messages(
            tokens,
            labelled,
            self.table.activation_values_per_token,
            method.activation_codec,
            method.gradient_codec,
            labels_stay=method.topology.labels_stay,
        )
        for kind, spec in messages.items():
            yield (kind, client), bits_of(spec)

    def adapter_bits(self, cut: int, rank: int) -> tuple[float, float]:
        """Bits of one client's adapters, up and down: the shared ones of its blocks that cross, and what is beside."""
        own = [site for site in self.sites if site.layer < cut]
        spec = adapter_spec(own, rank, self.unsent)
        up, down = self.method.chain(len(self.cut_K)), way_back(self.method.adapter_codec)
        mixing = self.method.mixing
        ways = (up, beside(spec, mixing.hears)), (down, beside(spec, mixing.beside))
        sent, broadcast = (bits_of(on_the_wire(chain, message)) for chain, message in ways)
        return sent, broadcast

    def rates(self, problem: Problem, plan: Plan) -> Rates:
        """Uplink rates of every client in both bands (bit/s)."""
        speeds = speeds_of(problem, plan.main, plan.fed)
        return Rates(_plain(speeds.uplink_bit_per_s_K), _plain(speeds.fed_up_bit_per_s_K))

    def load(
        self, workload: Workload, steps: Sequence[Bits], exchange: Bits, active_K: Sequence[bool] | None = None
    ) -> RoundLoad:
        """What the round asks of everyone, given the bits of its steps and of the adapter exchange.

        All are active if `active_K` is None. Those that sit out hear the broadcast on the others' subchannels, which
        costs no time of theirs. Where clients make other numbers of steps, nobody waits for another between them: then
        each step of a client is the mean of those that it makes, at the speed that its problem has for all of them.
        """
        work = split_work(
            self.table,
            np.array(self.cut_K),
            np.array(self.rank_K),
            self.server_rank,
            workload,
            u_shape=self.method.topology.labels_stay,
        )
        clients, own_K = range(len(self.cut_K)), self.steps_K

        def evenly(flop_IK: Array) -> Array:
            return np.broadcast_to(flop_IK.sum(axis=0) / own_K, flop_IK.shape) if own_K else flop_IK

        def total(bits: Bits, kinds: Sequence[str]) -> list[float]:
            sums = [float(sum(bits.get((kind, k), 0.0) for kind in kinds)) for k in clients]
            return sums if active_K is None else [n * on for n, on in zip(sums, active_K, strict=True)]

        return RoundLoad(
            client_forward_flop_IK=evenly(work.client_forward_flop_K),
            uplink_bits_IK=np.array([total(bits, _UP) for bits in steps]),
            server_forward_flop_IK=work.server_forward_flop_K,
            server_backward_flop_IK=work.server_backward_flop_K,
            downlink_bits_IK=np.array([total(bits, _DOWN) for bits in steps]),
            client_backward_flop_IK=evenly(work.client_backward_flop_K),
            fed_upload_bits_K=np.array(total(exchange, ("adapters_up",))),
            fed_download_bits_K=np.array(total(exchange, ("adapters_down", "model_down"))),
        )


def central_load(load: RoundLoad, num_clients: int) -> RoundLoad:
    """The work of the central trainer: all computed at the server, nothing asked of the clients."""
    none_IK, none_K = np.zeros((len(load.server_forward_flop_IK), num_clients)), np.zeros(num_clients)
    return RoundLoad(
        client_forward_flop_IK=none_IK,
        uplink_bits_IK=none_IK,
        server_forward_flop_IK=load.server_forward_flop_IK + load.client_forward_flop_IK,
        server_backward_flop_IK=load.server_backward_flop_IK + load.client_backward_flop_IK,
        downlink_bits_IK=none_IK,
        client_backward_flop_IK=none_IK,
        fed_upload_bits_K=none_K,
        fed_download_bits_K=none_K,
    )


def account(
    phases: delay.Phases, energy: delay.Energy, steps: Sequence[Bits], exchange: Bits, **beside_s: float
) -> Account:
    """The record of a charge: seconds and joules by phase and client, bits by kind; phases `beside` those of the plan
    are added to the delay.
    """
    counts, num_clients = [*steps, exchange], phases.uplink_s.shape[-1]
    return Account(
        delay_s=phases.round_s + sum(beside_s.values()),
        local_steps=len(phases.step_s),
        phases=_recorded(phases, lambda seconds_I: seconds_I.sum(0), beside_s),
        step=_recorded(phases, lambda seconds_I: seconds_I[0], beside_s),
        energy_j=energy.total_j,
        energy=Energy(
            _plain(energy.client_compute_j_K),
            _plain(energy.client_radio_j_K),
            energy.server_compute_j,
            energy.server_radio_j,
            () if energy.client_standby_j_K is None else _plain(energy.client_standby_j_K),
        ),
        bits=bits_by_kind(counts),
        bits_up_K=bits_of_clients(counts, "up", num_clients),
        bits_down_K=bits_of_clients(counts, "down", num_clients),
    )


def _recorded(phases: delay.Phases, of_steps: Callable[[Array], Array], beside_s: Mapping[str, Any]) -> Phases:
    """The phases of a record, given what becomes of those that every local step has, `[I, ...]`."""

    def value(name: str) -> Any:
        seconds = getattr(phases, name)
        return _plain(seconds if name.startswith("fed") else of_steps(seconds))

    return Phases(**{f.name: value(f.name) for f in fields(Phases) if hasattr(phases, f.name)}, **beside_s)


def bits_by_kind(counts: Sequence[Bits]) -> dict[str, float]:
    """Bits of every kind that occurred, clients added up."""
    total: Counter[str] = Counter()
    for bits in counts:
        for (kind, _), number in bits.items():
            total[kind] += round(number)
    return {kind: total[kind] for kind in BIT_KINDS if total[kind]}


def bits_of_clients(counts: Sequence[Bits], way: str, num_clients: int) -> tuple[int, ...]:
    """Bits of every client one way ("up" or "down"), kinds added up."""
    total_K = [0] * num_clients
    for bits in counts:
        for (kind, client), number in bits.items():
            total_K[client] += round(number) * kind.endswith(f"_{way}")
    return tuple(total_K)


def _plain(values: Array | float) -> Any:
    return tuple(values.tolist()) if isinstance(values, np.ndarray) else float(values)
