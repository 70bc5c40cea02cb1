"""Examples and corpora, as every source gives them."""

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

NO_DOMAIN = "all"


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue: who speaks and what; `more` is a JSON object of further fields, such as tool calls."""

    role: str
    content: str = ""
    more: str = ""
    learned: bool = True  # False for an assistant's turn that the data asks not to learn (`weight` 0)

    @property
    def message(self) -> dict[str, Any]:
        """The turn as a chat template takes it."""
        return {"role": self.role, "content": self.content, **(json.loads(self.more) if self.more else {})}

    @property
    def text(self) -> str:
        """What is said, with the tool calls as JSON, for templates that know text alone."""
        calls = self.message.get("tool_calls")
        said = [self.content] if self.content else []
        return "\n".join(said + [json.dumps(call.get("function", call), ensure_ascii=False) for call in calls or ()])


@dataclass(frozen=True)
class Example:
    """One prompt with its answer, and the domain that clients may be told apart by.

    A dialogue has `turns` before its answer, and `reply`, the answer as a turn; both are empty for everything but chat
    rows. `tools` is a JSON list of the tools that its turns may call. Where `verbatim`, prompt and answer are one text
    cut in two, which is written end to end; an empty prompt then stands for text alone. `second` is the other text of
    a pair to classify. `where` says which row of the data it came from.
    """

    prompt: str
    answer: str
    domain: str = NO_DOMAIN
    turns: tuple[Turn, ...] = ()
    reply: Turn | None = None
    tools: str = ""
    verbatim: bool = False
    second: str = ""
    where: str = field(default="", compare=False)

    @property
    def dialogue(self) -> tuple[Turn, ...]:
        """All turns of a dialogue, the answer's last; empty for everything but chat rows."""
        return (*self.turns, *((self.reply,) if self.reply else ()))


def begun(example: Example) -> Example:
    """A text without a prompt as its first words, at most eight and half of them, and what follows; others as they are.

    >>> begun(Example("", "It was a dark night", verbatim=True)).prompt
    'It was'
    """
    if example.prompt or not example.verbatim:
        return example
    text, words = example.answer, re.findall(r"\s*\S+", example.answer)
    start = "".join(words[: min(8, len(words) // 2)]) or text[: max(1, min(8, len(text) // 2))]  # or of one long word
    return replace(example, prompt=start, answer=text[len(start) :])


@dataclass(frozen=True)
class Corpus:
    """Three lists of examples; `notes` says in sentences what was done to them (a hold-out).

    `dropped` counts rows that were left out as there is nothing to learn in them; `held_out` says that validation is
    a share of what was train.
    """

    name: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()
    dropped: int = 0
    held_out: bool = False


PreferenceKind = Literal["helpful", "harmless"]


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt, of which `chosen` was preferred; `domain` is what clients may be told apart by."""

    prompt: str
    chosen: str
    rejected: str
    source: str = NO_DOMAIN
    domain: str = NO_DOMAIN
    turns: tuple[Turn, ...] = ()  # of the prompt, where it is a dialogue


@dataclass(frozen=True)
class PreferenceCorpus:
    """Three lists of pairs of one kind of preference; `notes` says in sentences what was done to them."""

    name: str
    kind: PreferenceKind
    train: tuple[PreferencePair, ...]
    validation: tuple[PreferencePair, ...]
    test: tuple[PreferencePair, ...] = ()
    notes: tuple[str, ...] = ()
