"""Plans of the classes of problems that are hard for the planner, as the table of docs/planner.md:

OMP_NUM_THREADS=1 python benchmarks/planner_classes.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from wavetune.allocation.planner import plan
from wavetune.allocation.problem import Problem, RadioBand
from wavetune.costs.layer_costs import LayerCosts

CLASSES = [
    ("own caps, 1 mW to 1 W", 18, 40, 1),
    ("own caps, 1 mW to 1 W", 10, 60, 3),
    ("equal small caps", 12, 26, 1),
    ("equal small caps", 20, 44, 2),
    ("flat gains", 30, 120, 1),
    ("flat gains", 100, 400, 2),
    ("mostly dead", 60, 80, 1),
    ("mostly dead", 100, 110, 2),
    ("frequency-correlated", 20, 50, 1),
    ("frequency-correlated", 40, 160, 2),
    ("Rayleigh", 20, 60, 1),
    ("Rayleigh", 300, 600, 3),
    ("one weak client", 20, 60, 1),
    ("one slow client", 20, 60, 1),
]


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
    """A problem of a class: four layers, four ranks."""
    g, L = np.random.default_rng(seed), 4
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
    return Problem(3, 8, rounds, (1, 2, 3, 4), costs, 2e13, speed_K, np.ones(K), caps_w_K, free_K, main, fed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most-clients", type=int, default=300, help="leave out problems with more clients")
    options = parser.parse_args(arguments)
    for kind in ("equal small caps", "Rayleigh"):  # compile
        plan(problem_of(kind, 5, 9, 4))
    print("| class | clients x subchannels | first plan above final | gap | CPU |\n| --- | --- | --- | --- | --- |")
    for kind, K, M, seed in CLASSES:
        if options.most_clients < K:
            continue
        problem = problem_of(kind, K, M, seed)
        first_s, started_s = plan(problem, time_limit_s=1e-9).delay_s, time.process_time()
        outcome = plan(problem)
        spent_s = time.process_time() - started_s
        above = first_s / outcome.delay_s - 1
        print(f"| {kind} | {K}x{M} | {above:.2%} | {outcome.gap:.3%} | {spent_s:.2f} s |")


if __name__ == "__main__":
    main()
