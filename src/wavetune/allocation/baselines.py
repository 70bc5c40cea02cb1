"""Baselines a-e: one decision (or all) made at random or uniformly, the rest optimised as the paper does.

Source: the comparison of SflLLM (arXiv 2504.14667); its exact definitions are not public, these are ours. Every random
choice comes from a stream keyed by (seed, the baseline's name).
Shape suffixes: I local steps, K clients, M subchannels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from wavetune.allocation.delay import load_of
from wavetune.allocation.feasibility import check_feasible, match_subchannels, usable_subchannels
from wavetune.allocation.greedy import best_cut_and_rank, greedy_owners, plan_sflllm
from wavetune.allocation.plan import Plan, infeasible, make_plan
from wavetune.allocation.power import uniform_power
from wavetune.allocation.problem import IntArray, Problem, RadioBand
from wavetune.seeds import stream
from wavetune.units import Array

Planner = Callable[[Problem], Plan]


def plan_all_random(problem: Problem, seed: int) -> Plan:
    """Baseline a: random cut, rank and subchannels, uniform power."""
    feasible = check_feasible(problem)
    if not feasible.pairs:
        return infeasible(feasible.reason)
    generator = stream(seed, "baseline/all random")
    cut, rank = feasible.pairs[generator.integers(len(feasible.pairs))]
    main_owner_M, fed_owner_M = random_owners(problem, cut, rank, generator)
    cap_w_K = problem.tx_power_max_w_K
    main = uniform_power(problem.main, main_owner_M, cap_w_K)
    return make_plan(problem, cut, rank, main, uniform_power(problem.fed, fed_owner_M, cap_w_K))


def plan_random_subchannels(problem: Problem, seed: int) -> Plan:
    """Baseline b: random subchannels; optimal powers, cut and rank."""
    feasible = check_feasible(problem)
    if not feasible.pairs:
        return infeasible(feasible.reason)
    owners = random_owners(problem, *feasible.pairs[0], stream(seed, "baseline/random subchannels"))
    return best_cut_and_rank(problem, *owners, feasible.pairs)


def plan_uniform_power(problem: Problem) -> Plan:
    """Baseline c: uniform power; the better of both greedy hand-outs, exhaustive cut and rank."""
    feasible = check_feasible(problem)
    if not feasible.pairs:
        return infeasible(feasible.reason)

    def plan_of(cut: int, rank: int, whole_band: bool) -> Plan:
        main_owner_M, fed_owner_M = greedy_owners(problem, cut, rank, whole_band)
        cap_w_K = problem.tx_power_max_w_K
        main = uniform_power(problem.main, main_owner_M, cap_w_K)
        return make_plan(problem, cut, rank, main, uniform_power(problem.fed, fed_owner_M, cap_w_K))

    plans = (plan_of(cut, rank, whole_band) for cut, rank in feasible.pairs for whole_band in (False, True))
    return min(plans, key=lambda plan: plan.delay_s)


def plan_random_cut(problem: Problem, seed: int, planner: Planner = plan_sflllm) -> Plan:
    """Baseline d: a random cut among the feasible ones; the rest optimised by `planner`."""
    feasible = check_feasible(problem)
    if not feasible.pairs:
        return infeasible(feasible.reason)
    cuts = sorted({cut for cut, _ in feasible.pairs})
    return planner(problem.restrict(cuts=[int(stream(seed, "baseline/random cut").choice(cuts))]))


def plan_random_rank(problem: Problem, seed: int, planner: Planner = plan_sflllm) -> Plan:
    """Baseline e: a random rank among the feasible ones; the rest optimised by `planner`."""
    feasible = check_feasible(problem)
    if not feasible.pairs:
        return infeasible(feasible.reason)
    ranks = sorted({rank for _, rank in feasible.pairs})
    return planner(problem.restrict(ranks=[int(stream(seed, "baseline/random rank").choice(ranks))]))


def plan_baselines(problem: Problem, seed: int) -> Mapping[str, Plan]:
    """All five baselines and both greedy methods, by name."""
    return {
        "all random": plan_all_random(problem, seed),
        "random subchannels": plan_random_subchannels(problem, seed),
        "uniform power": plan_uniform_power(problem),
        "random cut": plan_random_cut(problem, seed),
        "random rank": plan_random_rank(problem, seed),
        "greedy (SflLLM)": plan_sflllm(problem),
        "greedy, whole band": plan_sflllm(problem, whole_band=True),
    }


def unsplit(problem: Problem, rank: int = 8) -> Problem:
    """The problem of FedAvg-LoRA: every client trains the whole model at a rank, or the nearest allowed one.

    Nothing crosses the main band and the server computes nothing; the rounds to the target are taken to be those of the
    split model, which learns alike (what is cut is the model, not the mathematics).
    """
    costs, last = problem.costs, problem.costs.num_layers
    back_L = costs.activation_bits_L if costs.gradient_bits_L is None else costs.gradient_bits_L
    nearest = min(problem.ranks, key=lambda allowed: abs(allowed - rank))
    return replace(
        problem.restrict(ranks=[nearest]),
        cuts=(last,),
        costs=replace(
            costs,
            activation_bits_L=np.append(costs.activation_bits_L[:-1], 0.0),
            gradient_bits_L=np.append(back_L[:-1], 0.0),
        ),
        share_server=False,
        cut_per_client=False,
    )


def random_owners(problem: Problem, cut: int, rank: int, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Owners of both bands at random, with a usable subchannel for whoever sends."""
    load, cap_w_K = load_of(problem, cut, rank), problem.tx_power_max_w_K
    main = _random_owner(problem.main, load.uplink_bits_IK[0], cap_w_K, generator)
    return main, _random_owner(problem.fed, load.fed_upload_bits_K, cap_w_K, generator)


def _random_owner(band: RadioBand, bits_K: Array, tx_power_max_w_K: Array, generator: np.random.Generator) -> IntArray:
    """Each subchannel to a random sending client, after every one got a usable one at random."""
    M, senders = band.num_subchannels, np.flatnonzero(bits_K > 0)
    if not len(senders):
        return np.full(M, -1, dtype=np.int64)
    owner_M = generator.choice(senders, size=M)
    shuffled_M = generator.permutation(M)
    usable_KM = usable_subchannels(band, tx_power_max_w_K)[senders][:, shuffled_M]
    owner_M[shuffled_M[match_subchannels(usable_KM)]] = senders
    return owner_M.astype(np.int64)
