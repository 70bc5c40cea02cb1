import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.measure_ranks import rounds_to


@pytest.mark.parametrize(
    ("curve", "target", "rounds"),
    [
        ([3.0, 2.0, 1.0], 2.0, 1.0),
        ([3.0, 2.0, 1.0], 2.25, 0.75),
        ([3.0, 2.0, 1.0], 1.0, 2.0),
        ([3.0, 2.5, 2.7, 1.0], 2.6, 0.8),  # the first time counts, even if it is lost again
        ([3.0, 3.5, 2.0], 3.0, 1.0),
        ([3.0, 3.5, 2.0], 2.5, 1 + 2 / 3),
        ([2.0, 2.5, 3.0], 2.0, 1.0),  # it never got better: nothing is infinite
        ([3.0, 2.0], 1.0, math.inf),
    ],
)
def test_rounds_to_a_target_are_read_off_the_curve(curve, target, rounds):
    assert rounds_to(curve, target) == pytest.approx(rounds)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=9), st.floats(0.01, 0.99))
def test_a_harder_target_never_takes_fewer_rounds(curve, share):
    target = share * curve[0]
    assert rounds_to(curve, target / 2) >= rounds_to(curve, target) > 0
