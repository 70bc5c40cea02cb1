"""Rows that come one by one: taken as they come, but not for ever."""

from itertools import count

import pytest

from wavetune.data import given_rows
from wavetune.data.corpora import load_corpus
from wavetune.data.given_rows import data_name
from wavetune.errors import DataError


def rows(numbers):
    return ({"prompt": f"say {i}", "completion": str(i)} for i in numbers)


def test_rows_of_a_generator_are_taken_to_its_end():
    corpus = load_corpus(data_name(rows(range(50))), hold_out=0.2)
    assert len(corpus.train) + len(corpus.validation) == 50


@pytest.mark.parametrize(("bound", "most"), [("MOST_ROWS", 3000), ("MOST_BYTES", 100_000)])
def test_a_generator_without_an_end_is_left_with_a_sentence(bound, most, monkeypatch):
    monkeypatch.setattr(given_rows, bound, most)
    with pytest.raises(
        DataError, match=r"data, train row \d000: rows that come one by one may have no end.*give a list"
    ):
        data_name(rows(count()))
    assert len(load_corpus(data_name([*rows(range(5000))])).train) > 3000  # a list has an end
