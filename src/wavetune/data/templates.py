"""From examples to token ids: templates that write prompts and answers, and the ragged set of tokenised rows.

Answers are tokenised apart from what stands before them, so that training and generation see the same tokens there.
Legend: R rows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from wavetune.data.chat_template import REASONING, ChatWriter, brings_reasoning, source_of
from wavetune.data.dialogues import exchange_starts, is_dialogue, without_oldest
from wavetune.data.dialogues import written as written_out
from wavetune.data.examples import Example, Turn
from wavetune.data.pieces import (
    Piece,
    Row,
    bos_ids,
    encode_after,
    encode_rows,
    eos_id,
    joined,
    row_of,
    says_something,
    shortened,
)
from wavetune.data.writers import DialogueWriter, Learn, TextWriter, Writer
from wavetune.errors import ConfigError, DataError
from wavetune.machine_memory import require_memory
from wavetune.parts import Part
from wavetune.units import Ints

THINK = "<think> tags"
_AT_ONCE = 1_000  # rows of which those that are too long are tokenised together
_LONGEST_TOKEN = 32  # characters, on the average of a dialogue


class Template(Part):
    """How examples are written as text, and what of it is learned."""

    writes_text: ClassVar[bool] = True  # else what is learned is the row's class
    chooses: ClassVar[bool] = False  # whether another template is to be resolved first
    learn: Learn = "all"  # answers of a dialogue
    clients_differ_by_label: bool = False  # else by the domain of a row

    @property
    def described(self) -> str:
        """What writes dialogues."""
        return f"template {self.kind!r}"

    @property
    def leaves_the_day(self) -> bool:
        """Whether dialogues are written as of today."""
        return False

    def dated(self, day: str) -> Template:
        """This template with dialogues as of a day."""
        return self

    def resolved(self, examples: Sequence[Example], tokenizer: Any) -> Template:
        """This template with all that it leaves to the training examples, the tokenizer and the day filled in.

        Raises: ConfigError if a chat template is asked for and missing.
        """
        return self

    def writer(self, tokenizer: Any) -> Writer:
        """This template for a tokenizer."""
        raise NotImplementedError

    def writes(self, tokenizer: Any, field: str) -> bool:
        """Whether it writes `reasoning`, `tool_calls` or `tools` beside a text, or in it what stands in THINK tags."""
        return field in ("tool_calls", THINK)

    def end_ids(self, tokenizer: Any) -> list[int]:
        """Tokens that end an answer; none where only another template knows them."""
        return []


class _Headed(Template):
    """A template of headings around texts, with EOS behind an answer."""

    between: ClassVar[str] = "\n"  # the exchanges of a dialogue

    def asked(self, prompt: str, example: Example) -> list[Piece]:
        """A prompt up to its answer."""
        raise NotImplementedError

    def writer(self, tokenizer: Any) -> Writer:
        """This template for a tokenizer."""
        return TextWriter(self, bos_ids(tokenizer))

    def end_ids(self, tokenizer: Any) -> list[int]:
        """Tokens that end an answer."""
        return [eos_id(tokenizer)]


@dataclass(frozen=True)
class PlainTemplate(_Headed):
    """The prompt, then a separator, then the answer; without one a line break, or nothing where both are one text."""

    kind = "plain"
    separator: str | None = None
    learn: Learn = "all"  # answers of a dialogue

    def resolved(self, examples: Sequence[Example], tokenizer: Any) -> Template:
        """The same with its separator: none where most examples are one text, else a line break."""
        if self.separator is not None:
            return self
        one_text = sum(example.verbatim for example in examples)
        return PlainTemplate("" if 2 * one_text > len(examples) else "\n", self.learn)

    def asked(self, prompt: str, example: Example) -> list[Piece]:
        """A prompt up to its answer."""
        separator = ("" if example.verbatim else "\n") if self.separator is None else self.separator
        return [Piece(prompt + separator, cut="beginning")]


@dataclass(frozen=True)
class InstructionTemplate(_Headed):
    """A heading over the prompt and one over the answer."""

    kind = "instruction"
    prompt_heading: str = "### Instruction:\n"
    answer_heading: str = "\n\n### Response:\n"
    learn: Learn = "all"  # answers of a dialogue
    between = "\n\n"

    def asked(self, prompt: str, example: Example) -> list[Piece]:
        """A prompt up to its answer."""
        return [Piece(self.prompt_heading), Piece(prompt, cut="beginning"), Piece(self.answer_heading)]


@dataclass(frozen=True)
class _ChatSettings(Template):
    """How dialogues are written by the tokenizer's own chat template.

    `learn`: all answers of a dialogue, or the last. `system`: its turn is kept, or written before the user's first, for
    templates without one. `name` chooses among several templates of a tokenizer, `variables` are handed to it (such as
    enable_thinking). `reasoning`: answers bring their own, so that all after an assistant's heading is learned (None:
    whether any training answer does). `date`: today's, where the template asks for it (None: when the run starts).
    """

    learn: Learn = "all"
    system: Literal["keep", "first_user"] = "keep"
    name: str | None = None
    variables: dict[str, Any] | None = None
    reasoning: bool | None = None
    date: str | None = None

    def __post_init__(self) -> None:
        try:
            datetime.fromisoformat(self.date or "2000-01-01")
        except ValueError:
            raise ConfigError(f"date is {self.date!r}; it must be a day such as 2026-01-31") from None

    @property
    def leaves_the_day(self) -> bool:
        """Whether no date is given."""
        return self.date is None

    def dated(self, day: str) -> Template:
        """The same with a date."""
        return replace(self, date=day)


@dataclass(frozen=True)
class ChatTemplate(_ChatSettings):
    """The tokenizer's own chat template: a dialogue's turns, else the prompt as one user turn."""

    kind = "chat"

    @property
    def described(self) -> str:
        """What writes dialogues."""
        return "the model's own chat template"

    def resolved(self, examples: Sequence[Example], tokenizer: Any) -> Template:
        """The same with reasoning and, where the template asks for it, the day."""
        source = source_of(tokenizer, self.name)
        reasoning, day = self.reasoning, self.date
        if reasoning is None:
            answers = (turn for e in examples for turn in e.dialogue or (Turn("assistant", e.answer),))
            reasoning = any(turn.role == "assistant" and brings_reasoning(turn) for turn in answers)
        if day is None and "strftime_now" in source:
            day = date.today().isoformat()
        return replace(self, reasoning=reasoning, date=day)

    def writer(self, tokenizer: Any) -> DialogueWriter:
        """This template for a tokenizer. Raises ConfigError if that has no chat template."""
        source_of(tokenizer, self.name)
        chat = ChatWriter(tokenizer, self.name, self.date, bool(self.reasoning), self.system, self.variables or {})
        return DialogueWriter(chat, self.learn)

    def writes(self, tokenizer: Any, field: str) -> bool:
        """Whether the chat template asks for it, or leaves it in the last answer."""
        if field == THINK:
            said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nso"}]
            try:
                return "why" in self.writer(tokenizer).chat.text(said)
            except DataError:  # a template for other dialogues than this
                return True
        source = source_of(tokenizer, self.name) + source_of(tokenizer, self.name, tools=True)
        return any(name in source for name in (REASONING if field == "reasoning" else (field,)))

    def end_ids(self, tokenizer: Any) -> list[int]:
        """Tokens that the chat template writes after an assistant's turn, less white space; EOS if it writes none."""
        end = self.writer(tokenizer).chat.end
        return encode_after(tokenizer, [end])[0] if end else [eos_id(tokenizer)]


