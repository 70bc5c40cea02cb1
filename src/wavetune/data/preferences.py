"""Preference pairs: a prompt with a chosen and a rejected answer, from the embedded generator, a folder or a file.

A folder may hold several kinds of preference, `helpful-train.jsonl.gz` beside `harmless-train.jsonl.gz`; a name such as
`harmless-pku-train.jsonl.gz` is one more file of kind `harmless`. Files named just `train` and `test` serve any kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wavetune.data.concierge import concierge_preferences
from wavetune.data.corpora import HOLD_OUT, SPLITS, SUFFIXES, read_jsonl
from wavetune.data.examples import NO_DOMAIN, Corpus, Example, PreferenceCorpus, PreferenceKind, PreferencePair, Turn
from wavetune.errors import ConfigError, DataError, nearest
from wavetune.seeds import stream

KINDS: tuple[PreferenceKind, ...] = ("helpful", "harmless")
ROLES = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def load_preferences(source: str | Path, kind: PreferenceKind, seed: int = 0) -> PreferenceCorpus:
    """Pairs of one kind from a source: `concierge`, or the path of a folder or of one .jsonl or .jsonl.gz file.

    Where there is no validation part, a tenth of the first human turns of train is held out with all their pairs.

    Args:
        source: the embedded generator's name, or a path.
        kind: which files of the folder are read, or which pairs the generator writes.
        seed: of the generator or of the hold-out.
    Raises: ConfigError if there is no such kind; DataError if the source is missing or malformed.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no preference kind {kind!r}; {nearest(kind, KINDS)}")
    if source == "concierge":
        return concierge_preferences(kind, seed=seed)
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"preference source {str(source)!r} is neither 'concierge' nor an existing folder or file")
    if path.is_file():
        return with_held_out_turns(PreferenceCorpus(path.name, kind, read_pairs([path]), ()), seed)
    files = preference_files(path, kind)
    parts = {split: read_pairs(found) for split, found in files.items()}
    read = "read " + ", ".join(file.name for found in files.values() for file in found)
    corpus = PreferenceCorpus(path.name, kind, parts["train"], parts["validation"], parts["test"], (read,))
    return with_held_out_turns(corpus, seed)


def preference_files(folder: Path, kind: str) -> dict[str, list[Path]]:
    """Files of each split: those whose names start with the kind, or, where there is no such train file, plain ones.

    Raises: DataError if there is no train file.
    """
    there = sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith(SUFFIXES))
    suffix = r"\.jsonl(\.gz)?"
    for stem in (rf"{kind}(-\w+)*-", ""):
        files = {
            split: [path for path in there if re.fullmatch(f"{stem}({'|'.join(names)}){suffix}", path.name)]
            for split, names in SPLITS.items()
        }
        if files["train"]:
            return files
    found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise DataError(f"{folder}: looked for {kind}-train.jsonl[.gz] or train.jsonl[.gz], found {found}")


def read_pairs(files: Iterable[Path]) -> tuple[PreferencePair, ...]:
    """Pairs of JSONL files, in order.

    Raises: DataError with file and line if a line is malformed, or if a file has no rows.
    """
    pairs: list[PreferencePair] = []
    for file in files:
        before = len(pairs)
        pairs.extend(pair_of(row, where) for where, row in read_jsonl(file))
        if len(pairs) == before:
            raise DataError(f"{file}: no rows")
    return tuple(pairs)


def pair_of(row: Mapping[str, Any], where: str) -> PreferencePair:
    """Pair of a row with `prompt`, `chosen`, `rejected`, optionally `source` and `domain` (else the source).

    Raises: DataError that starts with `where` if a text is missing or empty, or both answers are equal.
    """
    texts: list[str] = []
    for key in ("prompt", "chosen", "rejected"):
        text = row.get(key)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: a preference pair needs {key!r} as non-empty text; found keys {', '.join(row)}")
        texts.append(text.strip())
    prompt, chosen, rejected = texts
    if chosen == rejected:
        raise DataError(f"{where}: 'chosen' and 'rejected' are equal; such a pair prefers nothing, remove it")
    source = str(row.get("source") or NO_DOMAIN)
    return PreferencePair(prompt, chosen, rejected, source, str(row.get("domain") or source))


