"""Which client holds which rows. Every row is held by exactly one client; client k is list item k.

Legend: R rows, K clients, D domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Le

from wavetune.errors import ConfigError
from wavetune.guarded import Checks
from wavetune.parts import Part
from wavetune.seeds import stream
from wavetune.units import Array, Ints

Rows = Ints
ALPHA_MIN, ALPHA_MAX = 1e-6, 1e6


def _check_split(
    _: Partition, found: Any, domains: Sequence[str], num_clients: int, _seed: int, minimum: int = 1
) -> str:
    rows = [np.asarray(own) for own in found] if isinstance(found, list | tuple) else []
    whole = all(own.ndim == 1 and own.dtype.kind in "iu" and len(own) >= minimum for own in rows)
    dealt = sorted(np.concatenate(rows).tolist()) if whole and len(rows) == num_clients else []
    dealing = f"all rows from 0 to {len(domains) - 1} of {num_clients} clients, as whole numbers"
    wanted = f"{dealing}, at least {minimum} each, no row of two"
    return "" if dealt == [*range(len(domains))] else wanted


class Partition(Part):
    """How rows are dealt to clients."""

    checks: ClassVar[Checks] = {"split": _check_split}

    def split(self, domains: Sequence[str], num_clients: int, seed: int, minimum: int = 1) -> list[Rows]:
        """Row indices of each client, at least the minimum; the rows are told apart by their domains."""
        raise NotImplementedError


@dataclass(frozen=True)
class Iid(Partition):
    """Rows dealt at random in equal numbers (to within one)."""

    def split(self, domains: Sequence[str], num_clients: int, seed: int, minimum: int = 1) -> list[Rows]:
        """Row indices of each client."""
        check_enough(len(domains), num_clients, minimum)
        return _sorted(np.array_split(stream(seed, "partition rows").permutation(len(domains)), num_clients))


@dataclass(frozen=True)
class Dirichlet(Partition):
    """Each domain is shared out by p ~ Dirichlet(alpha) over the clients: small alpha, few domains a client.

    Client k's unnormalised shares come from its own stream, so its preferences do not depend on the other clients.
    A client left below the minimum is filled up with rows of the largest clients.
    Source: Li et al., "Federated learning on non-IID data silos", ICDE 2022, distribution-based label skew.
    """

    alpha: Annotated[float, Ge(ALPHA_MIN), Le(ALPHA_MAX)] = 0.5

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def split(self, domains: Sequence[str], num_clients: int, seed: int, minimum: int = 1) -> list[Rows]:
        """Row indices of each client."""
        check_enough(len(domains), num_clients, minimum)
        pools = _rows_of_domains(domains, seed)
        share_KD = shares(self.alpha, num_clients, len(pools), seed)
        cut_DK = [_cut(rows, share_KD[:, d], seed, d) for d, rows in enumerate(pools)]
        return _sorted(fill_up([np.concatenate(part) for part in zip(*cut_DK, strict=True)], minimum, seed))


@dataclass(frozen=True)
class QuantitySkew(Partition):
    """Rows dealt at random in numbers that follow p ~ Dirichlet(alpha), on top of the minimum for everyone."""

    alpha: Annotated[float, Ge(ALPHA_MIN), Le(ALPHA_MAX)] = 0.5

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def split(self, domains: Sequence[str], num_clients: int, seed: int, minimum: int = 1) -> list[Rows]:
        """Row indices of each client."""
        check_enough(len(domains), num_clients, minimum)
        rows = stream(seed, "partition rows").permutation(len(domains))
        owed, rest = rows[: minimum * num_clients], rows[minimum * num_clients :]
        extra = _cut(rest, shares(self.alpha, num_clients, 1, seed)[:, 0], seed, 0)
        return _sorted([np.concatenate(p) for p in zip(np.array_split(owed, num_clients), extra, strict=True)])


@dataclass(frozen=True)
class ByDomain(Partition):
    """A client holds whole domains, or, with more clients than domains, a part of one domain.

    Domains go, largest first, to the client with the fewest rows; clients go to the domain with the most rows a client.
    """

    def split(self, domains: Sequence[str], num_clients: int, seed: int, minimum: int = 1) -> list[Rows]:
        """Row indices of each client."""
        check_enough(len(domains), num_clients, minimum)
        pools = sorted(_rows_of_domains(domains, seed), key=len, reverse=True)
        parts = _merge(pools, num_clients) if len(pools) >= num_clients else _divide(pools, num_clients)
        for k, part in enumerate(parts):
            if len(part) < minimum:
                held = sorted({domains[int(i)] for i in part})
                raise ConfigError(
                    f"client {k} would hold {len(part)} rows (domains {held}), fewer than the minimum of {minimum}; "
                    "use fewer clients, more rows, or partition 'dirichlet'"
                )
        return _sorted(parts)


def split_alike(domains: Sequence[str], held_K: Sequence[Mapping[str, int]], seed: int, minimum: int = 1) -> list[Rows]:
    """Row indices of each client, in the shares of each domain that clients hold already; every row goes to one client.

    Args:
        domains: domain of each row.
        held_K: how many rows of each domain every client holds of another set.
        seed: of the run.
        minimum: a client left with fewer is filled up from the largest.

    A domain that nobody holds is shared equally. Raises ConfigError if there are too few rows.
    """
    check_enough(len(domains), len(held_K), minimum)
    pools = _rows_of_domains(domains, seed)
    parts: list[list[Rows]] = []
    for d, rows in enumerate(pools):
        weight_K = np.array([held.get(domains[int(rows[0])], 0) for held in held_K], float)
        weight_K = weight_K if weight_K.any() else np.ones(len(held_K))
        parts.append(_cut(rows, weight_K / weight_K.sum(), seed, d))
    return _sorted(fill_up([np.concatenate(part) for part in zip(*parts, strict=True)], minimum, seed))


def check_enough(num_rows: int, num_clients: int, minimum: int) -> None:
    """Raise ConfigError unless every client can get the minimum."""
    if num_clients < 1 or minimum < 1:
        raise ConfigError(f"num_clients is {num_clients} and minimum {minimum}; both must be 1 or more")
    if num_rows < num_clients * minimum:
        raise ConfigError(
            f"client {num_rows // minimum} would be without data: {num_clients} clients need "
            f"{num_clients * minimum} rows ({minimum} each) and there are {num_rows}; lower "
            "world.scenario.population.num_clients or world.data.minimum_samples, or give more rows"
        )


def check_alpha(alpha: float) -> None:
    """Raise ConfigError unless alpha is in the range where shares can be computed."""
    if not ALPHA_MIN <= alpha <= ALPHA_MAX:
        raise ConfigError(f"alpha is {alpha}; it must lie in [{ALPHA_MIN:g}, {ALPHA_MAX:g}] (equal shares: 'iid')")


def shares(alpha: float, num_clients: int, num_domains: int, seed: int) -> Array:
    """Share of each domain that each client gets, [K, D]; columns sum to 1 and follow Dirichlet(alpha).

    Normalised Gamma(alpha) draws, one stream a client, drawn as logarithms since a small alpha would underflow:
    G(alpha) = G(alpha + 1) U^(1/alpha).
    """
    log_KD = np.empty((num_clients, num_domains))
    for k in range(num_clients):
        rng = stream(seed, "partition shares", client_id=k)
        uniform = 1.0 - rng.random(num_domains)
        log_KD[k] = np.log(rng.standard_gamma(alpha + 1.0, num_domains)) + np.log(uniform) / alpha
    weight_KD = np.exp(log_KD - log_KD.max(axis=0))
    return weight_KD / weight_KD.sum(axis=0)


def fill_up(parts: list[Rows], minimum: int, seed: int) -> list[Rows]:
    """Parts with rows moved, one at a time, from the largest to those below the minimum."""
    pools = [list(part) for part in parts]
    rng = stream(seed, "partition fill")
    for pool in pools:
        while len(pool) < minimum:
            largest = max(pools, key=len)
            pool.append(largest.pop(int(rng.integers(len(largest)))))
    return [np.array(pool, np.int64) for pool in pools]


def _rows_of_domains(domains: Sequence[str], seed: int) -> list[Rows]:
    """Rows of each domain in random order, domains by name."""
    _, code, counts = np.unique(np.asarray(domains), return_inverse=True, return_counts=True)
    order = stream(seed, "partition rows").permutation(len(code))
    return np.split(order[np.argsort(code[order], kind="stable")], np.cumsum(counts)[:-1])


def _cut(rows: Rows, share_K: Array, seed: int, d: int) -> list[Rows]:
    # A random phase makes the expected number exact, so that many small domains do not all favour the same client.
    phase = stream(seed, "partition phase", d).random()
    return np.split(rows, np.floor(np.cumsum(share_K)[:-1] * len(rows) + phase).astype(int))


def _merge(pools: list[Rows], num_clients: int) -> list[Rows]:
    parts: list[list[Rows]] = [[] for _ in range(num_clients)]
    for pool in pools:
        min(parts, key=lambda part: sum(map(len, part))).append(pool)
    return [np.concatenate(part) for part in parts]


def _divide(pools: list[Rows], num_clients: int) -> list[Rows]:
    clients = [1] * len(pools)
    for _ in range(num_clients - len(pools)):
        most = max(range(len(pools)), key=lambda d: len(pools[d]) / clients[d])
        clients[most] += 1
    return [part for pool, count in zip(pools, clients, strict=True) for part in np.array_split(pool, count)]


def _sorted(parts: Sequence[Rows]) -> list[Rows]:
    return [np.sort(part).astype(np.int64) for part in parts]
