import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavetune.seeds import stream
from wavetune.units import dbm_to_w
from wavetune.wireless.channel import draw_channel, draw_devices
from wavetune.wireless.fading import NoFading, Rayleigh, Rician
from wavetune.wireless.path_loss import IndoorHotspot, LogDistance, UrbanMacro, UrbanMicro
from wavetune.wireless.placement import FixedPositions, Hotspot
from wavetune.wireless.rates import downlink_rates, uplink_rates
from wavetune.wireless.scenario import Band, Bands, Population, Scenario

SCENARIOS = [
    Scenario(),
    Scenario(path_loss=UrbanMacro(device_height_m=22.5), cell_radius_m=2000.0, fading=Rician(), reciprocal=False),
    Scenario(path_loss=LogDistance(), fading=Rayleigh(delay_spread_s=1e-7), placement=Hotspot()),
    Scenario(path_loss=IndoorHotspot(), cell_radius_m=50.0, min_distance_m=1.0, fading=NoFading()),
]


def with_clients(scenario, num_clients):
    return replace(scenario, population=replace(scenario.population, num_clients=num_clients))


def equal(left, right):
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in vars(left))


@given(st.sampled_from(SCENARIOS), st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=30)
def test_a_device_does_not_depend_on_how_many_there_are(scenario, seed, few, more):
    devices = draw_devices(with_clients(scenario, few), seed)
    assert devices == draw_devices(with_clients(scenario, few + more), seed)[:few]
    assert [device.client_id for device in devices] == list(range(few))


@given(st.sampled_from(SCENARIOS), st.permutations(range(5)), st.integers(0, 5), st.integers(0, 99))
@settings(max_examples=30)
def test_a_clients_channel_does_not_depend_on_the_order_or_presence_of_others(scenario, order, absent, round_index):
    devices = draw_devices(scenario, 4)
    chosen = order[absent:]
    whole = draw_channel(scenario, devices, 4, round_index)
    part = draw_channel(scenario, [devices[k] for k in chosen], 4, round_index)
    for band in ("main", "fed"):
        link, expected = getattr(part, band), getattr(whole, band)
        np.testing.assert_array_equal(link.uplink_gain_KM, expected.uplink_gain_KM[chosen])
        np.testing.assert_array_equal(link.downlink_gain_KM, expected.downlink_gain_KM[chosen])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.path_loss.kind)
def test_one_band_does_not_depend_on_the_other(scenario):
    devices = draw_devices(scenario, 1)
    wider = replace(scenario, bands=Bands(main=scenario.bands.main, fed=Band(num_subchannels=33, subchannel_hz=1e5)))
    assert equal(draw_channel(scenario, devices, 1, 2).main, draw_channel(wider, devices, 1, 2).main)


def test_rounds_seeds_bands_and_clients_fade_independently():
    scenario = Scenario(path_loss=LogDistance(exponent=0.0), shadowing=False)  # equal mean gains
    devices = draw_devices(scenario, 0)
    channels = [draw_channel(scenario, devices, seed, r) for seed in (0, 1) for r in (0, 1)]
    gains = np.concatenate([link.uplink_gain_KM.ravel() for c in channels for link in (c.main, c.fed)])
    assert len(np.unique(gains)) == gains.size
    again = draw_channel(scenario, devices, 0, 0)
    assert equal(again.main, channels[0].main)
    assert equal(again.fed, channels[0].fed)


def test_a_reciprocal_downlink_fades_with_the_uplink_and_a_duplex_one_by_itself():
    devices = draw_devices(Scenario(), 0)
    together = draw_channel(Scenario(), devices, 0, 0).main
    np.testing.assert_array_equal(together.uplink_gain_KM, together.downlink_gain_KM)
    apart = draw_channel(Scenario(reciprocal=False), devices, 0, 0).main
    np.testing.assert_array_equal(apart.uplink_gain_KM, together.uplink_gain_KM)
    assert (apart.downlink_gain_KM != apart.uplink_gain_KM).all()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.path_loss.kind)
def test_vectorised_draws_equal_a_loop_over_clients(scenario):
    devices, model = draw_devices(scenario, 5), scenario.path_loss
    channel = draw_channel(scenario, devices, 5, 3)
    for k, device in enumerate(devices):
        distance_m = math.hypot(*device.position_m)
        assert scenario.min_distance_m <= distance_m <= scenario.cell_radius_m
        sight, environment = stream(5, "line of sight", 0, k).random(2)
        assert device.is_los == (sight < model.los_probability(distance_m))
        loss_db = model.path_loss_db(distance_m, device.is_los, scenario.carrier_hz, environment)
        assert device.path_loss_db == pytest.approx(float(loss_db))
        normal = stream(5, "shadowing", 0, k).standard_normal()
        assert device.shadowing_db == pytest.approx(float(model.shadowing_std_db(device.is_los)) * normal)
        total_db = scenario.antenna_gain_db - device.path_loss_db - device.shadowing_db
        fading_M = scenario.fading.power_gain([stream(5, "fading/main/uplink", 3, k)], 20, 500e3)[0]
        np.testing.assert_allclose(channel.main.uplink_gain_KM[k], 10 ** (total_db / 10) * fading_M)


