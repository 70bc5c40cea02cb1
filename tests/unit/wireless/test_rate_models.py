"""What a subchannel carries: limits and losses of each model, and envelopes that no rate exceeds."""

import numpy as np
import pytest

from wavetune import plan, recipe
from wavetune.errors import ConfigError
from wavetune.units import db_to_linear
from wavetune.wireless.rate_models import MCS_TABLES, AttenuatedShannon, NrMcs, RateModel, RateStep, Shannon, Table
from wavetune.wireless.rates import subchannel_rate_bit_per_s
from wavetune.wireless.scenario import Band, Bands, Scenario

SNR = np.geomspace(1e-4, 1e7, 400)
LOSSY = Shannon(3.0, 6.0, uplink_overhead=0.1, downlink_overhead=0.2, uplink_share=0.5)
OWN = Table(tuple(RateStep(db, rate) for db, rate in ((-5, 0.2), (0, 0.6), (6, 1.5), (12, 3), (20, 5))))
MODELS: list[RateModel] = [
    Shannon(), LOSSY, AttenuatedShannon(), NrMcs(), NrMcs("64qam", numerology=1, bler=0.01, uplink_share=0.4), OWN
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.kind)
@pytest.mark.parametrize("uplink", [True, False])
def test_no_rate_exceeds_its_envelope_and_none_falls_with_the_ratio(model, uplink):
    rate, above = model.rate_bit_per_s(SNR, 1e6, uplink), model.envelope(1e6, uplink).rate_bit_per_s(SNR, 1e6)
    assert np.all(rate <= above * (1 + 1e-9))
    assert np.all(np.diff(rate) >= 0)


@pytest.mark.parametrize(
    "model", [m for m in MODELS if m.ladder(1e6) is not None and m is not OWN], ids=lambda m: m.kind
)
def test_a_ladder_says_what_is_carried_at_its_rungs_and_its_envelope_is_within_five_percent_there(model):
    snr, rate = model.ladder(1e6)
    np.testing.assert_allclose(model.rate_bit_per_s(snr, 1e6), rate, rtol=1e-12)
    np.testing.assert_array_less(model.envelope(1e6).rate_bit_per_s(snr, 1e6), rate * 1.05)


def test_shannon_loses_gap_overhead_and_share_and_ends_at_its_limit():
    snr = np.array([15.0, 1e9])
    expected = 0.9 * 0.5 * 1e6 * np.array([np.log2(1 + 15 / db_to_linear(3.0)), 6.0])
    np.testing.assert_allclose(LOSSY.rate_bit_per_s(snr, 1e6), expected)
    np.testing.assert_allclose(LOSSY.rate_bit_per_s(snr, 1e6, uplink=False)[1], 0.8 * 6e6)
    np.testing.assert_array_equal(Shannon().rate_bit_per_s(snr, 1e6), 1e6 * np.log1p(snr) / np.log(2))


def test_the_attenuated_bound_has_the_numbers_of_its_table():
    up, down = (AttenuatedShannon().rate_bit_per_s(np.array([0.0999, 0.1001, 1e5]), 1.0, way) for way in (True, False))
    np.testing.assert_allclose(up, [0.0, 0.4 * np.log2(1.1001), 2.0])
    np.testing.assert_allclose(down, [0.0, 0.6 * np.log2(1.1001), 4.4])


def test_nr_fills_whole_resource_blocks_with_the_symbols_of_ts_38306():
    # 51 blocks of 360 kHz are the 20 MHz of TS 38.101-1 Table 5.3.2-1; 28,000 symbols/s of 12 subcarriers each.
    model = NrMcs(numerology=1)
    assert (model.blocks(51 * 360e3), model.blocks(360e3 - 1)) == (51, 0)
    best = 51 * 12 * 28_000 * (1 - 0.08) * (8 * 948 / 1024) * 0.9
    assert model.rate_bit_per_s(np.array(1e9), 51 * 360e3) == pytest.approx(best)


