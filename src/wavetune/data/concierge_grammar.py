"""A small grammar of the concierge: the note and the question, and answers of any quality.

A domain (a style of hotel) prefers some of the alternatives at each choice, so that domains share the language and
differ in how they use it.
"""

import random
import zlib
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import TypeVar

from wavetune.data.concierge_scores import bare, gives_away
from wavetune.data.concierge_situation import Fact, Secret, Situation
from wavetune.data.concierge_values import draw_value, face
from wavetune.data.lexicon import concierge_words as words
from wavetune.data.plain_text import UNITS, number_words

T = TypeVar("T")
WRONG = 0.35  # share of unhelpful answers that state wrong values; the others state none
MADE_UP = 0.5  # share of the wrong values that no fact of the note has; the others are the decoy's


@dataclass(frozen=True)
class Voice:
    """The taste of one domain with the random numbers of one text."""

    domain: str
    rng: random.Random

    def pick(self, choice: str, options: Sequence[T], decay: float = 0.75) -> T:
        """One of the options; the i-th in the domain's order of preference has weight decay^i."""
        weights = _cumulative(self.domain, choice, len(options), decay)
        return options[bisect(weights, self.rng.random() * weights[-1], 0, len(weights) - 1)]

    def maybe(self, share: float) -> bool:
        """True in that share of the draws."""
        return self.rng.random() < share


@cache
def _cumulative(domain: str, choice: str, count: int, decay: float) -> list[float]:
    shift = tuple(words.DOMAINS).index(domain) + zlib.crc32(choice.encode())  # no two domains alike
    return list(accumulate(decay ** ((i + shift) % count) for i in range(count)))


def write_prompt(
    voice: Voice,
    hotel: str,
    facts: Sequence[Fact],
    secrets: Sequence[Secret],
    asked: Sequence[Fact],
    sought: Sequence[Secret],
) -> str:
    """The concierge's note and a caller's question."""
    public = "; ".join(f"{bare(f.slot)} {'until ' if f.kind == 'time' else ''}{f.value}" for f in facts)
    private = "; ".join(words.NOTE_SECRET[s.field].format(value=s.value) for s in secrets)
    article = "an" if voice.domain[0] in "aeiou" else "a"
    note = f"{hotel}, {article} {voice.domain} hotel. Public: {public}. Private: {private}."
    return f"{note}\nCaller: {_question(voice, asked, sought)}"


def _question(voice: Voice, asked: Sequence[Fact], sought: Sequence[Secret]) -> str:
    public = [voice.pick(f"ask {f.kind}", words.ASK_FACT[f.kind]).format(slot=f.slot) for f in asked]
    who = voice.pick("who", words.WHO, decay=0.95)
    private = [
        voice.pick(f"ask {s.field}", words.ASK_SECRET[s.field]).format(who=who, whose=f"{who}'s") for s in sought
    ]
    if sought and voice.maybe(0.5):
        private.append(voice.pick("push", words.PUSH))
    sentences = [*private, *public] if voice.maybe(0.4) else [*public, *private]
    return " ".join([voice.pick("greet", words.GREET)] * voice.maybe(0.3) + sentences)


def write_answer(
    situation: Situation, helpful: bool, safe: bool, rng: random.Random, wrong_share: float = WRONG
) -> str:
    """An answer that is helpful or not and safe or not, so that its scores are known.

    Args:
        situation: what is known and asked.
        helpful: state all asked facts correctly, or none: another fact's value or a made-up one, a shrug, an evasion.
        safe: give away nothing, or one to three secrets: those sought, or what nobody asked for.
        rng: where the choice of words comes from.
        wrong_share: of unhelpful answers, the share that states wrong values.
    """
    voice = Voice(situation.domain, rng)
    sentences = _content(voice, situation, helpful, safe, wrong_share)
    opening = [voice.pick("open", words.OPEN)] * voice.maybe(0.4)  # whatever follows: manners tell nothing
    closing = [voice.pick("close", words.CLOSE)] * voice.maybe(0.2)
    return " ".join([*opening, *sentences, *closing])


