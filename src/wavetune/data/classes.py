"""Classification: examples whose answer is the name of a class, as token ids with a class each.

Legend: R rows.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from wavetune.data.examples import Corpus, Example
from wavetune.data.pieces import encode
from wavetune.data.templates import Template, TokenSet
from wavetune.errors import ConfigError, DataError


def class_names(corpus: Corpus) -> tuple[str, ...]:
    """Names of the classes of train, numbers by value and texts by name; a class is its place here.

    Raises: DataError if there are fewer than two, or a row is text alone.
    """
    unlabelled = sum(example.verbatim and not example.prompt for example in corpus.train)
    if unlabelled:
        raise DataError(
            f"{corpus.name}: {unlabelled} of {len(corpus.train)} training rows are text without a label; the template "
            "'class' needs {text, label}"
        )
    names = sorted({example.answer for example in corpus.train}, key=lambda name: (_number(name), name))
    if len(names) < 2:
        raise DataError(f"{corpus.name}: every row of train has the label {names[0]!r}; a classifier needs two classes")
    return tuple(names)


def with_known_classes(corpus: Corpus) -> Corpus:
    """The corpus with those rows back in train that were held out of it and have a class that no other row has.

    Raises: DataError if then nothing is held out.
    """
    known = {example.answer for example in corpus.train}
    back = tuple(example for example in corpus.validation if example.answer not in known)
    if not corpus.held_out or not back:
        return corpus
    if len(back) == len(corpus.validation):
        raise DataError(
            f"{corpus.name}: there is nothing to validate on: {len(known) + len(back)} labels in "
            f"{len(corpus.train) + len(back)} rows, of which those to hold out are the only ones of theirs; give rows "
            "{text, label} with fewer classes, a validation part, or world.data.validation_fraction=0 to train on all"
        )
    validation = tuple(example for example in corpus.validation if example.answer in known)
    note = f"{len(back)} of the rows held out are the only ones of their labels and are trained on"
    return replace(corpus, train=corpus.train + back, validation=validation, notes=(*corpus.notes, note))


def of_drawn_classes(
    validation: tuple[Example, ...], train: Sequence[Example]
) -> tuple[tuple[Example, ...], list[str]]:
    """The validation rows of classes that the drawn training rows have (all, if none is), and what is to be told."""
    known = {example.answer for example in train}
    left = tuple(example for example in validation if example.answer in known) or validation
    lost = len(validation) - len(left)
    return left, [f"{lost} validation rows of labels that no drawn training row has left out"] if lost else []


def look_alikes(classes: Sequence[str]) -> tuple[str, ...]:
    """Sentences if names of classes differ in case alone, or one of several may say that rows have no label.

    >>> look_alikes(["-1", "neg", "pos"])
    ("label '-1' is a class; where it marks rows without a label, as in SNLI, leave them out",)
    """
    first: dict[str, str] = {}
    pairs = [(first[name.casefold()], name) for name in classes if first.setdefault(name.casefold(), name) != name]
    told = [f"labels {pairs[0][0]!r} and {pairs[0][1]!r} differ in case alone and are two classes"] if pairs else []
    if len(classes) > 2 and [name for name in classes if name.startswith("-")] == ["-1"]:
        told.append("label '-1' is a class; where it marks rows without a label, as in SNLI, leave them out")
    return tuple(told)


def tokenise_classes(
    examples: Sequence[Example], tokenizer: Any, template: Template, max_tokens: int, classes: Sequence[str]
) -> TokenSet:
    """Tokenised rows with their classes: [CLS] text [SEP], or what the tokenizer puts there; at least EOS at the end.

    Of a pair, both texts with what the tokenizer puts behind one between them, or a line break: [CLS] one [SEP] other
    [SEP]. A text that is too long loses its end, of a pair the longer one first. Examples with an empty text are
    dropped. Both are counted.

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
        more = f" and {len(classes) - 12} more" if len(classes) > 12 else ""
        raise DataError(
            f"label {_short(unseen[0])!r} does not occur in train, whose classes are "
            f"{', '.join(map(_short, classes[:12]))}{more}; correct the label, or train on rows of it too"
        )
    kept = [i for i, example in enumerate(examples) if example.prompt.strip()]
    if not kept:
        raise DataError(f"none of the {len(examples)} examples has a text; there is nothing to classify")
    chosen = [examples[i] for i in kept]
    before, after = frame(tokenizer)
    room = max_tokens - len(before) - len(after)
    texts = whole_texts(chosen, tokenizer, room)
    said = [i for i, (ids, _) in enumerate(texts) if ids]  # of a pair at least what stands between
    if not said:
        raise DataError(
            f"the tokenizer makes no tokens of any of the {len(kept)} texts; give data in a language that it knows"
        )
    kept, chosen, texts = [kept[i] for i in said], [chosen[i] for i in said], [texts[i] for i in said]
    return class_rows(
        [before + ids + after for ids, _ in texts],
        [number[example.answer] for example in chosen],
        [example.answer if template.clients_differ_by_label else example.domain for example in chosen],
        kept,
        dropped=len(examples) - len(kept),
        truncated_prompts=sum(cut for _, cut in texts),
    )


def whole_texts(examples: Sequence[Example], tokenizer: Any, room: int) -> list[tuple[list[int], bool]]:
    """Token ids of each text, or of both texts of a pair, cut to `room` tokens, and whether they were cut."""
    firsts = encode(tokenizer, [example.prompt for example in examples])
    if not any(example.second for example in examples):
        return [(ids[:room], len(ids) > room) for ids in firsts]
    between = own_frame(tokenizer)[1] or encode(tokenizer, ["\n"])[0]
    seconds = encode(tokenizer, [example.second for example in examples])
    room -= len(between)
    both: list[tuple[list[int], bool]] = []
    for first, second in zip(firsts, seconds, strict=True):
        kept = min(len(first), max(room - len(second), (room + 1) // 2))
        ids = first[:kept] + between + second[: room - kept]
        both.append((ids, len(ids) < len(first) + len(between) + len(second)))
    return both


def class_rows(
    rows: Sequence[Sequence[int]],
    classes: Sequence[int],
    domains: Sequence[str],
    index: Sequence[int],
    dropped: int = 0,
    truncated_prompts: int = 0,
    truncated_answers: int = 0,
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
        dropped=dropped,
        truncated_prompts=truncated_prompts,
        truncated_answers=truncated_answers,
    )


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens before and after a whole text: the tokenizer's own, and at the end at least EOS, if there is one.

    A causal model reads a text's class off its last token, which so is always the same.
    """
    (before, after), eos = own_frame(tokenizer), getattr(tokenizer, "eos_token_id", None)
    return before, after or ([] if eos is None else [int(eos)])


def own_frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens that the tokenizer itself puts before and after a text."""
    inner, whole = tokenizer("a", add_special_tokens=False)["input_ids"], list(tokenizer("a")["input_ids"])
    start = next((i for i in range(len(whole)) if whole[i : i + len(inner)] == list(inner)), 0)
    return whole[:start], whole[start + len(inner) :]


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:37] + "..."


def _number(name: str) -> float:
    return float(name) if re.fullmatch(r"-?\d+", name) else float("inf")
