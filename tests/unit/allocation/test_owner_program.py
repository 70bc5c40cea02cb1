"""Integer programs over owners: their bound is below all owners', and where they end, the best owners are found."""

import itertools

import numpy as np
import pytest

from wavetune.allocation.both_ways import BothWays, TwoWays
from wavetune.allocation.gains import log_and_inverse
from wavetune.allocation.ladder import owners_delay, steps_of
from wavetune.allocation.owner_program import Back, Found, OwnerProgram, serving_owners
from wavetune.allocation.problem import RadioBand
from wavetune.allocation.water_filling import BandProblem
from wavetune.wireless.rate_models import Ladder, Shannon

GAP = 1e-4


def band_problem(g, total_w, limit=np.inf):
    """Three clients on six subchannels, of which each hears most."""
    snr_per_w_KM = 10 ** g.uniform(-1, 3, (3, 6)) * (g.random((3, 6)) < 0.9)
    return BandProblem(
        *log_and_inverse(snr_per_w_KM), g.uniform(0, 1, 3), 10 ** g.uniform(-1, 1, 3), 10 ** g.uniform(-2, 1, 3),
        total_w, limit,
    )  # fmt: skip


def all_owners():
    return (np.array(o) for o in itertools.product(range(3), repeat=6) if len(set(o)) == 3)


def closed(problem, back, delay_of):
    """What the programs find from the worst owners that do, and the least delay over all owners (s)."""
    delays = {tuple(o): delay_of(o) for o in all_owners()}
    finite = {o: delay_s for o, delay_s in delays.items() if np.isfinite(delay_s)}
    if not finite:
        return None, np.inf
    worst = max(finite, key=finite.get)
    best_s = min(finite.values())
    start = Found(np.array(worst), finite[worst], 0.0)
    program = OwnerProgram(problem, back, start.delay_s, float(np.max(problem.ready_K)) + 1e-9, 0.0)
    return program.close(start, GAP * best_s, np.inf, delay_of), best_s


def encloses(found, best_s):
    assert found.bound_s <= best_s * (1 + 1e-9)
    assert best_s * (1 - 1e-9) <= found.delay_s <= best_s * (1 + 1.01 * GAP)
    assert found.delay_s - found.bound_s <= GAP * best_s


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("total_w", [0.3, 100.0], ids=["total power binds", "own caps bind"])
@pytest.mark.parametrize("limit", [3.0, np.inf])
def test_programs_of_the_uplink_end_at_the_best_of_all_owners(seed, total_w, limit, capfd):
    problem = band_problem(np.random.default_rng(seed), total_w, limit)
    nothing = Back(np.zeros((3, 6)), np.zeros(3), np.zeros(3))
    found, best_s = closed(problem, nothing, lambda o: owners_delay(problem, o))
    assert capfd.readouterr().out == ""  # the solver's own remarks are kept off the standard output
    if found is not None:
        encloses(found, best_s)


@pytest.mark.parametrize("seed", range(12))
def test_programs_of_both_ways_end_at_the_best_of_all_owners(seed):
    g = np.random.default_rng(100 + seed)
    problem = band_problem(g, 100.0, 5.0)
    back = Back(g.exponential(size=(3, 6)), 10 ** g.uniform(-1, 1, 3), g.uniform(0, 1, 3))

    def delay_s(owner_M):
        rate_K = np.array([back.rate_KM[k, owner_M == k].sum() for k in range(3)])
        return owners_delay(problem, owner_M) + float(np.max(back.bits_K / rate_K + back.after_s_K))

    found, best_s = closed(problem, back, delay_s)
    if found is not None:
        encloses(found, best_s)


