"""Differential privacy of whole clients: each clips the change of its shared adapters and adds Gaussian noise to it.

Source: DP-FedAvg (McMahan et al., ICLR 2018) with the noise split over the clients as in the distributed Gaussian
mechanism (Kairouz et al., ICML 2021). Rounds compose by Renyi divergence; the figures are those of Opacus' accountant.
"""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from wavetune.errors import ConfigError
from wavetune.federation.codecs import Chain, Clip, Noise
from wavetune.federation.facts import (
    ADAPTERS,
    BY_SERVER,
    COUNTED_ONCE,
    INDIVIDUAL,
    MEAN,
    ONE_MIXTURE,
    UNJUDGED,
    UNROUNDED,
    UPDATES_ALONE,
)
from wavetune.parts import Part
from wavetune.records.fields import UNKNOWN
from wavetune.records.rounds import Spent

_FINE_ORDERS = (1.01, 1.02, 1.05)  # around those that the accountant looks at by default
_COARSE_ORDERS = (64, 96, 128, 192, 256, 512, 1024)
_LEAST_NOISE = 1e-6


@dataclass(frozen=True)
class Gaussian(Part):
    """Every client scales its joint update down to the L2 norm `clip_norm` and adds its share of the noise.

    Each of K clients draws noise of standard deviation `noise_multiplier * clip_norm / sqrt(K)` for every value, so
    that the sum of all K updates carries `noise_multiplier * clip_norm`. `clip_norm` None does not clip. `noise`
    "seeded" is the same in every run of a seed, which is for research: whoever knows the seed can take it out again.
    "secure" draws from the operating system.
    """

    needs = (UPDATES_ALONE, ADAPTERS, BY_SERVER, INDIVIDUAL, ONE_MIXTURE, MEAN, UNROUNDED, COUNTED_ONCE, UNJUDGED)
    clip_norm: Annotated[float, Ge(1e-12), Le(1e6)] | None = 1.0
    noise_multiplier: Annotated[float, Ge(0), Le(1e6)] = 1.0
    delta: Annotated[float, Gt(0), Lt(1)] = 1e-5
    noise: Literal["seeded", "secure"] = "seeded"

    def __post_init__(self) -> None:
        if self.clip_norm is None and self.noise_multiplier > 0:
            raise ConfigError(
                "method.privacy.clip_norm is null, which bounds nothing that noise could hide; set a norm, or "
                "method.privacy.noise_multiplier=0"
            )
        if 0 < self.noise_multiplier < _LEAST_NOISE:
            raise ConfigError(
                f"noise_multiplier is {self.noise_multiplier:g}, which hides nothing; set 0, or at least "
                f"{_LEAST_NOISE:g}"
            )

    def share_std(self, num_clients: int) -> float:
        """Standard deviation of one client's noise.

        >>> Gaussian(clip_norm=0.5, noise_multiplier=2.0).share_std(4)
        0.5
        """
        return self.noise_multiplier * (self.clip_norm or 0.0) / math.sqrt(num_clients)

    def chain(self, num_clients: int) -> Chain:
        """What every client does to its update; nothing, where it neither clips nor adds noise."""
        clip = () if self.clip_norm is None else (Clip(self.clip_norm),)
        std = self.share_std(num_clients)
        return (*clip, Noise(std, self.noise)) if std else clip

    def spent(self, arrived_by_round: Sequence[int], num_clients: int) -> Spent:
        """What the rounds so far gave away, from how many updates were mixed in each.

        `epsilon` is against whoever sees the mixtures of all rounds, `epsilon_client` against a client, who knows its
        own noise, and `epsilon_server` against the federated server, who sees every update by itself.
        """
        z, rounds = self.noise_multiplier, [arrived for arrived in arrived_by_round if arrived]
        per_client = z / math.sqrt(num_clients)
        found = (
            epsilon([per_client * math.sqrt(arrived) for arrived in rounds], self.delta),
            epsilon([per_client * math.sqrt(arrived - 1) for arrived in rounds], self.delta),
            epsilon([per_client] * len(arrived_by_round), self.delta),
        )
        return Spent(self.delta, *(value if math.isfinite(value) else UNKNOWN for value in found))


def epsilon(noise_multipliers: Sequence[float], delta: float) -> float:
    """Epsilon of Gaussian mechanisms one after the other, each client taking part in all (sampling rate 1).

    Args:
        noise_multipliers: standard deviation of each one's noise over its sensitivity.
        delta: probability with which the guarantee may fail.

    Ignores: what randomly chosen clients would save, and that floats are not real numbers.
    Source: Mironov (2017) for the Renyi divergence, Balle et al. (2020), theorem 21, for epsilon; as in Opacus.
    """
    if not all(noise_multipliers):
        return math.inf
    accountant = _rdp_accountant()
    accountant.history = [(z, 1.0, times) for z, times in Counter(noise_multipliers).items()]
    orders = [*_FINE_ORDERS, *accountant.DEFAULT_ALPHAS, *_COARSE_ORDERS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a wider range of orders might give a smaller epsilon
        return max(0.0, float(accountant.get_epsilon(delta, alphas=orders)))


def require_accountant() -> None:
    """Raise ConfigError where Opacus is missing."""
    _rdp_accountant()


def _rdp_accountant() -> Any:
    try:
        from opacus.accountants import RDPAccountant  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise ConfigError(
            "method.privacy needs Opacus for its accountant; install it with pip install 'wavetune[privacy]'"
        ) from None
    return RDPAccountant()
