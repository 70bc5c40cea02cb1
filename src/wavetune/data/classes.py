"""Classification: examples whose answer is the name of a class, as token ids with a class each.

Legend: R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from wavetune.data.examples import Corpus, Example
from wavetune.data.templates import ClassTemplate, TokenSet, encode
from wavetune.errors import ConfigError, DataError


def class_names(corpus: Corpus) -> tuple[str, ...]:
    """Names of the classes of train, numbers by value and texts by name; a class is its place here.

    Raises: DataError if there are fewer than two.
    """
    names = sorted({example.answer for example in corpus.train}, key=lambda name: (_number(name), name))
    if len(names) < 2:
        raise DataError(f"{corpus.name}: every row of train has the label {names[0]!r}; a classifier needs two classes")
    return tuple(names)


def tokenise_classes(
    examples: Sequence[Example], tokenizer: Any, template: ClassTemplate, max_tokens: int, classes: Sequence[str]
) -> TokenSet:
    """Tokenised rows with their classes: [CLS] text [SEP], or what the tokenizer puts there; at least EOS at the end.

    A text that is too long loses its end. Examples with an empty text are dropped. Both are counted.

    Args:
        examples: what to tokenise; the answer is the class's name.
        tokenizer: called as `tokenizer(texts, add_special_tokens=False)["input_ids"]`.
        template: by what clients are told apart.
        max_tokens: longest row, at least 4 tokens.
        classes: of train, by `class_names`.
    Raises: ConfigError if max_tokens < 4; DataError if no row is left, or an example's class is none of `classes`.
    """
    if max_tokens < 4:
        raise ConfigError(f"max_tokens is {max_tokens}; a row needs at least 4 tokens")
    number = {name: i for i, name in enumerate(classes)}
    unseen = sorted({example.answer for example in examples} - set(number))
    if unseen:
        raise DataError(
            f"label {unseen[0]!r} does not occur in train, whose classes are {', '.join(classes)}; correct the label,"
            " or train on rows of it too"
        )
    kept = [i for i, example in enumerate(examples) if example.prompt.strip()]
    if not kept:
        raise DataError(f"none of the {len(examples)} examples has a text; there is nothing to classify")
    chosen = [examples[i] for i in kept]
    before, after = frame(tokenizer)
    room = max_tokens - len(before) - len(after)
    texts = encode(tokenizer, [example.prompt for example in chosen])
    return class_rows(
        [before + ids[:room] + after for ids in texts],
        [number[example.answer] for example in chosen],
        [example.answer if template.partition_by == "label" else example.domain for example in chosen],
        kept,
        dropped=len(examples) - len(kept),
        truncated_prompts=sum(len(ids) > room for ids in texts),
    )


def class_rows(
    rows: Sequence[Sequence[int]], classes: Sequence[int], domains: Sequence[str], index: Sequence[int], **counts: int
) -> TokenSet:
    """Token set of rows of which all tokens go through the model, with a class each."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return TokenSet(
        ids=np.fromiter(chain.from_iterable(rows), np.int32, count=int(offsets[-1])),
        offsets=offsets,
        label_start=np.diff(offsets) - 1,
        domains=tuple(domains),
        example_index=np.array(index, np.int64),
        classes=np.array(classes, np.int64),
        **counts,
    )


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens before and after a whole text: the tokenizer's own, and at the end at least EOS, if there is one.

    A causal model reads a text's class off its last token, which so is always the same.
    """
    inner, whole = tokenizer("a", add_special_tokens=False)["input_ids"], list(tokenizer("a")["input_ids"])
    start = next((i for i in range(len(whole)) if whole[i : i + len(inner)] == list(inner)), 0)
    after, eos = whole[start + len(inner) :], getattr(tokenizer, "eos_token_id", None)
    return whole[:start], after or ([] if eos is None else [int(eos)])


def _number(name: str) -> float:
    return float(name) if name.lstrip("-").isdigit() else float("inf")
