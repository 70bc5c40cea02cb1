"""Which rows of train are held out for validation where a corpus has no part for it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from wavetune.data.examples import Corpus
from wavetune.errors import DataError
from wavetune.seeds import stream

HOLD_OUT = 0.1  # share of the distinct prompts

Group = tuple[str, ...]
Row = TypeVar("Row")


def with_validation(corpus: Corpus, seed: int, fraction: float = HOLD_OUT) -> Corpus:
    """The corpus itself if it has a validation part, else with a share of its distinct prompts held out of train.

    All rows of a prompt stay on one side, so that no validation prompt was seen in training. Where there is no prompt,
    or one that more than a third of the rows have, equal rows stay on one side. With a share of 0 nothing is held out,
    and training rows are validated on.

    Raises: DataError if there is nothing to hold out.
    """
    if corpus.validation:
        known = {(e.prompt, e.second, e.answer) for e in corpus.train}
        seen = sum((e.prompt, e.second, e.answer) in known for e in corpus.validation)
        note = f"{seen:,} of {len(corpus.validation):,} validation rows stand in train, too: their loss is of rows seen"
        return replace(corpus, notes=(*corpus.notes, note)) if seen else corpus
    if not fraction:
        note = "no validation part and none held out: validation losses are of training rows"
        return replace(corpus, validation=corpus.train, notes=(*corpus.notes, note))
    groups = kept_together((e.prompt, (e.prompt, e.second, e.answer)) for e in corpus.train)
    train, validation, shares = held_out(corpus.train, groups, fraction, seed, "validation hold-out")
    if not validation:
        raise DataError(
            f"{corpus.name}: there is nothing to validate on: train has {len(corpus.train)} "
            f"row{'s, all the same' if len(corpus.train) > 1 else ''}; give a validation part, or set "
            "world.data.validation_fraction=0 to train on all"
        )
    what = "prompts" if all(len(group) == 1 for group in groups) else "distinct prompts or rows"
    note = f"no validation part: {len(validation)} rows ({shares} {what}) of train held out, seed {seed}"
    return replace(corpus, train=train, validation=validation, notes=(*corpus.notes, note), held_out=True)


def kept_together(rows: Iterable[tuple[str, Group]]) -> list[Group]:
    """What each row shares with those that stay on its side: how it opens, or, where too little is said by that, all.

    Too little is an opening of white space, or one that more than a third of the rows have: an instruction common to
    all rather than a question of its own.

    Args:
        rows: how each opens, and all that it says.
    """
    listed = list(rows)
    counts = Counter(opening for opening, _ in listed)
    limit = max(1.0, len(listed) / 3)
    return [(opening,) if opening.strip() and counts[opening] <= limit else whole for opening, whole in listed]


def held_out(
    rows: Sequence[Row], groups: Sequence[Group], fraction: float, seed: int, purpose: str
) -> tuple[tuple[Row, ...], tuple[Row, ...], str]:
    """The rows that stay in train, those held out, and how many groups these are, in words.

    Held out is a share of the distinct groups, at least one and never all; none if there is only one.
    """
    distinct = sorted({*groups})
    count = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    held = {distinct[i] for i in stream(seed, purpose).permutation(len(distinct))[:count]}
    pairs = list(zip(rows, groups, strict=True))
    train, validation = (tuple(row for row, group in pairs if (group in held) is side) for side in (False, True))
    return train, validation, f"{len(held)} of {len(distinct)}"
