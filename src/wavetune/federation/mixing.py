"""How the federated server makes one adapter of the clients' LoRA factors.

With updates `A_k B_k` and weights w_k, what one would want is the mean product sum_k w_k A_k B_k. Its rank is up to the
sum of the clients' ranks, so a rule that returns factors of the common rank is exact only in special cases. Every rule
reports its aggregation error: ||A B - sum_k w_k A_k B_k|| / ||sum_k w_k A_k B_k|| in the Frobenius norm.

The robust rules bound what single clients can do to the mixture; where ranks differ they see the padding's zeros.

Legend: S contributions, R common rank. Factors are zero-padded to R, A `[S, in, R]`, B `[S, R, out]`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch and safetensors leave parts of their types open)

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le, Lt

from wavetune.errors import ConfigError
from wavetune.federation.codecs.codec import are_tensors
from wavetune.federation.facts import (
    ADAPTERS,
    BOTH_FACTORS,
    BY_SERVER,
    EVERY_FACTOR,
    INDIVIDUAL,
    MEAN,
    UPDATES_ALONE,
    VALUES_SENT,
    WHOLE_MODEL,
)
from wavetune.federation.updates import MAIN, RoundEnd, Update
from wavetune.guarded import Checks, pair_of
from wavetune.parts import Extent, Fact, Part

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.costs.adapter import AdapterSite
    from wavetune.federation.codecs import Context, Tensors


def _are_finite(tensors: Iterable[Tensor]) -> bool:
    import torch

    return all(bool(torch.isfinite(t).all()) for t in tensors)


def _check_combine(_: Mixing, found: Any, updates: Sequence[Update], sites: Sequence[AdapterSite]) -> str:
    shapes = {name: t.shape for update in updates for name, t in update.tensors.items()}
    pair = pair_of(found)
    fits = pair is not None and are_tensors(pair[0]) and isinstance(pair[1], float | int)
    if pair is None or not fits or any(shapes.get(name) != t.shape for name, t in pair[0].items()):
        return "the mixture, tensors with the names and shapes of those of the updates, and its error, a number"
    sound = _are_finite(pair[0].values()) or not _are_finite(t for update in updates for t in update.tensors.values())
    return "" if sound else "finite values of finite updates"


def _check_step(mixing: Mixing, found: Any, mixture: Tensors, *__: Any) -> str:
    pair, shapes = pair_of(found), {name: t.shape for name, t in mixture.items()}
    fits = pair is not None and all(map(are_tensors, pair))
    if pair is None or not fits or {name: t.shape for name, t in pair[0].items()} != shapes:
        return "tensors with the names and shapes of the mixture, and what it remembers, a dict of tensors"
    told = {f"{what}.{name}": shape for what in mixing.beside for name, shape in shapes.items()}
    wrong = next((n for n, shape in told.items() if n not in pair[1] or pair[1][n].shape != shape), "")
    if not wrong and _are_finite(mixture.values()):
        wrong = next((name for name in told if not _are_finite([pair[1][name]])), "")
    return f"what it remembers with {wrong}, finite and {list(told[wrong])}, as it goes down" if wrong else ""


def _check_values(_: Mixing, found: Any, stack: Tensor, *__: Any) -> str:
    return "" if getattr(found, "shape", None) == stack.shape[1:] else f"a tensor {list(stack.shape[1:])}"


class Mixing(Part):
    """A rule that makes one adapter of the clients' contributions: of LoRA by `mix`, of others matrix by matrix."""

    needs = (ADAPTERS, BY_SERVER, INDIVIDUAL)
    removes = (MEAN,)
    elsewhere: ClassVar[dict[str, str]] = {
        "fedadam": "server_adam",
        "fedavg": "average_factors",
        "fedmedian": "median",
        "fedprox": "average_factors with method.proximal=0.01",
        "fedtrimmedavg": "trimmed_mean",
        "fedyogi": "server_adam with method.mixing.yogi=true",
        "krum": "multi_krum",
    }
    checks: ClassVar[Checks] = {"combine": _check_combine, "step": _check_step, "mix_values": _check_values}
    frozen: ClassVar[frozenset[str]] = frozenset()  # the factors of LoRA that are neither trained nor sent
    rebases: ClassVar[bool] = False  # whether its factors are of another basis every round
    beside: ClassVar[tuple[str, ...]] = ()  # what `step` remembers of values, `name.site.matrix`, and broadcasts
    hears: ClassVar[tuple[str, ...]] = ()  # what clients tell of values beside their updates

    def needed(self) -> tuple[Fact, ...]:
        """What is told beside adapters goes between a server and clients, not a main server that trains blocks as well;
        what a server hears is of each client, and no change of what this had.
        """
        down, up = (WHOLE_MODEL,), (WHOLE_MODEL, BY_SERVER, INDIVIDUAL, VALUES_SENT)
        return (*self.needs, *(down if self.beside else ()), *(up if self.hears else ()))

    def removed(self) -> tuple[Fact, ...]:
        """Who hears more than updates learns more of clients' data."""
        return (*self.removes, *((UPDATES_ALONE,) if self.hears else ()))

    def combine(self, updates: Sequence[Update], sites: Sequence[AdapterSite]) -> tuple[Tensors, float]:
        """The mixture of whole updates: adapters by name, and the aggregation error over all LoRA.

        Every adapter is mixed by itself, among those who sent it, whose weights are scaled to sum to 1. Raises
        torch.linalg.LinAlgError where a decomposition does not converge.
        """
        import torch

        mixed, error, norm = dict[str, "Tensor"](), 0.0, 0.0
        for site in sites:
            of_site = [u for u in updates if f"{site.name}.{site.matrices[0].name}" in u.tensors]
            if not of_site:
                continue
            stacks = {m.name: torch.stack([u.tensors[f"{site.name}.{m.name}"] for u in of_site]) for m in site.matrices}
            weight_S = torch.tensor([u.weight for u in of_site], dtype=torch.float64)
            weight_S = (weight_S / weight_S.sum()).to(stacks[site.matrices[0].name])
            if len(of_site) == 1:
                found = {name: stack[0].clone() for name, stack in stacks.items()}
            elif not site.ranked:
                found = {name: self.mix_values(stack, weight_S) for name, stack in stacks.items()}
            else:
                found = dict(zip("AB", self.mix(stacks["A"], stacks["B"], weight_S), strict=True))
                site_error, site_norm = squared_error_and_norm(stacks["A"], stacks["B"], weight_S, *found.values())
                error, norm = error + site_error, norm + site_norm
            mixed |= {f"{site.name}.{name}": matrix for name, matrix in found.items()}
        return mixed, (error / norm) ** 0.5 if norm else 0.0

    def step(self, mixture: Tensors, held: Tensors, state: Tensors, context: RoundEnd) -> tuple[Tensors, Tensors]:
        """What a server goes on with, of a round's mixture and all that it held before, and what it remembers.

        By default it is the mixture. A server with an optimiser takes mixture - held for its gradient's opposite. What
        is remembered under a name of `beside` goes down with the broadcast, zeros where there is nothing yet, to an
        optimiser of clients that is `told` it; what one `tells` that the rule `hears` is beside each of the updates.
        """
        return mixture, state

    def mix(self, A: Tensor, B: Tensor, weight_S: Tensor) -> tuple[Tensor, Tensor]:
        """Factors `[in, R]`, `[R, out]` of mixed LoRA."""
        return self.mix_values(A, weight_S), self.mix_values(B, weight_S)

    def mix_values(self, stack: Tensor, weight_S: Tensor) -> Tensor:
        """A matrix of a mixed adapter, of those `[S, ...]` of contributions: by default their mean."""
        return _mean(stack, weight_S)


