"""A small grammar that tells the facts of a restaurant in English, in the house style of its cuisine.

A house style is an order of preference over the alternatives at each choice (how to open, how many facts a sentence,
which phrase): the most preferred alternative is taken half of the time, the next a quarter, and so on. So cuisines
share the language and differ in how they use it.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from wavetune.data.lexicon import Table
from wavetune.data.lexicon import restaurant_words as words

T = TypeVar("T")
Meaning = dict[str, str]  # slot -> value; name and food are always there
PLACES = ("area", "near")


@dataclass(frozen=True)
class Fact:
    """A slot with its ways of being said, and whether it speaks for the restaurant (+1), against it (-1) or neither."""

    slot: str
    phrases: Table
    polarity: int = 0
    fields: Meaning = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class House:
    """One house style with the random numbers of one text."""

    style: str
    rng: random.Random

    def pick(self, choice: str, options: Sequence[T], decay: float = 0.5) -> T:
        """One of the options; the i-th in the style's order of preference has weight decay^i."""
        order, weights = preference(self.style, choice, len(options)), _weights(decay, len(options))
        left = self.rng.random() * sum(weights)
        for option, weight in zip(order, weights, strict=True):
            left -= weight
            if left < 0:
                return options[option]
        return options[order[-1]]

    def say(self, fact: Fact, role: str) -> str:
        """The fact in a role."""
        return self.pick(f"{fact.slot}/{role}", fact.phrases[role]).format(**fact.fields)

    def arranged(self, facts: Sequence[Fact]) -> list[Fact]:
        """The facts in the style's order of slots, loosely kept."""
        place = dict(zip(words.SLOTS, preference(self.style, "slots", len(words.SLOTS)), strict=True))
        return sorted(facts, key=lambda fact: place[fact.slot] + 3 * self.rng.random())


@lru_cache(maxsize=256)
def _weights(decay: float, count: int) -> tuple[float, ...]:
    return tuple(decay**rank for rank in range(count))


@lru_cache(maxsize=4096)
def preference(style: str, choice: str, count: int) -> tuple[int, ...]:
    """A fixed pseudo-random order of `count` alternatives; the first is dealt to the cuisines in turn."""
    dealt = sorted(words.CUISINES, key=lambda cuisine: _hash(choice, cuisine)).index(style) % count
    return tuple(sorted(range(count), key=lambda i: (i != dealt, _hash(style, choice, str(i)))))


def _hash(*key: str) -> bytes:
    return hashlib.sha256("/".join(key).encode()).digest()


def tell(meaning: Meaning, style: str, rng: random.Random) -> str:
    """A text that says every slot of the meaning exactly once."""
    house = House(style, rng)
    head = meaning.get("eatType") or house.pick("head", words.NO_EAT_TYPE)
    facts = house.arranged([_fact(slot, meaning[slot]) for slot in words.SLOTS if slot in meaning])
    opening: tuple[str, list[Fact]] | None = None
    while opening is None:  # an opening that does not suit these facts gives None; the plain one suits all
        opening = _opened(house, meaning, head, facts, house.pick("opening", words.OPENINGS, decay=0.6))
    sentences = [opening[0]]
    rest = [fact for fact in facts if fact not in opening[1]]
    while rest:
        size = house.pick("facts a sentence", (2, 1, 3))
        sentences.append(_sentence(house, meaning["name"], head, rest[:size]))
        rest = rest[size:]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _fact(slot: str, value: str) -> Fact:
    if slot == "priceRange":
        return Fact(slot, words.PRICE[value], {"cheap": 1, "moderate": 0, "expensive": -1}[value])
    if slot == "familyFriendly":
        return Fact(slot, words.FAMILY[value], 1 if value == "yes" else -1)
    if slot == "customer rating":
        number = int(value[0])
        word = words.STARS[number - 1]
        fields = {"number": str(number), "word": word, "stars": f"{word} star{'s' if number > 1 else ''}"}
        return Fact(slot, words.RATING, (number > 3) - (number < 3), fields)
    phrases = {"speciality": words.SPECIALITY, "area": words.AREA, "seating": words.SEATING, "near": words.NEAR}[slot]
    return Fact(slot, phrases, 0, {"value": value, "where": {**words.AREAS, **words.SEATS}.get(value, value)})


