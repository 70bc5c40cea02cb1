"""Lines, bars, timeline, cell map and lanes draw what the numbers say."""

import itertools
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavetune.records.reading import read_run
from wavetune.records.rounds import Account, BandUse, Phases
from wavetune.reporting.accounts import CHANGING, STEP_PHASES, critical_s
from wavetune.reporting.bars import Bar, bar_chart, column_chart
from wavetune.reporting.cell_map import Site, cell_map
from wavetune.reporting.chart import NARROW_PX, WIDE_PX, Axis
from wavetune.reporting.lines import Series, line_chart, thin
from wavetune.reporting.subchannels import subchannel_lanes
from wavetune.reporting.svg import text_width
from wavetune.reporting.timeline import MOST_ROWS, SERVER, exchange_segments, shown_rows, step_segments

WIDTHS = [WIDE_PX, NARROW_PX]


def shapes(drawing, name, css=""):
    root = ElementTree.fromstring(drawing)
    return [node for node in root.iter(name) if css in (node.get("class") or "").split() or not css]


def size(node, attribute):
    return float(node.attrib[attribute])


# lines


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300), st.integers(10, 50))
def test_thinning_keeps_the_ends_and_the_extremes(values, limit):
    points = list(enumerate(map(float, values)))
    kept = thin(points, limit)
    heights = [y for _, y in kept]
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert (min(heights), max(heights)) == (min(values), max(values))
    assert len(kept) <= max(limit, 2) + 4


@pytest.mark.parametrize("spike", [-9.0, 9.0])
def test_thinning_keeps_a_single_spike(spike):
    points = [(float(x), 0.001 * x if x != 500 else spike) for x in range(2000)]
    assert (500.0, spike) in thin(points, 50)
    assert len(thin(points, 50)) <= 54


def test_a_line_skips_what_is_not_finite():
    series = [Series("loss", "cat-0", [(0, math.nan), (1, 2.0), (2, math.inf), (3, 1.0)])]
    drawing = line_chart(series, Axis("round", whole=True), Axis("loss"), "loss", WIDE_PX)
    assert drawing is not None
    assert len(shapes(drawing, "circle")) == 2
    assert "nan" not in drawing


def test_a_chart_of_nothing_is_none():
    series = [Series("loss", "cat-0", [(0, math.nan)])]
    assert line_chart(series, Axis("round"), Axis("loss"), "", WIDE_PX) is None
    assert bar_chart([], str, "", WIDE_PX) is None
    assert column_chart([Bar("a", (("x", "", 0.0),))], "", Axis("delay", "s"), "", WIDE_PX) is None
    assert cell_map([], 200.0, WIDE_PX) is None
    assert subchannel_lanes(BandUse(), ["a"], "main", WIDE_PX) is None


def test_a_higher_loss_is_drawn_higher():
    drawing = line_chart([Series("loss", "cat-0", [(0, 3.0), (1, 1.0)])], Axis("round"), Axis("loss"), "", WIDE_PX)
    first, second = shapes(drawing, "circle")
    assert size(first, "cy") < size(second, "cy")
    assert size(first, "cx") < size(second, "cx")


# bars


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_are_as_long_as_their_values(width):
    bars = [Bar("a", (("p", "x", 1.0), ("q", "y", 3.0)), "4"), Bar("b", (("p", "x", 2.0), ("q", "y", math.nan)), "2")]
    rects = shapes(bar_chart(bars, str, "", width), "rect")
    lengths = [size(rect, "width") for rect in rects]
    assert lengths[1] == pytest.approx(3 * lengths[0], abs=0.05)
    assert lengths[2] == pytest.approx(2 * lengths[0], abs=0.05)
    assert size(rects[1], "x") == pytest.approx(size(rects[0], "x") + lengths[0], abs=0.05)


def test_columns_are_stacked_from_the_base_line():
    drawing = column_chart([Bar("a", (("p", "x", 1.0), ("q", "y", 3.0)))], "round", Axis("delay", "s"), "", WIDE_PX)
    low, high = shapes(drawing, "rect")
    assert size(high, "y") + size(high, "height") == pytest.approx(size(low, "y"), abs=0.05)
    assert size(high, "height") == pytest.approx(3 * size(low, "height"), abs=0.05)


# timeline

second = st.floats(0.001, 10.0)


@st.composite
def steps(draw):
    clients = draw(st.integers(1, 5))
    per_client = [tuple(draw(second) for _ in range(clients)) for _ in range(6)]
    forward, uplink, downlink, backward, upload, download = per_client
    return Phases(forward, uplink, draw(second), draw(second), downlink, backward, upload, download)


@settings(deadline=None)
@given(steps())
def test_the_timeline_of_a_step_ends_at_the_delay_formula(step):
    segments = step_segments(step)
    ready = max(map(sum, zip(step.client_forward_s, step.uplink_s, strict=True)))
    back = max(map(sum, zip(step.downlink_s, step.client_backward_s, strict=True)))
    expected = ready + step.server_forward_s + step.server_backward_s + back
    assert max(one.end_s for one in segments) == pytest.approx(expected)
    server = [one for one in segments if one.row == SERVER]
    assert server[0].start_s == pytest.approx(ready)
    assert all(one.start_s >= server[-1].end_s - 1e-9 for one in segments if one.phase == "downlink_s")


