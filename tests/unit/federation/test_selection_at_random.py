"""Clients drawn at random: so many, all alike, and only those that have a plan."""

from types import SimpleNamespace

import numpy as np

from wavetune.federation.selection.at_random import AtRandom
from wavetune.seeds import stream

FIVE = SimpleNamespace(num_clients=5)


def drawn(round_index, count=2, lone_s_K=(1.0,) * 5, fits=5):
    def plan_of(clients):
        return SimpleNamespace(status="ok" if len(clients) <= fits else "infeasible", clients=clients)

    draw = stream(0, "selection", round_index)
    return AtRandom(count).choose(FIVE, np.array(lone_s_K), plan_of, {}, draw)


def test_every_client_is_taken_as_often_as_any_other_and_no_round_takes_more_than_asked():
    rounds = [drawn(t) for t in range(500)]
    assert all(len(clients) == 2 == len(plan.clients) for clients, plan in rounds)
    taken_K = np.bincount([k for clients, _ in rounds for k in clients], minlength=5)
    assert abs(taken_K - 200).max() < 40  # 3.7 standard deviations of a binomial of 500 and 0.4
    assert rounds[3][0] == drawn(3)[0]


def test_who_has_no_plan_alone_is_not_drawn_and_a_set_without_one_shrinks():
    assert {k for t in range(50) for k in drawn(t, 5, (1.0, np.inf, 1.0, 1.0, np.inf))[0]} == {0, 2, 3}
    assert all(len(drawn(t, 4, fits=2)[0]) == 2 for t in range(9))
    assert drawn(0, 3, fits=0) == ([], None)
