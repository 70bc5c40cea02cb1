"""How a template writes an example: pieces of text, by headings of our own or by a tokenizer's chat template."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Protocol

from wavetune.data.chat_template import ChatWriter
from wavetune.data.dialogues import is_dialogue, without_oldest, written
from wavetune.data.examples import Example, Turn
from wavetune.data.pieces import Piece

Learn = Literal["all", "last"]


class Writer(Protocol):
    """What a template is for one tokenizer."""

    begin: list[int]  # BOS, where it is put before a text

    def row(self, example: Example, without: int = 0) -> list[Piece]:
        """All of a row up to the end of its last answer, without so many of its oldest exchanges."""
        ...

    def prompt(self, example: Example, without: int = 0) -> list[Piece]:
        """What stands before the answer."""
        ...


class Headings(Protocol):
    """What stands around prompts: of which answers are learned, and what parts the exchanges of a dialogue."""

    between: ClassVar[str]  # what parts the exchanges of a dialogue

    @property
    def learn(self) -> Learn:
        """All answers of a dialogue, or the last."""
        ...

    def asked(self, prompt: str, example: Example) -> list[Piece]:
        """A prompt up to its answer."""
        ...


class TextWriter:
    """Writes prompts with headings, and EOS behind every answer."""

    def __init__(self, template: Headings, begin: list[int]) -> None:
        self.template, self.begin = template, begin

    def row(self, example: Example, without: int = 0) -> list[Piece]:
        """All of a row, as `Writer`."""
        if not is_dialogue(example):
            return [*self.template.asked(example.prompt, example), Piece(example.answer, learned=True, ended=True)]
        *pieces, last = self._exchanges(example, without_oldest(example.dialogue, without))
        while not last.learned:  # an answer that is not to be learned
            if not pieces:
                return []
            *pieces, last = pieces
        return [*pieces, last]

    def prompt(self, example: Example, without: int = 0) -> list[Piece]:
        """What stands before the answer, as `Writer`."""
        if not is_dialogue(example):
            return self.template.asked(example.prompt, example)
        turns = (*without_oldest(example.turns, without), Turn("assistant", "?"))
        return list(self._exchanges(example, turns))[:-1]

    def _exchanges(self, example: Example, turns: Sequence[Turn]) -> Iterator[Piece]:
        """Each answer behind the turns that it answers."""
        answers, asked = [i for i, turn in enumerate(turns) if turn.role == "assistant"], list[Turn]()
        for i, turn in enumerate(turns):
            if turn.role != "assistant":
                asked.append(turn)
                continue
            if i != answers[0]:
                yield Piece(self.template.between)
            yield from self.template.asked(written(asked) if asked else "", example)
            learned = turn.learned and (self.template.learn == "all" or i == answers[-1])
            yield Piece(turn.text, learned and bool(turn.text.strip()), ended=True)
            asked = []


class DialogueWriter:
    """Writes dialogues by a chat template, which puts BOS itself if it wants it; texts without a prompt as they are."""

    begin: list[int]

    def __init__(self, chat: ChatWriter, learn: Learn) -> None:
        self.chat, self.learn, self.begin = chat, learn, []

    def row(self, example: Example, without: int = 0) -> list[Piece]:
        """All of a row, as `Writer`."""
        if not _asks(example):
            return [Piece(""), Piece(example.answer, learned=True, ended=True)]
        turns = without_oldest((*_before(example), example.reply or Turn("assistant", example.answer)), without)
        messages = [turn.message for turn in turns]
        text, spans = self.chat.located(messages, _tools(example), example.where)
        last = len(turns) - 1
        every = self.learn == "all" and example.reply is not None
        pieces, stop = list[Piece](), 0
        for place, span in spans.items():
            says = text[span.start : span.stop].strip()  # else an end alone would be learned
            if says and turns[place].learned and (every or place == last):
                pieces += _contents(text[stop : span.start], messages[:place])
                unended = span.end == span.stop and place == last
                pieces.append(Piece(text[span.start : span.stop], learned=True, ended=unended))
                pieces += (
                    [Piece(text[span.stop : span.end], learned=True, closing=True)] if span.end > span.stop else []
                )
                stop = span.end
        return pieces

    def prompt(self, example: Example, without: int = 0) -> list[Piece]:
        """What stands before the answer, as `Writer`."""
        if not _asks(example):
            return [Piece("")]
        messages = [turn.message for turn in without_oldest(_before(example), without)]
        return _contents(self.chat.prompt(messages, _tools(example), example.where), messages)


def _asks(example: Example) -> bool:
    return bool(example.turns or example.prompt or not example.verbatim)


def _before(example: Example) -> tuple[Turn, ...]:
    return example.turns or (Turn("user", example.prompt),)


def _tools(example: Example) -> list[Any]:
    return json.loads(example.tools) if example.tools else []


def _contents(text: str, messages: Sequence[dict[str, Any]]) -> list[Piece]:
    """A text cut apart where contents of messages stand in it, which may be shortened."""
    pieces, done = list[Piece](), 0
    for message in messages:
        content = str(message.get("content") or "").strip()
        found = text.find(content, done) if content and message["role"] != "assistant" else -1
        if found >= 0:
            cut = "end" if message["role"] == "system" else "beginning"
            pieces += [Piece(text[done:found]), Piece(content, cut=cut)]
            done = found + len(content)
    return [*pieces, Piece(text[done:])]