def test_the_tables_of_schemes_have_the_spectral_efficiencies_that_the_standard_prints():
    printed = {"64qam": {0: 0.2344, 9: 1.3262, 17: 2.5664, 28: 5.5547}, "256qam": {0: 0.2344, 11: 2.7305, 27: 7.4063}}
    for table, rows in printed.items():
        for index, efficiency in rows.items():
            bits, rate = MCS_TABLES[table][index]
            assert bits * rate / 1024 == pytest.approx(efficiency, abs=5e-5)


def test_power_goes_into_the_blocks_alone():
    wide, narrow = NrMcs().ladder(500e3), NrMcs().ladder(360e3)  # both hold two blocks
    np.testing.assert_allclose(wide.rate_bit_per_s_I, narrow.rate_bit_per_s_I)
    np.testing.assert_allclose(wide.snr_I * 500e3, narrow.snr_I * 360e3)


def test_fewer_errors_take_more_signal_and_lose_less():
    often, seldom = NrMcs(bler=0.1), NrMcs(bler=0.001)
    np.testing.assert_allclose(seldom.block_snr_db_I() - often.block_snr_db_I(), 1.0)
    assert seldom.rate_bit_per_s(np.array(1e9), 1e6) / often.rate_bit_per_s(np.array(1e9), 1e6) == pytest.approx(1.11)


def test_a_subchannel_without_a_block_and_a_least_ratio_beyond_the_maximum_are_refused():
    with pytest.raises(ConfigError, match=r"bands.main.subchannel_hz is 100000 .* resource block of 180000 Hz"):
        Scenario(bands=Bands(main=Band(subchannel_hz=1e5)), rate=NrMcs())
    with pytest.raises(ConfigError, match="min_snr_db is 25"):
        AttenuatedShannon(min_snr_db=25.0)
    with pytest.raises(ConfigError, match=r"downlink_attenuation is 0.004, with which no link reaches .* 4.4 bit/s/Hz"):
        AttenuatedShannon(downlink_attenuation=0.004)


def test_a_negative_power_is_refused():
    with pytest.raises(ConfigError, match="power_w is -1 but must be at least 0"):
        subchannel_rate_bit_per_s(-1.0, 1e-9, 1e-15, 1e6)


def test_a_table_of_ones_own_is_read_from_a_file_and_planned_with(tmp_path):
    (tmp_path / "rates.csv").write_text("snr_db,bit_per_s_per_hz\n0,0.5\n10,2\n")
    chosen = ("world.scenario.rate.kind=table", f"world.scenario.rate.steps={tmp_path / 'rates.csv'}")
    rate = recipe("sflllm").with_settings(*chosen).world.scenario.rate
    assert rate == Table((RateStep(0.0, 0.5), RateStep(10.0, 2.0)))
    np.testing.assert_allclose(rate.rate_bit_per_s(db_to_linear(np.array([-0.1, 0, 9.9, 10, 60])), 2e6),
                               [0, 1e6, 1e6, 4e6, 4e6])  # fmt: skip
    (tmp_path / "wrong.csv").write_text("snr_db,bit_per_s_per_hz\n0,2\n10,1\n")
    with pytest.raises(ConfigError, match=r"wrong.csv:3: world.scenario.rate: Table.steps\[1\] is not above"):
        recipe("sflllm").with_settings(chosen[0], f"world.scenario.rate.steps={tmp_path / 'wrong.csv'}")
    planned = plan(recipe("sflllm", model="tiny").with_settings(*chosen))
    assert planned.status == "ok"
    assert planned.plan.lower_bound_s <= planned.plan.delay_s


@pytest.mark.parametrize("steps", [(), ((0, 1), (0, 2)), ((0, 1), (1, 1)), ((1, 1), (0, 2))])
def test_a_table_without_steps_or_with_one_that_is_not_worth_sending_at_is_refused(steps):
    with pytest.raises(ConfigError, match=r"Table.steps is empty|Table.steps\[1\] is not above the one before it"):
        Table(tuple(RateStep(*step) for step in steps))
