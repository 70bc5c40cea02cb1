"""The planner's time and gap, its gain over the paper's greedy and the baselines, its power step against CVXPY.

    python benchmarks/planner.py [--quick] [--sizes 10x40 50x200] [--seeds 5] [--baseline-size 10x40] [--skip-cvxpy]
    python benchmarks/planner.py --both-ways [--sizes 10x40] [--seeds 5]

Every problem has GPT-2, sequences of 512 tokens, batches of 16, cuts 1 to 11 and ranks 1, 2, 4, 8 with the rounds to
a target that the recipe `sflllm` has for them: 44 pairs of cut and rank. A "cell" is drawn from the wireless package
(the papers' ideal links, street, TR 38.901, Rayleigh fading, 0.5 W of total power and up to 1.5 W per client);
"Rayleigh" has mean gains spread evenly over three decades and no geometry. Times are CPU seconds of this process with
one thread, as other programs may run beside it; wall seconds stand next to them where that matters. Kernels are
compiled before; compiling and loading are timed in processes of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from wavetune.allocation.baselines import (
    plan_all_random,
    plan_random_cut,
    plan_random_rank,
    plan_random_subchannels,
    plan_uniform_power,
)
from wavetune.allocation.greedy import plan_sflllm
from wavetune.allocation.planner import plan
from wavetune.allocation.power import allocate_power
from wavetune.allocation.problem import Problem, RadioBand
from wavetune.allocation.world import problem_from_world
from wavetune.costs.architecture import PRESETS
from wavetune.costs.table import CostTable
from wavetune.costs.workload import layer_costs
from wavetune.federation.rank_choice import expected_rounds
from wavetune.recipes.sflllm import ROUNDS_TO_TARGET
from wavetune.units import w_to_dbm
from wavetune.wireless.channel import draw_channel, draw_devices
from wavetune.wireless.neighbours import Neighbours
from wavetune.wireless.presets import paper
from wavetune.wireless.scenario import Band, Bands, Population, Scenario

SIZES = ("5x20", "10x40", "20x80", "50x200", "100x400", "200x800", "500x1000", "1000x2000")
BOTH_WAYS_SIZES = ("5x20", "20x100", "100x400", "200x800", "500x600", "1000x2000")
POWER_SIZES = ((5, 20), (10, 40), (20, 80), (50, 200))
MANY_CLIENTS, SEEDS_OF_MANY, MOST_BETWEEN_NEIGHBOURS = 500, 2, 20
Result = TypeVar("Result")


def cell(num_clients: int, num_subchannels: int, seed: int, round_index: int = 0) -> Problem:
    """A drawn cell with that many clients and that many subchannels in either band."""
    band = Band(num_subchannels=num_subchannels, total_power_max_dbm=w_to_dbm(0.5 * num_clients))
    scenario = replace(paper(Scenario(population=Population(num_clients=num_clients))), bands=Bands(band, band))
    return drawn(scenario, seed, round_index)


def usual_cell(
    num_clients: int, num_subchannels: int, seed: int, round_index: int = 0, neighbours: Neighbours | None = None
) -> Problem:
    """The default world with that many clients and subchannels, where the way back takes time."""
    band = Band(num_subchannels=num_subchannels)
    population = Population(num_clients=num_clients)
    return drawn(Scenario(population=population, bands=Bands(band, band), neighbours=neighbours), seed, round_index)


def drawn(scenario: Scenario, seed: int, round_index: int) -> Problem:
    """The planning problem of a round in a world."""
    devices = draw_devices(scenario, seed)
    table = CostTable(PRESETS["gpt2"], ("c_attn",))
    costs = layer_costs(table, 512, 128, 32, 32, batch_size=16)
    channel = draw_channel(scenario, devices, seed, round_index)
    rounds = expected_rounds(ROUNDS_TO_TARGET)
    return problem_from_world(
        scenario, devices, channel, costs, rounds, range(1, 12), 12, 16, price_downlink=scenario.price_downlink
    )


def rayleigh(num_clients: int, num_subchannels: int, seed: int, round_index: int = 0) -> Problem:
    """The cell's problem with other gains: means of 1e-11 to 1e-8, log-uniform, times exponential fades."""
    problem = cell(num_clients, num_subchannels, seed)
    mean_K1 = 10 ** np.random.default_rng([seed, 0]).uniform(-11, -8, (num_clients, 1))
    generator = np.random.default_rng([seed, 1 + round_index])

    def faded(band: RadioBand) -> RadioBand:
        return replace(band, gain_KM=mean_K1 * generator.exponential(size=band.gain_KM.shape))

    return replace(problem, main=faded(problem.main), fed=faded(problem.fed))


