import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.federation.links import Outage, Reliable


def test_a_reliable_link_loses_nothing_at_any_rate():
    assert Reliable().sent([0.0, 1e6]) == [True, True]
    assert Reliable().arrives(0, 0, 0)


def test_a_client_below_the_minimum_rate_does_not_send():
    assert Outage(min_rate_bit_per_s=1e6).sent([0.0, 9e5, 1e6, 2e6]) == [False, False, True, True]
    assert Outage().sent([0.0, 1.0]) == [False, True]


@given(seed=st.integers(0, 99), client=st.integers(0, 99))
def test_without_a_loss_probability_what_is_sent_arrives(seed, client):
    assert Outage().arrives(seed, 3, client)


def test_uploads_are_lost_as_often_as_stated_and_each_by_its_own_draw():
    link = Outage(loss_probability=0.3)
    draws = [[link.arrives(0, r, k) for k in range(40)] for r in range(50)]
    assert sum(map(sum, draws)) / 2000 == pytest.approx(0.7, abs=0.04)
    assert draws[7][3] == link.arrives(0, 7, 3)
    assert len({tuple(row) for row in draws}) == 50