@dataclass(frozen=True)
class AutoTemplate(_ChatSettings):
    """`chat` for dialogues where the tokenizer has a chat template, else `plain`; `resolved` chooses."""

    kind = "auto"
    chooses = True
    separator: str | None = None

    def resolved(self, examples: Sequence[Example], tokenizer: Any) -> Template:
        """The template that is chosen, itself resolved."""
        if any(example.reply is not None for example in examples) and getattr(tokenizer, "chat_template", None):
            chat = ChatTemplate(self.learn, self.system, self.name, self.variables, self.reasoning, self.date)
            return chat.resolved(examples, tokenizer)
        return PlainTemplate(self.separator, self.learn).resolved(examples, tokenizer)


@dataclass(frozen=True)
class ClassTemplate(Template):
    """The prompt alone: what is learned is its class, by `classes.tokenise_classes`, and no text is written.

    `partition_by` says by what clients are told apart: the class (label skew) or the domain of a row.
    """

    kind = "class"
    writes_text = False
    partition_by: Literal["label", "domain"] = "label"

    @property
    def clients_differ_by_label(self) -> bool:
        """Whether rows are dealt by their class."""
        return self.partition_by == "label"


def ends_of(template: Template, tokenizer: Any, own: Iterable[tuple[int, ...]] = ()) -> tuple[tuple[int, ...], ...]:
    """Token sequences that end an answer: the template's end of a turn, EOS, and the model's `own`; none of a class."""
    if not template.writes_text:
        return ()
    written = filter(None, [tuple(template.end_ids(tokenizer))])
    eos = [] if tokenizer.eos_token_id is None else [(int(tokenizer.eos_token_id),)]
    return tuple(sorted({*written, *eos, *own}))