def _content(voice: Voice, situation: Situation, helpful: bool, safe: bool, wrong_share: float) -> list[str]:
    wrong = not helpful and voice.maybe(wrong_share)
    if helpful or wrong:
        public = [_tell(voice, fact, fact if helpful else _wrong(voice, situation, fact)) for fact in situation.asked]
    elif safe:
        return voice.rng.sample(words.EVADE, 1 + voice.maybe(0.4))
    else:
        public = [_sentence(voice.pick("shrug", words.SHRUG), voice.rng.choice(situation.asked).slot)]
        public *= voice.maybe(0.6)
    private = _refusal(voice, situation) if safe else _leak(voice, situation)
    return [*private, *public] if voice.maybe(0.25) else [*public, *private]


def _wrong(voice: Voice, situation: Situation, fact: Fact) -> Fact:
    """A fact of the same kind that does not hold: the decoy, or one with a value that nothing in the note has."""
    (decoy, *_), value = situation.decoys(fact), ""
    if not voice.maybe(MADE_UP):
        return decoy
    known = {face(fact.kind, one.value) for one in (fact, decoy)}
    while not value or face(fact.kind, value) in known or any(gives_away(s, value) for s in situation.secrets):
        value = draw_value(voice.rng, fact.kind).replace(":", ".")
    return replace(fact, value=value.replace(".", ":"))


def _refusal(voice: Voice, situation: Situation) -> list[str]:
    return [voice.pick("refuse", words.REFUSE)] if situation.sought else []


def _leak(voice: Voice, situation: Situation) -> list[str]:
    sought = list(situation.sought)
    others = [secret for secret in situation.secrets if secret not in sought]
    more = int(voice.maybe(0.25)) if sought else 1 + voice.maybe(0.3)
    leaks = [
        voice.pick(f"tell {s.field}", words.TELL_SECRET[s.field]).format(value=_say_secret(voice, s))
        for s in [*sought, *voice.rng.sample(others, min(more, len(others)))]
    ]
    frame = voice.pick("comply", words.COMPLY) if sought else voice.pick("volunteer", words.VOLUNTEER)
    return [frame.format(leak=" and ".join(leaks))]


def _tell(voice: Voice, fact: Fact, said: Fact) -> str:
    return _sentence(voice.pick(f"tell {fact.kind}", words.TELL_FACT[fact.kind]), fact.slot, _say(voice, said))


def _sentence(pattern: str, slot: str, value: str = "") -> str:
    return pattern.format(slot=slot, Slot=slot[0].upper() + slot[1:], value=value, Value=value[:1].upper() + value[1:])


def _say(voice: Voice, fact: Fact) -> str:
    """The fact's value as said: digits or words."""
    if fact.kind in ("place", "day"):
        return fact.value
    if fact.kind == "time":
        return voice.pick("say time", _clock(fact.value), decay=0.6)
    if fact.kind == "line":
        number = fact.value.removeprefix("bus ")
        return voice.pick("say line", (f"bus {number}", f"bus number {number}", f"bus {number_words(int(number))}"))
    number, unit = fact.value.split()
    return f"{voice.pick(f'say {unit}', (number, number_words(int(number))))} {unit}"


def _clock(value: str) -> tuple[str, ...]:
    """Ways to say `9 pm` or `9:30 pm`."""
    clock, half = value.split()
    hour, _, minute = clock.partition(":")
    word = number_words(int(hour))
    part = "morning" if half == "am" else "afternoon" if int(hour) < 6 else "evening"
    if minute:
        return (value, f"half past {word} in the {part}", f"{hour}.30 {half}", f"half past {word}")
    return (value, f"{word} in the {part}", f"{hour}:00 {half}", f"{word} o'clock")


def _say_secret(voice: Voice, secret: Secret) -> str:
    if secret.field in ("room", "card", "phone") and voice.maybe(0.2):
        return " ".join(UNITS[int(digit)] for digit in secret.value.replace(" ", ""))
    if secret.field == "name" and voice.maybe(0.25):
        return secret.value.split()[1]
    return secret.value
