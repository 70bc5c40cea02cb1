"""What a plan's delay is made of, who holds everyone up, and what would help most: values for tables and sentences.

Shape suffix: K clients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from wavetune.allocation.delay import Phases
from wavetune.allocation.participants import of_participants
from wavetune.allocation.plan import Plan
from wavetune.allocation.planner import plan as best_plan
from wavetune.allocation.problem import Problem, RadioBand

_FAST = 0.02  # A plan this close to its bound is taken for the fastest.
_PHASES = {
    "client_forward": "computing the forward pass",
    "uplink": "sending activations over the main band",
    "downlink": "receiving gradients",
    "client_backward": "computing the backward pass",
    "fed_upload": "sending adapters over the fed band",
    "fed_download": "receiving adapters",
}


@dataclass(frozen=True)
class Bottleneck:
    """Where a round's time goes, and the client that the others wait for most.

    Args:
        client: that client's index.
        phase: the phase it spends most of that time in, such as "uplink".
        share: of the round's delay: until the last activations, at the server, until the last backward pass, adapters.
        limit: what keeps its transmission from being faster: "own power", "total power", "less power" (where it
            saves energy) or "compute".
    """

    client: int
    phase: str
    share: dict[str, float]
    limit: str

    @property
    def sentence(self) -> str:
        """The bottleneck in words."""
        part, share = max(self.share.items(), key=lambda item: item[1])
        limits = {
            "own power": "at its own power cap",
            "total power": "where the total power of the band is spent",
            "less power": "with less power than it might use",
            "compute": "at its own speed",
        }
        return (
            f"{share:.0%} of a round passes {_PARTS[part]}; "
            f"client {self.client} holds the others up most, {_PHASES[self.phase]} {limits[self.limit]}"
        )


_PARTS = {
    "activations": "until the last activations arrive",
    "server": "at the server",
    "gradients": "until the last backward pass is done",
    "adapters": "exchanging adapters",
}


@dataclass(frozen=True)
class Sensitivity:
    """What a change would save: `saving` is the share of the delay that goes away when `resource` grows by `change`."""

    resource: str
    change: float
    saving: float

    @property
    def sentence(self) -> str:
        """The sensitivity in words.

        >>> Sensitivity("main-band bandwidth", 0.1, 0.07).sentence
        '10% more main-band bandwidth saves 7.0%'
        """
        return f"{self.change:.0%} more {self.resource} saves {self.saving:.1%}"


def bottleneck(problem: Problem, plan: Plan) -> Bottleneck:
    """Shares of a round's delay by part, the straggler and its limit."""
    phases = plan.phases
    client, phase = phases.straggler()
    up_s, server_s, down_s = _critical_s(phases)
    adapters_s = np.max(phases.fed_upload_s) + np.max(phases.fed_download_s)
    round_s = phases.round_s or 1.0
    parts_s = {
        "activations": phases.repeat * up_s,
        "server": phases.repeat * server_s,
        "gradients": phases.repeat * down_s,
        "adapters": adapters_s,
    }
    limit = "compute"
    if phase in ("uplink", "fed_upload"):
        band, allocation = (problem.main, plan.main) if phase == "uplink" else (problem.fed, plan.fed)
        spent_w_K = allocation.power_w_K(problem.num_clients)
        is_full = spent_w_K.sum() >= band.total_power_max_w * (1 - 1e-6)
        limit = "total power" if is_full else "less power"
        if spent_w_K[client] >= problem.tx_power_max_w_K[client] * (1 - 1e-6):
            limit = "own power"
    elif phase in ("downlink", "fed_download"):
        limit = "total power"
    return Bottleneck(client, phase, {name: float(s / round_s) for name, s in parts_s.items()}, limit)


def _critical_s(phases: Phases) -> tuple[float, float, float]:
    """Seconds of the steps until the activations are there, at the server, and until the backward pass is done."""
    up_s, down_s = phases.client_forward_s + phases.uplink_s, phases.downlink_s + phases.client_backward_s
    server_s = phases.server_forward_s + phases.server_backward_s
    if phases.pipelined:
        steps, last = np.arange(len(up_s)), np.argmax(phases.pipeline_s, axis=1)
        up_s, server_s, down_s = (x[steps, last] for x in (up_s, server_s, down_s))
    else:
        up_s, down_s = np.max(up_s, axis=1), np.max(down_s, axis=1)
    return float(up_s.sum()), float(server_s.sum()), float(down_s.sum())


def sensitivities(
    problem: Problem,
    plan: Plan,
    change: float = 0.1,
    time_limit_s: float | None = None,
    each_s: float | None = None,
) -> list[Sensitivity]:
    """What more of each resource would save, the largest saving first.

    Model: finite differences; the problem with `change` more of one resource is planned again, from `plan` on. Where a
    plan is slower than it need be, as energy counts too, these are the savings of the least delay. A time limit is
    shared evenly by the plans, of which none takes longer than `each_s`; each first plan is finished all the same.
    """
    if plan.status != "ok" or plan.delay_s <= 0:
        return []
    problem, plan = of_participants(problem, plan)
    limits_s = (each_s, None if time_limit_s is None else time_limit_s / (1 + len(_RESOURCES)))
    least_limit_s = min((limit_s for limit_s in limits_s if limit_s is not None), default=None)

    def least_delay_s(problem: Problem) -> float:
        return best_plan(problem, time_limit_s=least_limit_s, warm_start=plan).delay_s

    least_s = plan.delay_s if plan.gap < _FAST else least_delay_s(problem)
    savings = [
        Sensitivity(resource, change, 1.0 - least_delay_s(grow(problem, 1.0 + change)) / least_s)
        for resource, grow in _RESOURCES.items()
    ]
    return sorted((replace(s, saving=max(0.0, s.saving)) for s in savings), key=lambda s: -s.saving)


def _wider(band: RadioBand, factor: float) -> RadioBand:
    return replace(band, subchannel_hz=band.subchannel_hz * factor)


def _louder(band: RadioBand, factor: float) -> RadioBand:
    return replace(band, total_power_max_w=band.total_power_max_w * factor)


_RESOURCES: dict[str, Callable[[Problem, float], Problem]] = {
    "main-band bandwidth": lambda p, f: replace(p, main=_wider(p.main, f)),
    "fed-band bandwidth": lambda p, f: replace(p, fed=_wider(p.fed, f)),
    "power per client": lambda p, f: replace(p, tx_power_max_w_K=p.tx_power_max_w_K * f),
    "total power": lambda p, f: replace(p, main=_louder(p.main, f), fed=_louder(p.fed, f)),
    "client compute": lambda p, f: replace(p, client_flop_per_s_K=p.client_flop_per_s_K * f),
    "server compute": lambda p, f: replace(p, server_flop_per_s=p.server_flop_per_s * f),
}
