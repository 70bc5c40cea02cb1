"""Plans of the classes of problems that are hard for the planner, as the table of docs/planner.md:

    OMP_NUM_THREADS=1 python benchmarks/planner_classes.py [--seeds 10] [--classes NAME ...] [--before CHECKOUT]

Every class has as many instances as seeds; gaps, plans and seconds are their mean and their worst. `--before` plans the
same instances with another checkout of this repository (`git worktree add CHECKOUT COMMIT`), and says how far its plans
are above today's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wavetune.allocation.planner import plan
from wavetune.allocation.problem import Problem, RadioBand
from wavetune.costs.layer_costs import LayerCosts
from wavetune.wireless.rate_models import NrMcs, Shannon

CLASSES = [
    ("own caps, 1 mW to 1 W", 18, 40),
    ("own caps, 1 mW to 1 W", 10, 60),
    ("equal small caps", 12, 26),
    ("equal small caps", 20, 44),
    ("flat gains", 30, 120),
    ("flat gains", 100, 400),
    ("mostly dead", 60, 80),
    ("mostly dead", 100, 110),
    ("frequency-correlated", 20, 50),
    ("frequency-correlated", 40, 160),
    ("Rayleigh", 20, 60),
    ("Rayleigh", 300, 600),
    ("one weak client", 20, 60),
    ("one slow client", 20, 60),
    ("both ways", 5, 20),
    ("both ways", 20, 80),
    ("both ways, loud neighbours", 8, 20),
    ("both ways, cuts per client", 5, 20),
    ("cuts per client, slow server", 5, 20),
    ("cuts per client, slow server", 12, 40),
    ("cuts and shares, slow server", 5, 20),
    ("cuts and shares, slow server", 12, 40),
    ("cuts and shares, slow server", 20, 60),
    ("both ways, cuts per client, slow server", 3, 7),
    ("both ways, cuts per client, slow server", 5, 20),
    ("both ways, cuts per client, slow server", 12, 40),
    ("both ways, cuts and shares, slow server", 5, 20),
    ("both ways, cuts per client, memory floors", 5, 20),
    ("steps of rates", 5, 20),
]
REAL_LINK = Shannon(snr_gap_db=2.0, max_bit_per_s_per_hz=7.4, uplink_overhead=0.08, downlink_overhead=0.14)


def gains(kind: str, g: np.random.Generator, K: int, M: int) -> np.ndarray:
    """Power gains of a class, [K, M]."""
    mean_K1, fading_KM = 10 ** g.uniform(-12.5, -9.5, (K, 1)), g.exponential(size=(K, M))
    if "caps" in kind:
        return 10 ** g.uniform(-13, -9, (K, M))
    if kind == "flat gains":
        return np.repeat(mean_K1, M, axis=1)
    if kind == "mostly dead":
        fading_KM *= g.random((K, M)) < 0.12
        fading_KM[np.arange(K), g.permutation(M)[:K]] = 1.0
    if kind == "frequency-correlated":
        taps_KM = g.normal(size=(K, M)) + 1j * g.normal(size=(K, M))
        kernel = np.exp(-np.abs(np.arange(-8, 9)) / 4)
        smooth_KM = np.array([np.convolve(row, kernel, "same") for row in taps_KM])
        fading_KM = np.abs(smooth_KM) ** 2 / np.mean(np.abs(smooth_KM) ** 2)
    if kind == "one weak client":
        fading_KM[0] *= 1e-3
    return mean_K1 * fading_KM


def problem_of(kind: str, K: int, M: int, seed: int) -> Problem:
    """A problem of a class: four layers (twelve where the server is slow), four ranks."""
    g, L = np.random.default_rng(seed), 12 if "slow server" in kind else 4
    caps_w_K, total_w = np.full(K, 1.0), 0.35 * K
    if "caps" in kind:
        caps_w_K, total_w = (10 ** g.uniform(-3, 0, K) if "own" in kind else np.full(K, 0.02)), 1e3
    speed_K = 10 ** g.uniform(11.5, 12.5, K)
    speed_K[0] /= 30 if kind == "one slow client" else 1
    low_high = ((1e10, 3e10), (2e10, 6e10), (1e6, 1e7), (1e6, 1e7), (1e6, 8e6), (1e5, 4e5))
    forward_L, backward_L, lora_forward_L, lora_backward_L, activation_L, lora_bits_L = (
        g.uniform(low, high, L) for low, high in low_high
    )
    nothing_L = np.zeros(L)
    costs = LayerCosts(
        forward_L, backward_L, lora_forward_L, lora_backward_L, activation_L, lora_bits_L, nothing_L, nothing_L
    )
    main, fed = (RadioBand(gains(kind, g, K, M), 5e5, 4e-21, total_w) for _ in range(2))
    rounds = {1: 80.0, 2: 70.0, 4: 62.0, 8: 60.0}
    free_K = np.full(K, np.inf)
    problem = Problem(
        3, 8, rounds, tuple(range(1, L + 1)), costs, 2e13, speed_K, np.ones(K), caps_w_K, free_K, main, fed
    )
    if "steps" in kind:
        problem = replace(problem, **{name: replace(vars(problem)[name], rate=NrMcs()) for name in ("main", "fed")})
    if "slow server" in kind:
        problem = replace(problem, server_flop_per_s=3e12)
    if "memory floors" in kind:
        held = replace(costs, memory_bytes_L=np.full(L, 1e9))
        problem = replace(problem, costs=held, memory_bytes_K=1e9 * g.integers(1, L + 1, K))
    problem = replace(problem, cut_per_client="cuts" in kind, share_server="shares" in kind)
    return both_ways(problem, kind, g) if kind.startswith("both ways") else problem


def both_ways(problem: Problem, kind: str, g: np.random.Generator) -> Problem:
    """The problem with devices of 0.2 W, links that end at 256-QAM, and a way back that takes time."""
    K = problem.num_clients

    def band(one: RadioBand) -> RadioBand:
        loud_w_M = 1e-12 * g.exponential(size=one.num_subchannels) if "neighbours" in kind else 0.0
        back_w_KM = 10 * 10 ** g.uniform(-13, -11, (K, 1)) * g.exponential(size=one.gain_KM.shape)
        return replace(
            one,
            rate=REAL_LINK,
            total_power_max_w=100.0,
            interference_w_M=loud_w_M,
            downlink_gain_KM=np.mean(one.gain_KM, axis=1, keepdims=True) * g.exponential(size=one.gain_KM.shape),
            downlink_power_w=10.0,
            downlink_interference_w_KM=back_w_KM if "neighbours" in kind else None,
        )

    return replace(
        problem,
        main=band(problem.main),
        fed=band(problem.fed),
        tx_power_max_w_K=np.full(K, 0.2),
        price_downlink=True,
    )


def measured(kind: str, K: int, M: int, seed: int) -> tuple[float, float, float, float]:
    """Delay (s) of the first plan and of the best, bound (s), and CPU seconds."""
    problem = problem_of(kind, K, M, seed)
    first_s, started_s = plan(problem, time_limit_s=1e-9).delay_s, time.process_time()
    best = plan(problem)
    return first_s, best.delay_s, best.lower_bound_s, time.process_time() - started_s


def measured_by(checkout: str, kind: str, K: int, M: int, seeds: int) -> list[list[float]]:
    """The same of all seeds by the planner of another checkout."""
    found = os.path.join(checkout, "src")
    arguments = [kind, str(K), str(M), str(seeds)]
    done = subprocess.run(
        [sys.executable, __file__, "--as-json", *arguments],
        env={**os.environ, "PYTHONPATH": found},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def rows_of(kind: str, K: int, M: int, seeds: int) -> list[tuple[float, float, float, float]]:
    """What was measured of every seed, with kernels loaded before."""
    plan(problem_of(kind, min(K, 4), 9, 0))
    return [measured(kind, K, M, seed) for seed in range(seeds)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most-clients", type=int, default=300, help="leave out problems with more clients")
    parser.add_argument("--seeds", type=int, default=10, help="instances of a class; a third of it from 100 clients on")
    parser.add_argument("--classes", nargs="*", help="only those whose name holds one of these words")
    parser.add_argument("--before", metavar="CHECKOUT", help="a checkout of another commit, which plans the same")
    parser.add_argument("--as-json", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.as_json:
        kind, *numbers = options.as_json
        return print(json.dumps(rows_of(kind, *map(int, numbers))))
    columns = ["class", "clients x subchannels", "first plan above final", "worst", "gap", "worst", "CPU", "worst"]
    columns += ["plan before above", "worst", "gap before", "worst", "CPU before"] if options.before else []
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for kind, K, M in CLASSES:
        if options.most_clients < K or (options.classes and not any(word in kind for word in options.classes)):
            continue
        seeds = options.seeds if K < 100 else max(1, options.seeds // 3)
        first_s, best_s, bound_s, spent_s = np.array(rows_of(kind, K, M, seeds)).T
        cells = [kind, f"{K}x{M}", *share(first_s / best_s - 1), *share(1 - bound_s / best_s)]
        cells += [f"{np.mean(spent_s):.2f} s", f"{np.max(spent_s):.2f} s"]
        if options.before:
            _, before_s, lower_s, before_spent_s = np.array(measured_by(options.before, kind, K, M, seeds)).T
            cells += [*share(before_s / best_s - 1), *share(1 - lower_s / before_s), f"{np.mean(before_spent_s):.2f} s"]
        print("| " + " | ".join(cells) + " |", flush=True)
    return None


def share(values: np.ndarray) -> tuple[str, str]:
    """Mean and worst of some shares."""
    return f"{np.mean(values):.2%}", f"{np.max(values):.2%}"


if __name__ == "__main__":
    main()
