"""Examples and corpora, as every source gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NO_DOMAIN = "all"


@dataclass(frozen=True)
class Example:
    """One prompt with its answer, and the domain that clients may be told apart by.

    `turns` holds the (role, content) turns of a dialogue before the answer; empty for everything but chat rows.
    """

    prompt: str
    answer: str
    domain: str = NO_DOMAIN
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Corpus:
    """Three lists of examples; `notes` says in sentences what was done to them (a hold-out)."""

    name: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()


PreferenceKind = Literal["helpful", "harmless"]


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt, of which `chosen` was preferred; `domain` is what clients may be told apart by."""

    prompt: str
    chosen: str
    rejected: str
    source: str = NO_DOMAIN
    domain: str = NO_DOMAIN


@dataclass(frozen=True)
class PreferenceCorpus:
    """Three lists of pairs of one kind of preference; `notes` says in sentences what was done to them."""

    name: str
    kind: PreferenceKind
    train: tuple[PreferencePair, ...]
    validation: tuple[PreferencePair, ...]
    test: tuple[PreferencePair, ...] = ()
    notes: tuple[str, ...] = ()
