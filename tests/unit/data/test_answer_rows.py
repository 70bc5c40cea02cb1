from __future__ import annotations

import pytest

from wavetune.data.answer_rows import answer_rows, tokenise_pairs
from wavetune.data.examples import PreferencePair
from wavetune.errors import ConfigError


class PairTokenizer:
    """One token a character, with BERT's marks around and between two texts."""

    eos_token_id, sep_token_id = None, 102

    def __call__(self, text, add_special_tokens=True):
        if not isinstance(text, str):
            return {"input_ids": [self(t, add_special_tokens)["input_ids"] for t in text]}
        ids = [ord(c) for c in text]
        return {"input_ids": [101, *ids, 102] if add_special_tokens else ids}


def test_prompt_and_answer_are_framed_and_separated(tokenizer):
    assert answer_rows(["ab"], ["c"], PairTokenizer(), 20)[0] == [[101, 97, 98, 102, 99, 102]]
    assert answer_rows(["ab"], ["c"], tokenizer, 20)[0] == [[97, 98, ord("\n"), 99, 1]]


def test_a_long_row_loses_the_beginning_of_its_prompt_and_then_the_end_of_its_answer(tokenizer):
    rows, prompts, answers = answer_rows(["abcdefgh", "abc", "a"], ["xy", "rstuvwxyz", "z"], tokenizer, 8)
    assert ["".join(map(chr, row[:-1])) for row in rows] == ["efgh\nxy", "\nrstuvw", "a\nz"]
    assert {len(row) for row in rows[:2]} == {8}
    assert (prompts, answers) == (2, 1)


def test_pairs_become_two_rows_the_chosen_first(tokenizer):
    pairs = [PreferencePair("p", "good", "bad", "s", "d"), PreferencePair("q", "yes", "no")]
    tokens = tokenise_pairs(pairs, tokenizer, 20)
    assert ["".join(map(chr, tokens.row(i)[:-1])) for i in range(4)] == ["p\ngood", "p\nbad", "q\nyes", "q\nno"]
    assert tokens.classes is not None
    assert tokens.classes.tolist() == [1, 0, 1, 0]
    assert tokens.example_index.tolist() == [0, 0, 1, 1]
    assert tokens.domains == ("d", "d", "all", "all")
    assert tokens.lengths.tolist() == [7, 6, 6, 5]


def test_too_few_tokens_are_refused(tokenizer):
    with pytest.raises(ConfigError, match="max_tokens is 7"):
        answer_rows(["a"], ["b"], tokenizer, 7)
