"""The models against the standard's table written out for one device at a time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.errors import ConfigError
from wavetune.wireless.line_of_sight import urban_macro_environment_height_m, urban_macro_los_probability
from wavetune.wireless.path_loss import (
    SPEED_OF_LIGHT_M_PER_S,
    IndoorHotspot,
    LogDistance,
    UrbanMacro,
    UrbanMicro,
    breakpoint_distance_m,
)

MODELS = [
    UrbanMacro(),
    UrbanMacro(device_height_m=22.5),
    UrbanMicro(),
    UrbanMicro(device_height_m=10.5),
    IndoorHotspot(),
    IndoorHotspot(office="open", server_height_m=1.0),
]
CARRIERS_HZ = st.floats(0.5e9, 100e9)


def outdoor_los_db(d2, f_hz, bs, ut, near, slope, joint):
    d3 = math.sqrt(d2**2 + (bs - ut) ** 2)
    d_break = 4 * (bs - 1) * (ut - 1) * f_hz / SPEED_OF_LIGHT_M_PER_S
    if d2 <= d_break:
        return near + slope * math.log10(d3) + 20 * math.log10(f_hz / 1e9)
    far = near + 40 * math.log10(d3) + 20 * math.log10(f_hz / 1e9)
    return far - joint * math.log10(d_break**2 + (bs - ut) ** 2)


def table_7_4_1_1_db(model, d2, is_los, f_hz):
    bs, ut = model.server_height_m, model.device_height_m
    log_d3, log_f = math.log10(math.sqrt(d2**2 + (bs - ut) ** 2)), math.log10(f_hz / 1e9)
    if isinstance(model, UrbanMacro):
        los = outdoor_los_db(d2, f_hz, bs, ut, 28.0, 22.0, 9.0)
        nlos = 13.54 + 39.08 * log_d3 + 20 * log_f - 0.6 * (ut - 1.5)
    elif isinstance(model, UrbanMicro):
        los = outdoor_los_db(d2, f_hz, bs, ut, 32.4, 21.0, 9.5)
        nlos = 35.3 * log_d3 + 22.4 + 21.3 * log_f - 0.3 * (ut - 1.5)
    else:
        los = 32.4 + 17.3 * log_d3 + 20 * log_f
        nlos = 38.3 * log_d3 + 17.3 + 24.9 * log_f
    return los if is_los else max(los, nlos)


@st.composite
def model_and_distances(draw):
    model = draw(st.sampled_from(MODELS))
    low_m, high_m = model.distance_limits_m
    distances_m = draw(st.lists(st.floats(max(low_m, 0.1), high_m), min_size=1, max_size=8))
    return model, np.array(distances_m)


@given(model_and_distances(), st.data(), CARRIERS_HZ)
def test_path_loss_equals_the_table_device_by_device(case, data, carrier_hz):
    model, distance_2d_m = case
    size = len(distance_2d_m)
    is_los = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    expected = [table_7_4_1_1_db(model, d, los, carrier_hz) for d, los in zip(distance_2d_m, is_los, strict=True)]
    np.testing.assert_allclose(model.path_loss_db(distance_2d_m, is_los, carrier_hz), expected, rtol=1e-12)


@given(model_and_distances(), CARRIERS_HZ)
def test_loss_grows_with_distance_and_is_no_less_out_of_sight(case, carrier_hz):
    model, distance_2d_m = case
    ordered_m = np.sort(distance_2d_m)
    los_db = model.path_loss_db(ordered_m, True, carrier_hz)
    nlos_db = model.path_loss_db(ordered_m, False, carrier_hz)
    assert (np.diff(los_db) >= -1e-9).all()
    assert (np.diff(nlos_db) >= -1e-9).all()
    assert (nlos_db >= los_db).all()


@given(st.sampled_from([UrbanMacro(), UrbanMicro()]), st.floats(3e9, 30e9))
def test_both_slopes_meet_at_the_breakpoint(model, carrier_hz):
    break_m = breakpoint_distance_m(model.server_height_m, model.device_height_m, carrier_hz)
    near_db, far_db = model.path_loss_db(break_m * np.array([1 - 1e-9, 1 + 1e-9]), True, carrier_hz)
    assert far_db == pytest.approx(near_db, abs=1e-6)


def test_a_higher_environment_moves_the_breakpoint_closer():
    model = UrbanMacro(device_height_m=22.5)
    low_db, high_db = model.path_loss_db(1000.0, True, 3.5e9, np.array([0.0, 0.999]))
    assert urban_macro_environment_height_m(1000.0, 22.5, 0.999) == 21
    assert high_db > low_db + 5


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_outside_the_range_of_the_standard_is_refused(model):
    low_m, high_m = model.distance_limits_m
    model.path_loss_db(np.array([max(low_m, 0.1), high_m]), True, 0.5e9)
    for distance_2d_m in (high_m * 1.001, low_m * 0.999 if low_m else -1.0, math.nan):
        with pytest.raises(ConfigError, match=r"distance_2d_m is .* TR 38.901 Table 7.4.1-1"):
            model.path_loss_db(np.array([distance_2d_m]), True, 3.5e9)
    for carrier_hz in (0.49e9, 101e9, 3.5):
        with pytest.raises(ConfigError, match="carrier_hz is"):
            model.path_loss_db(50.0, True, carrier_hz)


@pytest.mark.parametrize(
    ("model", "los_db", "nlos_db"),
    [(UrbanMacro(), 4, 6), (UrbanMicro(), 4, 7.82), (IndoorHotspot(), 3, 8.03), (LogDistance(shadowing_db=5.0), 5, 5)],
)
def test_shadowing_deviation_of_each_model(model, los_db, nlos_db):
    assert model.shadowing_std_db(np.array([True, False])).tolist() == [los_db, nlos_db]


@pytest.mark.parametrize("kind", [UrbanMacro, UrbanMicro, IndoorHotspot])
def test_line_of_sight_can_be_made_certain(kind):
    distance_2d_m = np.array([12.0, 70.0, 140.0])
    assert kind(line_of_sight="always").los_probability(distance_2d_m).tolist() == [1, 1, 1]
    assert kind(line_of_sight="never").los_probability(distance_2d_m).tolist() == [0, 0, 0]
    assert 0 < kind().los_probability(distance_2d_m)[1] < 1


def test_high_devices_are_more_often_in_sight():
    distance_2d_m = np.linspace(30, 1000, 20)
    low, high = (urban_macro_los_probability(distance_2d_m, height_m) for height_m in (12.9, 20.0))
    np.testing.assert_array_equal(low, urban_macro_los_probability(distance_2d_m))
    assert (high > low).all()


def test_high_devices_near_by_are_in_sight_for_certain():
    assert urban_macro_los_probability(np.array([17.0, 18.0, 18.01]), 22.5).tolist() == [1, 1, 1]
    assert (urban_macro_environment_height_m(np.array([17.0, 18.0]), 22.5, 0.999) == 1).all()


def test_environment_heights_have_the_standard_s_shares():
    drawn_m = urban_macro_environment_height_m(300.0, 22.5, (np.arange(100_000) + 0.5) / 100_000)
    one_metre = 1 / (1 + 1.25 * 3**3 * math.exp(-2) * 0.95**1.5)
    expected = dict.fromkeys((12.0, 15.0, 18.0, 21.0), (1 - one_metre) / 4) | {1.0: one_metre}
    assert {height_m: np.mean(drawn_m == height_m) for height_m in set(drawn_m)} == pytest.approx(expected, abs=1e-4)
    assert set(urban_macro_environment_height_m(300.0, 13.4, np.linspace(0, 0.999, 999))) == {1, 12}
    assert (urban_macro_environment_height_m(300.0, 12.9, 0.999) == 1).all()


def test_the_indoor_range_is_that_of_the_distance_between_antennas():
    office = IndoorHotspot(server_height_m=9.0, device_height_m=1.0)
    office.path_loss_db(math.sqrt(150**2 - 8**2), True, 3.5e9)
    with pytest.raises(ConfigError, match=r"distance_2d_m is 149\.9"):
        office.path_loss_db(149.9, True, 3.5e9)


@given(model_and_distances())
def test_line_of_sight_is_a_probability_that_falls_with_distance(case):
    model, distance_2d_m = case
    probability = model.los_probability(np.sort(distance_2d_m))
    assert ((probability >= 0) & (probability <= 1)).all()
    if model.device_height_m < 13:  # above, the standard adds a bump around 450 m
        assert (np.diff(probability) <= 0.002).all()  # the office laws join up to a rounded constant


def open_office(d):
    return 1.0 if d <= 5 else math.exp(-(d - 5) / 70.8) if d <= 49 else math.exp(-(d - 49) / 211.7) * 0.54


def mixed_office(d):
    return 1.0 if d <= 1.2 else math.exp(-(d - 1.2) / 4.7) if d < 6.5 else math.exp(-(d - 6.5) / 32.6) * 0.32


def street(d, decay):
    return 1.0 if d <= 18 else 18 / d + math.exp(-d / decay) * (1 - 18 / d)


@pytest.mark.parametrize(
    ("model", "law"),
    [
        (IndoorHotspot(office="open"), open_office),
        (IndoorHotspot(office="mixed"), mixed_office),
        (UrbanMicro(), lambda d: street(d, 36)),
        (UrbanMacro(), lambda d: street(d, 63)),
    ],
)
def test_line_of_sight_equals_the_table_device_by_device(model, law):
    distance_2d_m = np.array([0.5, 1.2, 3.0, 5.0, 6.5, 10.0, 18.0, 18.1, 49.0, 50.0, 140.0])
    np.testing.assert_allclose(model.los_probability(distance_2d_m), [law(d) for d in distance_2d_m], rtol=1e-12)


@given(st.floats(0.5, 6), st.floats(-50, 200), st.floats(1, 1e4), st.floats(1.01, 100))
def test_log_distance_loses_ten_exponent_db_a_decade(exponent, intercept_db, reference_m, factor):
    model = LogDistance(intercept_db=intercept_db, exponent=exponent, reference_m=reference_m)
    at_reference_db, further_db = model.path_loss_db(reference_m * np.array([1, factor]), False, 3.5e9)
    assert at_reference_db == pytest.approx(intercept_db)
    assert further_db - at_reference_db == pytest.approx(10 * exponent * math.log10(factor))


def test_log_distance_refuses_zero():
    with pytest.raises(ConfigError, match="distance_2d_m is 0"):
        LogDistance().path_loss_db(np.array([0.0]), False, 3.5e9)
