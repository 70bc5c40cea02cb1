"""The end of a round: clients' adapters go up through the door, are mixed, and the mixture comes back.

Legend: K clients, S slots of a block, R common rank.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch and safetensors leave parts of their types open)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavetune.federation.codecs import Codec
from wavetune.federation.door import Door
from wavetune.federation.mixing import Mixing, squared_error_and_norm
from wavetune.models.lora import AdapterBank, AdapterSite, LoraPair


@dataclass(frozen=True)
class Mixed:
    """The global adapter, A `[in, R]` and B `[R, out]` by site, and the mixing rule's relative aggregation error."""

    factors: dict[str, LoraPair]
    error: float


@torch.no_grad()
def exchange_adapters(
    bank: AdapterBank, rank_K: Sequence[int], weight_K: Sequence[float], mixing: Mixing, codec: Codec, door: Door | None
) -> Mixed:
    """Mix every block over its holders and load the mixture everywhere. Without a door nothing crosses the air.

    A block that some clients leave to the server is mixed from the copies of its holders and the server's, the latter
    with the weight of the clients it serves. A client gets the mixture's first `rank_K[k]` components.
    """
    factors: dict[str, LoraPair] = {}
    error = norm = 0.0
    for site in bank.sites:
        pair, weight_S = _contributions(bank, site, rank_K, weight_K, mixing, codec, door)
        if len(weight_S) == 1:
            mixed = LoraPair(pair.A[0].clone(), pair.B[0].clone())
        else:
            mixed = LoraPair(*mixing.mix(pair.A, pair.B, weight_S))
            site_error, site_norm = squared_error_and_norm(*pair, weight_S, *mixed)
            error, norm = error + site_error, norm + site_norm
        factors[site.name] = mixed
        _load(bank, site, mixed, rank_K, mixing, codec, door)
    return Mixed(factors, float(np.sqrt(error / norm)) if norm else 0.0)


def _contributions(
    bank: AdapterBank, site: AdapterSite, rank_K: Sequence[int], weight_K: Sequence[float], mixing: Mixing,
    codec: Codec, door: Door | None,
) -> tuple[LoraPair, Tensor]:  # fmt: skip
    """What the federated server holds of one site: stacked factors and weights that sum to 1."""
    own_K = bank.local_LK[site.layer]
    stacks, weights = list[LoraPair](), list[float]()
    if own_K.any():
        received = LoraPair(*(t.detach().clone() for t in bank.local[site.name]))
        for slot, client in enumerate(np.flatnonzero(own_K).tolist()):
            weights.append(weight_K[client])
            if door is not None:
                _send("adapters_up", received, slot, client, rank_K[client], mixing, codec, door)
        stacks.append(received)
    if not own_K.all():
        stacks.append(LoraPair(*(t.detach() for t in bank.shared[site.name])))
        weights.append(sum(w for w, own in zip(weight_K, own_K, strict=True) if not own))
    pair = LoraPair(torch.cat([s.A for s in stacks]), torch.cat([s.B for s in stacks]))
    weight_S = torch.tensor(weights, dtype=torch.float64)
    return pair, (weight_S / weight_S.sum()).to(pair.A)


def _load(
    bank: AdapterBank, site: AdapterSite, mixed: LoraPair, rank_K: Sequence[int], mixing: Mixing, codec: Codec,
    door: Door | None,
) -> None:  # fmt: skip
    if site.name in bank.shared:
        for stored, new in zip(bank.shared[site.name], mixed, strict=True):
            stored[0].copy_(new)
    if site.name not in bank.local:
        return
    local = bank.local[site.name]
    for slot, client in enumerate(np.flatnonzero(bank.local_LK[site.layer]).tolist()):
        rank = rank_K[client]
        local.A[slot, :, :rank] = mixed.A[:, :rank]
        local.B[slot, :rank] = mixed.B[:rank]
        if door is not None:
            _send("adapters_down", local, slot, client, rank, mixing, codec, door)


def _send(
    kind: str, pair: LoraPair, slot: int, client: int, rank: int, mixing: Mixing, codec: Codec, door: Door
) -> None:
    """Replace a slot's factors by what the other side decodes: rows of `rank` vectors, A only where it is trained."""
    if mixing.trains_a:
        pair.A[slot, :, :rank] = door.send(kind, client, pair.A[slot, :, :rank].t().contiguous(), codec).t()
    pair.B[slot, :rank] = door.send(kind, client, pair.B[slot, :rank], codec)
