"""Fractional power control: TS 38.213's formula, and who sends with how much of a scenario."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.round_planner import METHOD, SCENARIO, planner
from wavetune import recipes
from wavetune.errors import ConfigError
from wavetune.recipe import with_settings
from wavetune.units import dbm_to_w
from wavetune.wireless.channel import devices_in_round, draw_devices
from wavetune.wireless.channels.moving import Moving
from wavetune.wireless.movement import StraightLines
from wavetune.wireless.power_control import PowerControl
from wavetune.wireless.scenario import Population, Scenario


@pytest.mark.parametrize(
    ("p0_dbm", "alpha", "mu", "blocks", "loss_db", "expected_dbm"),
    [
        (-80.0, 0.8, 0, 10, 100.0, 10.0),  # -80 + 10 + 80
        (-80.0, 0.8, 1, 10, 100.0, 13.0103),  # 2^1 * 10 blocks
        (-100.0, 1.0, 0, 1, 90.0, -10.0),
        (-80.0, 0.0, 0, 100, 140.0, -60.0),  # alpha 0: the loss does not count
        (-80.0, 1.0, 0, 50, 120.0, 23.0),  # 57 dBm asked for, the device's power is the limit
    ],
)
def test_the_power_is_that_of_ts_38_213_clause_7_1_1(p0_dbm, alpha, mu, blocks, loss_db, expected_dbm):
    width_hz = blocks * 12 * 15e3 * 2**mu
    found = PowerControl(p0_dbm, alpha).power_dbm(23.0, width_hz, np.array(loss_db))
    assert float(found) == pytest.approx(expected_dbm, abs=1e-4)


def test_devices_far_away_send_with_more_and_nobody_above_its_own_power():
    scenario = Scenario(population=Population(num_clients=50), power_control=PowerControl(-90.0, 0.7))
    devices, plain = draw_devices(scenario, 3), draw_devices(replace(scenario, power_control=None), 3)
    loss_db_K = np.array([max(d.path_loss_db + d.shadowing_db - 8.0, 53.0) for d in devices])
    share_hz = 20 * 500e3 / 50
    expected_w_K = dbm_to_w(0) * 10 ** (np.minimum(23, -90 + 10 * np.log10(share_hz / 180e3) + 0.7 * loss_db_K) / 10)
    np.testing.assert_allclose([d.tx_power_max_w for d in devices], expected_w_K)
    assert {d.tx_power_max_w for d in plain} == {dbm_to_w(23.0)}


def test_power_follows_devices_that_move_and_plans_keep_to_it():
    moving = Moving(speed_m_per_s=20.0, movement=StraightLines())
    scenario = replace(SCENARIO, channel=moving, power_control=PowerControl())
    one = planner(METHOD, scenario=scenario)
    first = one.first_plan()
    caps_w = [[d.tx_power_max_w for d in devices_in_round(scenario, one.devices, one.seed, t)] for t in (0, 3)]
    assert caps_w[0] != caps_w[1]
    problem, plan = one.plan(3, first)
    np.testing.assert_array_equal(problem.tx_power_max_w_K, caps_w[1])
    assert np.all(plan.main.power_w_K(3) <= np.array(caps_w[1]) * (1 + 1e-6))


def test_it_is_turned_on_by_a_setting_and_alpha_is_one_that_is_signalled():
    recipe = with_settings(recipes.get("sflllm"), ["world.scenario.power_control.p0_dbm=-90"])
    assert recipe.world.scenario.power_control == PowerControl(-90.0, 0.8)
    with pytest.raises(
        ConfigError, match=r"world\.scenario\.power_control: alpha is 0\.3, which no network can signal"
    ):
        with_settings(recipe, ["world.scenario.power_control.alpha=0.3"])
