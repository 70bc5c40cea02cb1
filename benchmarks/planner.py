"""The planner's time and gap, its gain over the paper's greedy and the baselines, its power step against CVXPY.

    python benchmarks/planner.py [--sizes 10x40 50x200] [--seeds 5] [--skip-cvxpy]

Each problem is a drawn cell (street, Rayleigh fading, 0.5 W of total power and up to 1.5 W per client) with GPT-2,
sequences of 512 tokens, batches of 16, every cut and ranks 1 to 8. Times are CPU seconds of this process with one
thread, after the kernels are compiled; compiling is timed in a process of its own with an empty cache.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from wavetune.allocation.baselines import (
    plan_all_random,
    plan_random_cut,
    plan_random_rank,
    plan_random_subchannels,
    plan_uniform_power,
)
from wavetune.allocation.bcd import plan_sflllm
from wavetune.allocation.planner import plan
from wavetune.allocation.power import allocate_power
from wavetune.allocation.problem import Problem
from wavetune.allocation.world import problem_from_world
from wavetune.costs.architecture import PRESETS
from wavetune.costs.table import CostTable
from wavetune.costs.workload import layer_costs
from wavetune.units import w_to_dbm
from wavetune.wireless.channel import draw_channel, draw_devices
from wavetune.wireless.scenario import Band, Bands, Population, Scenario

ROUNDS = {1: 64.0, 2: 52.0, 4: 46.0, 6: 44.0, 8: 43.0}
SIZES = ("5x20", "10x40", "20x80", "50x200", "100x400", "200x800", "500x1000", "1000x2000")
Result = TypeVar("Result")


def drawn_problem(num_clients: int, num_subchannels: int, seed: int, round_index: int = 0) -> Problem:
    """A cell with that many clients and that many subchannels in either band."""
    band = Band(num_subchannels=num_subchannels, total_power_max_dbm=w_to_dbm(0.5 * num_clients))
    scenario = Scenario(population=Population(num_clients=num_clients), bands=Bands(band, band))
    devices = draw_devices(scenario, seed)
    table = CostTable(PRESETS["gpt2"], ("c_attn",))
    costs = layer_costs(table, 512, 128, 32, 32, batch_size=16)
    channel = draw_channel(scenario, devices, seed, round_index)
    return problem_from_world(scenario, devices, channel, costs, ROUNDS, range(1, 12), local_steps=12, batch_size=16)


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """What a function returns, and its CPU time (s)."""
    start_s = time.process_time()
    return function(), time.process_time() - start_s


def planner_row(size: str, seeds: int) -> str:
    """One line of the planner's table, over `seeds` cells."""
    K, M = map(int, size.split("x"))
    columns: list[list[float]] = []
    for seed in range(seeds):
        problem = drawn_problem(K, M, seed)
        first, first_s = timed(lambda: plan(problem, time_limit_s=0.0))  # noqa: B023
        best, best_s = timed(lambda: plan(problem))  # noqa: B023
        next_round = drawn_problem(K, M, seed, round_index=1)
        warm, warm_s = timed(lambda: plan(next_round, warm_start=best))  # noqa: B023
        greedy = plan_sflllm(problem)
        columns.append(
            [
                first_s,
                first.delay_s / best.delay_s - 1,
                best_s,
                best.gap,
                warm_s,
                warm.gap,
                greedy.delay_s / best.delay_s - 1,
            ]
        )
    mean, worst = np.mean(columns, axis=0), np.max(columns, axis=0)
    cells = [
        size,
        f"{worst[0] * 1e3:.0f} ms",
        f"{mean[1]:.2%}",
        f"{mean[2]:.2f} s",
        f"{worst[2]:.2f} s",
        f"{mean[3]:.3%}",
        f"{worst[3]:.3%}",
        f"{worst[4] * 1e3:.0f} ms",
        f"{mean[5]:.2%}",
        f"{mean[6]:.2%}",
        f"{worst[6]:.2%}",
    ]
    return "| " + " | ".join(cells) + " |"


