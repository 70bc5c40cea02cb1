"""Preference pairs: a prompt with a chosen and a rejected answer, from the embedded generator, a folder or a file.

A folder may hold several kinds of preference, `helpful-train.jsonl.gz` beside `harmless-train.jsonl.gz`; a name such as
`harmless-pku-train.jsonl.gz` is one more file of kind `harmless`. Files named just `train` and `test` serve any kind.
What a row must hold is described in `preference_rows.py`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wavetune.data.examples import Corpus, Example, PreferenceCorpus, PreferenceKind, PreferencePair, Turn
from wavetune.data.given_rows import opened
from wavetune.data.hold_out import HOLD_OUT, held_out, kept_together
from wavetune.data.preference_rows import dialogue, pair_of, used
from wavetune.data.rated import unfolded
from wavetune.data.row_files import is_saved, read_rows, saved_splits, table_rows
from wavetune.data.rows import Row, renamed
from wavetune.data.splits import SPLITS, data_files, found, has_word, require_once, split_names, splits_of, stem
from wavetune.errors import ConfigError, DataError, nearest

KINDS: tuple[PreferenceKind, ...] = ("helpful", "harmless")
VERDICT = {"helpful": "better_response_id", "harmless": "safer_response_id"}  # where a row has one for each kind


def load_preferences(
    source: str | Path,
    kind: PreferenceKind,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    hold_out: float = HOLD_OUT,
) -> PreferenceCorpus:
    """Pairs of one kind from a source: `concierge`, or the path of a folder or of one file.

    Where there is no validation part, a tenth of the first human turns of train is held out with all their pairs.

    Args:
        source: the embedded generator's name, or a path.
        kind: which files of the folder are read, or which pairs the generator writes.
        seed: of the generator or of the hold-out.
        columns: of the files, by the field that each holds; by default those that are known by name.
        hold_out: share that is held out.
    Raises: ConfigError if there is no such kind; DataError if the source is missing or malformed.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no preference kind {kind!r}; {nearest(kind, KINDS)}")
    if source == "concierge":
        from wavetune.data.concierge import concierge_preferences  # no other source needs its grammar

        return concierge_preferences(kind, seed=seed)
    path = opened(str(source))
    if not path.exists():
        raise DataError(f"preference source {str(source)!r} is neither 'concierge' nor an existing folder or file")
    reading = Reading(columns or {}, VERDICT[kind])
    if path.is_dir() and is_saved(path):
        tables = saved_splits(path)
        names = split_names(list(tables), str(path))
        parts = {part: reading.pairs(table_rows(tables[name], f"{path} {name}")) for part, name in names.items()}
    else:
        files = preference_files(path, kind) if path.is_dir() else {"train": [path]}
        parts = {
            part: tuple(p for file in names for p in reading.pairs(read_rows(file))) for part, names in files.items()
        }
        if path.is_dir():
            reading.notes.append("read " + ", ".join(file.name for names in files.values() for file in names))
    if not parts["train"]:
        raise DataError(f"{path}: no rows of which one answer is preferred" + reading.unusable(": "))
    corpus = PreferenceCorpus(
        path.name, kind, parts["train"], parts.get("validation", ()), parts.get("test", ()), reading.told()
    )
    return with_held_out_turns(corpus, seed, hold_out)


def preference_files(folder: Path, kind: str) -> dict[str, list[Path]]:
    """Files of each split: those whose names start with the kind, or, where there is no such train file, plain ones.

    Raises: DataError if there is no train file, or it is not clear which it is.
    """
    files = data_files(folder)
    own = [file for file in files if re.match(rf"{kind}[-_.]", stem(file))]
    by_split = {split: [file for file in own if has_word(stem(file), words)] for split, words in SPLITS.items()}
    if by_split["train"]:
        for split, chosen in by_split.items():
            require_once(folder, split, chosen)
        return by_split
    plain = [file for file in files if not re.match(rf"({'|'.join(KINDS)})[-_.]", stem(file))]
    if not plain:
        raise DataError(f"{folder}: looked for {kind}-train or train (.jsonl, .csv, .parquet, ...), {found(folder)}")
    splits = splits_of(folder, plain)
    return {split: list(getattr(splits, split)) for split in SPLITS}


