"""Text made comparable: lower case, no accents, numbers in words as digits."""

import re
import unicodedata
from functools import lru_cache

UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth",
)  # fmt: skip


def number_words(number: int) -> str:
    """An integer from 0 to 99 in words.

    >>> number_words(42), number_words(30), number_words(7)
    ('forty-two', 'thirty', 'seven')
    """
    if number < 20:
        return UNITS[number]
    tens, unit = divmod(number, 10)
    return TENS[tens - 2] + (f"-{UNITS[unit]}" if unit else "")


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


_NUMBERS = {word: str(i) for i, word in enumerate(UNITS)} | {w: str(20 + 10 * i) for i, w in enumerate(TENS)}
_NUMBERS |= {word: _ordinal(i) for i, word in enumerate(ORDINALS, start=1)}
_NUMBERS |= {"twentieth": "20th", "thirtieth": "30th"}
_COMPOUND = re.compile(rf"\b({'|'.join(TENS)}) ({'|'.join([*UNITS[1:10], *ORDINALS[:9]])})\b")
_NUMBER = re.compile(rf"\b({'|'.join(sorted(_NUMBERS, key=len, reverse=True))})\b")
_HUNDRED = re.compile(r"\b(\d) hundred(?: and)?(?: (\d{1,2})\b(?!\.\d))?")


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Lower case without accents, apostrophes and hyphens; numbers in words as digits; euro signs and a.m. written out.

    >>> plain("Twenty-one, Émile’s room FOUR hundred and twelve, €5, second floor.")
    '21, emiles room 412, 5 euros, 2nd floor.'
    """
    text = unicodedata.normalize("NFKD", text.casefold())
    text = "".join(c for c in text if not unicodedata.combining(c) and c not in "'’‘`´")
    text = re.sub(r"[-‐‑‒–—−_*~]", " ", text)
    text = re.sub(r"\b([ap])\. ?m\b\.?", r"\1m", text)
    text = re.sub(r"€ ?(\d+(?:[.,]\d\d)?)", r"\1 euros", text).replace("€", " euros")
    text = re.sub(r"[^\S\n]+", " ", text)
    text = _COMPOUND.sub(_compound, text)
    text = _NUMBER.sub(lambda found: _NUMBERS[found[1]], text)
    text = _HUNDRED.sub(lambda found: str(100 * int(found[1]) + int(found[2] or 0)), text)
    text = re.sub(r"(?<=\d) oh? (?=\d)", " 0 ", text)
    return re.sub(r"\bdouble (\d)\b", r"\1 \1", text)


def _compound(found: re.Match[str]) -> str:
    tens = int(_NUMBERS[found[1]])
    unit = found[2]
    return _ordinal(tens + ORDINALS.index(unit) + 1) if unit in ORDINALS else str(tens + UNITS.index(unit))