@settings(deadline=None)
@given(steps(), st.lists(second, min_size=10, max_size=10))
def test_with_shares_of_the_server_every_client_is_drawn_as_one_pipeline(step, server):
    K = len(step.uplink_s)
    step = replace(step, server_forward_s=tuple(server[:K]), server_backward_s=tuple(server[5 : 5 + K]))
    chains = [sum(getattr(step, name)[k] for name in STEP_PHASES) for k in range(K)]
    segments = step_segments(step)
    assert max(one.end_s for one in segments) == pytest.approx(max(chains))
    assert {one.row for one in segments} == set(range(K))
    parts = critical_s(Account(delay_s=max(chains), phases=step))
    assert sum(parts.values()) == pytest.approx(max(chains) + max(step.fed_upload_s) + max(step.fed_download_s))
    for k in range(K):
        own = [one for one in segments if one.row == k]
        assert all(later.start_s == earlier.end_s for earlier, later in itertools.pairwise(own))


@settings(deadline=None)
@given(steps())
def test_the_adapter_exchange_waits_for_the_last_upload(step):
    segments = exchange_segments(step)
    assert max(one.end_s for one in segments) == pytest.approx(max(step.fed_upload_s) + max(step.fed_download_s))


def test_of_many_clients_the_timeline_shows_those_that_are_ready_last():
    step = Phases(client_forward_s=tuple(float(k + 1) for k in range(50)), server_forward_s=1.0)
    assert shown_rows(step_segments(step)) == [*range(50 - MOST_ROWS, 50), SERVER]


def test_the_synthetic_rounds_are_made_of_their_first_step(make_run):
    record = read_run(make_run(rounds=1)).rounds[0]
    step_s = max(one.end_s for one in step_segments(record.charged.step))
    exchange_s = max(one.end_s for one in exchange_segments(record.charged.step))
    assert record.charged.delay_s == pytest.approx(12 * step_s + exchange_s)
    assert critical_s(record.charged)[CHANGING] == 0.0


# cell map


def sites(positions, delays=None):
    delays = delays or [1.0] * len(positions)
    return [Site(f"device {k}", p, d, "", True, k == 0) for k, (p, d) in enumerate(zip(positions, delays, strict=True))]


def test_a_device_is_drawn_in_its_direction_and_at_its_distance():
    drawing = cell_map(sites([(100.0, 0.0), (0.0, 50.0)]), 200.0, 460)
    (cell,) = shapes(drawing, "circle", "cell")
    east, north = shapes(drawing, "circle", "device")
    assert size(east, "cx") - size(cell, "cx") == pytest.approx(size(cell, "r") / 2, abs=0.05)
    assert size(east, "cy") == pytest.approx(size(cell, "cy"))
    assert size(cell, "cy") - size(north, "cy") == pytest.approx(size(cell, "r") / 4, abs=0.05)


def test_slower_devices_are_hotter():
    drawing = cell_map(sites([(10.0 * k, 60.0) for k in range(7)], [float(k) for k in range(7)]), 200.0, 460)
    heat = [node.attrib["class"].split()[-1] for node in shapes(drawing, "circle", "device")]
    assert heat == sorted(heat)
    assert (heat[0], heat[-1]) == ("heat-0", "heat-5")


def test_only_the_straggler_has_a_ring():
    assert len(shapes(cell_map(sites([(50.0, 60.0), (90.0, 0.0)]), 200.0, 460), "circle", "straggler")) == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-200, 200), st.floats(-200, 200)), min_size=1, max_size=40))
def test_names_on_the_map_overlap_neither_each_other_nor_the_edge(positions):
    names = shapes(cell_map(sites(positions), 200.0, 460), "text", "place")
    boxes = [
        (size(n, "x"), size(n, "y"), size(n, "x") + text_width(n.text or "", 11), size(n, "y") + 13) for n in names
    ]
    for index, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0
        assert right <= 460.1
        for a, b, c, d in boxes[index + 1 :]:
            assert right <= a + 0.1 or left >= c - 0.1 or bottom <= b + 0.1 or top >= d - 0.1


def test_devices_outside_the_cell_are_still_on_the_map():
    (device,) = shapes(cell_map(sites([(900.0, 0.0)]), 200.0, 460), "circle", "device")
    assert size(device, "cx") <= 460


# lanes


@pytest.mark.parametrize("width", WIDTHS)
def test_each_owned_subchannel_is_one_bar_in_its_owners_lane_with_the_height_of_its_power(width):
    use = BandUse(owner=(1, 0, -1, 1), power_w=(0.4, 0.2, 0.0, 0.1))
    drawing = subchannel_lanes(use, ["a", "b"], "main", width)
    first, second, third = shapes(drawing, "rect", "fill")
    assert size(first, "height") == pytest.approx(4 * size(third, "height"), rel=0.01)
    assert size(first, "height") == pytest.approx(2 * size(second, "height"), rel=0.01)
    lane_a, lane_b = shapes(drawing, "rect", "stripe")
    for bar, lane in ((first, lane_b), (second, lane_a), (third, lane_b)):
        assert size(lane, "y") <= size(bar, "y") <= size(lane, "y") + size(lane, "height")
    assert size(second, "x") < size(third, "x")
