"""Named worlds, and the link budget that they set."""

from dataclasses import replace

import numpy as np
import pytest

from wavetune import recipes
from wavetune.errors import ConfigError
from wavetune.recipe import from_dict, with_settings
from wavetune.units import dbm_to_w
from wavetune.wireless.channel import draw_channel, draw_devices
from wavetune.wireless.fading import NoFading, Rician
from wavetune.wireless.path_loss import LogDistance
from wavetune.wireless.placement import FixedPositions
from wavetune.wireless.presets import fields_of_preset, paper, with_preset
from wavetune.wireless.rate_models import Shannon
from wavetune.wireless.scenario import Population, Scenario
from wavetune.wireless.shadowing import draw_correlated


def test_a_street_cell_is_the_plain_scenario_and_a_preset_leaves_what_it_says_nothing_of():
    base = Scenario(population=Population(num_clients=3), cell_radius_m=80.0)
    assert with_preset(paper(base), "cell") == base
    assert (base.population.tx_power_max_dbm, base.server.noise_figure_db, base.preset) == (23.0, 5.0, "cell")
    assert base.rate.envelope(5e5).most == pytest.approx(7.4, abs=0.01)
    found = paper(base)
    assert (found.population.num_clients, found.cell_radius_m, found.preset) == (3, 80.0, "paper")
    assert (found.population.noise_figure_db, found.price_downlink, found.rate) == (0.0, False, Shannon())
    assert dbm_to_w(found.population.tx_power_max_dbm) == pytest.approx(1.5)


def test_setting_the_preset_sets_all_it_says_and_what_is_set_after_it_stays():
    recipe = recipes.get("sflllm")
    found = with_settings(
        recipe, ["world.scenario.preset=paper", "world.scenario.population.tx_power_max_dbm=20"]
    ).world.scenario
    expected = paper()
    assert found == replace(expected, population=replace(expected.population, tx_power_max_dbm=20.0))
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        with_settings(recipe, ["world.scenario.preset=papers"])


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_in_the_street_cell_unless_the_papers_world_is_asked_for(name):
    scenario = recipes.get(name).world.scenario
    assert with_preset(scenario, "cell") == scenario


def test_a_recipe_that_names_its_preset_need_not_say_what_is_in_it():
    values = recipes.get("sflllm").to_dict()
    values["world"]["scenario"] = {"preset": "paper", "cell_radius_m": 60.0}
    assert from_dict(values).world.scenario == paper(Scenario(cell_radius_m=60.0))


def gains(scenario):
    return draw_channel(scenario, draw_devices(scenario, 0), 0, 0).main.uplink_gain_KM


def test_antennas_of_both_ends_add_and_nobody_is_received_above_the_coupling_loss():
    plain = Scenario(fading=NoFading(), antenna_gain_db=0.0)
    more = replace(plain, antenna_gain_db=8.0, population=Population(antenna_gain_db=2.0))
    np.testing.assert_allclose(gains(more), gains(plain) * 10.0)
    most = float(np.median(gains(plain)))
    limited = gains(replace(plain, min_coupling_loss_db=-10 * np.log10(most)))
    np.testing.assert_allclose(limited, np.minimum(gains(plain), most))
    assert np.any(limited < gains(plain) * 0.99)


@pytest.mark.parametrize("name", ["cel", None, 3, ["cell"], {"cell": 1}])
def test_what_is_no_presets_name_is_refused_with_those_there_are(name):
    with pytest.raises(ConfigError, match=r"world\.scenario\.preset is .*cell"):
        fields_of_preset(name)


def test_out_of_sight_there_is_no_dominant_path():
    rician, h = Rician(k_factor_db=300.0, only_in_sight=True), np.full((2, 4), 3 + 4j)
    found = rician.power_gain_of(h, np.array([True, False]))
    np.testing.assert_allclose(found, [[1.0] * 4, [25.0] * 4])


def test_shadowing_is_alike_where_devices_stand_close_and_a_device_keeps_its_own_when_others_come():
    positions_m_K2 = np.array([[0.0, 0.0], [5.0, 0.0], [300.0, 0.0]])
    draws = np.array([
        draw_correlated(positions_m_K2, 50.0, [np.random.default_rng((s, k)) for k in range(3)]) for s in range(4000)
    ])  # fmt: skip
    np.testing.assert_allclose(draws.std(axis=0), 1.0, atol=0.05)
    correlation = np.corrcoef(draws.T)
    np.testing.assert_allclose(correlation[0, 1:], [np.exp(-0.1), np.exp(-6.0)], atol=0.05)
    few, many = (Scenario(population=Population(num_clients=n), shadowing_distance_m=50.0) for n in (2, 5))
    kept, same = (draw_devices(scenario, 1)[:2] for scenario in (few, many))
    assert [d.shadowing_db for d in kept] == pytest.approx([d.shadowing_db for d in same])


def test_devices_at_one_place_have_one_shadowing():
    scenario = Scenario(
        population=Population(num_clients=2), placement=FixedPositions(((50.0, 0.0), (50.0, 0.0))),
        shadowing_distance_m=50.0,
    )  # fmt: skip
    one, other = draw_devices(scenario, 2)
    if one.is_los == other.is_los:
        assert one.shadowing_db == pytest.approx(other.shadowing_db, abs=1e-4)


def test_devices_in_buildings_lose_the_wall_and_their_depth_and_others_nothing():
    base = Scenario(population=Population(num_clients=4000), shadowing=False)
    outside = np.array([d.path_loss_db for d in draw_devices(base, 3)])
    inside = np.array([d.path_loss_db for d in draw_devices(replace(base, indoor_fraction=0.5), 3)]) - outside
    assert np.mean(inside == 0) == pytest.approx(0.5, abs=0.03)
    # Half a decibel a metre of the smaller of two draws up to 25 m, whose mean is 25 / 3.
    assert np.mean(inside[inside != 0]) == pytest.approx(12.7 + 25 / 6, abs=0.4)
    with pytest.raises(ConfigError, match="but log_distance has no outer walls"):
        Scenario(indoor_fraction=0.5, path_loss=LogDistance())