WORLDS = {"cell": cell, "Rayleigh": rayleigh}


def timed(function: Callable[[], Result]) -> tuple[Result, float, float]:
    """What a function returns, its CPU time and its wall time (s)."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    result = function()
    return result, time.process_time() - cpu_s, time.perf_counter() - wall_s


def planner_table(sizes: Sequence[str], seeds: int) -> None:
    """Print times and gaps against the numbers of clients and subchannels, a line per size and kind of world."""
    header(
        "world", "clients x subchannels", "first plan", "worst", "above final", "whole answer", "wall", "worst",
        "gap", "worst", "next round, warm", "worst", "gap", "paper_greedy above", "worst",
    )  # fmt: skip
    for size in sizes:
        K, M = map(int, size.split("x"))
        for name, world in WORLDS.items():
            few = min(seeds, SEEDS_OF_MANY) if K >= MANY_CLIENTS else seeds
            rows = np.array([measured(world, K, M, seed) for seed in range(few)])
            middle, mean, worst = np.median(rows, axis=0), np.mean(rows, axis=0), np.max(rows, axis=0)
            row(
                name, size, ms(middle[0]), ms(worst[0]), f"{mean[1]:.2%}", ms(middle[2]), ms(middle[3]), ms(worst[2]),
                f"{mean[4]:.3%}", f"{worst[4]:.3%}", ms(middle[5]), ms(worst[5]), f"{mean[6]:.2%}",
                f"{mean[7]:.2%}", f"{worst[7]:.2%}",
            )  # fmt: skip


def measured(world: Callable[..., Problem], K: int, M: int, seed: int, in_run: bool = False) -> list[float]:
    """Of one problem: first plan and its excess, whole answer in CPU and wall time and its gap, warm, the greedy.

    In a run the next round has the cut and rank of this one; what the greedy takes is then left out.
    """
    problem, next_round = world(K, M, seed), world(K, M, seed, round_index=1)
    first, first_s, _ = timed(lambda: plan(problem, time_limit_s=0.0))
    best, best_s, wall_s = timed(lambda: plan(problem))
    if in_run:
        next_round = next_round.restrict([int(best.cut_K[0])], [int(best.rank_K[0])])
    warm, warm_s, _ = timed(lambda: plan(next_round, warm_start=best))
    excess = first.delay_s / best.delay_s - 1
    greedy = [] if in_run else [above(plan_sflllm(problem).delay_s, best)]
    return [first_s, excess, best_s, wall_s, best.gap, warm_s, warm.gap, *greedy]


def both_ways_table(sizes: Sequence[str], seeds: int) -> None:
    """Print times and gaps of the default world, alone and between six neighbours, and of its next round in a run."""
    header(
        "default world", "clients x subchannels", "first plan", "above final", "worst", "whole answer", "worst", "gap",
        "worst", "next round in a run", "worst", "gap", "worst",
    )  # fmt: skip
    worlds = {"alone": usual_cell, "six neighbours": partial(usual_cell, neighbours=Neighbours())}
    for size, (name, world) in itertools.product(sizes, worlds.items()):
        K, M = map(int, size.split("x"))
        if name != "alone" and K > MOST_BETWEEN_NEIGHBOURS:
            continue
        rows = np.array([measured(world, K, M, seed, in_run=True) for seed in range(seeds if K < MANY_CLIENTS else 1)])
        middle, mean, worst = np.median(rows, axis=0), np.mean(rows, axis=0), np.max(rows, axis=0)
        row(
            name, size, ms(middle[0]), f"{mean[1]:.2%}", f"{worst[1]:.2%}", ms(middle[2]), ms(worst[2]),
            f"{mean[4]:.3%}", f"{worst[4]:.3%}", ms(middle[5]), ms(worst[5]), f"{mean[6]:.3%}", f"{worst[6]:.3%}",
        )  # fmt: skip


def above(delay_s: float, best: object) -> float:
    """How far a delay lies above a plan's, as a share."""
    return delay_s / best.delay_s - 1  # type: ignore[attr-defined]


