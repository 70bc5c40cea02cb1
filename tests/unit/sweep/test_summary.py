import csv
import json
import math

import numpy as np
import pytest
from scipy import stats

from helpers.sweeps import record, sweep_of
from wavetune.estimate import Estimate
from wavetune.sweep.figure import STYLES, save_figure
from wavetune.sweep.methods import NAMES
from wavetune.sweep.reading import reading
from wavetune.sweep.summary import summarise
from wavetune.sweep.write import FILES, page, table, to_dict, write_outcome

DELAY_S = {(2, 0): (1.0, 2.0), (2, 1): (3.0, 4.0), (4, 0): (2.0, 5.0), (4, 1): (6.0, 8.0)}  # proposed, greedy


def records(delays=DELAY_S, reason=""):
    return [
        record(value, seed, name, delay, lower_bound_s=delay and 0.9 * delay, reason=reason if delay is None else "")
        for (value, seed), both in delays.items()
        for name, delay in zip(("proposed", "greedy"), both, strict=True)
    ]


def summary_of(delays=DELAY_S, reason="", over="num_clients=2,4", seeds=2):
    return summarise(sweep_of(over, seeds), records(delays, reason))


def point(summary, method, value):
    (found,) = [p for p in summary.of(method) if p.value == value]
    return found


def test_estimate_is_the_mean_with_students_interval():
    values = np.random.default_rng(1).normal(size=12)
    low, high = stats.t.interval(0.95, 11, np.mean(values), stats.sem(values))
    estimate = Estimate.of(values.tolist())
    assert (estimate.mean - estimate.half_width, estimate.mean + estimate.half_width) == pytest.approx((low, high))
    assert estimate.count == 12


def test_gains_are_taken_seed_by_seed_before_they_are_averaged():
    summary = summary_of()
    assert point(summary, "greedy", 2).gain.mean == pytest.approx((1 - 1 / 2 + 1 - 3 / 4) / 2)
    by_seed = [(1 - 1 / 2 + 1 - 2 / 5) / 2, (1 - 3 / 4 + 1 - 6 / 8) / 2]
    assert summary.gains["greedy"] == Estimate.of(by_seed)
    assert point(summary, "proposed", 2).gain.count == 0
    assert summary.gains.keys() == {"greedy"}


def test_the_worst_cell_stands_beside_every_mean():
    summary = summary_of()
    assert point(summary, "greedy", 4).worst_gain == pytest.approx(1 - 6 / 8)
    assert summary.worst_gains == {"greedy": pytest.approx(0.25)}
    assert math.isnan(point(summary, "proposed", 4).worst_gain)
    assert ", 25.0 % in the worst cell) below greedy (SflLLM)" in reading(summary)
    assert "| 25.0 % |" in page(summary, "")
    rows = [r for r in csv.DictReader(table(summary).splitlines()) if r["method"] == "greedy"]
    assert [r["worst_gain"] for r in rows] == ["0.25", "0.25"]


def test_bound_is_that_of_the_proposed_planner():
    summary = summary_of()
    assert point(summary, "bound", 4).delay_s.mean == pytest.approx(0.9 * 4.0)
    assert summary.largest_gap == pytest.approx(1 / 0.9 - 1)


def test_cell_without_a_plan_is_counted_and_leaves_the_mean_over_the_others():
    delays = DELAY_S | {(4, 1): (None, None)}
    summary = summary_of(delays, "memory: too little")
    for method in ("proposed", "greedy", "bound"):
        assert point(summary, method, 4).delay_s.count == 1
        assert point(summary, method, 2).delay_s.count == 2
    assert point(summary, "proposed", 4).delay_s.mean == 2.0
    assert math.isnan(point(summary, "proposed", 4).delay_s.half_width)
    words = reading(summary)
    assert (
        "At number of clients 4, 1 of 2 seeds have no plan (memory: too little); the means there are over the" in words
    )
    rows = list(csv.DictReader(table(summary).splitlines()))
    assert [(r["seeds"], r["planned"]) for r in rows if r["num_clients"] == "4"] == [("2", "1")] * 3
    assert {r["reason"] for r in rows if r["num_clients"] == "4"} == {"memory: too little"}


def test_method_that_alone_has_no_plan_is_named_and_no_gain_is_claimed_there():
    summary = summary_of(DELAY_S | {(4, 0): (2.0, None), (4, 1): (6.0, None)}, "power")
    assert point(summary, "greedy", 4).gain.count == 0
    assert summary.gains["greedy"].mean == point(summary, "greedy", 2).gain.mean
    words = reading(summary)
    assert "At number of clients 4, 2 of 2 seeds have no plan by greedy (SflLLM) (power)." in words
    assert "Averaged over the values with a plan" in words


def test_changes_over_the_axis_are_taken_world_by_world():
    summary = summary_of(seeds=2)
    assert point(summary, "greedy", 4).change == Estimate.of([5.0 / 2.0 - 1, 8.0 / 4.0 - 1])
    assert point(summary, "greedy", 2).change == Estimate.of([0.0, 0.0])
    certain = {(v, s): (d * worlds, 9 * worlds) for v, d in ((2, 4.0), (4, 1.0)) for s, worlds in ((0, 1.0), (1, 50.0))}
    words = reading(summary_of(certain))  # the worlds differ by a factor of 50, what bandwidth does to them not at all
    assert "; in the same world it falls by 75.0 % (75.0 % to 75.0 %)." in words
    rows = list(csv.DictReader(table(summary_of(certain)).splitlines()))
    assert [r["change"] for r in rows if r["method"] == "proposed"] == ["0", "-0.75"]