def baseline_rows(size: str, seeds: int) -> list[str]:
    """How far above the planner each baseline is, mean and worst over `seeds` cells."""
    K, M = map(int, size.split("x"))
    baselines: dict[str, Callable[[Problem, int], float]] = {
        "the paper's greedy": lambda p, s: plan_sflllm(p).delay_s,
        "a: all random": lambda p, s: plan_all_random(p, s).delay_s,
        "b: random subchannels": lambda p, s: plan_random_subchannels(p, s).delay_s,
        "c: uniform power": lambda p, s: plan_uniform_power(p).delay_s,
        "d: random cut, rest by greedy": lambda p, s: plan_random_cut(p, s).delay_s,
        "d: random cut, rest by the planner": lambda p, s: plan_random_cut(p, s, plan).delay_s,
        "e: random rank, rest by greedy": lambda p, s: plan_random_rank(p, s).delay_s,
        "e: random rank, rest by the planner": lambda p, s: plan_random_rank(p, s, plan).delay_s,
    }
    problems = [drawn_problem(K, M, seed) for seed in range(seeds)]
    best_s = [plan(problem).delay_s for problem in problems]
    rows: list[str] = []
    for name, delay_s in baselines.items():
        above = [delay_s(problem, seed) / best_s[seed] - 1 for seed, problem in enumerate(problems)]
        rows.append(f"| {name} | {np.mean(above):.2%} | {np.max(above):.2%} |")
    return rows


def power_row(K: int, M: int) -> str:
    """Our power step against CVXPY with Clarabel on the same owners."""
    import cvxpy as cp

    problem = drawn_problem(K, M, seed=0)
    band, owner_M, bits_K = problem.main, np.arange(M) % K, np.full(K, 1e8)
    caps_w = problem.tx_power_max_w_K
    (_, delay_s), ours_s = timed(lambda: allocate_power(band, owner_M, np.zeros(K), bits_K, caps_w))
    power_w, rate = cp.Variable(M, nonneg=True), cp.Variable()
    nats = cp.log1p(cp.multiply(band.snr_per_w_KM[owner_M, np.arange(M)], power_w))
    limits = [cp.sum(power_w) <= band.total_power_max_w]
    for k in range(K):
        limits += [cp.sum(nats[owner_M == k]) >= rate, cp.sum(power_w[owner_M == k]) <= caps_w[k]]
    convex = cp.Problem(cp.Maximize(rate), limits)
    _, theirs_s = timed(lambda: solved(convex))
    answer = "failed"
    if convex.status == cp.OPTIMAL:
        answer = f"{1e8 * np.log(2) / (band.subchannel_hz * float(rate.value)) / delay_s - 1:+.0e}"
    return f"| {K}x{M} | {ours_s * 1e3:.2f} ms | {theirs_s * 1e3:.0f} ms | {answer} |"


def solved(convex: object) -> None:
    """Solve, whatever comes of it."""
    import cvxpy as cp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(cp.error.SolverError):
            convex.solve(solver=cp.CLARABEL)  # type: ignore[attr-defined]


def compile_time_s() -> tuple[float, float]:
    """Wall time of a first plan with an empty cache of kernels, and with a filled one, each in a new process (s)."""
    program = (
        "import time; from planner import drawn_problem, plan; problem = drawn_problem(5, 20, 0); "
        "start = time.perf_counter(); plan(problem); print(time.perf_counter() - start)"
    )
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
        times = [
            float(
                subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout
            )
            for _ in range(2)
        ]
    return times[0], times[1]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="clients x subchannels")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--baseline-size", default="10x40")
    parser.add_argument("--skip-cvxpy", action="store_true")
    options = parser.parse_args()
    plan(drawn_problem(3, 7, 0))
    head = "clients x subchannels | first plan, worst | its excess | whole answer | worst | gap to bound | worst gap"
    head += " | next round, warm, worst | its gap | greedy above | worst"
    print("| " + head + " |\n|" + " --- |" * (head.count("|") + 1))
    for size in options.sizes:
        print(planner_row(size, options.seeds), flush=True)
    print(f"\n| baseline at {options.baseline_size} | above the planner | worst |\n| --- | --- | --- |")
    print("\n".join(baseline_rows(options.baseline_size, 4 * options.seeds)))
    if not options.skip_cvxpy:
        print("\n| power step | ours | CVXPY with Clarabel | its delay against ours |\n| --- | --- | --- | --- |")
        for K, M in ((5, 20), (10, 40), (20, 80), (50, 200)):
            print(power_row(K, M), flush=True)
    cold_s, cached_s = compile_time_s()
    print(
        f"\nFirst plan of a process: {cold_s:.1f} s with an empty cache of kernels, {cached_s:.2f} s with a filled one."
    )


if __name__ == "__main__":
    main()
