"""Genetic search of owners, cut and rank, with exact powers: what is used where nothing is known of the problem.

An individual is the owner of every subchannel of both bands and a pair of cut and rank; its cost is the delay with the
best powers for its owners. The algorithm is the plain generational one with tournaments of two, uniform crossover, one
gene in M drawn anew, and the two best kept (Goldberg 1989). It starts from random individuals and stops after so many
generations: it has no bound.
Shape suffixes: K clients, M subchannels of a band, G genes: which pair of cut and rank, then the owners of both bands.
"""

from __future__ import annotations

import numpy as np

from wavetune.allocation.baselines import random_owners
from wavetune.allocation.decision import Evaluator, given_options
from wavetune.allocation.feasibility import check_feasible
from wavetune.allocation.plan import Plan, infeasible
from wavetune.allocation.power import with_best_power
from wavetune.allocation.problem import IntArray, Problem
from wavetune.seeds import stream

_INDIVIDUALS, _GENERATIONS, _KEPT = 30, 40, 2


def plan_genetic(problem: Problem, seed: int) -> Plan:
    """The best plan of 30 individuals after 40 generations; `lower_bound_s` is the trivial 0."""
    feasible = check_feasible(problem)
    if not feasible.pairs:
        return infeasible(feasible.reason)
    generator, M = stream(seed, "baseline/genetic search"), problem.main.num_subchannels
    evaluator, given = Evaluator(problem), given_options(problem, feasible.pairs)
    owners_G = np.full(M + problem.fed.num_subchannels, problem.num_clients)
    choices_G = np.concatenate(([len(feasible.pairs)], owners_G))

    def drawn() -> IntArray:
        pair = int(generator.integers(len(feasible.pairs)))
        return np.concatenate(([pair], *random_owners(problem, *feasible.pairs[pair], generator)))

    def child() -> IntArray:
        mother_G, father_G = (living[int(np.min(generator.integers(len(living), size=2)))][1] for _ in range(2))
        gene_G = np.where(generator.random(len(mother_G)) < 0.5, mother_G, father_G)
        return np.where(generator.random(len(gene_G)) < 1 / M, generator.integers(choices_G), gene_G)

    def delay_s(gene_G: IntArray) -> float:
        return evaluator.decide(given[int(gene_G[0])], gene_G[1 : 1 + M], gene_G[1 + M :]).delay_s

    def ranked(genes: list[IntArray]) -> list[tuple[float, IntArray]]:
        return sorted(((delay_s(gene_G), gene_G) for gene_G in genes), key=lambda one: one[0])

    living = ranked([drawn() for _ in range(_INDIVIDUALS)])  # the best first
    for _ in range(_GENERATIONS):
        children = [child() for _ in range(_INDIVIDUALS - _KEPT)]
        living = sorted([*living[:_KEPT], *ranked(children)], key=lambda one: one[0])
    best_G = living[0][1]
    cut, rank = feasible.pairs[int(best_G[0])]
    return with_best_power(problem, cut, rank, best_G[1 : 1 + M], best_G[1 + M :])
