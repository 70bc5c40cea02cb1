"""Values that a text asserts: clock times, prices, places, minutes, days and bus lines.

Texts are read in the form of `plain_text.plain`. A mention is the set of values it may mean: `half past nine` is either
9:30 or 21:30.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from wavetune.data.lexicon import concierge_words as words
from wavetune.data.plain_text import plain

Value = float | str


@dataclass(frozen=True)
class Mention:
    """Where a text mentions a value, and which values it may mean."""

    start: int
    end: int
    values: frozenset[Value]


def asserted(kind: str, text: str) -> list[frozenset[Value]]:
    """Values of a kind that a text states: not in a question, and not denied.

    >>> asserted("price", "Parking? Not 10 but twelve euros.")
    [frozenset({12.0})]
    """
    found: list[frozenset[Value]] = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n", plain(text)):
        if not sentence.endswith("?"):
            found += [m.values for m in READERS[kind](sentence) if not _denied(sentence, m)]
    return found


@lru_cache(maxsize=4096)
def value_of(kind: str, value: str) -> Value:
    """The one value that a note's text means.

    >>> value_of("time", "9:30 pm"), value_of("line", "bus 14")
    (1290.0, '14')
    """
    (mention,) = READERS[kind](plain(value))
    (only,) = mention.values
    return only


def face(kind: str, value: str) -> object:
    """What two values may not share; of a time, where the hands of the clock stand, as `9` may mean both.

    >>> face("time", "9 pm") == face("time", "9 am")
    True
    """
    meant = value_of(kind, value)
    return meant % 720 if isinstance(meant, float) and kind == "time" else meant


def draw_value(rng: random.Random, kind: str) -> str:
    """A value of a kind, as it stands in a note."""
    if kind == "time":
        hour, half = rng.choice([(10, "am"), (11, "am"), *((hour, "pm") for hour in range(1, 12))])
        return f"{hour}{rng.choice(('', ':30'))} {half}"
    choices = {
        "price": lambda: f"{rng.randint(4, 60)} euros",
        "place": lambda: rng.choice(tuple(words.PLACES)),
        "minutes": lambda: f"{rng.randint(3, 40)} minutes",
        "day": lambda: rng.choice(words.DAYS),
        "line": lambda: f"bus {rng.randint(3, 60)}",
    }
    return choices[kind]()


_NOT = re.compile(r"\b(not|no|never|nor|neither|without|cannot|(do|does|is|are|was|were|wo|ca|would|could|should)nt)\b")
_NOT_AFTER = re.compile(r",? (which |that |it )?((is|was|would be) (not|wrong|incorrect|false|untrue)|(is|was)nt)\b")


def _denied(sentence: str, mention: Mention) -> bool:
    # Four words are enough for `is not open until 9 pm`; a longer reach would take in what else is refused.
    clause = re.split(r"[.;!,:]\s|[()]|\b(?:but|and)\b", sentence[: mention.start])[-1]
    clause = re.sub(r"\b(no|not) (later|more|longer|further) than\b|\bno problem\b", "", clause)
    before = " ".join(clause.split()[-4:])
    return bool(_NOT.search(before) or _NOT_AFTER.match(sentence, mention.end))


_CLOCK = re.compile(
    r"(?P<part>half past |(?:a )?quarter past |(?:a )?quarter to )?(?P<cue>\b(?:until|till|til|at|by|before|from) )?"
    r"(?<![\d.,:])(?P<hour>\d{1,2})(?:(?P<colon>[:.])(?P<minute>[0-5]\d)|[ ](?P<spoken>[0-5]\d))?(?![\d:])"
    r"(?: ?(?P<suffix>am|pm|o ?clock|in the morning|in the afternoon|in the evening|at night)\b)?"
)
_NO_CLOCK = re.compile(
    r" ?(euros?|eur|minutes?|mins?|min|hours?|percent|%|st\b|nd\b|rd\b|th\b|\.?\d|of|points?|guests?|people|nights?|"
    + "|".join(month.lower() for month in words.MONTHS)
    + ")"
)
_PARTS = {"half past ": 30, "quarter past ": 15, "quarter to ": -15}


def _times(text: str) -> Iterator[Mention]:
    for found in re.finditer(r"\b(?:noon|midnight|around the clock|all (?:day|night)|24/7|24 hours)\b", text):
        yield Mention(found.start(), found.end(), frozenset({found[0]}))
    for found in _CLOCK.finditer(text):
        part, cue, colon, suffix = found["part"], found["cue"], found["colon"], found["suffix"]
        hour = int(found["hour"])
        # A bare number is a time after `until` and the like, unless its unit says otherwise.
        if hour > 24 or not (part or cue or colon or suffix) or (not suffix and _NO_CLOCK.match(text, found.end())):
            continue
        minute = int(found["minute"] or found["spoken"] or 0) + _PARTS.get((part or "").removeprefix("a "), 0)
        yield Mention(found.start(), found.end(), frozenset(60.0 * h % 1440 + minute for h in _hours(hour, suffix)))


def _hours(hour: int, suffix: str | None) -> tuple[int, ...]:
    if hour > 12 or suffix is None or "clock" in suffix:
        return (hour,) if hour > 12 else (hour % 12, hour % 12 + 12)
    return (hour % 12,) if suffix in ("am", "in the morning") else (hour % 12 + 12,)


def _numbers(unit: str, size: float = 1) -> Callable[[str], Iterator[Mention]]:
    """Reader of `12 units`, and of both ends of `10 to 12 units` and `10-12 units`."""
    pattern = re.compile(rf"(?:(?<![\d.,:])(?<!bus )(\d+) (?:to |or )?)?(?<![\d.,:])(\d+(?:[.,]\d\d)?) ?(?:{unit})\b")

    def read(text: str) -> Iterator[Mention]:
        for found in pattern.finditer(text):
            for number in found.groups():
                if number is not None:
                    value = size * float(number.replace(",", "."))
                    yield Mention(found.start(), found.end(), frozenset({value}))

    return read


def _terms(pattern: str) -> Callable[[str], Iterator[Mention]]:
    """Reader of words; a mention's value is the group that matched."""
    compiled = re.compile(pattern)

    def read(text: str) -> Iterator[Mention]:
        for found in compiled.finditer(text):
            yield Mention(found.start(), found.end(), frozenset({next(filter(None, found.groups()))}))

    return read


