"""The end of a round: clients' shared adapters go up through the door, are mixed, and the mixture comes back.

Legend: K clients, S slots of a block, R common rank.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch and safetensors leave parts of their types open)

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wavetune.errors import NumericsError
from wavetune.federation.codecs import TopK, UpdateCodec, down_codec
from wavetune.federation.door import Door
from wavetune.federation.mixing import ROBUST, AverageFactors, Mixing, MultiKrum, squared_error_and_norm
from wavetune.federation.privacy import ClientPrivacy
from wavetune.federation.screening import Screening
from wavetune.federation.sharing import Sharing
from wavetune.models.lora import AdapterBank, AdapterSite, LoraPair

PLAUSIBLE = 10.0  # trained adapters stay far below; above it a mixture is tried out


@dataclass(frozen=True)
class Mixed:
    """The global adapters, A `[in, R]` and B `[R, out]` by site, and the mixing rule's relative aggregation error.

    `rejected` says of whom an update was not taken, and why.
    """

    factors: dict[str, LoraPair]
    error: float
    rejected: dict[int, str] = field(default_factory=dict[int, str])


@dataclass
class AdapterServer:
    """The federated server: mixes the shared adapters of the bank and loads the mixture everywhere.

    A block that some clients leave to the main server is mixed from the copies of its holders and the main server's,
    the latter with the weight of the clients it serves. A client gets the mixture's first `rank_K[k]` components. The
    broadcast is heard by all clients, also by those that sat the round out. Factors are mixed by the method's rule,
    other adapters averaged.

    `current` is what was last broadcast, `last` the updates that last arrived from each slot (kept for `lost` "reuse"),
    `residual` what sparse updates left out so far. With `privacy` clients send what that leaves of their updates, and
    `mixed_by_round` counts the updates of every round. `holds` tries a mixture out, where the model is at hand.
    """

    bank: AdapterBank
    rank_K: Sequence[int]
    mixing: Mixing
    codec: UpdateCodec
    sharing: Sharing = field(default_factory=Sharing)
    lost: Literal["skip", "reuse"] = "skip"
    screening: Screening | None = None
    privacy: ClientPrivacy | None = None
    holds: Callable[[Mapping[str, LoraPair]], bool] | None = None
    current: dict[str, LoraPair] = field(init=False)
    last: dict[str, dict[int, LoraPair]] = field(default_factory=dict[str, dict[int, LoraPair]])
    residual: dict[str, LoraPair] = field(default_factory=dict[str, LoraPair])
    rejections: dict[int, int] = field(default_factory=dict[int, int])
    mixed_by_round: list[int] = field(default_factory=list[int])
    _released: dict[int, dict[str, LoraPair]] = field(default_factory=dict[int, dict[str, LoraPair]])

    def __post_init__(self) -> None:
        names = self.sharing.names(self.bank.sites, self.num_layers, "shared")
        self.sites = tuple(site for site in self.bank.sites if site.name in names)
        self.current = {site.name: self._widest(site) for site in self.sites}
        if isinstance(self.codec, TopK):
            self.residual = {
                name: LoraPair(*(torch.zeros_like(t) for t in self.bank.local[name]))
                for name in self.current
                if name in self.bank.local
            }

    @property
    def num_layers(self) -> int:
        """Number of the model's blocks."""
        return self.bank.local_LK.shape[0]

    @torch.no_grad()
    def exchange(
        self,
        weight_K: Sequence[float],
        door: Door | None,
        active_K: Sequence[bool] | None = None,
        sent_K: Sequence[bool] | None = None,
        delivered_K: Sequence[bool] | None = None,
        round_index: int = 0,
    ) -> Mixed:
        """Mix what was delivered and load the mixture. Without a door nothing crosses the air.

        Whose update makes the mixture one that nothing can be computed with is rejected. Raises NumericsError if that
        holds for all.

        Args:
            weight_K: weights of the clients, any positive scale.
            door: what the adapters cross.
            active_K: who trained this round; all if None.
            sent_K: whose uploads were sent; those of all active clients if None.
            delivered_K: whose uploads arrived; those sent if None.
            round_index: which round of the run this ends.
        """
        everyone = [True] * len(weight_K)
        active_K = everyone if active_K is None else active_K
        sent_K = active_K if sent_K is None else sent_K
        delivered_K = sent_K if delivered_K is None else delivered_K
        self._release(sent_K, round_index)
        received = {site.name: self._received(site, door, active_K, sent_K, delivered_K) for site in self.sites}
        rejected = self._reject(received)
        self._choose(received)
        mixture, broken = self._mixture(received, weight_K, active_K)
        self._count(received)
        self.current |= mixture.factors
        for site in self.sites:
            self._load(site, door)
        return Mixed(dict(self.current), mixture.error, rejected | broken)

    def _mixture(
        self, received: Mapping[str, dict[int, LoraPair]], weight_K: Sequence[float], active_K: Sequence[bool]
    ) -> tuple[Mixed, dict[int, str]]:
        """What is mixed of each site, without those updates under which the model gives no finite numbers, and whose.

        A mixture is tried out where a value of an update is larger than is plausible; if it fails, the update of the
        largest norm is taken out.
        """
        clients, broken = {k for pairs in received.values() for k in pairs}, dict[int, str]()
        largest = {k: _largest(received, k) for k in sorted(clients)}
        suspects = [k for k in largest if not largest[k] <= PLAUSIBLE]
        norms = self._norms(received) if suspects else {}
        while True:
            mixture = self._mixed(received, weight_K, active_K)
            if not suspects or (mixture is not None and self._sound(mixture.factors)):
                break
            worst = max(suspects, key=lambda k: norms[k] if math.isfinite(norms[k]) else math.inf)
            broken[worst] = f"with a value of {largest[worst]:.3g} in it the mixture gives no finite numbers"
            suspects.remove(worst)
            self._take_out(worst, received)
        if mixture is None or (broken.keys() == clients and len(broken) > min(1, len(self.rank_K) - 1)):
            raise NumericsError(next(iter(broken.values()), "the mixture cannot be computed"))
        return mixture, broken

    def _mixed(
        self, received: Mapping[str, dict[int, LoraPair]], weight_K: Sequence[float], active_K: Sequence[bool]
    ) -> Mixed | None:
        """The mixture of what was received; None if the rule cannot compute it."""
        factors, error, norm = dict[str, LoraPair](), 0.0, 0.0
        for site in self.sites:
            pair, weight_S = self._contributions(site, received[site.name], weight_K, active_K)
            if not len(weight_S):
                continue
            rule = self.mixing if site.kind == "lora" or isinstance(self.mixing, ROBUST) else AverageFactors()
            if len(weight_S) == 1:
                factors[site.name] = LoraPair(pair.A[0].clone(), pair.B[0].clone())
                continue
            try:
                factors[site.name] = mixed = LoraPair(*rule.mix(pair.A, pair.B, weight_S))
            except RuntimeError:  # a decomposition that does not converge
                return None
            if site.kind == "lora":
                site_error, site_norm = squared_error_and_norm(*pair, weight_S, *mixed)
                error, norm = error + site_error, norm + site_norm
        return Mixed(factors, float(np.sqrt(error / norm)) if norm else 0.0)

    def _sound(self, factors: Mapping[str, LoraPair]) -> bool:
        """Whether a mixture is finite and, where the model is at hand, gives finite numbers."""
        if not all(bool(torch.isfinite(t).all()) for pair in factors.values() for t in pair):
            return False
        return self.holds is None or self.holds({**self.current, **factors})

    def state(self) -> dict[str, Tensor]:
        """What the server must remember between rounds, as named tensors."""
        named = {f"current.{name}": pair for name, pair in self.current.items()}
        named |= {f"residual.{name}": pair for name, pair in self.residual.items()}
        named |= {f"last.{slot}.{name}": pair for name, slots in self.last.items() for slot, pair in slots.items()}
        found = {f"{name}.{factor}": t for name, pair in named.items() for factor, t in zip("AB", pair, strict=True)}
        found |= {f"rejections.{client}": torch.tensor(count) for client, count in self.rejections.items()}
        return found | ({"mixed_by_round": torch.tensor(self.mixed_by_round)} if self.mixed_by_round else {})

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        device = next(iter(self.current.values())).A.device if self.current else "cpu"
        self.rejections = {
            int(name.partition(".")[2]): int(t) for name, t in state.items() if name.startswith("rejections.")
        }
        self.mixed_by_round = state["mixed_by_round"].tolist() if "mixed_by_round" in state else []
        for name in (full.removesuffix(".A") for full in state if full.endswith(".A")):
            pair = LoraPair(*(state[f"{name}.{factor}"].to(device, copy=True) for factor in "AB"))
            what, _, rest = name.partition(".")
            if what == "last":
                slot, _, site = rest.partition(".")
                self.last.setdefault(site, {})[int(slot)] = pair
            else:
                getattr(self, what)[rest] = pair

    def _widest(self, site: AdapterSite) -> LoraPair:
        """The start that all copies share, from the copy of the largest rank."""
        if site.name in self.bank.shared:
            stack, slot = self.bank.shared[site.name], 0
        else:
            owners = np.flatnonzero(self.bank.local_LK[site.layer]).tolist()
            stack, slot = self.bank.local[site.name], int(np.argmax([self.rank_K[k] for k in owners]))
        return LoraPair(*(t[slot].detach().clone() for t in stack))

    def _release(self, sent_K: Sequence[bool], round_index: int) -> None:
        """What privacy leaves of the updates of the clients that send."""
        if self.privacy is not None:
            clients = np.flatnonzero(sent_K).tolist()
            self._released = {client: self._private(client, self.privacy, round_index, client) for client in clients}

    def _private(self, client: int, privacy: ClientPrivacy, round_index: int, client_id: int) -> dict[str, LoraPair]:
        """What client `client` of the bank may send of its adapters; its noise is that of `client_id`."""
        found, sent = dict[str, LoraPair](), list[tuple[Tensor, Tensor]]()
        for site in self.sites:
            slot, width = int(self.bank.slots(site.layer)[client]), site.width_at(self.rank_K[client])
            if slot < 0:
                continue
            found[site.name] = own = LoraPair(*(t[slot].detach().clone() for t in self.bank.local[site.name]))
            if site.kind != "lora" or self.mixing.trains_a:
                sent.append((own.A[:, :width], self.current[site.name].A[:, :width]))
            sent.append((own.B[:width], self.current[site.name].B[:width]))
        privacy.release(sent, round_index, client_id)
        return found

    def _count(self, received: Mapping[str, dict[int, LoraPair]]) -> None:
        if self.privacy is not None:
            self.mixed_by_round.append(len({client for pairs in received.values() for client in pairs}))

    def _received(
        self,
        site: AdapterSite,
        door: Door | None,
        active_K: Sequence[bool],
        sent_K: Sequence[bool],
        delivered_K: Sequence[bool],
    ) -> dict[int, LoraPair]:
        """What the server takes for each active holder's adapter of one site: what arrived, or the last that did."""
        found: dict[int, LoraPair] = {}
        for slot, client in enumerate(np.flatnonzero(self.bank.local_LK[site.layer]).tolist()):
            arrived = self._upload(site, slot, client, door) if sent_K[client] else None
            if not delivered_K[client]:
                arrived = self.last.get(site.name, {}).get(slot) if active_K[client] else None
            elif self.lost == "reuse" and arrived is not None:
                self.last.setdefault(site.name, {})[slot] = arrived
            if arrived is not None:
                found[client] = arrived
        return found

    def _reject(self, received: Mapping[str, dict[int, LoraPair]]) -> dict[int, str]:
        """Take rejected clients' updates out; returns whose, and why."""
        if self.screening is None:
            return {}
        norms = self._norms(received)
        sizes = {client: self._size(client) for client in norms}
        rejected = self.screening.rejected(norms, self.rejections, sizes)
        for client in rejected:
            so_far = self.rejections.get(client, 0)
            self.rejections[client] = min(so_far + 1, self.screening.quarantine_after)
            self._take_out(client, received)
        return rejected

    def _norms(self, received: Mapping[str, dict[int, LoraPair]]) -> dict[int, float]:
        """Norm of each client's update, over all shared adapters."""
        square: dict[int, float] = {}
        for site in self.sites:
            for client, pair in received[site.name].items():
                before = _cut(self.current[site.name], site.width_at(self.rank_K[client]))
                changes = (float((t.double() - then).square().sum()) for t, then in zip(pair, before, strict=True))
                square[client] = square.get(client, 0.0) + sum(changes)
        return {client: value**0.5 for client, value in sorted(square.items())}

    def _size(self, client: int) -> float:
        """Norm of the shared adapters that a client has of the last broadcast."""
        held = [site for site in self.sites if self.bank.slots(site.layer)[client] >= 0]
        pairs = (_cut(self.current[site.name], site.width_at(self.rank_K[client])) for site in held)
        return sum(float(t.double().square().sum()) for pair in pairs for t in pair) ** 0.5

    def _take_out(self, client: int, received: Mapping[str, dict[int, LoraPair]]) -> None:
        """Leave a client's update out of what is mixed, now and later."""
        for site in self.sites:
            received[site.name].pop(client, None)
            self.last.get(site.name, {}).pop(int(self.bank.slots(site.layer)[client]), None)

    def _choose(self, received: Mapping[str, dict[int, LoraPair]]) -> None:
        """Leave of the updates those that a rule which judges whole clients keeps."""
        clients = sorted({client for pairs in received.values() for client in pairs})
        if not isinstance(self.mixing, MultiKrum) or len(clients) < 2:
            return
        common = [name for name, pairs in received.items() if len(pairs) == len(clients)]
        vectors = [torch.cat([t.flatten() for name in common for t in received[name][k]]) for k in clients]
        kept = {clients[place] for place in self.mixing.chosen(torch.stack(vectors))}
        for pairs in received.values():
            for client in pairs.keys() - kept:
                del pairs[client]

    def _contributions(
        self, site: AdapterSite, received: Mapping[int, LoraPair], weight_K: Sequence[float], active_K: Sequence[bool]
    ) -> tuple[LoraPair, Tensor]:
        """What is mixed of one site: stacked factors and weights that sum to 1."""
        pairs, weights = list(received.values()), [weight_K[client] for client in received]
        own_K = self.bank.local_LK[site.layer]
        served = sum(w for w, own, active in zip(weight_K, own_K, active_K, strict=True) if active and not own)
        if served:
            pairs.append(LoraPair(*(t[0].detach() for t in self.bank.shared[site.name])))
            weights.append(served)
        if not pairs:
            return LoraPair(torch.empty(0), torch.empty(0)), torch.empty(0)
        pair = LoraPair(torch.stack([p.A for p in pairs]), torch.stack([p.B for p in pairs]))
        weight_S = torch.tensor(weights, dtype=torch.float64)
        return pair, (weight_S / weight_S.sum()).to(pair.A)

    def _upload(self, site: AdapterSite, slot: int, client: int, door: Door | None) -> LoraPair:
        """What the server decodes of one client's adapter."""
        released = self._released.get(client)
        if released is not None:
            own = released[site.name]
        else:
            own = LoraPair(*(t[slot].detach().clone() for t in self.bank.local[site.name]))
        if door is None:
            return own
        if not isinstance(self.codec, TopK):
            return self._through("adapters_up", own, site, client, self.codec, door)
        rank, start, residual = self.rank_K[client], self.current[site.name], self.residual[site.name]
        wanted = LoraPair(*(t[slot] + (mine - then) for t, mine, then in zip(residual, own, start, strict=True)))
        wanted = _cut(wanted, site.width_at(rank))
        change = self._through("adapters_up", LoraPair(*(t.clone() for t in wanted)), site, client, self.codec, door)
        for left, asked, got in zip(residual, wanted, change, strict=True):
            left[slot] = asked - got
        return LoraPair(*(then + got for then, got in zip(_cut(start, site.width_at(rank)), change, strict=True)))

    def _load(self, site: AdapterSite, door: Door | None) -> None:
        mixed = self.current[site.name]
        if site.name in self.bank.shared:
            for stored, new in zip(self.bank.shared[site.name], mixed, strict=True):
                stored[0].copy_(new)
        if site.name not in self.bank.local:
            return
        codec = down_codec(self.codec)
        for slot, client in enumerate(np.flatnonzero(self.bank.local_LK[site.layer]).tolist()):
            received = _cut(mixed, site.width_at(self.rank_K[client]))
            if door is not None:
                received = self._through("adapters_down", received, site, client, codec, door)
            for stored, new in zip(self.bank.local[site.name], received, strict=True):
                stored[slot].copy_(new)

    def _through(
        self, kind: str, pair: LoraPair, site: AdapterSite, client: int, codec: UpdateCodec, door: Door
    ) -> LoraPair:
        """One client's adapter as the other side decodes it, in the messages of `sharing.message_shapes`."""
        width = site.width_at(self.rank_K[client])
        A, B = pair
        if site.kind != "lora" or self.mixing.trains_a:
            A[:, :width] = door.send(kind, client, A[:, :width].t().contiguous(), codec).t()
        B[:width] = door.send(kind, client, B[:width], codec)
        return LoraPair(A, B)


def _largest(received: Mapping[str, dict[int, LoraPair]], client: int) -> float:
    """The largest value of a client's update; NaN if it has one."""
    pairs = (pairs[client] for pairs in received.values() if client in pairs)
    return float(torch.stack([t.abs().max() for pair in pairs for t in pair if t.numel()]).max())


def _cut(pair: LoraPair, width: int) -> LoraPair:
    """A copy in which all beyond the first `width` components is zero."""
    A, B = pair.A.clone(), pair.B.clone()
    A[:, width:], B[width:] = 0, 0
    return LoraPair(A, B)