@dataclass(frozen=True)
class TokenSet:
    """R tokenised rows, end to end. With `classes`, what is learned of a row is its class; else tokens of it.

    These are the last ones, from `label_start` on, or where dialogues have several answers those marked in `labels`.
    """

    ids: NDArray[np.int32]
    offsets: Ints  # row i is ids[offsets[i]:offsets[i + 1]]
    label_start: Ints  # where in its row the first answer starts
    domains: tuple[str, ...]
    example_index: Ints  # which example a row came from
    dropped: int = 0  # examples with an empty answer, or one of which the tokenizer makes nothing
    truncated_prompts: int = 0
    truncated_answers: int = 0
    classes: Ints | None = None
    labels: NDArray[np.bool_] | None = None  # of every token; the last one of a row always is
    shortened_dialogues: int = 0  # that lost their oldest exchanges
    dropped_turns: int = 0  # which these held
    prompt_tokens: int = 0  # of a soft prompt, at the beginning of every row: copies of its first token

    def __len__(self) -> int:
        return len(self.label_start)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows are kept, and of how many something was left out."""
        return {
            "kept": len(self),
            "dropped": self.dropped,
            "truncated_prompts": self.truncated_prompts,
            "truncated_answers": self.truncated_answers,
        }

    def told(self, name: str) -> tuple[str, ...]:
        """In sentences what was dropped and cut of the rows of a part of that name."""
        prompts, answer = ("prompts", "an answer") if self.classes is None else ("texts", "a text")
        counts = (
            (
                self.dropped,
                f"{name} rows without {answer}, or with one of which nothing is written or tokenised, dropped",
            ),
            (self.shortened_dialogues, f"{name} dialogues without their oldest turns ({self.dropped_turns:,} in all)"),
            (self.truncated_prompts, f"{name} {prompts} cut to world.data.max_tokens"),
            (self.truncated_answers, f"{name} answers cut to world.data.max_tokens"),
        )
        return tuple(f"{count:,} {what}" for count, what in counts if count)

    def with_prompt(self, tokens: int) -> TokenSet:
        """The same rows with room for a soft prompt of so many tokens."""
        more = tokens - self.prompt_tokens
        if not more:
            return self
        require_memory(8 * len(self) * tokens, f"{len(self):,} rows with {tokens:,} tokens before each")
        rows = [self.row(i) for i in range(len(self))]
        marks = [self.labels_of(i) for i in range(len(self))] if self.labels is not None else None

        def moved(row: NDArray[Any], fill: Any) -> NDArray[Any]:
            return np.concatenate([np.full(more, fill, row.dtype), row]) if more > 0 else row[-more:]

        return replace(
            self,
            ids=np.concatenate([moved(row, row[0]) for row in rows]),
            offsets=self.offsets + more * np.arange(len(self.offsets)),
            label_start=self.label_start + more,
            labels=None if marks is None else np.concatenate([moved(mark, False) for mark in marks]),
            prompt_tokens=tokens,
        )

    def row(self, index: int) -> NDArray[np.int32]:
        """Token ids of one row."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def labels_of(self, index: int) -> NDArray[np.bool_]:
        """Which tokens of one row are labels."""
        if self.labels is not None:
            return self.labels[self.offsets[index] : self.offsets[index + 1]]
        return np.arange(self.offsets[index + 1] - self.offsets[index]) >= self.label_start[index]

    @property
    def lengths(self) -> Ints:
        """Tokens that go through the model per row, [R]: all, or all but the last where it is only ever a label."""
        return np.diff(self.offsets) - (self.classes is None)

    @property
    def labelled(self) -> Ints:
        """Labelled positions per row, [R]; one where rows have classes."""
        if self.labels is not None:
            return np.add.reduceat(self.labels.astype(np.int64), self.offsets[:-1])
        return np.diff(self.offsets) - self.label_start


