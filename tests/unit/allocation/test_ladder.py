"""Rates that grow in steps against all choices of rungs: powers and delays of given owners, cheapest sets, plans."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from helpers.problems import cell_problem
from wavetune.allocation.band import Incumbent, descend
from wavetune.allocation.dual_bound import raise_bound, uniform_prices
from wavetune.allocation.effort import Clock
from wavetune.allocation.feasibility import violations
from wavetune.allocation.gains import log_and_inverse
from wavetune.allocation.ladder import owners_delay, stepped_powers, steps_of
from wavetune.allocation.planner import plan
from wavetune.allocation.set_packing import cheapest_sets
from wavetune.allocation.water_filling import NO_STEPS, BandProblem
from wavetune.wireless.rate_models import Ladder, NrMcs

# the third rung is below the hull of the others
LADDER = Ladder(np.array([0.5, 3.0, 5.0, 20.0, 90.0]), np.array([0.4, 1.6, 1.7, 3.5, 5.0]))
OWNERS = np.array([0, 1, 0, 1, 0, 1])


def drawn(seed, total_w):
    """Two clients and six subchannels; the envelope is Shannon's with a gap below 1, above all rungs."""
    g = np.random.default_rng(seed)
    tables = log_and_inverse(10 ** g.uniform(1, 3, (2, 6)))
    needs = g.uniform(0, 1, 2), g.uniform(1, 9, 2), 10 ** g.uniform(-1, 1, 2)
    return BandProblem(*tables, *needs, total_w, 5.0, steps=steps_of(LADDER, 0.5, 1.0))


def choices(problem, k, owned):
    """Power and rate of every choice of rungs of a client."""
    rungs = zip(problem.steps.snr_I, problem.steps.rate_I, strict=True)
    for chosen in itertools.product(list(rungs), repeat=len(owned)):
        yield (
            sum(s * problem.inverse_KM[k, i] for (s, _), i in zip(chosen, owned, strict=True)),
            sum(r for _, r in chosen),
        )


def best_delay(problem):
    """Least delay over all rungs of both clients, each delay with the least powers for it."""
    clients = []
    for k in range(2):
        owned, cap_w = np.flatnonzero(np.equal(OWNERS, k)), problem.cap_w_K[k]
        affordable = [(w, r) for w, r in choices(problem, k, owned) if w <= cap_w and r > 0]
        clients.append([(w, problem.ready_K[k] + problem.need_K[k] / r) for w, r in affordable])
    pairs = itertools.product(*clients)
    return min((max(a[1], b[1]) for a, b in pairs if a[0] + b[0] <= problem.total_w), default=np.inf)


@pytest.mark.parametrize("total_w", [100.0, 0.3])
def test_the_delay_of_given_owners_is_the_least_over_all_rungs(total_w):
    for seed in range(5):
        problem = drawn(seed, total_w)
        delay_s, power_w_m = stepped_powers(problem, OWNERS)
        assert delay_s == pytest.approx(best_delay(problem), rel=2e-7)
        assert np.all(np.bincount(OWNERS, power_w_m) <= problem.cap_w_K)
        assert power_w_m.sum() <= total_w


def test_without_power_for_the_least_rung_the_delay_is_infinite():
    assert owners_delay(drawn(0, 1e-6), OWNERS) == np.inf


def test_the_cheapest_set_under_steps_is_that_of_all_sets_and_rungs():
    for seed in range(5):
        whole = drawn(seed, 100.0)
        log_km, inverse_km = (np.ascontiguousarray(table_km[:, :4]) for table_km in whole[:2])
        problem = whole._replace(log_KM=log_km, inverse_KM=inverse_km)
        weight_m1 = np.random.default_rng(seed).dirichlet(np.ones(5))
        delay_s = 1.2 * owners_delay(whole, OWNERS)
        assert np.isfinite(delay_s)
        value_k, *_ = cheapest_sets(problem, weight_m1, delay_s, 100_000)
        for k in range(2):
            rate, least = problem.need_K[k] / (delay_s - problem.ready_K[k]), np.inf
            for chosen in itertools.chain(*(itertools.combinations(range(4), n) for n in range(1, 5))):
                meets = (w for w, r in choices(problem, k, chosen) if r >= rate * (1 - 1e-12))
                power_w = min(meets, default=np.inf)
                if power_w <= problem.cap_w_K[k]:
                    least = min(least, weight_m1[list(chosen)].sum() + weight_m1[-1] / 100.0 * power_w)
            assert value_k[k] == pytest.approx(least, rel=1e-9)


def test_prices_bound_delays_by_the_steps_and_not_by_the_rate_above_them():
    for seed in range(5):
        whole = drawn(seed, 0.1)
        log_km, inverse_km = (np.ascontiguousarray(table_km[:, :4]) for table_km in whole[:2])
        problem = whole._replace(log_KM=log_km, inverse_KM=inverse_km)
        best_s = min(owners_delay(problem, np.array(owner_m)) for owner_m in itertools.product((0, 1), repeat=4))
        bounds_s = []
        for each in (problem, problem._replace(steps=NO_STEPS)):
            prices = uniform_prices(each, OWNERS[:4], 0.0, best_s)
            bounds_s.append(raise_bound(each, prices, 0.0, 2 * best_s, best_s, 1e-4 * best_s, 100)[0])
        assert 1.2 * bounds_s[1] < bounds_s[0] <= best_s


@pytest.mark.parametrize("total_w", [100.0, 0.3])
def test_local_search_of_whole_steps_finds_the_best_owners_of_few_clients(total_w):
    for seed in range(5):
        problem = drawn(seed, total_w)
        best_s = min(owners_delay(problem, np.array(owner_m)) for owner_m in itertools.product((0, 1), repeat=6))
        start = Incumbent(OWNERS, owners_delay(problem, OWNERS), 0.0)
        assert descend(problem, start, Clock(), kicks=40).delay_s <= best_s * (1 + 1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_plans_under_coding_schemes_are_proved_within_a_percent(seed):
    problem = cell_problem(4, 12, seed=seed)
    bands = {name: replace(band, rate=NrMcs()) for name, band in (("main", problem.main), ("fed", problem.fed))}
    found = plan(replace(problem, **bands))
    assert violations(replace(problem, **bands), found) == []
    assert found.gap < 0.01
