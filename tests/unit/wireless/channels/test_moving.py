"""Fading with a memory and devices that move: correlations, marginals, places, and nothing that rests on the past."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import j0

from wavetune.errors import ConfigError
from wavetune.wireless.channel import devices_in_round, draw_channel, draw_devices
from wavetune.wireless.channels.block import Block
from wavetune.wireless.channels.moving import SPEED_OF_LIGHT_M_PER_S, Moving
from wavetune.wireless.fading import NoFading, Rayleigh
from wavetune.wireless.movement import RandomWaypoint, Ring, StraightLines
from wavetune.wireless.path_loss import LogDistance
from wavetune.wireless.scenario import Band, Bands, Population, Scenario

WIDE = Scenario(
    Population(num_clients=5),
    bands=Bands(Band(num_subchannels=4000), Band(num_subchannels=1)),
    fading=Rayleigh(),
    shadowing=False,
)
ROUNDS = 6


def turn_of(moving, scenario=WIDE):
    """2 pi f T of a channel: the argument of J0 after one round."""
    doppler_hz = moving.speed_m_per_s * scenario.carrier_hz / SPEED_OF_LIGHT_M_PER_S
    return 2 * np.pi * doppler_hz * moving.round_s


def speed_for(turn, scenario=WIDE):
    return turn * SPEED_OF_LIGHT_M_PER_S / (2 * np.pi * scenario.carrier_hz)


def fading_of(moving, rounds=ROUNDS):
    """[rounds, K M] power gains of mean 1 of all clients' subchannels."""
    scenario = replace(WIDE, channel=moving)
    devices = draw_devices(scenario, 3)
    gain_TKM = np.array([draw_channel(scenario, devices, 3, t).main.uplink_gain_KM for t in range(rounds)])
    mean_K = 10 ** ((scenario.antenna_gain_db - np.array([device.path_loss_db for device in devices])) / 10)
    return (gain_TKM / mean_K[:, None]).reshape(rounds, -1)


@pytest.mark.parametrize("turn", [0.05, 0.7, 2.0, 5.0])
@pytest.mark.parametrize("process", ["jakes", "ar1"])
def test_power_gains_are_correlated_by_the_square_of_the_amplitudes_correlation(process, turn):
    moving = Moving(speed_m_per_s=speed_for(turn), process=process)
    assert turn_of(moving) == pytest.approx(turn)
    gain_TM = fading_of(moving)
    lags = np.arange(ROUNDS)
    expected = j0(turn * lags) if process == "jakes" else j0(turn) ** lags
    found = [np.corrcoef(gain_TM[0], gain_TM[t])[0, 1] for t in lags]
    np.testing.assert_allclose(found, expected**2, atol=0.03)  # of complex normal amplitudes


def test_every_round_is_distributed_as_one_drawn_by_itself():
    gain_TM = fading_of(Moving(speed_m_per_s=speed_for(0.5)))
    np.testing.assert_allclose(gain_TM.mean(axis=1), 1.0, atol=0.03)
    np.testing.assert_allclose((gain_TM < 0.1).mean(axis=1), 1 - np.exp(-0.1), atol=0.01)


def test_without_a_memory_every_round_is_drawn_anew_and_at_no_speed_none_is():
    zero_of_j0 = 2.404825557695773
    anew = Moving(speed_m_per_s=speed_for(zero_of_j0), process="ar1")
    np.testing.assert_allclose(fading_of(anew), fading_of(Block()), rtol=1e-6)
    for process in ("jakes", "ar1"):
        constant = fading_of(Moving(speed_m_per_s=0.0, process=process))
        np.testing.assert_allclose(constant, constant[[0] * ROUNDS], rtol=1e-3, atol=1e-3)


SMALL = Scenario(Population(num_clients=4), bands=Bands(Band(num_subchannels=3), Band(num_subchannels=2)))


@pytest.mark.parametrize("movement", [RandomWaypoint(), StraightLines()])
def test_a_round_depends_on_nothing_that_was_asked_before(movement):
    scenario = replace(SMALL, channel=Moving(speed_m_per_s=8.0, movement=movement))
    devices = draw_devices(scenario, 0)
    late = draw_channel(scenario, devices, 0, 9)
    for t in range(9):
        draw_channel(scenario, devices, 0, t)
    again = draw_channel(scenario, devices, 0, 9)
    np.testing.assert_array_equal(late.main.uplink_gain_KM, again.main.uplink_gain_KM)
    alone = draw_channel(scenario, devices[2:3], 0, 9)
    np.testing.assert_array_equal(alone.fed.uplink_gain_KM[0], late.fed.uplink_gain_KM[2])


@pytest.mark.parametrize("movement", [RandomWaypoint(), StraightLines()])
def test_devices_go_as_far_as_their_speed_takes_them_and_stay_in_the_cell(movement):
    ring, start_m = Ring(10.0, 200.0), np.array([150.0, 0.0])
    path_m = movement.path_m(start_m, 7.0, 200, ring, np.random.default_rng(1))
    step_m = np.hypot(*np.diff(path_m, axis=0).T)
    assert step_m.max() <= 7.0 + 1e-9
    assert np.median(step_m) == pytest.approx(7.0)
    distance_m = np.hypot(*path_m.T)
    assert distance_m.min() >= 10.0 - 1e-9
    assert distance_m.max() <= 200.0 + 1e-9
    assert np.ptp(distance_m) > 100
    shorter = movement.path_m(start_m, 7.0, 30, ring, np.random.default_rng(1))
    np.testing.assert_array_equal(path_m[:31], shorter)


def test_path_loss_and_gain_follow_a_device_that_moves():
    law = LogDistance()
    scenario = replace(SMALL, path_loss=law, fading=NoFading(), shadowing=False,
                       channel=Moving(speed_m_per_s=20.0, movement=StraightLines()))  # fmt: skip
    devices = draw_devices(scenario, 0)
    assert devices_in_round(scenario, devices, 0, 0) == devices
    later = devices_in_round(scenario, devices, 0, 3)
    distance_m_K = np.array([np.hypot(*device.position_m) for device in later])
    assert (np.abs(distance_m_K - [np.hypot(*d.position_m) for d in devices]) > 0.1).all()
    loss_db_K = law.path_loss_db(distance_m_K, np.zeros(4, bool), scenario.carrier_hz, np.zeros(4))
    gain_K = draw_channel(scenario, devices, 0, 3).main.uplink_gain_KM[:, 0]
    np.testing.assert_allclose(gain_K, 10 ** ((scenario.antenna_gain_db - loss_db_K) / 10))


def test_shadowing_is_forgotten_on_the_way():
    scenario = Scenario(Population(num_clients=2000), path_loss=LogDistance(), cell_radius_m=5000.0,
                        channel=Moving(speed_m_per_s=6.5, movement=StraightLines(), decorrelation_m=13.0))  # fmt: skip
    devices = draw_devices(scenario, 0)
    first_db, *later_db = ([d.shadowing_db for d in devices_in_round(scenario, devices, 0, t)] for t in (0, 1, 2, 12))
    for way_m, shadowing_db in zip((6.5, 13.0, 78.0), later_db, strict=True):
        assert np.corrcoef(first_db, shadowing_db)[0, 1] == pytest.approx(np.exp(-way_m / 13.0), abs=0.06)
        assert np.std(shadowing_db) == pytest.approx(8.0, rel=0.05)


def test_more_rounds_than_jakes_correlations_are_made_for_are_refused():
    with pytest.raises(ConfigError, match="at most 2048 rounds and the run has 3000; set it to ar1"):
        Moving().require_rounds(3000)
    Moving(process="ar1").require_rounds(3000)