def _opened(
    house: House, meaning: Meaning, head: str, facts: list[Fact], opening: dict[str, Any]
) -> tuple[str, list[Fact]] | None:
    """A first sentence and the facts said in it; None where the opening does not suit them.

    One that names the food beside the noun phrase wants to know what kind of place it is.
    """
    leads = [fact for fact in facts if fact.slot in opening.get("leads", ())]
    names_food = opening.get("names_food", False)
    if ("leads" in opening and not leads) or (names_food and "eatType" not in meaning):
        return None
    phrase, used = _noun_phrase(house, meaning, head, [fact for fact in facts if fact not in leads[:1]], not names_food)
    sentence = opening["pattern"]
    for choice, options in opening.get("choices", {}).items():
        sentence = sentence.replace(f"<{choice}>", house.pick(choice, options))
    lead = house.say(leads[0], opening["role"]) if leads else ""
    said = {"name": meaning["name"], "food": meaning["food"], "phrase": phrase, "bare": phrase.split(" ", 1)[1]}
    return sentence.format(**said, lead=lead), [*leads[:1], *used]


def _noun_phrase(
    house: House, meaning: Meaning, head: str, facts: list[Fact], with_food: bool = True
) -> tuple[str, list[Fact]]:
    """`a cheap Thai pub near Fisher Row`, and the facts said in it."""
    adjectives = [f for f in facts if "adjective" in f.phrases][: house.pick("adjectives", (0, 1, 2))]
    food_after = with_food and house.pick("food", (False, True))
    free = [f for f in facts if "modifier" in f.phrases and f not in adjectives]
    others = [] if food_after else [f for f in free if f.slot not in PLACES][:1]
    modifiers = [*(f for f in free if f.slot in PLACES), *others][: house.pick("modifiers", (1, 0, 2))]
    before = ", ".join(house.say(f, "adjective") for f in adjectives)
    after = [house.say(f, "modifier") for f in modifiers]
    kind = head
    if with_food and not food_after:
        kind = f"{meaning['food']} {head}"
    elif food_after:
        serving = house.pick("serving", ("serving {} food", "with {} cooking", "that serves {} dishes"))
        kind = f"{head} {serving.format(meaning['food'])}"
    return with_article(" ".join([*([before] if before else []), kind, *after])), [*adjectives, *modifiers]


def _sentence(house: House, name: str, head: str, facts: list[Fact]) -> str:
    form = house.pick("sentence", ("verb", "clause", "noun", "fragment"))
    same_kind = len({"noun" in fact.phrases for fact in facts}) == 1
    if form == "fragment" and same_kind:
        return _joined([(house.say(f, "noun" if "noun" in f.phrases else "tag"), f.polarity) for f in facts]) + "."
    if form == "noun" and all("noun" in fact.phrases for fact in facts):
        expect = house.pick("expect", ("expect", "you get", "it comes with", "count on"))
        return f"{expect} {_joined([(house.say(f, 'noun'), f.polarity) for f in facts])}."
    if form == "clause":
        return _joined([(house.say(f, "clause"), f.polarity) for f in facts]) + "."
    subject = house.pick("subject", ("it", f"the {head}", f"this {head}", name))
    return f"{subject} {_joined([(house.say(f, 'verb'), f.polarity) for f in facts])}."


def _joined(phrases: list[tuple[str, int]]) -> str:
    """Phrases joined by commas and `and`; what speaks against follows `but` if something speaks for the restaurant."""
    against = [phrase for phrase, polarity in phrases if polarity < 0]
    if against and any(polarity > 0 for _, polarity in phrases):
        return f"{_listed([phrase for phrase, polarity in phrases if polarity >= 0])} but {_listed(against)}"
    return _listed([phrase for phrase, _ in phrases])


def _listed(phrases: list[str]) -> str:
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def with_article(phrase: str) -> str:
    """The phrase after `a` or `an`.

    >>> with_article("expensive pub"), with_article("one-star diner")
    ('an expensive pub', 'a one-star diner')
    """
    return f"{'an' if phrase[0].lower() in 'aeiou' and not phrase.startswith('one') else 'a'} {phrase}"
