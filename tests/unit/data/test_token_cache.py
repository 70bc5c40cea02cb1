"""Tokenised rows are found again by their content, shared, bounded, and never taken for others."""

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.training import folder_of
from wavetune.data import pieces, token_cache
from wavetune.data.examples import Example, Turn
from wavetune.data.settings import DataSettings, tokenise_part
from wavetune.data.templates import InstructionTemplate, PlainTemplate, tokenise
from wavetune.models.backbone import load_tokenizer

EXAMPLES = tuple(Example(f"Say {i}", f"{i} and {2 * i}", domain=f"d{i % 3}") for i in range(30))
DIALOGUE = Example("", "", turns=(Turn("user", "A"), Turn("assistant", "B"), Turn("user", "C")),
                   reply=Turn("assistant", "D"))  # fmt: skip
SETTINGS = DataSettings(template=PlainTemplate("\n"))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(folder_of("tiny"))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """What is tokenised anew, with a cache of its own."""
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(token_cache, "LEAST_ROWS", 1)
    monkeypatch.setattr("wavetune.data.settings.recalled_tokens", token_cache.recalled_tokens)  # not what tests recall
    calls = []

    def counting(examples, *rest):
        calls.append(len(examples))
        return tokenise(examples, *rest)

    monkeypatch.setattr("wavetune.data.settings.tokenise", counting)
    return calls


def same(found, wanted):
    for name, value in vars(wanted).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(found, name), value)
        else:
            assert getattr(found, name) == value, name


@pytest.mark.parametrize("examples", [EXAMPLES, (*EXAMPLES, DIALOGUE, Example("nothing", ""))])
def test_rows_are_tokenised_once_and_found_again_as_they_were(made, tokenizer, examples):
    first = tokenise_part(examples, tokenizer, SETTINGS, ())
    again = tokenise_part(examples, tokenizer, SETTINGS, ())
    assert made == [len(examples)]
    same(again, first)
    assert not again.ids.flags.writeable  # it is the file


def test_other_rows_templates_lengths_and_tokenizers_are_not_taken_for_them(made, tokenizer):
    tokenise_part(EXAMPLES, tokenizer, SETTINGS, ())
    tokenise_part((replace(EXAMPLES[0], answer="other"), *EXAMPLES[1:]), tokenizer, SETTINGS, ())
    tokenise_part(EXAMPLES, tokenizer, replace(SETTINGS, template=InstructionTemplate()), ())
    tokenise_part(EXAMPLES, tokenizer, replace(SETTINGS, max_tokens=9), ())
    other = load_tokenizer(folder_of("tiny"))
    other.add_tokens(["and"])
    tokenise_part(EXAMPLES, other, SETTINGS, ())
    assert len(made) == 5


def test_what_is_damaged_is_made_again(made, tokenizer, tmp_path):
    first = tokenise_part(EXAMPLES, tokenizer, SETTINGS, ())
    (folder,) = (path for path in (tmp_path / "tokens").iterdir() if path.is_dir())
    for name, content in (("ids.npy", b"no array"), ("counts.json", b"[]"), ("offsets.npy", b"")):
        (folder / name).write_bytes(content)
        same(tokenise_part(EXAMPLES, tokenizer, SETTINGS, ()), first)
        tokenise_part(EXAMPLES, tokenizer, SETTINGS, ())
    assert len(made) == 7


def test_what_was_used_longest_ago_goes_when_the_cache_is_full(made, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "LIMIT_BYTES", 1)
    for stop in (10, 20):
        tokenise_part(EXAMPLES[:stop], tokenizer, SETTINGS, ())
    (kept,) = (path for path in (tmp_path / "tokens").iterdir() if path.is_dir())
    assert len(np.load(kept / "label_start.npy")) == 20


def test_a_cache_that_cannot_be_written_is_done_without(made, tokenizer, tmp_path):
    (tmp_path / "tokens").write_text("in the way")
    assert len(tokenise_part(EXAMPLES, tokenizer, SETTINGS, ())) == 30


def test_texts_are_tokenised_in_parts_as_in_one(tokenizer, monkeypatch):
    texts = [f"text {i % 7}" for i in range(20)] + [""]
    whole = list(pieces.encode(tokenizer, texts))
    monkeypatch.setattr(pieces, "_AT_ONCE", 3)
    assert list(pieces.encode(tokenizer, texts)) == whole
    assert whole == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert json.dumps(whole[0])  # plain integers