def first_human_turn(prompt: str) -> str:
    r"""What the human said first; the whole prompt where no turns are marked.

    >>> first_human_turn("Human: Hello?\n\nAssistant: Yes?\n\nHuman: Fine.\n\nAssistant:")
    'Hello?'
    """
    return next((turn.content for turn in dialogue(prompt) if turn.role == "user"), prompt)


def dialogue(prompt: str) -> tuple[Turn, ...]:
    r"""Turns of a prompt marked `Human:` and `Assistant:`; none where it is not.

    >>> dialogue("Human: Hello?\n\nAssistant:")[0].content
    'Hello?'
    """
    before, *marked = TURN.split(prompt)
    if before.strip():
        return ()
    turns = zip(marked[::2], marked[1::2], strict=True)
    return tuple(Turn(ROLES[role], content.strip()) for role, content in turns if content.strip())


def prompt_examples(pairs: Iterable[PreferencePair]) -> tuple[Example, ...]:
    """The distinct prompts as examples without an answer, which alignment generates from."""
    domains: dict[str, str] = {}
    for pair in pairs:
        domains.setdefault(pair.prompt, pair.domain)
    return tuple(Example(prompt, "", domain, dialogue(prompt)) for prompt, domain in domains.items())


def holds_preferences(folder: Path) -> bool:
    """Whether a folder holds preference pairs of both kinds under their own names, and no plain train file."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    plain = any(name.startswith("train.jsonl") for name in names)
    return not plain and all(any(re.match(rf"{kind}(-\w+)*-train\.", name) for name in names) for kind in KINDS)


def chosen_answers(source: str | Path, seed: int = 0) -> Corpus:
    """The chosen answers of both kinds of pairs as examples to imitate, one for each prompt; the kind is the domain.

    Raises: DataError as `load_preferences`.
    """
    parts: dict[str, dict[str, Example]] = {"train": {}, "validation": {}, "test": {}}
    notes: list[str] = []
    for kind in KINDS:
        corpus = load_preferences(source, kind, seed)
        notes.extend(corpus.notes)
        for part, examples in parts.items():
            for pair in getattr(corpus, part):
                examples.setdefault(pair.prompt, Example(pair.prompt, pair.chosen, kind, dialogue(pair.prompt)))
    train, validation, test = (tuple(examples.values()) for examples in parts.values())
    asked = {example.prompt for example in train}
    held_out = tuple(example for example in validation if example.prompt not in asked)
    return Corpus(Path(source).name, train, held_out, test, tuple(notes))


def with_held_out_turns(corpus: PreferenceCorpus, seed: int) -> PreferenceCorpus:
    """The corpus itself if it has a validation part, else with a tenth of the first human turns of train held out.

    Raises: DataError if train has fewer than two distinct first human turns.
    """
    if corpus.validation:
        return corpus
    openings = [first_human_turn(pair.prompt) for pair in corpus.train]
    distinct = sorted(set(openings))
    if len(distinct) < 2:
        raise DataError(f"{corpus.name}: {len(distinct)} distinct first human turns in train; a hold-out needs 2")
    count = max(1, round(HOLD_OUT * len(distinct)))
    held = {distinct[i] for i in stream(seed, "preference hold-out").permutation(len(distinct))[:count]}
    validation = tuple(pair for pair, opening in zip(corpus.train, openings, strict=True) if opening in held)
    train = tuple(pair for pair, opening in zip(corpus.train, openings, strict=True) if opening not in held)
    note = (
        f"no validation part: {len(validation)} pairs ({count} of {len(distinct)} first human turns) "
        f"of train held out, seed {seed}"
    )
    return replace(corpus, train=train, validation=validation, notes=(*corpus.notes, note))
