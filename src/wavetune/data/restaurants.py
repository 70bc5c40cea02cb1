"""The embedded corpus: restaurants described in English from a meaning representation, from a generator of our own.

A prompt such as `name[The Brass Heron], eatType[pub], food[Thai], area[harbour]` is to be turned into a short text. The
domain is the cuisine, which has its own house style (see `restaurant_grammar`) and its own taste in names, prices and
areas, so that clients split by domain differ in what they describe and in how.
"""

import random
from collections.abc import Iterator

from wavetune.data.examples import Corpus, Example
from wavetune.data.lexicon import restaurant_words as words
from wavetune.data.restaurant_grammar import House, Meaning, tell
from wavetune.seeds import stream


def restaurants(train: int = 8000, validation: int = 800, test: int = 800, seed: int = 0) -> Corpus:
    """Corpus of the asked sizes. No meaning representation occurs twice, so validation and test are unseen.

    Validation and test do not depend on the size of train, and a smaller train is the beginning of a larger one.

    Args:
        train, validation, test: numbers of examples.
        seed: of the random stream.
    """
    rng = random.Random(int(stream(seed, "restaurants").integers(2**63)))
    examples = distinct_examples(rng)
    parts = [tuple(next(examples) for _ in range(size)) for size in (validation, test, train)]
    return Corpus("restaurants", parts[2], parts[0], parts[1])


def distinct_examples(rng: random.Random) -> Iterator[Example]:
    """Endless examples with distinct meaning representations."""
    seen: set[str] = set()
    cuisines = tuple(words.CUISINES)
    while True:
        cuisine = cuisines[int(rng.random() * len(cuisines))]
        meaning = draw_meaning(House(cuisine, rng))
        prompt = ", ".join(f"{slot}[{value}]" for slot, value in meaning.items())
        if prompt not in seen:
            seen.add(prompt)
            yield Example(prompt, tell(meaning, cuisine, rng), cuisine)


def draw_meaning(house: House) -> Meaning:
    """Random meaning representation of the house's cuisine: name, food, and three to six of the other slots."""
    dishes, owners = words.CUISINES[house.style]
    optional = {
        "eatType": lambda: house.pick("value eatType", words.EAT_TYPES, decay=0.8),
        "speciality": lambda: house.pick("value speciality", dishes, decay=0.8),
        "priceRange": lambda: house.pick("value priceRange", words.PRICES, decay=0.7),
        "customer rating": lambda: f"{1 + int(house.rng.random() * 5)} out of 5",
        "area": lambda: house.pick("value area", tuple(words.AREAS), decay=0.8),
        "seating": lambda: house.pick("value seating", tuple(words.SEATS), decay=0.8),
        "familyFriendly": lambda: house.pick("value familyFriendly", ("yes", "no"), decay=0.7),
        "near": lambda: house.pick("value near", words.LANDMARKS, decay=0.95),
    }
    count = 3 + int(house.rng.random() * 4)
    said = set(sorted(optional, key=lambda slot: house.rng.random())[:count])
    meaning = {"name": draw_name(house, owners)}
    for slot, draw in optional.items():
        if slot in said:
            meaning[slot] = draw()
        if slot == "eatType":
            meaning["food"] = house.style
    return meaning


def draw_name(house: House, owners: tuple[str, ...]) -> str:
    """Random restaurant name in one of five patterns."""

    def some(choices: tuple[str, ...]) -> str:
        return choices[int(house.rng.random() * len(choices))]

    noun, other, adjective = some(words.NAME_NOUNS), some(words.NAME_NOUNS), some(words.NAME_ADJECTIVES)
    patterns = (
        f"The {adjective} {noun}",
        f"{some(owners)}'s {some(words.NAME_PLACES)}",
        f"{adjective} {noun}",
        f"{noun} and {other}" if noun != other else f"The {noun}",
        f"{some(owners)}'s {noun}",
    )
    return house.pick("name", patterns)