@dataclass
class Reading:
    """Makes pairs of rows and remembers what was left out."""

    columns: Mapping[str, str]
    verdict: str | None = None  # the field that says which of two answers is better
    notes: list[str] = field(default_factory=list[str])
    told_of: Counter[str] = field(default_factory=Counter[str])  # pairs made of several answers, in words
    dropped: int = 0
    unused: set[str] = field(default_factory=set[str])

    def pairs(self, rows: Iterable[tuple[str, Row]]) -> tuple[PreferencePair, ...]:
        """Pairs of (place, row) pairs, less those that prefer nothing."""
        found: list[PreferencePair] = []
        for place, row in unfolded(rows, self.told_of, pairs=True):
            row = renamed(row, self.columns, place)
            pair = pair_of(row, place, self.verdict)
            self.unused.update({*map(str, row)} - used(row))
            self.dropped += pair is None
            found.extend([] if pair is None else [pair])
        return tuple(found)

    def unusable(self, before: str = "") -> str:
        """How many pairs were dropped, in words; empty if none was."""
        why = "pairs dropped whose answers are equal or empty, or equally good, or come after different dialogues"
        return f"{before}{self.dropped} {why}" if self.dropped else ""

    def told(self) -> tuple[str, ...]:
        """In sentences what was read and left out."""
        unused = f"columns not used: {', '.join(sorted(self.unused)[:8])}" if self.unused else ""
        made = (f"{count:,} {what}" for what, count in self.told_of.items() if count)
        return tuple(filter(None, (*self.notes, *made, self.unusable(), unused)))


def turns_of_prompt(pair: PreferencePair) -> tuple[Turn, ...]:
    """Turns of a pair's prompt: its own, or those that its text marks; none where there are neither."""
    return pair.turns or dialogue(pair.prompt)


def first_human_turn(pair: PreferencePair) -> str:
    """What the human said first; the whole prompt where it is no dialogue."""
    return next((turn.content for turn in turns_of_prompt(pair) if turn.role == "user"), pair.prompt)


def prompt_examples(pairs: Iterable[PreferencePair]) -> tuple[Example, ...]:
    """The distinct prompts as examples without an answer, which alignment generates from."""
    first: dict[str, PreferencePair] = {}
    for pair in pairs:
        first.setdefault(pair.prompt, pair)
    return tuple(Example(pair.prompt, "", pair.domain, turns_of_prompt(pair)) for pair in first.values())


def holds_preferences(folder: Path) -> bool:
    """Whether a folder holds preference pairs of both kinds under their own names, and no plain train file."""
    names = [stem(file) for file in data_files(folder)]
    plain = any(name in SPLITS["train"] for name in names)
    return not plain and all(any(re.match(rf"{kind}([-_]\w+)*[-_]train", name) for name in names) for kind in KINDS)


def chosen_answers(
    source: str | Path, seed: int = 0, columns: Mapping[str, str] | None = None, hold_out: float = HOLD_OUT
) -> Corpus:
    """The chosen answers of both kinds of pairs as examples to imitate, one for each prompt; the kind is the domain.

    Raises: DataError as `load_preferences`.
    """
    parts: dict[str, dict[str, Example]] = {"train": {}, "validation": {}, "test": {}}
    notes: list[str] = []
    for kind in KINDS:
        corpus = load_preferences(source, kind, seed, columns, hold_out)
        notes.extend(corpus.notes)
        for part, examples in parts.items():
            for pair in getattr(corpus, part):
                examples.setdefault(pair.prompt, _imitated(pair, kind))
    train, validation, test = (tuple(examples.values()) for examples in parts.values())
    asked = {example.prompt for example in train if hold_out}
    kept = tuple(example for example in validation if example.prompt not in asked)
    return Corpus(Path(source).name, train, kept, test, tuple(notes))


def _imitated(pair: PreferencePair, kind: str) -> Example:
    turns = turns_of_prompt(pair)
    return Example(pair.prompt, pair.chosen, kind, turns, Turn("assistant", pair.chosen) if turns else None)


def with_held_out_turns(corpus: PreferenceCorpus, seed: int, fraction: float = HOLD_OUT) -> PreferenceCorpus:
    """The corpus itself if it has a validation part, else with a share of the first human turns of train held out.

    Where more than a third of the pairs begin with the same turn, they are told apart by all that they say. With a
    share of 0 nothing is held out, and training pairs are validated on.

    Raises: DataError if all pairs of train are the same.
    """
    if corpus.validation:
        return corpus
    if not fraction:
        note = "no validation part and none held out: training pairs are validated on"
        return replace(corpus, validation=corpus.train, notes=(*corpus.notes, note))
    opening = [(first_human_turn(pair), (pair.prompt, pair.chosen, pair.rejected)) for pair in corpus.train]
    groups = kept_together(opening)
    train, validation, shares = held_out(corpus.train, groups, fraction, seed, "preference hold-out")
    if not validation:
        raise DataError(f"{corpus.name}: train has one distinct pair; a hold-out needs 2, or give a validation part")
    note = f"no validation part: {len(validation)} pairs ({shares} first human turns) of train held out, seed {seed}"
    return replace(corpus, train=train, validation=validation, notes=(*corpus.notes, note))
