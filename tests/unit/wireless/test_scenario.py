import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.errors import ConfigError
from wavetune.part_values import read_part, values_of
from wavetune.units import dbm_to_w
from wavetune.wireless.fading import NoFading, Rayleigh, Rician
from wavetune.wireless.path_loss import IndoorHotspot, LogDistance, UrbanMacro, UrbanMicro
from wavetune.wireless.placement import FixedPositions, Hotspot
from wavetune.wireless.scenario import Band, Bands, Population, Scenario, Server


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Band(subchannel_hz=-5e5), "Band.subchannel_hz"),
        (lambda: Band(subchannel_hz=0.5), "Band.subchannel_hz is 0.5 but must be at least 1; check the unit"),
        (lambda: Band(num_subchannels=0), "Band.num_subchannels"),
        (lambda: Band(noise_psd_dbm_per_hz=174.0), "Band.noise_psd_dbm_per_hz"),
        (lambda: Band(total_power_max_dbm=5000.0), "Band.total_power_max_dbm is 5000.0 but must be at most 90"),
        (lambda: Band(downlink_power_dbm=5000.0), "Band.downlink_power_dbm"),
        (lambda: Band(interference_dbm_per_hz=30.0), "Band.interference_dbm_per_hz"),
        (lambda: Band(jammed_subchannels=(1,)), "interference_dbm_per_hz is not"),
        (lambda: Band(interference_dbm_per_hz=-120.0, jammed_subchannels=(20,)), "names 20 .* from 0 to 19"),
        (lambda: Band(interference_dbm_per_hz=-120.0, jammed_subchannels=(-1,)), r"jammed_subchannels\[0\]"),
        (lambda: Bands(main=None), "Bands.main"),
        (lambda: Population(num_clients=0), "Population.num_clients"),
        (lambda: Population(clock_hz=(2e9, 1e9)), r"Population.clock_hz .* must be \(low, high\)"),
        (lambda: Population(clock_hz=(0.0, 1e9)), r"Population.clock_hz\[0\]"),
        (lambda: Population(memory_bytes=(1e9,)), "Population.memory_bytes has 1 values for 5 clients"),
        (lambda: Population(num_clients=2, memory_bytes=(1e9, -1.0)), r"Population.memory_bytes\[1\] is -1.0"),
        (lambda: Population(cycles_per_flop=0.0), "Population.cycles_per_flop"),
        (lambda: Population(switched_capacitance=-1e-26), "Population.switched_capacitance"),
        (lambda: Population(tx_power_max_dbm=5000.0), "Population.tx_power_max_dbm"),
        (lambda: Population(memory_bytes=0.0), "Population.memory_bytes"),
        (lambda: Server(flop_per_s=0.0), "Server.flop_per_s"),
        (lambda: Server(energy_j_per_flop=-1.0), "Server.energy_j_per_flop"),
        (lambda: Scenario(cell_radius_m=0.0), "Scenario.cell_radius_m"),
        (lambda: Scenario(min_distance_m=200.0), "Scenario.min_distance_m is 200 but must be less than"),
        (lambda: Scenario(min_distance_m=5.0), r"Scenario.min_distance_m is 5 but must be in \[10, 5000\]"),
        (lambda: Scenario(cell_radius_m=6000.0), r"Scenario.cell_radius_m is 6000 but must be in \[10, 5000\]"),
        (lambda: Scenario(carrier_hz=3.5), "Scenario.carrier_hz"),
        (lambda: Scenario(carrier_hz=0.4e9), r"Scenario.carrier_hz is 4e\+08 .*\(the range of UrbanMicro\)"),
        (lambda: Scenario(path_loss=IndoorHotspot()), "Scenario.cell_radius_m is 200 .*IndoorHotspot"),
        (lambda: Scenario(antenna_gain_db=1e4), "Scenario.antenna_gain_db"),
        (lambda: Scenario(fading="rayleigh"), "Scenario.fading .* must be Fading"),
        (lambda: Scenario(shadowing=8.0), "Scenario.shadowing"),
        (lambda: UrbanMicro(device_height_m=30.0), "UrbanMicro.device_height_m is 30.0 but must be at most 22.5"),
        (lambda: UrbanMacro(server_height_m=10.0, device_height_m=16.0), "UrbanMacro.server_height_m is 10"),
        (lambda: IndoorHotspot(office="close"), "IndoorHotspot.office"),
        (lambda: LogDistance(exponent=-2.0), "LogDistance.exponent"),
        (lambda: Rician(k_factor_db=400.0), "Rician.k_factor_db"),
        (lambda: Rayleigh(frequency_selective=False, delay_spread_s=1e-7), "needs frequency_selective"),
        (lambda: Rician(frequency_selective=False, delay_spread_s=1e-7), "needs frequency_selective"),
        (lambda: Hotspot(fraction=1.5), "Hotspot.fraction"),
        (lambda: FixedPositions(positions_m=((1.0,),)), r"FixedPositions.positions_m\[0\]"),
    ],
)
def test_misuse_is_refused_with_the_field_named(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def scenarios():
    return [
        Scenario(),
        Scenario(path_loss=UrbanMacro(line_of_sight="always"), fading=NoFading(), reciprocal=False),
        Scenario(path_loss=LogDistance(), fading=Rician(delay_spread_s=1e-7), cell_radius_m=10_000.0),
        Scenario(path_loss=IndoorHotspot(office="open"), cell_radius_m=100.0, min_distance_m=1.0, shadowing=False),
        Scenario(placement=FixedPositions(positions_m=((20.0, 0.0),) * 5), population=Population(memory_bytes=4e9)),
        Scenario(placement=Hotspot(), bands=Bands(Band(interference_dbm_per_hz=-150.0, jammed_subchannels=(0, 3)))),
    ]


@pytest.mark.parametrize("scenario", scenarios(), ids=str)
def test_a_scenario_survives_its_json(scenario):
    assert read_part(Scenario, json.loads(json.dumps(values_of(scenario)))) == scenario


def test_a_file_and_plain_construction_refuse_the_same_limit():
    with pytest.raises(ConfigError, match="device_height_m is 30"):
        read_part(UrbanMicro, {"device_height_m": 30.0})
    with pytest.raises(ConfigError, match="device_height_m"):
        UrbanMicro(device_height_m=30.0)


@given(st.floats(-100, 90), st.floats(-300, 0), st.floats(1, 1e9))
def test_linear_properties_are_those_of_the_levels(power_dbm, psd_dbm_per_hz, subchannel_hz):
    band = Band(
        subchannel_hz=subchannel_hz,
        noise_psd_dbm_per_hz=psd_dbm_per_hz,
        total_power_max_dbm=power_dbm,
        downlink_power_dbm=power_dbm,
    )
    assert band.total_power_max_w == band.downlink_power_w == dbm_to_w(power_dbm) > 0
    assert band.noise_w == pytest.approx(dbm_to_w(psd_dbm_per_hz) * subchannel_hz)
    assert band.noise_psd_w_per_hz * subchannel_hz == pytest.approx(band.noise_w)


def test_interference_covers_the_jammed_subchannels_alone():
    jammed = Band(num_subchannels=4, subchannel_hz=1e6, interference_dbm_per_hz=-130.0, jammed_subchannels=(1, 3))
    np.testing.assert_allclose(jammed.interference_w_M, [0, 1e-10, 0, 1e-10])
    np.testing.assert_allclose(Band(num_subchannels=2, interference_dbm_per_hz=-130.0).interference_w_M, 5e-11)
    assert not Band().interference_w_M.any()
    none_jammed = Band(interference_dbm_per_hz=-130.0, jammed_subchannels=())
    assert not none_jammed.interference_w_M.any()


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Hotspot(center_m=(190.0, 0.0), radius_m=30.0), "a device in the hotspot is 220 but must be in"),
        (Hotspot(center_m=(20.0, 0.0), radius_m=30.0), "a device in the hotspot is -10 but must be in"),
        (FixedPositions(positions_m=((50.0, 0.0),)), "positions_m holds 1 positions but num_clients is 5"),
        (
            FixedPositions(positions_m=((50.0, 0.0),) * 4 + ((200.0, 1.0),)),
            r"positions_m\[4\] is 200.00[0-9]* but|positions_m.4. is 200 but",
        ),
        (FixedPositions(positions_m=((50.0, 0.0),) * 4 + ((3.0, 4.0),)), r"positions_m\[4\] is 5 but"),
    ],
)
def test_a_placement_outside_the_cell_is_refused(placement, message):
    with pytest.raises(ConfigError, match=message):
        Scenario(placement=placement)


@given(st.floats(0, 2 * np.pi))
def test_a_device_on_the_rim_is_inside_the_cell(angle):
    rim = (float(200 * np.cos(angle)), float(200 * np.sin(angle)))
    Scenario(placement=FixedPositions(positions_m=(rim,)), population=Population(num_clients=1))