def anytime_table(size: str, seeds: int) -> None:
    """Print what a time limit leaves of the answer."""
    K, M = map(int, size.split("x"))
    problems = [cell(K, M, seed) for seed in range(seeds)]
    final = [plan(problem) for problem in problems]
    header(f"time limit at {size}", "CPU time", "wall", "above final", "worst", "gap", "worst")
    for limit_s in (0.0, 0.05, 0.1, 0.2, 0.5):
        outcomes = [timed(lambda p=problem: plan(p, time_limit_s=limit_s)) for problem in problems]  # noqa: B023
        excess = [above(o.delay_s, f) for (o, _, _), f in zip(outcomes, final, strict=True)]
        gaps = [o.gap for o, _, _ in outcomes]
        cpu_s, wall_s = (float(np.median(times)) for times in zip(*((c, w) for _, c, w in outcomes), strict=True))
        row(
            f"{limit_s:g} s", ms(cpu_s), ms(wall_s), f"{np.mean(excess):.2%}", f"{np.max(excess):.2%}",
            f"{np.mean(gaps):.2%}", f"{np.max(gaps):.2%}",
        )  # fmt: skip


def baseline_table(size: str, seeds: int) -> None:
    """Print how far above the planner each baseline is."""
    K, M = map(int, size.split("x"))
    baselines: dict[str, Callable[[Problem, int], float]] = {
        "paper_greedy": lambda p, s: plan_sflllm(p).delay_s,
        "paper_greedy, whole band": lambda p, s: plan_sflllm(p, whole_band=True).delay_s,
        "a: all random": lambda p, s: plan_all_random(p, s).delay_s,
        "b: random subchannels": lambda p, s: plan_random_subchannels(p, s).delay_s,
        "c: uniform power": lambda p, s: plan_uniform_power(p).delay_s,
        "d: random cut, rest by paper_greedy": lambda p, s: plan_random_cut(p, s).delay_s,
        "d: random cut, rest by the planner": lambda p, s: plan_random_cut(p, s, plan).delay_s,
        "e: random rank, rest by paper_greedy": lambda p, s: plan_random_rank(p, s).delay_s,
        "e: random rank, rest by the planner": lambda p, s: plan_random_rank(p, s, plan).delay_s,
    }
    problems = [(world(K, M, seed), seed) for world in WORLDS.values() for seed in range(seeds)]
    best = [plan(problem) for problem, _ in problems]
    header(f"baseline at {size}", "above the planner", "worst")
    for name, delay_s in baselines.items():
        excess = [above(delay_s(*problem), plan) for problem, plan in zip(problems, best, strict=True)]
        row(name, f"{np.mean(excess):.2%}", f"{np.max(excess):.2%}")


def power_table(repeats: int) -> None:
    """Print our power step against CVXPY with Clarabel, in turns on the same owners."""
    header(
        "power step", "ours", "CVXPY + Clarabel", "Clarabel alone", "ours is faster by", "instances", "it failed",
        "largest difference",
    )  # fmt: skip
    for K, M in POWER_SIZES:
        ours, theirs, solver, differences = [], [], [], []
        for seed in range(repeats):
            problem = list(WORLDS.values())[seed % 2](K, M, seed)
            owner_M = np.random.default_rng(seed).permutation(np.arange(M) % K)
            (_, delay_s), ours_s, _ = timed(lambda: stepped(problem, owner_M))  # noqa: B023
            (found_s, solver_s), theirs_s, _ = timed(lambda: solved(problem, owner_M))  # noqa: B023
            ours.append(ours_s)
            theirs.append(theirs_s)
            if found_s is not None:
                solver.append(solver_s)
                differences.append(abs(found_s / delay_s - 1))
        row(
            f"{K}x{M}", ms(float(np.median(ours))), ms(float(np.median(theirs))), ms(float(np.median(solver or [0]))),
            f"{np.median(theirs) / np.median(ours):.0f}x", str(repeats), str(repeats - len(solver)),
            f"{np.max(differences or [0]):.0e}",
        )  # fmt: skip


BITS = 1e8


def stepped(problem: Problem, owner_M: np.ndarray) -> tuple[object, float]:
    """Our power step: equal payloads, ready at once, as the toolbox is given."""
    K = problem.num_clients
    return allocate_power(problem.main, owner_M, np.zeros(K), np.full(K, BITS), problem.tx_power_max_w_K)


