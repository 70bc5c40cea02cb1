import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.wireless.energy import compute_energy_j, energy_j_per_flop, radio_energy_j


@given(st.floats(0, 1e3), st.floats(0, 1e6), st.floats(0, 1e18), st.floats(0, 1e-6))
def test_energy_is_power_times_time_and_work_times_cost(power_w, airtime_s, flop, cost_j):
    assert radio_energy_j(power_w, airtime_s) == pytest.approx(power_w * airtime_s)
    assert compute_energy_j(flop, cost_j) == pytest.approx(flop * cost_j)


def test_energies_broadcast_over_clients():
    np.testing.assert_allclose(radio_energy_j(np.array([1.0, 2.0]), np.array([[1.0], [3.0]])), [[1, 2], [3, 6]])
    np.testing.assert_allclose(compute_energy_j(np.array([1e12, 2e12]), 1e-12), [1, 2])


def test_silence_costs_nothing_however_long_and_endless_sending_is_infinite():
    assert radio_energy_j(0.0, math.inf) == 0
    assert radio_energy_j(1.0, math.inf) == math.inf


@given(st.floats(1e-28, 1e-25), st.floats(1e8, 5e9), st.floats(1e-4, 10))
def test_energy_per_flop_is_dynamic_power_over_speed(capacitance, clock_hz, cycles_per_flop):
    power_w, flop_per_s = capacitance * clock_hz**3, clock_hz / cycles_per_flop
    per_flop_j = energy_j_per_flop(capacitance, np.array([clock_hz]), cycles_per_flop)
    np.testing.assert_allclose(per_flop_j, power_w / flop_per_s)
