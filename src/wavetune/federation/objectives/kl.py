"""Divergence from the reference policy: an estimate from samples, and a controller that keeps it near a target.

Legend: K clients, P positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from wavetune.units import Array

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KlControl:
    """Weight of the divergence from the reference, one per client, that follows what the client's policy does.

    After every step, with e = clip(KL / target - 1, -0.2, 0.2), the coefficient is multiplied by 1 + gain e. KL is in
    nats a token. Without a target it stays at `start`; a start of 0 switches the penalty off.

    Source: Ziegler et al., arXiv 1909.08593, section 2.2 (gain 0.1 there, for many more steps).
    """

    start: Annotated[float, Ge(0), Le(1e6)] = 0.05
    target: Annotated[float, Ge(1e-12)] | None = 0.1
    gain: Annotated[float, Gt(0), Lt(5)] = 1.0

    def next(self, coefficient_K: Array, kl_K: Array) -> Array:
        """Coefficients after a step with these divergences, `[K]`.

        >>> KlControl(target=0.1).next(np.array([1.0, 1.0, 1.0]), np.array([0.5, 0.11, 0.0])).round(3).tolist()
        [1.2, 1.1, 0.8]
        """
        if self.target is None:
            return coefficient_K
        return coefficient_K * (1 + self.gain * np.clip(kl_K / self.target - 1, -0.2, 0.2))


def kl_estimate(log_prob_P: Tensor, reference_P: Tensor) -> Tensor:
    """Estimate of KL(policy, reference) at each sampled token: r - 1 - log r with r = reference / policy. `[P]`.

    Never negative, and its mean over the policy's samples is the divergence (Schulman, "Approximating KL divergence").
    Its gradient is not: differentiated at samples of the policy itself it is that of KL(reference, policy), the
    divergence the other way round. Both are zero only where the two agree. This is the usual penalty of GRPO.
    """
    log_ratio = reference_P - log_prob_P
    return log_ratio.exp() - 1 - log_ratio
