"""Cells around this one: what is received of them, and that plans, charges and rates all count it."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.problems import layer_costs
from helpers.round_planner import METHOD, SCENARIO, planner
from wavetune.allocation.delay import downlink_rate_bit_per_s_K, uplink_rate_bit_per_s_K
from wavetune.allocation.participants import problem_of
from wavetune.allocation.world import problem_from_world
from wavetune.errors import ConfigError
from wavetune.wireless.channel import draw_channel, draw_devices
from wavetune.wireless.neighbours import Neighbours
from wavetune.wireless.path_loss import LogDistance
from wavetune.wireless.placement import FixedPositions
from wavetune.wireless.power_control import PowerControl
from wavetune.wireless.rates import downlink_rates, uplink_rates
from wavetune.wireless.scenario import Population, Scenario

BUSY = Neighbours(cells=6, distance_m=500.0, activity=1.0)


def test_one_neighbour_by_hand():
    """A device at the centre of a neighbour's cell, 500 m east and north, without shadowing."""
    law = LogDistance()
    one = Scenario(
        population=Population(num_clients=1), path_loss=law, shadowing=False, antenna_gain_db=8.0,
        placement=FixedPositions(((0.0, 100.0),)), neighbours=Neighbours(cells=1, distance_m=500.0, activity=0.5),
    )  # fmt: skip
    link = draw_channel(one, draw_devices(one, 0), 0, 0).main

    def gain(x_m, y_m):
        return 10 ** ((8.0 - (128.1 + 37.6 * np.log10(np.hypot(x_m, y_m) / 1000))) / 10)

    x_m, y_m = 500 * np.cos(np.pi / 6), 500 * np.sin(np.pi / 6)
    up_w = 0.5 * 10**-0.7 / 20 * gain(x_m, y_m + 100)  # the neighbour's device has all of its 20 subchannels
    np.testing.assert_allclose(link.interference_w_M, up_w)
    np.testing.assert_allclose(link.downlink_interference_w_KM, 0.5 * 10**1.3 / 20 * gain(x_m, y_m - 100))


def test_interference_grows_with_activity_and_with_cells_that_are_nearer():
    def mean_w(neighbours):
        scenario = Scenario(neighbours=neighbours)
        link = draw_channel(scenario, draw_devices(scenario, 1), 1, 0).main
        return link.interference_w_M.sum(), link.downlink_interference_w_KM.sum()

    busy, calm = mean_w(BUSY), mean_w(replace(BUSY, activity=0.25))
    assert busy == pytest.approx([4 * w for w in calm])
    assert all(far < near for far, near in zip(mean_w(replace(BUSY, distance_m=2000.0)), busy, strict=True))
    assert all(few < all_ for few, all_ in zip(mean_w(replace(BUSY, cells=2)), busy, strict=True))


def test_power_control_of_the_neighbours_is_heard_less():
    loud = Scenario(neighbours=BUSY)
    quiet = replace(loud, power_control=PowerControl(-100.0, 0.8))
    found = [draw_channel(s, draw_devices(s, 1), 1, 0).main for s in (loud, quiet)]
    assert found[1].interference_w_M.sum() < 0.5 * found[0].interference_w_M.sum()
    np.testing.assert_array_equal(found[1].downlink_interference_w_KM, found[0].downlink_interference_w_KM)


def test_who_interferes_is_drawn_every_round_and_a_cell_more_leaves_the_others_alone():
    scenario = Scenario(neighbours=BUSY)
    devices = draw_devices(scenario, 2)
    first, second = (draw_channel(scenario, devices, 2, t).main for t in (0, 1))
    assert not np.array_equal(first.interference_w_M, second.interference_w_M)
    few = draw_channel(replace(scenario, neighbours=replace(BUSY, cells=5)), devices, 2, 0).main
    assert np.all(few.interference_w_M < first.interference_w_M)
    np.testing.assert_array_equal(few.uplink_gain_KM, first.uplink_gain_KM)
    alone = draw_channel(replace(scenario, neighbours=None), devices, 2, 0).main
    np.testing.assert_array_equal(alone.uplink_gain_KM, first.uplink_gain_KM)


def test_plans_and_rates_count_interference_at_both_ends():
    scenario = Scenario(population=Population(num_clients=4), neighbours=BUSY)
    devices = draw_devices(scenario, 1)
    channel, owner_M = draw_channel(scenario, devices, 1, 0), np.arange(20) % 4
    problem = problem_from_world(
        scenario, devices, channel, layer_costs(6), {1: 20.0}, (1,), 3, 2, price_downlink=True
    )  # fmt: skip
    power_w_M = np.linspace(0.001, 0.05, 20)
    band = scenario.bands.main
    up_K, down_K = uplink_rates(scenario, band, channel.main, owner_M, power_w_M), downlink_rates(
        scenario, band, channel.main, owner_M
    )  # fmt: skip
    np.testing.assert_array_equal(uplink_rate_bit_per_s_K(problem.main, owner_M, power_w_M), up_K)
    np.testing.assert_array_equal(downlink_rate_bit_per_s_K(problem.main, owner_M), down_K)
    some = problem_of(problem, [3, 1]).main
    np.testing.assert_array_equal(downlink_rate_bit_per_s_K(some, np.full(20, 0))[0],
                                  downlink_rate_bit_per_s_K(problem.main, np.full(20, 3))[3])  # fmt: skip
    quiet = replace(channel.main, interference_w_M=np.zeros(20), downlink_interference_w_KM=None)
    assert np.all(uplink_rates(scenario, band, quiet, owner_M, power_w_M) > up_K)
    assert np.all(downlink_rates(scenario, band, quiet, owner_M) >= down_K)


def test_a_busy_neighbourhood_is_planned_slower_and_charged_as_planned():
    delays_s = []
    for neighbours in (None, Neighbours(activity=0.5), BUSY):
        one = planner(METHOD, scenario=replace(SCENARIO, neighbours=neighbours))
        first = one.first_plan()
        problem, plan = one.plan(1, first)
        assert plan.lower_bound_s <= plan.delay_s
        assert plan.main.power_w_K(3).max() <= problem.tx_power_max_w_K.max() * (1 + 1e-6)
        delays_s.append(first.delay_s)
    assert delays_s == sorted(delays_s)
    assert delays_s[0] < delays_s[2]


def test_neighbours_nearer_than_a_path_loss_holds_are_refused():
    with pytest.raises(ConfigError, match=r"neighbours.distance_m is 205 but must be in \[210, 4800\] \(the cell"):
        Scenario(neighbours=Neighbours(distance_m=205.0))
