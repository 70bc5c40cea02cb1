from __future__ import annotations

import pytest


class CharacterTokenizer:
    """One token a character; the call interface of a Hugging Face tokenizer."""

    eos_token_id: int | None = 1
    chat_template = None

    def __init__(self, bos_token_id: int | None = None, adds_bos: bool = True):
        self.bos_token_id = bos_token_id
        self.adds_bos = adds_bos

    def __call__(self, text, add_special_tokens=True):
        if not isinstance(text, str):
            return {"input_ids": [self(t, add_special_tokens)["input_ids"] for t in text]}
        begin = [self.bos_token_id] if add_special_tokens and self.adds_bos and self.bos_token_id is not None else []
        return {"input_ids": begin + [ord(c) for c in text]}


@pytest.fixture(scope="session")
def tokenizer_class():
    return CharacterTokenizer


@pytest.fixture
def tokenizer():
    return CharacterTokenizer()


@pytest.fixture
def bos_tokenizer():
    return CharacterTokenizer(bos_token_id=2)


class LatinTokenizer:
    """Knows ASCII characters alone, and makes nothing of others."""

    eos_token_id, bos_token_id, chat_template = 0, None, None

    def __call__(self, texts, add_special_tokens=True):
        several = [texts] if isinstance(texts, str) else texts
        ids = [[ord(c) for c in text if c.isascii()] for text in several]
        return {"input_ids": ids[0] if isinstance(texts, str) else ids}


@pytest.fixture
def latin_tokenizer():
    return LatinTokenizer()
