"""The embedded preference corpus: a hotel concierge who must help with what is public and keep a guest's secrets.

A note holds public facts of the hotel and private fields of a guest; a caller asks for facts and may ask, or push, for
secrets. Situations, answers of every quality and their exact scores (`concierge_scores`) come from a generator of our
own, so that reward hacking and trade-offs can be measured. The domain is the style of the hotel, which has its own
things to ask about, its own favourite kinds of question and its own words.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import Literal

from wavetune.data.concierge_grammar import Voice, write_answer, write_prompt
from wavetune.data.concierge_scores import gives_away, helpful_score, safe_score
from wavetune.data.concierge_situation import Fact, Secret, Situation
from wavetune.data.concierge_values import draw_value, face
from wavetune.data.examples import Corpus, Example, PreferenceCorpus, PreferenceKind, PreferencePair
from wavetune.data.lexicon import concierge_words as words
from wavetune.errors import ConfigError, nearest
from wavetune.seeds import stream

__all__ = [
    "MIX",
    "QUALITIES",
    "Situation",
    "answer",
    "concierge",
    "concierge_preferences",
    "helpful_score",
    "safe_score",
    "situations",
]
Part = Literal["train", "validation", "test"]
Quality = Literal["good", "leaky", "evasive", "bad"]
QUALITIES: dict[Quality, tuple[bool, bool]] = {  # quality -> (helpful, safe)
    "good": (True, True),
    "leaky": (True, False),
    "evasive": (False, True),
    "bad": (False, False),
}
# An imperfect start: a model that imitates these answers helps in 75% of the cases and keeps all secrets in 65%.
MIX: Mapping[Quality, float] = MappingProxyType({"good": 0.5, "leaky": 0.25, "evasive": 0.15, "bad": 0.1})
PUSHED = 0.6  # share of questions that ask for secrets
WRONG_IN_PAIRS = 0.6  # share of unhelpful answers of pairs that state wrong values: more, as they are hard to tell


def situations(
    count: int, seed: int = 0, part: Part = "train", purpose: str = "prompts", domains: Sequence[str] | None = None
) -> tuple[Situation, ...]:
    """Situations with distinct prompts; a smaller count is the beginning of a larger one.

    No hotel and no guest's last name occurs in two parts, whatever the seed.

    Args:
        count: how many.
        seed, purpose: of the random stream; other purposes give other situations.
        part: `train`, `validation` or `test`.
        domains: styles of hotel to draw from; all by default. Other domains, other situations.
    Raises: ConfigError if there is no such part or domain.
    """
    chosen = tuple(domains or words.DOMAINS)
    for name, known in [(part, POOLS), *((domain, words.DOMAINS) for domain in chosen)]:
        if name not in known:
            raise ConfigError(f"there is no {name!r}; {nearest(name, known)}")
    key = " ".join(["concierge", part, purpose, *(domains or ())])
    rng = random.Random(int(stream(seed, key).integers(2**63)))
    return tuple(islice(_distinct(rng, part, chosen), count))


def answer(situation: Situation, quality: Quality, seed: int = 0) -> str:
    """An answer of a quality: a function of its arguments alone.

    >>> (one,) = situations(1)
    >>> text = answer(one, "leaky")
    >>> helpful_score(one, text), safe_score(one, text) < 1
    (1.0, True)
    """
    rng = random.Random(f"{seed}/{quality}/{situation.prompt}")
    return write_answer(situation, *QUALITIES[quality], rng)


def concierge(
    train: int = 4000, validation: int = 400, test: int = 400, seed: int = 0, mix: Mapping[Quality, float] = MIX
) -> Corpus:
    """Corpus for instruction tuning, with answers of mixed quality; of good ones alone with mix={"good": 1}.

    Args:
        train, validation, test: numbers of examples.
        seed: of the random streams.
        mix: weights of the qualities.
    Raises: ConfigError if the mix names an unknown quality or has no weight.
    """
    if not set(mix) <= set(QUALITIES) or min(mix.values(), default=0) < 0 or sum(mix.values()) <= 0:
        raise ConfigError(f"mix is {dict(mix)}; give weights of 0 or more, not all 0, for {', '.join(QUALITIES)}")

    def examples(count: int, part: Part) -> tuple[Example, ...]:
        rng = random.Random(int(stream(seed, f"concierge {part} mix").integers(2**63)))
        drawn = situations(count, seed, part, "instruction")
        return tuple(
            Example(s.prompt, answer(s, rng.choices(list(mix), list(mix.values()))[0], seed), s.domain) for s in drawn
        )

    shares = ", ".join(f"{weight / sum(mix.values()):.0%} {quality}" for quality, weight in mix.items())
    parts = (examples(train, "train"), examples(validation, "validation"), examples(test, "test"))
    return Corpus("concierge", *parts, (f"generated answers: {shares}",))


@lru_cache(maxsize=4)
def concierge_preferences(
    kind: PreferenceKind,
    train: int = 4000,
    validation: int = 400,
    test: int = 400,
    seed: int = 0,
    label_noise: float = 0.0,
    eager: float = 0.0,
) -> PreferenceCorpus:
    """Pairs that differ in one quality, while the other is drawn for each answer apart.

    Args:
        kind: `helpful` (chosen: asked facts stated) or `harmless` (chosen: no secret given away).
        train, validation, test: numbers of pairs.
        seed: of the random streams.
        label_noise: share of pairs of all parts whose answers are swapped, 0 to 1.
        eager: share of the pairs of kind `helpful` with a question for secrets where the annotator takes telling them
            for help: a leaky answer chosen over a good one. Here the preference parts from the truth.
    Raises: ConfigError if there is no such kind, or a share is outside 0 to 1.
    """
    if kind not in ("helpful", "harmless"):
        raise ConfigError(f"there is no preference kind {kind!r}; {nearest(kind, ('helpful', 'harmless'))}")
    for name, share in (("label_noise", label_noise), ("eager", eager)):
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} is {share}; it is a share of the pairs, 0 to 1")

    def pairs(count: int, part: Part) -> tuple[PreferencePair, ...]:
        rng = random.Random(int(stream(seed, f"concierge {part} {kind} pairs").integers(2**63)))
        drawn = situations(count, seed, part, kind)
        return tuple(_pair(situation, kind, label_noise, eager, rng) for situation in drawn)

    notes = (f"generated pairs: {label_noise:.0%} of the labels swapped",)
    if kind == "helpful" and eager:
        notes += (f"in {eager:.0%} of the questions for secrets a leaky answer is preferred to a good one",)
    parts = (pairs(train, "train"), pairs(validation, "validation"), pairs(test, "test"))
    return PreferenceCorpus("concierge", kind, *parts, notes)


def _pair(
    situation: Situation, kind: PreferenceKind, label_noise: float, eager: float, rng: random.Random
) -> PreferencePair:
    # Every draw is made in every case, so that the options change no other pair.
    other, swapped, eagerly = [rng.random() < 0.5 for _ in range(2)], rng.random() < label_noise, rng.random() < eager
    if kind == "harmless":
        qualities = [(other[0], True), (other[1], False)]
    elif eagerly and situation.sought:
        qualities = [(True, False), (True, True)]
    else:
        qualities = [(True, other[0]), (False, other[1])]
    source = rng.getrandbits(64)
    answers = [write_answer(situation, *q, random.Random(f"{source}/{q}"), WRONG_IN_PAIRS) for q in qualities]
    chosen, rejected = reversed(answers) if swapped else answers
    return PreferencePair(situation.prompt, chosen, rejected, "concierge", situation.domain)


def _pools(first: int, last: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Hotel nouns and last names at the places `first` to `last` of every ten."""
    return tuple(
        tuple(word for i, word in enumerate(pool) if first <= i % 10 <= last)
        for pool in (words.HOTEL_NOUNS, words.LAST_NAMES)
    )  # type: ignore[return-value]


POOLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "validation": _pools(0, 0),
    "test": _pools(1, 1),
    "train": _pools(2, 9),
}


def _distinct(rng: random.Random, part: Part, domains: Sequence[str]) -> Iterator[Situation]:
    seen: set[str] = set()
    while True:
        situation = _draw(rng, part, rng.choice(domains))
        if situation.prompt not in seen and not _ambiguous(situation):
            seen.add(situation.prompt)
            yield situation


def _draw(rng: random.Random, part: Part, domain: str) -> Situation:
    voice = Voice(domain, rng)
    nouns, last_names = POOLS[part]
    hotel = f"The {rng.choice(words.HOTEL_ADJECTIVES)} {rng.choice(nouns)}"
    first = voice.pick("kind", words.KINDS, decay=0.5)
    kinds = (first, rng.choice([kind for kind in words.KINDS if kind != first]))
    by_kind = [_facts(voice, kind) for kind in kinds]
    asked = tuple(facts[0] for facts in by_kind[: 1 + voice.maybe(0.4)])
    facts = tuple(rng.sample([fact for two in by_kind for fact in two], 4))
    fields = rng.sample(tuple(words.NOTE_SECRET), 3)
    secrets = tuple(Secret(field, _secret(rng, field, last_names)) for field in fields)
    sought = tuple(rng.sample(secrets, (1 + voice.maybe(0.15)) if voice.maybe(PUSHED) else 0))
    prompt = write_prompt(voice, hotel, facts, secrets, asked, sought)
    return Situation(domain, hotel, facts, secrets, asked, sought, prompt)


def _facts(voice: Voice, kind: str) -> list[Fact]:
    """A fact to ask for, and its decoy."""
    slots = [*words.DOMAINS[voice.domain][kind], *words.COMMON[kind]]
    values: list[str] = []
    while len(values) < 2:
        value = draw_value(voice.rng, kind)
        if not values or face(kind, value) != face(kind, values[0]):
            values.append(value)
    return [Fact(kind, slot, value) for slot, value in zip(voice.rng.sample(slots, 2), values, strict=True)]


def _secret(rng: random.Random, field: str, last_names: Sequence[str]) -> str:
    choices = {
        "room": lambda: str(rng.randint(101, 989)),
        "name": lambda: f"{rng.choice(words.FIRST_NAMES)} {rng.choice(last_names)}",
        "phone": lambda: f"{rng.randint(200, 999)} {rng.randint(100, 999)}",
        "card": lambda: str(rng.randint(1000, 9999)),
        "leaves": lambda: f"{rng.randint(6, 28)} {rng.choice(tuple(words.MONTHS))}",
        "town": lambda: rng.choice(words.TOWNS),
    }
    return choices[field]()


def _ambiguous(situation: Situation) -> bool:
    """Whether a secret can be read off the public facts or another secret, and so is given away with them."""
    public = [fact.value.replace(":", ".") for fact in situation.facts]  # 4.30 pm may be said, and 430 be a room
    return any(
        gives_away(secret, text)
        for secret in situation.secrets
        for text in [*public, *(other.value for other in situation.secrets if other != secret)]
    )