@dataclass(frozen=True)
class AverageFactors(Mixing):
    """A and B averaged separately, the usual choice. The mean of products is not the product of means: inexact."""

    needs = ()
    removes = ()


@dataclass(frozen=True)
class FrozenA(Mixing):
    """A stays at its common start, only B is trained, sent and averaged: exact, half the traffic (FFA-LoRA)."""

    needs = (BOTH_FACTORS, EVERY_FACTOR)  # training minds it as well
    removes = ()
    frozen = frozenset({"A"})

    def mix(self, A: Tensor, B: Tensor, weight_S: Tensor) -> tuple[Tensor, Tensor]:
        """Factors `[in, R]`, `[R, out]` of the mixed adapter."""
        return A[A.abs().sum((1, 2)).argmax()], _mean(B, weight_S)


@dataclass(frozen=True)
class AverageProduct(Mixing):
    """The products are averaged and the mean re-factored by a singular value decomposition of rank R.

    The best approximation of that rank, exact where the mean has it. New factors are another basis, so the optimisers'
    moments start afresh.
    """

    needs = (ADAPTERS, BY_SERVER, INDIVIDUAL, BOTH_FACTORS, EVERY_FACTOR, VALUES_SENT)
    rebases = True

    def mix(self, A: Tensor, B: Tensor, weight_S: Tensor) -> tuple[Tensor, Tensor]:
        """Factors `[in, R]`, `[R, out]` of the mixed adapter, by falling singular value, balanced between the two."""
        import torch

        rank = A.shape[-1]
        left, right = _stacked(A, B, weight_S)
        q_left, r_left = torch.linalg.qr(left)
        q_right, r_right = torch.linalg.qr(right.t())
        u, s, vt = torch.linalg.svd(r_left @ r_right.t())
        root = s[:rank].sqrt()
        new_a, new_b = A.new_zeros(A.shape[1:]), B.new_zeros(B.shape[1:])
        new_a[:, : len(root)] = (q_left @ u[:, :rank]) * root
        new_b[: len(root)] = root[:, None] * (vt[:rank] @ q_right.t())
        return new_a, new_b


