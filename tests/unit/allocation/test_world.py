from dataclasses import replace

import numpy as np

from helpers.problems import layer_costs
from wavetune.allocation.delay import downlink_rate_bit_per_s_K, uplink_rate_bit_per_s_K
from wavetune.allocation.feasibility import violations
from wavetune.allocation.planner import plan
from wavetune.allocation.world import problem_from_world
from wavetune.wireless.channel import draw_channel, draw_devices
from wavetune.wireless.rates import downlink_rates, uplink_rates
from wavetune.wireless.scenario import Band, Bands, Population, Scenario

SCENARIO = Scenario(population=Population(num_clients=4), bands=Bands(main=Band(interference_dbm_per_hz=-170.0)))
DEVICES = draw_devices(SCENARIO, seed=1)
CHANNEL = draw_channel(SCENARIO, DEVICES, seed=1, round_index=0)


def world(**options):
    return problem_from_world(
        SCENARIO,
        DEVICES,
        CHANNEL,
        layer_costs(6),
        {1: 20.0, 4: 15.0},
        cuts=(1, 2),
        local_steps=3,
        batch_size=2,
        **options,
    )


def test_rates_are_those_of_the_wireless_model_with_interference():
    problem, owner_M = world(), np.arange(20) % 4
    power_w_M = np.linspace(0.01, 0.2, 20)
    expected_K = uplink_rates(SCENARIO, SCENARIO.bands.main, CHANNEL.main, owner_M, power_w_M)
    np.testing.assert_array_equal(uplink_rate_bit_per_s_K(problem.main, owner_M, power_w_M), expected_K)
    expected_K = downlink_rates(SCENARIO, SCENARIO.bands.main, CHANNEL.main, owner_M)
    np.testing.assert_array_equal(downlink_rate_bit_per_s_K(problem.main, owner_M), expected_K)


def test_a_drawn_world_is_planned_with_its_energy():
    problem = world()
    outcome = plan(problem)
    assert violations(problem, outcome) == []
    assert np.all(outcome.energy.client_compute_j_K > 0)
    assert np.all(outcome.energy.client_radio_j_K > 0)
    assert outcome.energy.server_radio_j == 0.0


def test_pricing_the_downlink_adds_its_time_and_the_server_s_radio_energy():
    free, priced = plan(world()), plan(world(price_downlink=True))
    assert np.all(priced.phases.downlink_s > 0)
    assert np.all(priced.phases.fed_download_s > 0)
    assert np.all(free.phases.downlink_s == 0)
    assert priced.delay_s > free.delay_s
    assert priced.energy.server_radio_j > 0


def test_a_jammed_band_is_slower():
    quiet = replace(SCENARIO, bands=Bands())
    channel = draw_channel(quiet, DEVICES, seed=1, round_index=0)
    calm = problem_from_world(quiet, DEVICES, channel, layer_costs(6), {1: 20.0}, (1,), 3, 2)
    assert plan(calm).delay_s < plan(world().restrict(cuts=[1], ranks=[1])).delay_s