def test_without_shadowing_and_fading_the_gain_is_the_link_budget():
    scenario = Scenario(
        shadowing=False,
        fading=NoFading(),
        path_loss=LogDistance(),
        population=Population(num_clients=1, antenna_gain_db=2.0),
        placement=FixedPositions(positions_m=((0.0, 100.0),)),
        antenna_gain_db=8.0,
    )
    (device,) = draw_devices(scenario, 0)
    assert device.position_m == (0.0, 100.0)
    assert (device.path_loss_db, device.shadowing_db) == (pytest.approx(90.5), 0)
    np.testing.assert_allclose(draw_channel(scenario, (device,), 0, 0).fed.downlink_gain_KM, 10**-8.05)


def test_devices_have_the_population_s_speed_energy_power_and_memory():
    population = Population(num_clients=400, clock_hz=(1e9, 2e9), tx_power_max_dbm=20.0)
    devices = draw_devices(Scenario(population=population), 0)
    clock_hz = np.array([d.flop_per_s for d in devices]) * population.cycles_per_flop
    assert 1e9 <= clock_hz.min() < 1.02e9
    assert 1.98e9 < clock_hz.max() <= 2e9
    power_w = np.array([d.flop_per_s * d.energy_j_per_flop for d in devices])
    np.testing.assert_allclose(power_w, population.switched_capacitance * clock_hz**3)
    assert {d.tx_power_max_w for d in devices} == {dbm_to_w(20.0)}
    assert {d.memory_bytes for d in devices} == {math.inf}
    limited = Scenario(population=replace(population, memory_bytes=4e9))
    assert {d.memory_bytes for d in draw_devices(limited, 0)} == {4e9}


def test_shadowing_and_sight_follow_the_model():
    devices = draw_devices(Scenario(population=Population(num_clients=3000)), 0)
    is_los = np.array([d.is_los for d in devices])
    shadowing_db = np.array([d.shadowing_db for d in devices])
    distance_m = np.array([math.hypot(*d.position_m) for d in devices])
    assert is_los.mean() == pytest.approx(UrbanMicro().los_probability(distance_m).mean(), abs=0.03)
    assert shadowing_db[is_los].std() == pytest.approx(4, rel=0.1)
    assert shadowing_db[~is_los].std() == pytest.approx(7.82, rel=0.1)
    assert shadowing_db.mean() == pytest.approx(0, abs=0.5)


def test_a_jammer_in_one_band_leaves_the_other_alone():
    quiet = Scenario()
    jammed = replace(quiet, bands=Bands(main=Band(interference_dbm_per_hz=-150.0, jammed_subchannels=(0,)), fed=Band()))
    devices = draw_devices(quiet, 0)
    with_jammer, without = draw_channel(jammed, devices, 0, 0), draw_channel(quiet, devices, 0, 0)
    np.testing.assert_array_equal(with_jammer.main.uplink_gain_KM, without.main.uplink_gain_KM)
    np.testing.assert_allclose(with_jammer.main.interference_w_M, [1e-18 * 500e3] + [0] * 19)
    assert equal(with_jammer.fed, without.fed)


def test_the_default_cell_carries_megabits_per_subchannel_and_no_more_than_its_densest_modulation():
    scenario, owner_M = Scenario(), np.arange(20) % 5
    uplink, downlink = [], []
    for seed in range(40):
        devices = draw_devices(scenario, seed)
        link = draw_channel(scenario, devices, seed, 0).main
        power_w_M = np.full(20, devices[0].tx_power_max_w / 4)
        uplink.extend(uplink_rates(scenario, scenario.bands.main, link, owner_M, power_w_M) / 4)
        downlink.extend(downlink_rates(scenario, scenario.bands.main, link, owner_M) / 4)
    most = 500e3 * 7.4063  # less the overhead of each direction
    assert 1e6 < np.median(uplink) <= max(uplink) <= 0.92 * most
    assert 1e4 < min(uplink) < np.quantile(uplink, 0.1) < 0.6 * most
    assert 0.8 * most < np.median(downlink) <= max(downlink) <= 0.86 * most


def test_memory_is_one_number_for_all_or_one_per_client():
    def memory(memory_bytes):
        population = Population(num_clients=3, memory_bytes=memory_bytes)
        return [device.memory_bytes for device in draw_devices(Scenario(population=population), seed=0)]

    assert memory(None) == [np.inf] * 3
    assert memory(2e9) == [2e9] * 3
    assert memory((1e9, 2e9, 3e9)) == [1e9, 2e9, 3e9]