@dataclass(frozen=True)
class ServerAdam(Mixing):
    """What the mean of the updates moved is a step's gradient for an optimiser of the server: FedAdam, or FedYogi.

    m <- beta1 m + (1 - beta1) d, v <- beta2 v + (1 - beta2) d^2, with `yogi` v - (1 - beta2) d^2 sign(v - d^2), and
    then x <- x + rate m / (sqrt(v) + tau); m begins at 0 and v at tau^2. Source: arXiv 2003.00295, algorithm 2.
    """

    rate: Annotated[float, Gt(0), Le(1e6)] = 1e-2
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.99
    tau: Annotated[float, Ge(1e-12), Le(1e12)] = 1e-3
    yogi: bool = False

    def step(self, mixture: Tensors, held: Tensors, state: Tensors, context: Context) -> tuple[Tensors, Tensors]:
        """What the server goes on with, and its moments."""
        found, kept = dict[str, "Tensor"](), dict(state)
        for name, mean in mixture.items():
            move = mean - held[name]
            m = self.beta1 * state.get(f"m.{name}", move - move) + (1 - self.beta1) * move
            v, square = state.get(f"v.{name}", move - move + self.tau**2), move.square()
            v = v + (1 - self.beta2) * square * (square - v).sign() if self.yogi else v.lerp(square, 1 - self.beta2)
            kept |= {f"m.{name}": m, f"v.{name}": v}
            found[name] = held[name] + self.rate * m / (v.sqrt() + self.tau)
        return found, kept