def tokenise(examples: Sequence[Example], tokenizer: Any, template: Template, max_tokens: int) -> TokenSet:
    """Tokenised rows: [BOS] prompt answer EOS, with labels on the answer and EOS alone; on all answers of a dialogue.

    A dialogue longer than `max_tokens` loses its oldest exchanges, never what the system says before them. If that does
    not help, and of other rows, prompts lose their beginning (after BOS) and the system's turn its end; an answer that
    still does not fit loses its end, EOS included. Examples with an empty answer, or one of which the tokenizer makes
    no tokens, are dropped. All is counted. Where nothing stands before an answer, its first token is not labelled, as
    there is nothing to predict it from.

    Args:
        examples: what to tokenise.
        tokenizer: called as `tokenizer(texts, add_special_tokens=False)["input_ids"]`.
        template: what is written before and after an answer; one that leaves something open is resolved first.
        max_tokens: longest row, at least 4 tokens.
    Raises: ConfigError if max_tokens < 4 or the chat template is missing; DataError if no row is left, or the chat
        template refuses one; ModelError if the tokenizer has no EOS.
    """
    if max_tokens < 4:
        raise ConfigError(f"max_tokens is {max_tokens}; a row needs at least 4 tokens")
    writer_of = text_template(template, examples, tokenizer)
    writer = writer_of.writer(tokenizer)
    recent = [_recent(example, max_tokens) for example in examples]
    asked = ((i, writer.row(example)) for i, (example, _) in enumerate(recent) if _answers(example, template))
    written, pieces = [], []
    for i, own in asked:
        if own:
            written.append(i)
            pieces.append(own)
    if not written:
        raise DataError(
            f"none of the {len(examples)} examples has an answer that {writer_of.described} writes and learns; there "
            "is nothing to train on"
        )
    kept, ids, marks, sizes, starts = list[int](), array("i"), bytearray(), list[int](), list[int]()
    cut_prompts = cut_answers = shortened_dialogues = dropped_turns = 0
    fitting = _fitting([recent[i][0] for i in written], pieces, writer.row, writer.begin, tokenizer, max_tokens)
    for i, (row, lost, says) in zip(written, fitting, strict=True):
        if not says:
            continue
        kept.append(i)
        lost += recent[i][1]
        ids.extend(row.ids)
        marks.extend(row.labels)
        sizes.append(len(row.ids))
        starts.append(row.labels.index(True) if True in row.labels else len(row.ids))
        cut_prompts, cut_answers = cut_prompts + row.cut_prompt, cut_answers + row.cut_answer
        shortened_dialogues, dropped_turns = shortened_dialogues + (lost > 0), dropped_turns + lost
    if not kept:
        raise DataError(
            f"the tokenizer makes no tokens of any of the {len(written)} answers; give data in a language that it knows"
        )
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    labels, label_start = np.frombuffer(marks, np.bool_), np.array(starts, np.int64)
    several = int(labels.sum()) < int((np.diff(offsets) - label_start).sum())
    return TokenSet(
        ids=np.frombuffer(ids, np.int32),
        offsets=offsets,
        label_start=label_start,
        domains=tuple(examples[i].domain for i in kept),
        example_index=np.array(kept, np.int64),
        dropped=len(examples) - len(kept),
        truncated_prompts=cut_prompts,
        truncated_answers=cut_answers,
        labels=labels if several else None,
        shortened_dialogues=shortened_dialogues,
        dropped_turns=dropped_turns,
    )


