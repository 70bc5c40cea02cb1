from __future__ import annotations

import pytest

from wavetune.data.examples import Corpus, Example
from wavetune.data.hold_out import with_validation
from wavetune.errors import DataError


def held(examples, **options):
    corpus = with_validation(Corpus("mine", tuple(examples), ()), 0, **options)
    assert sorted(map(str, corpus.train + corpus.validation)) == sorted(map(str, examples))
    return corpus


def test_rows_without_prompt_are_held_out_one_by_one_and_copies_stay_together():
    examples = [Example(f"p{i}" if i % 2 else "", f"text {i // 4}") for i in range(40)]
    corpus = held(examples)
    assert 3 <= len(corpus.validation) <= 6
    prompts, texts = ({key(e) for e in corpus.train} for key in (lambda e: e.prompt, lambda e: (e.prompt, e.answer)))
    assert not {e.prompt for e in corpus.validation if e.prompt} & prompts
    assert not {(e.prompt, e.answer) for e in corpus.validation} & texts
    assert "distinct prompts or rows) of train held out" in corpus.notes[-1]


def test_answers_to_one_prompt_are_held_out():
    corpus = held([Example("Tell me a joke", f"joke {i}") for i in range(40)])
    assert len(corpus.validation) == 4


def test_pairs_of_texts_with_one_first_text_are_told_apart_by_the_second():
    corpus = held([Example("premise", "yes", second=f"hypothesis {i}") for i in range(20)])
    assert len(corpus.validation) == 2


def test_rows_of_a_given_validation_part_that_stand_in_train_are_told():
    rows = tuple(Example(f"q{i}", "a") for i in range(4))
    corpus = with_validation(Corpus("mine", rows, (*rows[1:3], Example("q1", "b"))), 0)
    assert corpus.notes == ("2 of 3 validation rows stand in train, too: their loss is of rows seen",)
    assert with_validation(Corpus("mine", rows[:2], rows[2:]), 0).notes == ()


def test_two_rows_are_one_for_either_part():
    corpus = held([Example("a", "x"), Example("b", "x")])
    assert (len(corpus.train), len(corpus.validation)) == (1, 1)


def test_the_share_that_is_held_out_can_be_asked_for():
    examples = [Example(f"p{i}", "a") for i in range(40)]
    assert len(held(examples, fraction=0.5).validation) == 20
    corpus = with_validation(Corpus("mine", tuple(examples), ()), 0, fraction=0)
    assert corpus.train == corpus.validation == tuple(examples)
    assert corpus.notes == ("no validation part and none held out: validation losses are of training rows",)


@pytest.mark.parametrize(("count", "words"), [(1, "train has 1 row;"), (3, "train has 3 rows, all the same;")])
def test_a_corpus_of_one_row_says_what_to_do(count, words):
    with pytest.raises(DataError, match=f"mine: there is nothing to validate on: {words} .*validation_fraction=0"):
        held([Example("a", "x")] * count)