@pytest.mark.parametrize("seed", range(6))
def test_a_bound_of_steps_is_below_the_best_of_all_owners(seed):
    ladder = Ladder(np.array([0.5, 3.0, 20.0, 90.0]), np.array([0.4, 1.6, 3.5, 5.0]))
    g = np.random.default_rng(200 + seed)
    problem = band_problem(g, 100.0, 5.0)._replace(steps=steps_of(ladder, 1.0, 1.0))
    nothing = Back(np.zeros((3, 6)), np.zeros(3), np.zeros(3))
    found, best_s = closed(problem, nothing, lambda o: owners_delay(problem, o))
    if found is not None:
        assert found.bound_s <= best_s * (1 + 1e-9)
        assert found.delay_s >= best_s * (1 - 1e-9)


def test_a_band_between_loud_neighbours_is_closed_by_programs():
    """Many weak subchannels for one client, of which sets found one by one see too few."""
    g = np.random.default_rng(0)
    loud_w_KM = 10 ** g.uniform(-12, -10, (4, 1)) * g.exponential(size=(4, 12))
    gain_KM = 10 ** g.uniform(-12, -10, (4, 1)) * g.exponential(size=(4, 12))
    band = RadioBand(
        gain_KM, 5e5, 4e-21, 100.0, rate=Shannon(max_bit_per_s_per_hz=7.4), downlink_gain_KM=gain_KM,
        downlink_power_w=10.0, downlink_interference_w_KM=loud_w_KM,
    )  # fmt: skip
    log_KM, inverse_KM = log_and_inverse(band.snr_per_w_KM)
    uplink = BandProblem(log_KM, inverse_KM, np.zeros(4), np.full(4, 2.0), np.full(4, 0.2), 100.0, 7.4)
    ways = BothWays(band, uplink, np.full(4, 1e6), np.zeros(4))
    owner_M = np.arange(12) % 4
    known = TwoWays(owner_M, ways.delay_s(owner_M), ways.least_down_s)
    found = ways.close(known, 0.0, 1e-4 * known.delay_s, np.inf)
    assert found.delay_s <= known.delay_s
    assert found.delay_s == pytest.approx(ways.delay_s(found.owner_M))
    assert found.delay_s - found.bound_s <= 1e-4 * known.delay_s


def served_w(owner_M, power_w_KM, received_KM):
    """The least power with which all are heard on what they own (W), infinite where somebody cannot send or receive."""
    own_KM = owner_M == np.arange(len(power_w_KM))[:, None]
    least_w = np.sum(np.min(np.where(own_KM, power_w_KM, np.inf), axis=1))
    return least_w if np.all(np.any(own_KM & received_KM, axis=1)) else np.inf


@pytest.mark.parametrize("seed", range(8))
def test_owners_that_serve_everybody_take_the_least_power_of_all_owners(seed):
    g = np.random.default_rng(seed)
    power_w_KM = np.where(g.random((3, 6)) < 0.5, g.exponential(size=(3, 6)), np.inf)
    received_KM, all_K = g.random((3, 6)) < 0.5, np.ones(3, bool)
    owner_M = serving_owners(power_w_KM, received_KM, all_K, all_K)
    found_w = np.inf if owner_M is None else served_w(owner_M, power_w_KM, received_KM)
    assert found_w == pytest.approx(min(served_w(o, power_w_KM, received_KM) for o in all_owners()))


def test_in_a_large_band_everybody_is_served_and_nothing_is_said_to_be_impossible():
    g, all_K = np.random.default_rng(0), np.ones(100, bool)
    power_w_KM = np.where(g.random((100, 200)) < 0.6, g.exponential(size=(100, 200)), np.inf)
    received_KM = g.random((100, 200)) < 0.6
    owner_M = serving_owners(power_w_KM, received_KM, all_K, all_K)
    assert owner_M is not None
    assert served_w(owner_M, power_w_KM, received_KM) < np.inf
    received_KM[:] = np.arange(200) < 99  # too few for all, which a few subchannels of each do not prove
    assert np.all(serving_owners(power_w_KM, received_KM, all_K, all_K) == -1)


def test_where_nobody_is_heard_nobody_is_served():
    never_KM, all_K = np.full((2, 3), np.inf), np.ones(2, bool)
    assert serving_owners(never_KM, np.zeros((2, 3), bool), all_K, all_K) is None
