import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.reporting import format as fmt

PREFIX = {"p": 1e-12, "n": 1e-9, "µ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
SIZE = {"d": 86400, "h": 3600, "min": 60, "s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}
positive = st.floats(1e-9, 1e15)


@given(positive)
def test_an_si_amount_is_right_to_three_digits_and_has_one_to_three_before_the_point(value):
    mantissa, unit = fmt.si(value, "J").split(" ")
    assert float(mantissa) * PREFIX[unit.removesuffix("J")] == pytest.approx(value, rel=0.00501)
    assert 1 <= float(mantissa) < 1000


@given(st.floats(1e-6, 1e8))
def test_a_duration_is_right_to_its_last_unit(value):
    words = fmt.seconds(value).split(" ")
    total = sum(float(amount) * SIZE[unit] for amount, unit in zip(words[::2], words[1::2], strict=True))
    resolution = 30.0 if value >= 3599 else 0.5 if value >= 59.95 else value * 0.0051
    assert abs(total - value) <= resolution + 1e-9


@pytest.mark.parametrize(
    "show", [fmt.number, fmt.bits, fmt.rate, fmt.joules, fmt.watts, fmt.seconds, fmt.percent, fmt.count, fmt.byte_size]
)
def test_what_is_unknown_shows_as_a_dash(show):
    assert show(math.nan) == fmt.DASH


@given(st.floats(-1e300, 1e300) | st.sampled_from([math.inf, -math.inf]))
def test_no_number_reads_as_a_word(value):
    for show in (fmt.number, fmt.bits, fmt.joules, fmt.watts, fmt.seconds, fmt.percent, fmt.count):
        assert "nan" not in show(value)
        assert "inf" not in show(value)


def test_watts_come_with_dbm():
    assert fmt.watts(1.5) == "1.50 W (31.8 dBm)"
    assert fmt.watts(0.0) == "0 W"


def test_few_bits_are_whole():
    assert fmt.bits(0) == "0 bit"
    assert fmt.bits(999) == "999 bit"
    assert fmt.bits(1000) == "1.00 kbit"


@given(positive)
def test_the_largest_value_of_an_axis_has_few_digits(largest):
    for unit in ("s", "J", "bit"):
        divisor, chosen = fmt.axis_unit(unit, largest)
        assert chosen.endswith(("s", "min", "h", "d", unit))
        assert largest < 1e-6 or largest > 1e7 or 0.001 <= largest / divisor <= 2000