def solved(problem: Problem, owner_M: np.ndarray) -> tuple[float | None, float]:
    """The same by CVXPY with Clarabel: its delay, None where it fails, and the time within the solver (s)."""
    cp: Any = importlib.import_module("cvxpy")  # its stubs leave most of its types open
    band, M = problem.main, len(owner_M)
    # Powers in units of the even share, so that the toolbox meets numbers of moderate size.
    share_w = band.total_power_max_w / M
    share_M, rate = cp.Variable(M, nonneg=True), cp.Variable()
    nats_M = cp.log1p(cp.multiply(band.snr_per_w_KM[owner_M, np.arange(M)] * share_w, share_M))
    limits = [cp.sum(share_M) <= M]
    for k in range(problem.num_clients):
        own = np.flatnonzero(owner_M == k)
        limits += [cp.sum(nats_M[own]) >= rate, cp.sum(share_M[own]) <= problem.tx_power_max_w_K[k] / share_w]
    convex = cp.Problem(cp.Maximize(rate), limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(cp.error.SolverError):
            convex.solve(solver=cp.CLARABEL)
    if convex.status != cp.OPTIMAL:
        return None, 0.0
    return BITS * np.log(2) / (band.subchannel_hz * float(rate.value)), convex.solver_stats.solve_time


def start_times_s(cache: str) -> tuple[float, float, float]:
    """In a process of its own: CPU seconds to import, to load or compile the kernels with a first plan, and to plan."""
    program = (
        "import time; a = time.process_time(); from planner import cell, plan; b = time.process_time(); "
        "first, second = cell(5, 20, 0), cell(5, 20, 1); "
        "c = time.process_time(); plan(first); d = time.process_time(); plan(second, time_limit_s=0); "
        "print(b - a, d - c, time.process_time() - d)"
    )
    here = os.path.dirname(os.path.abspath(__file__))
    environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": here}
    outcome = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    import_s, first_s, next_s = map(float, outcome.stdout.split())
    return import_s, first_s, next_s


def start_table() -> None:
    """Print what a fresh process waits for, with an empty and with a filled cache of kernels."""
    header("fresh process", "imports", "first plan with its kernels", "next first plan")
    with tempfile.TemporaryDirectory() as cache:
        for name in ("empty cache: kernels are compiled", "filled cache: kernels are loaded"):
            row(name, *map(ms, start_times_s(cache)))


def header(*names: str) -> None:
    """Print the head of a Markdown table."""
    print("\n| " + " | ".join(names) + " |\n|" + " --- |" * len(names), flush=True)


def row(*cells: str) -> None:
    """Print a row of it."""
    print("| " + " | ".join(cells) + " |", flush=True)


def ms(seconds: float) -> str:
    """Seconds in words of three digits: 0.12 ms, 34 ms, 5.6 s."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.2f} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="clients x subchannels")
    parser.add_argument("--seeds", type=int, default=5, help=f"problems a size (at most 2 from {MANY_CLIENTS} clients)")
    parser.add_argument("--baseline-size", default="10x40", help="clients x subchannels of the baselines")
    parser.add_argument("--anytime-size", default="50x200", help="clients x subchannels under a time limit")
    parser.add_argument("--skip-cvxpy", action="store_true", help="leave the convex toolbox out")
    parser.add_argument("--skip-start", action="store_true", help="leave the times of fresh processes out")
    parser.add_argument("--both-ways", action="store_true", help="the default world alone, at sizes of its own")
    parser.add_argument("--quick", action="store_true", help="one minute: sizes up to 50x200, two problems each")
    options = parser.parse_args(arguments)
    sizes, seeds = (options.sizes, options.seeds) if not options.quick else (SIZES[:4], 2)
    both_ways_sizes = BOTH_WAYS_SIZES if options.sizes is SIZES else options.sizes
    plan(cell(3, 7, 0))
    plan(rayleigh(5, 20, 0), warm_start=plan(cell(5, 20, 0)))
    plan(usual_cell(4, 9, 0, 1), warm_start=plan(usual_cell(4, 9, 0)))
    if options.both_ways:
        return both_ways_table(both_ways_sizes, seeds)
    planner_table(sizes, seeds)
    both_ways_table(both_ways_sizes if not options.quick else BOTH_WAYS_SIZES[:2], seeds)
    anytime_table(options.anytime_size, seeds)
    baseline_table(options.baseline_size, 2 * seeds)
    if not options.skip_cvxpy:
        power_table(4 if options.quick else 12)
    if not (options.quick or options.skip_start):
        start_table()
    return None


if __name__ == "__main__":
    main()
