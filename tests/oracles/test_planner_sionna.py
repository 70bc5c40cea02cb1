"""The planner on channels that Sionna draws: TR 38.901 urban microcells, selective in frequency."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.problems import cell_problem
from wavetune.allocation.baselines import plan_baselines
from wavetune.allocation.feasibility import violations
from wavetune.allocation.planner import plan

pytestmark = pytest.mark.filterwarnings("ignore")  # the oracle's own warnings are not ours

CARRIER_HZ, SUBCHANNEL_HZ, NUM_CLIENTS, NUM_SUBCHANNELS = 3.5e9, 5e5, 8, 32


@pytest.fixture(scope="module")
def gains():
    """Uplink power gains of eight devices over two bands of a drawn microcell, for three cells: [3, 2, K, M]."""
    channel = pytest.importorskip("sionna.phy.channel")
    import sionna.phy

    sionna.phy.config.seed = 1
    antenna = {
        "num_rows_per_panel": 1,
        "num_cols_per_panel": 1,
        "polarization": "single",
        "polarization_type": "V",
        "antenna_pattern": "omni",
        "carrier_frequency": CARRIER_HZ,
    }
    arrays = [channel.tr38901.PanelArray(**antenna) for _ in range(2)]
    cell = channel.tr38901.UMi(CARRIER_HZ, "low", *arrays, "uplink")
    frequencies_hz = channel.subcarrier_frequencies(2 * NUM_SUBCHANNELS, SUBCHANNEL_HZ)
    cell.set_topology(*channel.gen_single_sector_topology(3, NUM_CLIENTS, "umi"))
    response = channel.cir_to_ofdm_channel(frequencies_hz, *cell(num_time_samples=1, sampling_frequency=1.0))
    gain = np.abs(response.numpy().astype(np.complex128).reshape(3, NUM_CLIENTS, 2, NUM_SUBCHANNELS)) ** 2
    return np.swapaxes(gain, 1, 2)


def test_drawn_channels_are_planned_near_the_bound_and_below_every_baseline(gains):
    assert np.std(gains[0, 0, 0]) > 0.05 * np.mean(gains[0, 0, 0])  # selective in frequency
    for seed, (main_KM, fed_KM) in enumerate(gains):
        problem = cell_problem(NUM_CLIENTS, NUM_SUBCHANNELS, seed)
        bands = {"main": replace(problem.main, gain_KM=main_KM), "fed": replace(problem.fed, gain_KM=fed_KM)}
        problem = replace(problem, **bands)
        outcome = plan(problem)
        assert violations(problem, outcome) == []
        assert outcome.gap < 0.01
        others = plan_baselines(problem, seed).values()
        assert all(outcome.delay_s <= other.delay_s and other.delay_s >= outcome.lower_bound_s for other in others)
