"""Which rows of train are held out for validation where a corpus has no part for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from wavetune.data.examples import Corpus, Example
from wavetune.errors import DataError
from wavetune.seeds import stream

HOLD_OUT = 0.1  # share of the distinct prompts

Group = tuple[str, ...]


def with_validation(corpus: Corpus, seed: int, fraction: float = HOLD_OUT) -> Corpus:
    """The corpus itself if it has a validation part, else with a share of its distinct prompts held out of train.

    All rows of a prompt stay on one side, so that no validation prompt was seen in training. Where there is no prompt,
    or one that more than a third of the rows have, equal rows stay on one side. With a share of 0 nothing is held out,
    and training rows are validated on.

    Raises: DataError if there is nothing to hold out.
    """
    if corpus.validation:
        return corpus
    if not fraction:
        note = "no validation part and none held out: validation losses are of training rows"
        return replace(corpus, validation=corpus.train, notes=(*corpus.notes, note))
    groups = groups_of(corpus.train)
    held = held_out(groups, fraction, seed, "validation hold-out")
    if not held:
        raise DataError(
            f"{corpus.name}: there is nothing to validate on: train has {len(corpus.train)} "
            f"row{'s, all the same' if len(corpus.train) > 1 else ''}; give a validation part, or set "
            "world.data.validation_fraction=0 to train on all"
        )
    pairs = list(zip(corpus.train, groups, strict=True))
    train, validation = (tuple(e for e, group in pairs if (group in held) is side) for side in (False, True))
    what = "prompts" if all(len(group) == 1 for group in groups) else "distinct prompts or rows"
    note = (
        f"no validation part: {len(validation)} rows ({len(held)} of {len({*groups})} {what}) of train held out, "
        f"seed {seed}"
    )
    return replace(corpus, train=train, validation=validation, notes=(*corpus.notes, note))


def most_common(num_rows: int) -> float:
    """How many rows a prompt may have before it is an instruction common to all rather than a question of its own."""
    return max(1.0, num_rows / 3)


def groups_of(examples: Sequence[Example]) -> list[Group]:
    """What the rows that must stay together have in common: a prompt, or all where the prompt says too little."""
    rows = Counter(example.prompt for example in examples)
    limit = most_common(len(examples))
    return [
        (e.prompt,) if e.prompt.strip() and rows[e.prompt] <= limit else (e.prompt, e.second, e.answer)
        for e in examples
    ]


def held_out(groups: Sequence[Group], fraction: float, seed: int, purpose: str) -> set[Group]:
    """A share of the distinct groups, at least one and never all; none if there is only one."""
    distinct = sorted({*groups})
    count = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    return {distinct[i] for i in stream(seed, purpose).permutation(len(distinct))[:count]}
