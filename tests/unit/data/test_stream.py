"""Rows that arrive as a stream: a storage is the first-in-first-out queue that a few lines of Python keep."""

from collections import deque

import numpy as np
import pytest

from wavetune.data.stream import Stream

ROWS = np.array([3, 4, 8, 9, 10, 15, 16, 20])
DOMAINS = ["red" if row < 10 else "blue" for row in range(21)]


@pytest.mark.parametrize("capacity", [1, 3, 8])
def test_a_storage_holds_the_rows_thatarrived_last_in_a_queue(capacity):
    part, queue = Stream(capacity, arrivals=2.5), deque()
    seen = set()
    for index in range(30):
        for place in part.arrived(np.zeros(len(ROWS)), 7, 1, index).tolist():
            if place in queue:
                queue.remove(place)
            queue.append(place)
            if len(queue) > capacity:
                queue.popleft()
        held = part.held(ROWS, DOMAINS, 7, 1, index)
        assert held.tolist() == sorted(ROWS[list(queue)])
        assert len(held) == capacity
        seen.add(tuple(held.tolist()))
    assert (len(seen) > 5) == (capacity < len(ROWS))


def test_a_storage_of_all_rows_that_nothing_comes_to_is_ordinary_data():
    assert Stream(len(ROWS), arrivals=0).held(ROWS, DOMAINS, 0, 0, 5) is ROWS
    assert (
        Stream(3, arrivals=0).held(ROWS, DOMAINS, 0, 0, 5).tolist()
        == Stream(3, 9).held(ROWS, DOMAINS, 0, 0, 0).tolist()
    )


def test_arrivals_are_as_many_as_asked_and_their_domains_turn_over():
    rows = np.arange(200)
    domains, part = ["a"] * 100 + ["b"] * 100, Stream(50, arrivals=20, drift_rounds=8)
    shift_R, came = np.repeat([0.0, 0.5], 100), [[] for _ in range(8)]
    for index in range(1, 401):
        came[index % 8] += part.arrived(shift_R, 3, 0, index).tolist()
    share = [np.mean(np.array(own) < 100) for own in came]
    assert sum(map(len, came)) / 400 == pytest.approx(20, rel=0.05)
    assert share[0] == 1  # of the first domain alone; half a turn later of the other
    assert share[4] == 0
    assert share[2] == pytest.approx(0.5, abs=0.05)
    assert len(part.held(rows, domains, 3, 0, 9)) == 50


def test_clients_and_seeds_have_streams_of_their_own():
    part = Stream(4, arrivals=2)
    held = {tuple(part.held(ROWS, DOMAINS, seed, client, 6).tolist()) for seed in range(3) for client in range(3)}
    assert len(held) > 5
