from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.reporting.format import bits, count, joules, number, percent, rate, seconds, watts
from wavetune.reporting.svg import Scale, fit, svg, tag, text_width, tick_labels, ticks, tip

ANY = st.floats(allow_nan=False, allow_infinity=False)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_ticks_lie_within_the_axis_and_are_not_too_many(low, span, wanted):
    values = ticks(low, low + span, wanted)
    slack = 1e-6 * max(abs(low), span)
    assert all(low - slack <= value <= low + span + slack for value in values)
    assert len(values) <= wanted + 1
    assert len(set(tick_labels(values))) == len(values)


@given(ANY, ANY, st.integers(1, 12))
def test_an_axis_of_any_two_finite_numbers_has_ticks_within_its_pixels(one, other, wanted):
    low, high = sorted((one, other))
    values = ticks(low, high, wanted)
    assert 1 <= len(values) <= wanted + 3
    assert len(tick_labels(values)) == len(values)
    assert all(-1e-3 <= Scale(low, high, 0.0, 100.0)(value) <= 100.001 for value in (low, high, *values))


@given(ANY)
def test_any_finite_number_has_words(value):
    words = [show(value) for show in (number, count, seconds, joules, rate, bits, percent, watts)]
    assert all(words)
    assert all(len(text) < 420 for text in words)


def test_tick_steps_are_one_two_or_five():
    for high in (1.0, 3.0, 7.0, 23.0, 480.0):
        values = ticks(0, high)
        step = values[1] - values[0]
        assert float(f"{step:e}".split("e")[0]) in (1.0, 2.0, 5.0)


@given(st.text(max_size=60), st.floats(20, 300))
def test_fitted_text_is_never_wider_than_its_room(words, room):
    assert text_width(fit(words, room)) <= room + 1e-9


def test_markup_in_text_and_attributes_is_escaped_and_parses_back():
    hostile = "<script>alert(\"1\")</script> & 'more'"
    drawing = svg(10, 10, hostile, tag("text", tip(hostile), hostile, class_=hostile))
    root = ElementTree.fromstring(drawing)
    assert root.get("aria-label") == hostile
    assert [node.tag for node in root.iter()] == ["svg", "text", "title"]
    assert "".join(root[0].itertext()) == hostile * 2


def test_a_scale_of_one_value_does_not_divide_by_zero():
    assert Scale(3.0, 3.0, 0.0, 10.0)(3.0) == 0.0


def test_absent_attributes_are_left_out():
    assert tag("rect", x=None, y=1.0) == '<rect y="1"></rect>'


@pytest.mark.parametrize(
    ("values", "labels"), [([0.0, 1e-7], ["0", "1e−7"]), ([0.0, 5e7], ["0", "5e7"]), ([2.5], ["2.5"])]
)
def test_extreme_ticks_stay_short(values, labels):
    assert tick_labels(values) == labels