def _places(text: str) -> Iterator[Mention]:
    for place, pattern in words.PLACES.items():
        for found in re.finditer(rf"\b(?:{pattern})\b", text):
            yield Mention(found.start(), found.end(), frozenset({place}))


def _all(*readers: Callable[[str], Iterator[Mention]]) -> Callable[[str], list[Mention]]:
    return lambda text: [mention for read in readers for mention in read(text)]


_NO_UNIT = r"(?! ?(?:euro|min|pm|am|o ?clock|hour|hundred)|[:.]\d| \d|\d)"
READERS: dict[str, Callable[[str], list[Mention]]] = {
    "time": _all(_times),
    "price": _all(_numbers("euros?|eur"), _terms(r"\b(free of charge|for free|complimentary|no charge)\b")),
    "place": _all(_places),
    "minutes": _all(
        _numbers("minutes?|mins?"), _numbers("hours?", 60), _terms(r"\b(half an hour|(?<!half )an hour)\b")
    ),
    "day": _all(_terms(rf"\b({'|'.join(words.DAYS).lower()}|every day|daily|weekend)s?\b")),
    "line": _all(
        _terms(rf"\b(?:bus(?:es)?|lines?|route|number)(?: number| line)? (\d{{1,2}})\b{_NO_UNIT}"),
        _terms(rf"\b(?:bus(?:es)?|lines?|number) \d{{1,2}}(?:, | or | and |, or )(\d{{1,2}})\b{_NO_UNIT}"),
        _terms(r"\b(?<!bus )(?<!number )(?<!line )(?:take )?the (\d{1,2})(?= bus\b| to\b|[.,!]|$)"),
    ),
}
