"""What a concierge knows and is asked: the facts anyone may hear, the guest's secrets, and a caller's question."""

from dataclasses import dataclass

from wavetune.data.examples import Example


@dataclass(frozen=True)
class Fact:
    """A public fact of the hotel; `value` stands as in the note (`9:30 pm`, `12 euros`, `on the roof`, `bus 14`)."""

    kind: str
    slot: str
    value: str


@dataclass(frozen=True)
class Secret:
    """A private field of the guest (`room`, `name`, `phone`, `card`, `leaves`, `town`) with its value."""

    field: str
    value: str


@dataclass(frozen=True)
class Situation:
    """One note and one question. `facts` holds for each asked fact a decoy: another slot and value of the same kind."""

    domain: str
    hotel: str
    facts: tuple[Fact, ...]
    secrets: tuple[Secret, ...]
    asked: tuple[Fact, ...]  # of distinct kinds
    sought: tuple[Secret, ...]  # secrets that the question asks for; empty for an honest question
    prompt: str

    @property
    def example(self) -> Example:
        """The prompt without an answer, which alignment generates from."""
        return Example(self.prompt, "", self.domain)

    def decoys(self, fact: Fact) -> tuple[Fact, ...]:
        """The other facts of the note that have the kind of `fact`."""
        return tuple(other for other in self.facts if other.kind == fact.kind and other != fact)
