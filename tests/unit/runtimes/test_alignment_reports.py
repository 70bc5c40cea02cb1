"""A device's report on a step of its alignment: what is believed, and what would spoil the servers' records."""

from types import SimpleNamespace

import pytest

from wavetune.data_plane.messages_pb2 import Align, Aligned
from wavetune.runtimes.alignment.report import wrong_in

TASK = SimpleNamespace(own=(), asked_foreign=(), settings=SimpleNamespace(learning=SimpleNamespace(max_new_tokens=64)))


def wrong(**metrics):
    return wrong_in(TASK, 1, Aligned(steps=3, metrics=metrics), Align(steps=3))


def test_what_an_objective_tells_of_a_step_is_taken():
    assert wrong(reward=-1.5, kl=0.2, answer_tokens=64.0, my_own_measure=7.0) == ""


@pytest.mark.parametrize(
    "metrics",
    [
        {"step": 1.0},
        {"charged": 0.0},
        {"wall_s": 0.0},
        {"\x1b[2J": 1.0},
        {"x" * 41: 1.0},
        {"": 1.0},
        {"kl\n": 1.0},
        {f"m_{chr(97 + i % 26)}{chr(97 + i // 26)}": 1.0 for i in range(41)},
    ],
    ids=["step", "charged", "wall_s", "escape", "long", "empty", "line", "many"],
)
def test_names_that_would_take_a_records_place_or_fill_it_are_refused(metrics):
    assert wrong(**metrics).startswith(f"client 1 reported {len(metrics)} metrics of a step")


@pytest.mark.parametrize("tokens", [-1.0, 65.0, 1e9])
def test_answers_longer_than_any_can_be_are_refused(tokens):
    assert wrong(answer_tokens=tokens) == f"client 1 reported answers of {tokens:.6g} tokens"
