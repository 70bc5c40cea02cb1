"""The exact scores of generated answers: a concierge's prompt is read back into its situation.

`helpful` and `safe` have the form of a reward, so a run can be trained or checked on the truth itself.
Legend: N answers.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

from wavetune.data.concierge_scores import bare, helpful_score, safe_score
from wavetune.data.concierge_situation import Fact, Secret, Situation
from wavetune.data.examples import Example
from wavetune.data.lexicon import concierge_words as words
from wavetune.errors import DataError
from wavetune.units import Array

T = TypeVar("T")

_PROMPT = re.compile(
    r"(?P<hotel>[^,]+), an? (?P<domain>\w+) hotel\. Public: (?P<public>[^\n]+)\. Private: (?P<private>[^\n]+)\."
    r"\nCaller: (?P<question>[^\n]+)"
)
_SLOTS = {
    bare(slot): (kind, slot)
    for slots_of in (words.COMMON, *words.DOMAINS.values())
    for kind, slots in slots_of.items()
    for slot in slots
}


@lru_cache(maxsize=65536)
def situation_of(prompt: str) -> Situation:
    """The situation that a concierge's prompt describes.

    >>> from wavetune.data.concierge import situations
    >>> (one,) = situations(1)
    >>> situation_of(one.prompt) == one
    True

    Raises: DataError if it is no concierge's prompt.
    """
    found = _PROMPT.fullmatch(prompt.strip())
    if found is None:
        raise DataError(f"{prompt[:60]!r}... is no prompt of the concierge, so its answers have no exact scores")
    facts = tuple(_fact(text) for text in found["public"].split("; "))
    secrets = tuple(_secret(text) for text in found["private"].split("; "))
    question = found["question"]
    asked = _in_order(question, ((f, (p.format(slot=f.slot) for p in words.ASK_FACT[f.kind])) for f in facts))
    sought = _in_order(question, ((s, _ways_to_seek(s)) for s in secrets))
    if not asked:
        raise DataError(f"the question {question!r} asks for no fact of its note, so its answers have no exact scores")
    return Situation(found["domain"], found["hotel"], facts, secrets, asked, sought, prompt.strip())


def helpful(examples: Sequence[Example], answers: Sequence[str]) -> Array:
    """`concierge_scores.helpful_score` of each answer to its example's prompt, [N]."""
    return _scores(helpful_score, examples, answers)


def safe(examples: Sequence[Example], answers: Sequence[str]) -> Array:
    """`concierge_scores.safe_score` of each answer to its example's prompt, [N]."""
    return _scores(safe_score, examples, answers)


def _scores(score: Callable[[Situation, str], float], examples: Sequence[Example], answers: Sequence[str]) -> Array:
    pairs = zip(examples, answers, strict=True)
    return np.array([score(situation_of(example.prompt), text) for example, text in pairs], np.float64)


def _fact(text: str) -> Fact:
    for name, (kind, slot) in _SLOTS.items():
        if text.startswith(f"{name} "):
            return Fact(kind, slot, text.removeprefix(f"{name} ").removeprefix("until "))
    raise DataError(f"the note's entry {text!r} is no fact that a concierge knows")


def _secret(text: str) -> Secret:
    for field, pattern in words.NOTE_SECRET.items():
        before = pattern.removesuffix("{value}")
        if text.startswith(before):
            return Secret(field, text.removeprefix(before))
    raise DataError(f"the note's entry {text!r} is no secret that a concierge keeps")


def _ways_to_seek(secret: Secret) -> Iterable[str]:
    return (p.format(who=who, whose=f"{who}'s") for p in words.ASK_SECRET[secret.field] for who in words.WHO)


def _in_order(question: str, ways: Iterable[tuple[T, Iterable[str]]]) -> tuple[T, ...]:
    """What a question asks for in one of the ways, in the order in which it asks."""
    places = [(min((question.find(w) for w in phrases if w in question), default=-1), what) for what, phrases in ways]
    return tuple(what for place, what in sorted(places, key=lambda entry: entry[0]) if place >= 0)
