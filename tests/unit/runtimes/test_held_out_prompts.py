from types import SimpleNamespace

import pytest

from wavetune.data.examples import Example
from wavetune.errors import DataError
from wavetune.runtimes.alignment import task


def examples(*numbers: int) -> list[Example]:
    return [Example(f"prompt {i}", "", f"domain {i % 2}") for i in numbers]


def data_of(train: list[Example], validation: list[Example]) -> SimpleNamespace:
    """Two clients of a domain each; the first has even prompts, the second odd ones."""
    return SimpleNamespace(
        corpus=SimpleNamespace(train=train, validation=validation),
        rows_by_client=[[0, 2], [1, 3]],
        domains_of=lambda client: {f"domain {client}": 2},
    )


def test_nobody_is_judged_on_a_prompt_that_any_client_trains_on():
    """A validation prompt of a client's own domain may be another client's training prompt."""
    train = [*examples(0, 1, 2, 3), Example("prompt 6", "", "domain 1"), Example("prompt 7", "", "domain 0")]
    data = data_of(train, examples(0, 1, 4, 5, 6, 7, 8, 9, 8))
    for seed in range(5):
        held_out = [sorted(e.prompt for e in own) for own in task.held_out(data, 9, seed)]
        assert held_out == [["prompt 4", "prompt 8"], ["prompt 5", "prompt 9"]]


def test_where_all_prompts_are_trained_on_nothing_is_left_to_judge_by():
    with pytest.raises(DataError, match="also trained on"):
        task.held_out(data_of(examples(0, 1, 2, 3), examples(0, 1, 2)), 2, 0)
