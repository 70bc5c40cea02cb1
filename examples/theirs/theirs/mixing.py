"""Clients whose updates point where the others' point count for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from wavetune.federation.mixing import Mixing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Scores(Mixing):
    """The mean of both factors with weights w_k (chi + cos(A_k B_k, sum_j w_j A_j B_j)), scaled to a sum of 1.

    A large `chi` is plain averaging. The cosine is of the products, which are what the factors stand for.
    """

    chi: Annotated[float, Ge(1)] = 1.0

    def mix(self, A: Tensor, B: Tensor, weight_S: Tensor) -> tuple[Tensor, Tensor]:
        """Factors `[in, R]`, `[R, out]` of the mixed adapter, of S contributions `[S, in, R]` and `[S, R, out]`."""
        from torch.nn.functional import cosine_similarity  # torch only here, so that planning stays instant

        product = (A @ B).flatten(1)
        weight = weight_S.to(product)
        score = self.chi + cosine_similarity(product, (weight[:, None] * product).sum(0, keepdim=True))
        share = (weight * score / (weight * score).sum())[:, None, None]
        return (share * A).sum(0), (share * B).sum(0)