def test_at_a_value_all_methods_are_averaged_over_the_same_worlds():
    summary = summary_of(DELAY_S | {(4, 1): (6.0, None)}, "power")
    for method, mean_s in (("proposed", 2.0), ("greedy", 5.0), ("bound", 0.9 * 2.0)):
        assert point(summary, method, 4).delay_s.mean == pytest.approx(mean_s)
    assert (point(summary, "proposed", 4).planned, point(summary, "greedy", 4).planned) == (2, 1)
    assert "1 of 2 seeds have no plan by greedy (SflLLM) (power); the means there are over the 1 that all" in reading(
        summary
    )
    rows = {r["method"]: r for r in csv.DictReader(table(summary).splitlines()) if r["num_clients"] == "4"}
    assert (rows["proposed"]["planned"], rows["proposed"]["common"]) == ("2", "1")


def test_a_method_with_the_shorter_delay_is_one_that_the_proposed_planner_is_above():
    words = reading(summary_of({key: (2 * theirs, theirs) for key, (_, theirs) in DELAY_S.items()}))
    assert "delay is 100 % (95 % interval 100 % to 100 %, 100 % in the worst cell) above greedy (SflLLM)" in words


def test_sweep_without_any_plan_says_so_and_still_writes_its_files(tmp_path):
    summary = summary_of(dict.fromkeys(DELAY_S, (None, None)), "too many clients")
    assert "No cell of the sweep has a plan." in write_outcome(summary, tmp_path, "wavetune sweep")
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def test_reading_tells_direction_turning_points_gain_and_gap():
    words = reading(summary_of())
    assert "As number of clients goes from 2 to 4, the delay of the proposed planner rises from 2.00 s ±" in words
    assert "40.0 % (95 % interval" in words
    assert "below greedy (SflLLM)" in words
    assert "more than 11.1 % above its proved lower bound" in words
    flat = {(value, seed): (2.0, 4.0) for value in (2, 4) for seed in (0, 1)}
    assert "Whatever number of clients, the delay" in reading(summary_of(flat))
    valley = {(v, s): (d + s, 8.0) for v, d in ((2, 5.0), (3, 1.0), (4, 2.0)) for s in (0, 1)}
    words = reading(summary_of(valley, over="num_clients=2,3,4"))
    assert "falls from 5.50 s" in words
    assert ", least at 3 (means" in words


def test_one_seed_has_numbers_but_no_intervals(tmp_path):
    delays = {key: both for key, both in DELAY_S.items() if key[1] == 0}
    summary = summary_of(delays, seeds=1)
    assert "±" not in reading(summary)
    assert "interval" not in reading(summary)
    write_outcome(summary, tmp_path, "wavetune sweep")
    assert json.loads((tmp_path / "summary.json").read_text())["points"][0]["delay_s"]["half_width"] is None


def test_page_has_command_reading_and_a_row_a_method_with_its_time():
    summary = summary_of()
    text = page(summary, "wavetune sweep sflllm --over num_clients=2,4")
    assert "```bash\nwavetune sweep sflllm --over num_clients=2,4\n```" in text
    assert reading(summary) in text
    assert "| greedy (SflLLM) | 40.0 %" in text
    assert "| 37.5 % at 2 | 42.5 % at 4 | 500 ms | 250 ms |" in text
    assert "over seeds 0 to 1" in text
    for words in (
        "- Seeds: 0 to 1",
        "- Model: smollm2-135m: ",
        "dequantised from Q4_1",
        "- Data: restaurants, ",
    ):
        assert words in text
    assert to_dict(summary, "")["origin"].keys() == {"Seeds", "Model", "Data"}


def test_summary_is_json_and_holds_every_point():
    values = to_dict(summary_of(), "the command")
    assert values["command"] == "the command"
    assert len(values["points"]) == 6
    assert values["samples"] == ("counted exactly",)
    assert values["gains"]["greedy"]["mean"] == pytest.approx(0.4)


def test_figure_is_the_same_for_the_same_sweep_and_every_method_has_a_style(tmp_path):
    assert STYLES.keys() == set(NAMES)
    texts = []
    for stem in ("one", "two"):
        svg, png = save_figure(summary_of(), tmp_path / stem, "wavetune sweep")
        assert png.stat().st_size > 10_000
        texts.append(svg.read_text())
    assert texts[0] == texts[1]


@pytest.mark.parametrize("delays", [DELAY_S | {(4, 1): (None, None)}, dict.fromkeys(DELAY_S, (None, None))])
def test_figure_says_where_there_is_no_plan(delays, tmp_path):
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}):  # text stays text
        svg, _ = save_figure(summary_of(delays), tmp_path / "figure", "wavetune sweep")
    assert "no plan:" in svg.read_text()


@pytest.mark.parametrize("over", ["world.model=gpt2,tiny", "num_clients=3", "bandwidth_hz=1e5,1e6,1e7"])
def test_figure_of_words_of_one_value_and_of_a_wide_range(over, tmp_path):
    values = sweep_of(over).axis.values
    delays = {(value, seed): (1.0 + i, 2.0 + i) for i, value in enumerate(values) for seed in (0, 1)}
    for path in save_figure(summary_of(delays, over=over), tmp_path / "figure", "wavetune sweep"):
        assert path.stat().st_size > 5_000
