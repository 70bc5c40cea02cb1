"""Traces: what each kind of file means, and what is refused, with its row and column."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.io
import scipy.sparse

from wavetune.errors import ConfigError, DataError
from wavetune.trace_files import Reading, read_trace
from wavetune.wireless.channel import draw_channel, draw_devices
from wavetune.wireless.channels.trace import Trace
from wavetune.wireless.presets import paper
from wavetune.wireless.rate_models import AttenuatedShannon, NrMcs, Shannon
from wavetune.wireless.rates import client_rates, downlink_rates, uplink_rates
from wavetune.wireless.scenario import Band, Bands, Population, Scenario

GAINS = np.array([[[1e-9, 2e-9, 3e-9], [4e-9, 5e-9, 6e-9]], [[7e-9, 8e-9, 9e-9], [1e-10, 2e-10, 0.0]]])  # [T, K, M]
T, K, M = GAINS.shape


def scenario_of(path: Any, subchannels: int = M, **trace: Any) -> Scenario:
    file = path if isinstance(path, tuple) else str(path)
    bands = Bands(Band(num_subchannels=subchannels), Band(num_subchannels=subchannels))
    return Scenario(Population(num_clients=K), bands=bands, channel=Trace(file, **trace))


def channel_of(scenario, round_index=0):
    return draw_channel(scenario, draw_devices(scenario, 0), 0, round_index)


def gains_of(path, subchannels=M, **trace):
    scenario = scenario_of(path, subchannels, **trace)
    return np.array([channel_of(scenario, t).main.uplink_gain_KM for t in range(T)])


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def long_csv(folder, gains=GAINS, first=0, mark=","):
    rows = [[t, k, m, repr(float(gains[t, k, m]))] for t, k, m in np.ndindex(gains.shape)]
    rows = [[t + first, k + first, m + first, gain] for t, k, m, gain in rows]
    lines = [["round", "client", "subchannel", "gain"], *reversed(rows)]
    return written(folder / "long.csv", "".join(mark.join(map(str, line)) + "\n" for line in lines))


def wide_csv(folder):
    lines = ["round,client,subchannel_0,subchannel_1,subchannel_2"]
    lines += [f"{t},{k}," + ",".join(repr(float(g)) for g in GAINS[t, k]) for t in range(T) for k in range(K)]
    return written(folder / "wide.csv", "\n".join(lines))


def excel(folder):
    """As a spreadsheet writes it where the comma is the decimal mark."""
    lines = ["sep=;", "Round;Client;Subchannel 0;Subchannel 1;Subchannel 2"]
    lines += [f"{t};{k};" + ";".join(f"{g:.2e}".replace(".", ",") for g in GAINS[t, k]) for t, k in np.ndindex(T, K)]
    return written(folder / "excel.csv", "\n".join(lines))


def with_row_numbers(folder):
    """As pandas writes a table, whose rows are numbered in a column without a name."""
    lines = long_csv(folder).read_text().splitlines()
    return written(folder / "numbered.csv", "\n".join(f"{i or ''},{line}" for i, line in enumerate(lines)))


def of_an_old_mac(folder):
    """An empty line, then lines that end in a carriage return alone."""
    return written(folder / "mac.csv", "\r" + long_csv(folder).read_text().replace("\n", "\r"))


def parquet(folder):
    index = list(np.ndindex(GAINS.shape))
    columns = {name: [one[i] for one in index] for i, name in enumerate(("round", "client", "subchannel"))}
    path = folder / "long.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns | {"gain": [GAINS[one] for one in index]}), path)
    return path


def npz(folder, **arrays):
    path = folder / "arrays.npz"
    np.savez_compressed(path, **(arrays or {"gain": GAINS}))
    return path


def npy(folder):
    np.save(folder / "array.npy", GAINS)
    return folder / "array.npy"


def test_a_sparse_matrix_is_no_array(tmp_path):
    scipy.io.savemat(tmp_path / "sparse.mat", {"gain": scipy.sparse.eye(2) * 1e-9})
    with pytest.raises(DataError, match=r"sparse\.mat: has no array 'gain'"):
        gains_of(tmp_path / "sparse.mat")


def mat(folder):
    scipy.io.savemat(folder / "arrays.mat", {"gain": GAINS}, do_compression=True)
    return folder / "arrays.mat"


@pytest.mark.parametrize(
    "write",
    [
        long_csv,
        lambda folder: long_csv(folder, first=1),
        lambda folder: long_csv(folder, mark=";"),
        lambda folder: long_csv(folder, mark="|"),
        with_row_numbers,
        of_an_old_mac,
        wide_csv,
        excel,
        parquet,
        npz,
        npy,
        mat,
    ],
)
def test_every_kind_of_file_says_the_same_gains(write, tmp_path):
    np.testing.assert_array_equal(gains_of(write(tmp_path)), GAINS)


def test_gains_without_subchannels_hold_for_all_and_both_bands_and_ways(tmp_path):
    path = written(tmp_path / "flat.csv", "round,client_0,client_1\n0,1e-9,2e-9\n1,3e-9,4e-9\n")
    channel = channel_of(scenario_of(path, subchannels=5), 1)
    for link in (channel.main, channel.fed):
        for gain_KM in (link.uplink_gain_KM, link.downlink_gain_KM):
            np.testing.assert_array_equal(gain_KM, np.repeat([[3e-9], [4e-9]], 5, axis=1))


def test_bands_and_directions_can_have_values_of_their_own(tmp_path):
    path = npz(tmp_path, gain_main_uplink=GAINS, gain_main_downlink=GAINS / 2, gain_fed=GAINS[:, :, :1] / 4)
    channel = channel_of(scenario_of(path))
    np.testing.assert_array_equal(channel.main.downlink_gain_KM, channel.main.uplink_gain_KM / 2)
    np.testing.assert_array_equal(channel.fed.downlink_gain_KM, np.repeat(GAINS[0, :, :1] / 4, M, axis=1))
    rows = "".join(f"0,{k},{band},{way},{k + 1}e-{n}\n" for k in range(K) for n, (band, way) in enumerate(
        ((b, w) for b in ("main", "fed") for w in ("uplink", "downlink")), start=6))  # fmt: skip
    table = written(tmp_path / "links.csv", "round,client,band,direction,gain\n" + rows)
    assert channel_of(scenario_of(table)).fed.downlink_gain_KM[1, 0] == 2e-9


def test_decibels_amplitudes_and_fading_are_gains_in_other_words(tmp_path):
    decibels = npz(tmp_path, gain=10 * np.log10(np.maximum(GAINS, 1e-30)))
    np.testing.assert_allclose(gains_of(decibels, unit="dB"), np.maximum(GAINS, 1e-30))
    np.testing.assert_allclose(gains_of(npz(tmp_path, h=np.sqrt(GAINS) * 1j), quantity="amplitude", column="h"), GAINS)
    scenario = scenario_of(npz(tmp_path, fading=GAINS * 1e9), quantity="fading")
    mean_K = [
        10 ** ((scenario.antenna_gain_db - d.path_loss_db - d.shadowing_db) / 10) for d in draw_devices(scenario, 0)
    ]
    np.testing.assert_allclose(channel_of(scenario).main.uplink_gain_KM, np.array(mean_K)[:, None] * GAINS[0] * 1e9)


def test_times_of_day_and_names_in_capitals_say_the_same(tmp_path):
    rows = [("2026-01-31T12:00:00", 0, 1e-9), ("2026-01-31T12:00:00", 1, 2e-9), ("2026-01-31T13:00:02+01:00", 0, 3e-9),
            ("2026-01-31 12:00:03", 1, 4e-9), ("2026-01-31T12:00:01Z", 0, 3e-9)]  # fmt: skip
    text = "Time,Client,Gain\n" + "".join(f"{time},{client},{gain}\n" for time, client, gain in rows)
    path = written(tmp_path / "times.csv", text)
    gains = gains_of(path, round_s=2.0)
    np.testing.assert_allclose(gains[:, :, 0], [[2e-9, 2e-9], [3e-9, 4e-9]])
    bad = written(tmp_path / "bad.csv", text.replace("2026-01-31 12:00:03", "31.1.2026 12:00"))
    with pytest.raises(
        DataError, match=r"bad\.csv:5: time is '31.1.2026 12:00'; write 2026-01-31T12:00:00, or seconds"
    ):
        gains_of(bad)


def test_whole_numbers_of_clients_may_be_written_with_a_point(tmp_path):
    rows = [f"0,{client}.0,{(client + 1) * 1e-9}" for client in range(11)]  # as text 10.0 would come before 2.0
    (tmp_path / "t.csv").write_text("\n".join(["round,client,gain", *rows]))
    scenario = replace(scenario_of(tmp_path / "t.csv"), population=Population(num_clients=11))
    np.testing.assert_allclose(channel_of(scenario).main.uplink_gain_KM[:, 0], np.arange(1, 12) * 1e-9)


@pytest.mark.parametrize("after_end", ["repeat", "hold"])
def test_after_its_end_a_trace_is_repeated_or_held(after_end, tmp_path):
    scenario = scenario_of(npz(tmp_path), after_end=after_end)
    last = {"repeat": GAINS[[0, 1, 0]], "hold": GAINS[[1, 1, 1]]}[after_end]
    np.testing.assert_array_equal([channel_of(scenario, t).main.uplink_gain_KM for t in (2, 3, 4)], last)


def test_a_run_longer_than_its_trace_is_refused_with_what_to_do(tmp_path):
    trace = scenario_of(npz(tmp_path)).channel
    trace.require_rounds(T)
    with pytest.raises(ConfigError, match=r"ends after 2 rounds and the run has 3; set .*after_end=repeat or hold, or"):
        trace.require_rounds(T + 1)


LOG = "time_s,Mbit/s\n" + "".join(f"{t},{mbit}\n" for t, mbit in ((3.0, 8), (4.1, 12), (5.0, 16), (8.2, 40), (9.9, 20)))


@pytest.mark.parametrize("measured", ["uplink", "downlink"])
def test_a_phones_log_gives_the_band_the_throughput_that_was_measured(measured, tmp_path):
    path = written(tmp_path / "phone.csv", LOG)
    scenario = paper(
        scenario_of((str(path), str(path)), 4, quantity="throughput", unit="Mbit/s", round_s=5.0, measured=measured)
    )
    everything = np.zeros(4, dtype=int)  # client 0 owns the whole band, at its full power spread evenly
    for round_index, mbit_per_s in ((0, 12.0), (1, 30.0)):
        link = channel_of(scenario, round_index).main
        power_w_M = np.full(4, draw_devices(scenario, 0)[0].tx_power_max_w / 4)
        rates = {
            "uplink": uplink_rates(scenario, scenario.bands.main, link, everything, power_w_M),
            "downlink": downlink_rates(scenario, scenario.bands.main, link, everything),
        }
        assert rates[measured][0] == pytest.approx(mbit_per_s * 1e6)


@pytest.mark.parametrize(
    ("rate", "most"),
    [(Shannon(2.0, 7.4, 0.08, 0.14, 0.5, 0.4), 1 + 1e-6), (AttenuatedShannon(), 1 + 1e-6), (NrMcs(), 1.6)],  # in steps
)
@pytest.mark.parametrize("measured", ["uplink", "downlink"])
def test_a_throughput_is_what_the_rate_model_carries_over_the_receivers_noise(rate, most, measured, tmp_path):
    path = written(tmp_path / "phones.csv", "round,client_0,client_1\n0,2e6,1e5\n")
    noisy = scenario_of(path, 4, quantity="throughput", measured=measured)
    noisy = replace(noisy, rate=rate, population=replace(noisy.population, noise_figure_db=9.0),
                    server=replace(noisy.server, noise_figure_db=5.0))  # fmt: skip
    link, everything = channel_of(noisy).main, np.zeros(4, dtype=int)
    uplink = measured == "uplink"
    power_w = draw_devices(noisy, 0)[0].tx_power_max_w if uplink else noisy.bands.main.downlink_power_w
    noise_w = noisy.bands.main.noise_w * 10 ** ((5.0 if uplink else 9.0) / 10)
    gain_KM = link.uplink_gain_KM if uplink else link.downlink_gain_KM
    rate_K = client_rates(everything, np.full(4, power_w / 4), gain_KM, noise_w, 500e3, 0.0, rate, uplink)
    assert 2e6 * (1 - 1e-9) <= rate_K[0] <= 2e6 * most
    much = written(tmp_path / "much.csv", "round,client_0,client_1\n0,2e7,1e5\n")
    with pytest.raises(ConfigError, match=r"world\.scenario\.rate carries at most"):
        channel_of(replace(noisy, channel=replace(noisy.channel, file=str(much))))


def test_a_log_over_another_bandwidth_is_worth_its_spectral_efficiency(tmp_path):
    path = written(tmp_path / "phones.csv", "round,client_0,client_1\n0,20e6,0\n")
    scenario = scenario_of(path, 4, quantity="throughput", bandwidth_hz=1e7)  # 2 bit/s/Hz at full power over 10 MHz
    power_w_M = np.full(4, draw_devices(scenario, 0)[0].tx_power_max_w / 20)  # the same density: 10 MHz are 20 of these
    rate_K = uplink_rates(scenario, scenario.bands.main, channel_of(scenario).main, np.zeros(4, dtype=int), power_w_M)
    assert rate_K[0] == pytest.approx(2 * 4 * 500e3)
    assert not channel_of(scenario).main.uplink_gain_KM[1].any()


def test_clients_names_are_ordered_by_the_numbers_in_them(tmp_path):
    names = ["ue10", "ue9", "ue08", "gateway", "ue8", "ue" + "9" * 5000]
    rows = "".join(f"0,{name},{i + 1}e-9\n" for i, name in enumerate(names))
    found = read_trace((str(written(tmp_path / "named.csv", "round,client,gain\n" + rows)),), Reading("gain", none_bad))
    values = found.of("main", "uplink")
    assert values is not None
    assert values[0, :, 0].tolist() == [4e-9, 3e-9, 5e-9, 2e-9, 1e-9, 6e-9]


def none_bad(values):
    return values < 0, ""


def test_clients_can_be_picked_and_ordered(tmp_path):
    path = written(tmp_path / "named.csv", "round,client,gain\n0,bob,2e-9\n0,ann,1e-9\n0,cem,3e-9\n")
    np.testing.assert_array_equal(channel_of(scenario_of(path, clients=(2, 0))).main.uplink_gain_KM[:, 0], [3e-9, 1e-9])
    with pytest.raises(ConfigError, match=r"has 3 clients and the population 2; set .*num_clients=3, or pick"):
        channel_of(scenario_of(path))
    with pytest.raises(ConfigError, match=r"clients names 7 and .* has 0 to 2"):
        channel_of(scenario_of(path, clients=(7, 0)))


FLAT = "round,client,gain\n0,0,1e-9\n0,1,2e-9\n1,0,3e-9\n1,1,{}\n"


@pytest.mark.parametrize(
    ("text", "trace", "said"),
    [
        (FLAT.format(-80), {}, r"t\.csv:5: gain is -80; a gain is linear.*decibels set .*unit=dB"),
        (FLAT.format("nan"), {}, r"t\.csv:5: gain is nan"),
        (FLAT.format("inf"), {}, r"t\.csv:5: gain is inf"),
        (FLAT.format(""), {}, r"t\.csv:5: gain is empty; it must be a number"),
        (FLAT.format("1e-9;"), {}, r"t\.csv:5: gain is '1e-9;'; it must be a number"),
        (FLAT.format(97.3), {}, r"t\.csv:5: gain is 97.3; .*as no more is received"),
        (FLAT.format(1e-9), {"unit": "dB"}, r"t\.csv:2: gain is 1e-09; a gain in dB is .*leave .*unit out"),
        (FLAT.replace("1,1,{}\n", ""), {}, r"t\.csv: has a gap, no value of client 1 in round 1; give every value"),
        (FLAT.format("1e-9\n1,1,2e-9"), {}, r"t\.csv:6: says again what stands in .*t\.csv:5; keep one"),
        ("round,client,gain\n4,b,1\n4,a,1\n5,b,1\n", {}, r"t\.csv: has a gap, no value of client a in round 5; give"),
        ("round,band,client_1,client_2\n1,main,1,1\n3,main,1,1\n", {}, r"gap, no value of client 1 in round 2; give"),
        ("time_s,gain\n1,1\n3,1\n0,1\n1,1\n", {"round_s": 2.0}, r"t\.csv:5: says again .*t\.csv:2; keep one, or give"),
        ("time_s,gain\n0,1\n9e9,1\n", {"round_s": 1e-300}, r"t\.csv: rounds up to .*; check the times and .*round_s"),
        (FLAT.format("1e-9,5"), {}, r"t\.csv:5: 4 cells for 3 columns"),
        (FLAT.format(1e-9).replace("1,0", "0.5,0"), {}, r"t\.csv:4: round is 0.5; it must be a whole number"),
        (FLAT.format(1e-9).replace(",1,", ",3,"), {}, r"t\.csv: client 1 is missing; number them without a gap"),
        (FLAT.format(1e-9).replace(",1,", ",-1,"), {}, r"t\.csv:3: client is -1; number them in whole numbers from 0"),
        (FLAT.format(1e-9).replace(",1,", ",1.5,"), {}, r"t\.csv:3: client is 1\.5; number them in whole numbers"),
        (FLAT.format(1e-9).replace("gain", "gain,rsrp"), {}, r"t\.csv:2: 3 cells for 4 columns"),
        ("round,client,gain,rsrp\n0,0,1,2\n", {}, r"one column must hold .* are gain, rsrp; name it"),
        ("0,1,1e-9\n", {}, r"t\.csv:1: the first line must name the columns"),
        ("round,client,gain\n", {}, r"t\.csv: has no rows"),
        ("", {}, r"t\.csv:1: the first line must name every column once"),
        ("client,gain\n0,1e-9\n", {}, r"has no column round, time_s, time; say when"),
        ("round,band,client,gain\n0,side,0,1\n", {}, r"t\.csv:2: band is 'side'; it must be main or fed"),
        ("time_s,gain\n0,1e-9\n1,1e-9\n11,1e-9\n", {"round_s": 5}, r"no value of client 0 in round 1; give longer"),
        ("round,client_0,client_1\n0,1e12,0\n", {"quantity": "throughput"}, r"world.scenario.rate carries at most"),
        ("round,client_0,client_1\n0,5,-1\n", {"quantity": "throughput"}, r"t\.csv:2: client_1 is -1; a throughput is"),
        ("round,client_0,client_2\n0,1e-9,1e-9\n", {}, r"columns client_0, client_2 must be numbered without a gap"),
        ("round,time_s,gain\n0,0,1\n", {}, r"has a column round and a column time_s; leave one out"),
        ("round,x_0\n0,1e-9\n", {"column": "y"}, r"has no column 'y', only x_0"),
        ("round,client_0,client_1\n0,40,9\n", {"quantity": "throughput"}, r"client_0 is 40; no throughput is above 40"),
        ("t,client,gain\n0,0,1e-9\n", {"columns": {"time_s": "zeit"}}, r"no column 'zeit', which .*time_s names"),
        ("t,client,gain\n0,0,1e-9\n", {}, r"are t, gain; name it in .*\.column, others in .*\.columns"),
        ("t,client,gain\n0,0,1e-9\n", {"columns": {"tme": "t"}}, r"Trace.columns has 'tme'; did you mean 'time'"),
        (FLAT.format(1e-9), {"round_s": 2.0}, r"no column time or time_s whose values .*round_s could average"),
        (FLAT.format(1e-9), {"bandwidth_hz": 1e7}, r"bandwidth_hz says how a throughput .* quantity is gain"),
        (FLAT.format(1e-9), {"measured": "downlink"}, r"measured says how a throughput .* quantity is gain"),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_with_its_row_and_column(text, trace, said, tmp_path):
    with pytest.raises((DataError, ConfigError), match=said) as refusal:
        channel_of(scenario_of(written(tmp_path / "t.csv", text), **trace))
    assert "\n" not in str(refusal.value)


def test_a_log_whose_columns_are_called_otherwise_is_read_by_their_names(tmp_path):
    own = written(tmp_path / "own.csv", "time,client,throughput\n" + NAMED_LOG)
    theirs = written(tmp_path / "theirs.csv", "rsrp,Timestamp,ue,UL kbps,time\n" + "".join(
        f"-90,{line},x\n" for line in NAMED_LOG.splitlines()))  # fmt: skip
    columns = {"time": "Timestamp", "client": "ue", "throughput": "UL kbps"}
    logged = {"quantity": "throughput", "unit": "kbit/s", "round_s": 2.0}
    expected = channel_of(scenario_of(own, **logged)).main.uplink_gain_KM
    found = channel_of(scenario_of(theirs, columns=columns, **logged)).main.uplink_gain_KM
    assert (expected > 0).all()
    np.testing.assert_array_equal(found, expected)


NAMED_LOG = "".join(f"2026-01-01T00:00:0{t},{who},{500 + 100 * t}\n" for t in range(4) for who in ("anna", "bob"))


@pytest.mark.parametrize(
    ("arrays", "trace", "said"),
    [
        ({"gain": np.where(GAINS == 0, -1.0, GAINS)}, {}, r"gain\[1, 1, 2\] is -1; a gain is linear"),
        ({"gain": np.where(GAINS == 0, np.nan, GAINS)}, {}, r"gain\[1, 1, 2\] is nan"),
        ({"gain": GAINS * 1j}, {}, r"gain\[0, 0, 0\] .* complex: .*set .*quantity=amplitude"),
        ({"gain": GAINS[0, 0]}, {}, r"gain has the shape \[3\]; it must be \[rounds, clients\] or"),
        ({"gain": GAINS[:, :, :2]}, {}, r"has 2 subchannels and the main band 3; set .*main.num_subchannels=2"),
        ({"gain": GAINS[:, :1]}, {}, r"has 1 clients and the population 2"),
        ({"loss": GAINS}, {}, r"has no array 'gain', only loss; name it in .*column"),
        ({"gain_fed": GAINS}, {}, r"has nothing of the main band"),
        ({"gain": GAINS}, {"round_s": 1.0}, r"holds arrays, of which .*round_s says nothing; leave it out"),
        ({"gain": GAINS}, {"columns": {"time": "t"}}, r"holds arrays, of which .*columns says nothing; leave it out"),
        ({"gain": np.array([[object()]])}, {}, r"something else than numbers, which is not loaded"),
    ],
)
def test_bad_arrays_are_refused_with_their_index(arrays, trace, said, tmp_path):
    with pytest.raises((DataError, ConfigError), match=said):
        channel_of(scenario_of(npz(tmp_path, **arrays), **trace))


def test_an_array_that_says_to_be_larger_than_its_file_is_not_loaded(tmp_path):
    path = npy(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"(2, 2, 3), }      ", b"(20000, 2, 30), }"[:17].ljust(18)))
    with pytest.raises(DataError, match=r"is larger than its file"):
        channel_of(scenario_of(path))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", None, "there is no such file"),
        ("t.xlsx", b"", "known endings are .csv"),
        ("t.npz", b"PK\x03\x04broken", "cannot be read as NPZ"),
        ("t.npy", b"\x80\x04K\x01.", "cannot be read as NPY"),
        ("t.mat", b"nothing of MATLAB", "cannot be read as MAT"),
        ("t.parquet", b"PAR1", "cannot be read as Parquet"),
        ("t.csv", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_is_something_else_is_refused(name, content, said, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: .*{said}"):
        channel_of(scenario_of(tmp_path / name))


def test_a_trace_without_a_file_or_with_a_foreign_unit_is_refused():
    with pytest.raises(ConfigError, match=r"channel.file is empty; name the file"):
        Trace().require_rounds(1)
    with pytest.raises(ConfigError, match=r"unit is 'dB' but throughput is in bit/s or"):
        Trace("a.csv", "throughput", "dB")


def test_a_changed_file_has_another_digest(tmp_path):
    path = npz(tmp_path)
    before = Trace(str(path)).inputs()
    assert before == Trace(str(path)).inputs()
    npz(tmp_path, gain=GAINS / 2, more=GAINS)
    assert before != Trace(str(path)).inputs()


@pytest.mark.parametrize(
    ("values", "trace"),
    [
        ((-90.0, -110.0), {"unit": "dB"}),
        ((10**-4.5, 10**-5.5), {"quantity": "amplitude", "column": "amplitude"}),
        ((-60.0, -80.0), {"unit": "dBm", "sent_dbm": 30.0}),
    ],
)
def test_what_is_averaged_over_a_round_is_the_power_gain(values, trace, tmp_path):
    name = trace.get("quantity", "gain")
    lines = [f"{t},{k},{values[t % 2]}" for t in range(4) for k in range(K)]
    path = written(tmp_path / "log.csv", f"time_s,client,{name}\n" + "\n".join(lines))
    np.testing.assert_allclose(gains_of(path, round_s=2.0, **trace), (1e-9 + 1e-11) / 2, rtol=1e-12)


def test_a_received_power_is_a_gain_by_what_was_sent(tmp_path):
    received = tmp_path / "rsrp.npy"
    np.save(received, np.full((T, K), -100.0))
    np.testing.assert_allclose(gains_of(received, unit="dBm", sent_dbm=15.0), 10**-11.5)
    with pytest.raises(ConfigError, match=r"set .*unit=dBm and .*sent_dbm together"):
        Trace(str(received), unit="dBm")
    with pytest.raises(ConfigError, match=r"set .*unit=dBm and .*sent_dbm together"):
        Trace(str(received), sent_dbm=15.0)
    np.save(received, np.full((T, K), 20.0))
    with pytest.raises(ConfigError, match=r"has 20 dBm received of 15 sent; check .*sent_dbm"):
        gains_of(received, unit="dBm", sent_dbm=15.0)


def test_seconds_in_a_column_that_is_called_time_are_told_their_name(tmp_path):
    path = written(tmp_path / "log.csv", "timestamp,client,gain\n0,0,1e-9\n0,1,1e-9\n")
    with pytest.raises(
        DataError, match=r"time is '0'; .*, or seconds in a column time_s \(of another name: .*columns\.time_s\)"
    ):
        gains_of(path, columns={"time": "timestamp"})