@dataclass(frozen=True)
class Median(Mixing):
    """The median of every value over the clients, weights not looked at: half of them may send anything.

    Source: coordinate-wise median (Yin et al., ICML 2018).
    """

    def mix_values(self, stack: Tensor, weight_S: Tensor) -> Tensor:
        """The middle values."""
        return _middle(stack, (len(stack) - 1) // 2)


@dataclass(frozen=True)
class TrimmedMean(Mixing):
    """The mean of every value over the clients without the smallest and the largest ones, weights not looked at.

    `fraction` of the clients is left out at either end, rounded down. Source: Yin et al., ICML 2018.
    """

    fraction: Annotated[float, Ge(0), Lt(0.5)] = 0.2

    def fits(self, path: str, extent: Extent) -> None:
        """Rounded down, a fraction leaves out somebody."""
        if self.fraction and not int(self.fraction * extent.num_clients):
            raise ConfigError(
                f"{path}.fraction {self.fraction} of {extent.num_clients} clients is nobody, so that nothing would be "
                f"left out; take more clients, a larger fraction, or average_factors for the plain mean"
            )

    def mix_values(self, stack: Tensor, weight_S: Tensor) -> Tensor:
        """The mean of the values that are left."""
        return _middle(stack, int(self.fraction * len(stack)))


@dataclass(frozen=True)
class MultiKrum(Mixing):
    """The weighted mean of the `keep` clients whose whole updates have the closest neighbours.

    A client's score is the sum of its squared distances to its n - malicious - 2 nearest (one at least), over all
    adapters that every contributor holds. Source: Blanchard et al., NeurIPS 2017.
    """

    malicious: Annotated[int, Ge(0)] = 1
    keep: Annotated[int, Ge(1)] = 3

    def fits(self, path: str, extent: Extent) -> None:
        """There are enough clients to tell the malicious ones from the others, and none of them need be kept."""
        clients, malicious = extent.num_clients, self.malicious
        if malicious and clients < 2 * malicious + 3:
            raise ConfigError(
                f"{path}.malicious is {malicious}, for which Krum needs {2 * malicious + 3} clients or more, and there "
                f"are {clients}; take more clients, or median"
            )
        if malicious and self.keep > clients - malicious:
            raise ConfigError(
                f"{path}.keep is {self.keep} of {clients} clients, {malicious} of them malicious; keep at most "
                f"{clients - malicious}"
            )

    def chosen(self, update_SP: Tensor) -> list[int]:
        """Places of the contributions that are kept, of updates `[S, P]`."""
        import torch

        distance_SS = torch.cdist(update_SP.double(), update_SP.double()).square()
        near = max(1, len(update_SP) - self.malicious - 2)
        score_S = distance_SS.sort(dim=1).values[:, 1 : near + 1].sum(1)
        return sorted(score_S.argsort(stable=True)[: self.keep].tolist())

    def combine(self, updates: Sequence[Update], sites: Sequence[AdapterSite]) -> tuple[Tensors, float]:
        """The mixture of the clients' updates that are kept, and of what the main server has."""
        import torch

        clients = [u for u in updates if u.sender != MAIN]
        if len(clients) > 1:
            common = [name for name in clients[0].tensors if all(name in u.tensors for u in clients)]
            vectors = [torch.cat([u.tensors[name].flatten() for name in common]) for u in clients]
            kept = [clients[place] for place in self.chosen(torch.stack(vectors))]
            updates = [*kept, *(u for u in updates if u.sender == MAIN)]
        return super().combine(updates, sites)


def squared_error_and_norm(
    A: Tensor, B: Tensor, weight_S: Tensor, mixed_a: Tensor, mixed_b: Tensor
) -> tuple[float, float]:
    """Squared Frobenius norms of the mixed product's error and of the mean product.

    `[in, out]` is formed where the clients' ranks together are more than its sides: the effort then grows with the
    number of clients, and not with its square as that of inner products of their factors does.
    """
    import torch

    left, right = _stacked(A.double(), B.double(), weight_S.double())
    (width_in, ranks), width_out = left.shape, right.shape[1]
    if ranks * (width_in + width_out) > width_in * width_out:
        mean = left @ right
        return float((mean - mixed_a.double() @ mixed_b.double()).square().sum()), float(mean.square().sum())
    error = _squared_norm(torch.cat([left, -mixed_a.double()], 1), torch.cat([right, mixed_b.double()]))
    return max(error, 0.0), _squared_norm(left, right)


def _mean(x: Tensor, weight_S: Tensor) -> Tensor:
    return (weight_S.to(x)[:, None, None] * x).sum(0)


def _middle(x: Tensor, cut: int) -> Tensor:
    """Mean over the first axis without the `cut` smallest and largest values."""
    return x.sort(dim=0).values[cut : len(x) - cut].mean(0)


def _stacked(A: Tensor, B: Tensor, weight_S: Tensor) -> tuple[Tensor, Tensor]:
    # sum_k w_k A_k B_k = [w_1 A_1, w_2 A_2, ...] @ [B_1; B_2; ...]
    left = (weight_S.to(A)[:, None, None] * A).permute(1, 0, 2).flatten(1)
    return left, B.flatten(0, 1)


def _squared_norm(left: Tensor, right: Tensor) -> float:
    return float(((left.t() @ left) * (right @ right.t())).sum())
