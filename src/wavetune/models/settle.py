"""Tokenizers whose tokens of a text are the same every time."""

from typing import Any


def settle(tokenizer: Any) -> None:
    """Leave out what a tokenizer of the library `tokenizers` draws at random: the dropout of byte-pair merges."""
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