def prompt_ids(
    examples: Sequence[Example], tokenizer: Any, template: Template, room: int | None = None
) -> list[list[int]]:
    """Token ids of all that stands before each answer, BOS included: what generation starts from.

    One longer than `room` is cut as `tokenise` does.
    """
    writer = text_template(template, examples, tokenizer).writer(tokenizer)
    pieces = [writer.prompt(example) for example in examples]
    return [row.ids for row, *_ in _fitting(examples, pieces, writer.prompt, writer.begin, tokenizer, room)]


def text_template(template: Template, examples: Sequence[Example], tokenizer: Any) -> Template:
    """The template, resolved if need be. Raises ConfigError if it writes no text."""
    chosen = template.resolved(examples, tokenizer) if template.chooses else template
    if not chosen.writes_text:
        raise ConfigError("template 'class' writes no text; use template 'plain', 'instruction' or 'chat'")
    return chosen


def _answers(example: Example, template: Template) -> bool:
    """Whether there is anything to learn."""
    last_only = template.learn == "last"
    turns = example.dialogue[-1:] if last_only else example.dialogue
    if example.reply is None:
        return bool(example.answer.strip())
    return any(turn.role == "assistant" and turn.learned and turn.text.strip() for turn in turns)


def _fitting(
    examples: Sequence[Example],
    rows: Sequence[list[Piece]],
    write: Any,
    begin: Sequence[int],
    tokenizer: Any,
    room: int | None,
) -> Iterator[tuple[Row, int, bool]]:
    """Token ids of each row, cut to the room; how many turns it lost; and whether its answers have tokens."""
    whole = zip(examples, encode_rows([joined(r) for r in rows], tokenizer), rows, strict=True)
    rows_of = ((example, row_of(parts, begin), pieces, says_something(parts)) for example, parts, pieces in whole)
    while some := list(islice(rows_of, _AT_ONCE)):
        fitted = [(*_without_turns(e, row, p, write, begin, tokenizer, room), says) for e, row, p, says in some]
        long = [pieces for row, _, pieces, _ in fitted if room is not None and len(row.ids) > room]
        parts_of_long = encode_rows(long, tokenizer)
        for row, lost, _, says in fitted:
            if room is not None and len(row.ids) > room:
                row = shortened(next(parts_of_long), begin, room)
            yield row, lost, says


def _recent(example: Example, room: int) -> tuple[Example, int]:
    """A dialogue without exchanges before as many characters as cannot be in the room, and how many turns it lost.

    To write the whole of a dialogue takes time with the square of its turns.
    """
    said = [len(turn.text.rpartition("</think>")[2]) for turn in example.turns]  # templates may leave thinking out
    if sum(said) + len(said) <= _LONGEST_TOKEN * room or not is_dialogue(example):
        return example, 0
    last = max((i for i, turn in enumerate(example.dialogue) if turn.role == "assistant" and turn.learned), default=0)
    starts = [start for start in exchange_starts(example.turns) if start <= last]
    without = bisect_left(starts, True, key=lambda start: sum(said[start:]) <= _LONGEST_TOKEN * room)
    without = min(without, len(starts) - 1)
    if without < 1:
        return example, 0
    turns = without_oldest(example.turns, without)
    return replace(example, prompt=written_out(turns), turns=turns), starts[without] - starts[0]


def _without_turns(
    example: Example, row: Row, pieces: list[Piece], write: Any, begin: Sequence[int], tokenizer: Any, room: int | None
) -> tuple[Row, int, list[Piece]]:
    """A row, without so many of its oldest exchanges that it fits; how many turns it lost; its pieces."""
    if room is None or len(row.ids) <= room or not is_dialogue(example):
        return row, 0, pieces
    starts = exchange_starts(example.turns)
    while len(starts) > 1 and not write(example, len(starts) - 1):  # what is learned stands before
        starts.pop()

    def attempt(without: int) -> Row:
        return row_of(next(encode_rows([joined(write(example, without))], tokenizer)), begin)

    without = bisect_left(range(len(starts) - 1), True, key=lambda k: len(attempt(k).ids) <= room)
    if not without:
        return row, 0, pieces
    return attempt(without), starts[without] - starts[0], write(example, without)
