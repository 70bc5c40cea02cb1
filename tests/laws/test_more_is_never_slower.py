"""A plan with more of anything, or with fewer clients, is no slower than one with less."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.problems import wild_problem
from wavetune.allocation.planner import plan
from wavetune.allocation.problem import Problem, RadioBand

WORST = 1e-3  # of a delay; in 180 problems of these none was above 1e-9


def with_way_back(problem: Problem, seed: int) -> Problem:
    """The problem with a downlink that takes time, of gains and a power of its own."""
    draw = np.random.default_rng(seed)

    def band(own: RadioBand) -> RadioBand:
        gain_KM = own.gain_KM * draw.exponential(size=own.gain_KM.shape)
        return replace(own, downlink_gain_KM=gain_KM, downlink_power_w=10 ** draw.uniform(-1, 2))

    return replace(problem, price_downlink=True, main=band(problem.main), fed=band(problem.fed))


def bands_of(problem: Problem, change) -> Problem:
    return replace(problem, main=change(problem.main), fed=change(problem.fed))


def without_client(problem: Problem, client: int) -> Problem:
    kept = np.arange(problem.num_clients) != client

    def band(own: RadioBand) -> RadioBand:
        back_KM = own.downlink_gain_KM
        return replace(own, gain_KM=own.gain_KM[kept], downlink_gain_KM=None if back_KM is None else back_KM[kept])

    names = ("client_flop_per_s_K", "num_samples_K", "tx_power_max_w_K", "memory_bytes_K")
    return replace(bands_of(problem, band), **{name: getattr(problem, name)[kept] for name in names})


def without_subchannel(own: RadioBand) -> RadioBand:
    """A band without its last subchannel, at the same power in each of the others."""
    back_KM, share = own.downlink_gain_KM, 1 - 1 / own.num_subchannels
    return replace(
        own,
        gain_KM=own.gain_KM[:, :-1],
        downlink_gain_KM=None if back_KM is None else back_KM[:, :-1],
        downlink_power_w=own.downlink_power_w * share,
    )


def better(problem: Problem) -> dict[str, Problem]:
    """Problems that every plan of this one solves in no more time."""
    found = {
        "power of clients": replace(problem, tx_power_max_w_K=problem.tx_power_max_w_K * 1.5),
        "power of a band": bands_of(problem, lambda own: replace(own, total_power_max_w=own.total_power_max_w * 1.5)),
        "power of the way back": bands_of(problem, lambda own: replace(own, downlink_power_w=own.downlink_power_w * 2)),
        "gains": bands_of(problem, lambda own: replace(own, gain_KM=own.gain_KM * 1.3)),
        "less noise": bands_of(problem, lambda own: replace(own, noise_psd_w_per_hz=own.noise_psd_w_per_hz / 2)),
        "speed of clients": replace(problem, client_flop_per_s_K=problem.client_flop_per_s_K * 1.5),
        "speed of the server": replace(problem, server_flop_per_s=problem.server_flop_per_s * 1.5),
        "memory": replace(problem, memory_bytes_K=problem.memory_bytes_K * 2),
    }
    clients = range(problem.num_clients) if problem.num_clients > 1 else ()
    return found | {f"without client {k}": without_client(problem, k) for k in clients}


def slower(problem: Problem) -> dict[str, float]:
    """By what share of its delay each plan with more is slower than the one with less."""
    found, less = dict[str, float](), plan(problem)
    for what, other in better(problem).items():
        more = plan(other)
        assert less.status != "ok" or more.status == "ok", what
        if less.status == "ok":
            assert 0 <= more.lower_bound_s <= more.delay_s < np.inf
            found[what] = more.delay_s / less.delay_s - 1
    narrow = min(problem.main.num_subchannels, problem.fed.num_subchannels) == 1
    if not narrow and (fewer := plan(bands_of(problem, without_subchannel))).status == "ok":
        found["subchannels"] = less.delay_s / fewer.delay_s - 1
    return found


@settings(max_examples=settings().max_examples // 5)
@given(st.integers(0, 2**32), st.booleans())
def test_more_of_anything_and_fewer_clients_are_never_slower(seed: int, back: bool):
    problem = wild_problem(seed)
    found = slower(with_way_back(problem, seed) if back else problem)
    assert max(found.values(), default=0.0) <= WORST, found
