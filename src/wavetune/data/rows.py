"""Row forms: what a row of a data file must hold to become an `Example`."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

from wavetune.data.dialogues import (
    WrongValueError,
    opened,
    said_in,
    tools_of,
    turns_before,
    turns_of,
    unpacked,
    written,
)
from wavetune.data.examples import NO_DOMAIN, Example, Turn
from wavetune.errors import DataError, nearest

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Form:
    """Fields that a row of this form must have, may have and must not have, and what makes an example of them."""

    needed: tuple[str, ...]
    convert: Callable[[Row], Example]
    optional: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def fields(self) -> set[str]:
        """All fields that are looked at."""
        return {*self.needed, *self.optional, "domain"}

    def example(self, row: Row, where: str) -> Example:
        """Example of a row of this form. Raises DataError that starts with `where` if a value has the wrong type."""
        try:
            example = self.convert(row)
        except WrongValueError as error:
            raise DataError(f"{where}: {error}") from error
        domain = row.get("domain")
        return replace(example, where=where, domain=example.domain if _none(domain) else _name(domain))


def form_of(row: Row, where: str) -> Form:
    """The first form whose fields a row has. Raises DataError that starts with `where` if there is none."""
    if row.get("chosen") is not None:
        raise DataError(
            f"{where}: rows with 'chosen' are preference pairs, which train reward models (wavetune "
            "train-reward --data) and alignment, not supervised fine-tuning; give rows with one answer"
        )
    there = {key for key, value in row.items() if value is not None}
    for fields in (there, {*row}):  # a field that is null is as good as missing, unless there is no other
        for form in FORMS:
            if fields.issuperset(form.needed) and row.keys().isdisjoint(form.without):
                return form
    if {"role", "from"} & {*row}:
        raise DataError(
            f"{where}: a row with {'role' if 'role' in row else 'from'!r} is a turn of a dialogue; write a row "
            'for each dialogue, {"messages": [...]}, or say what the columns hold by world.data.columns'
        )
    remedy = 'Name yours by world.data.columns, such as {"prompt": "...", "response": "..."}'
    raise DataError(
        f"{where}: found the columns {', '.join(map(str, row)) or 'none'}; known are {KNOWN}. {remedy_for(row, remedy)}"
    )


def remedy_for(row: Row, otherwise: str) -> str:
    """What to do about a row of a form that is known, and not read."""
    return next((remedy for column, remedy in UNREAD.items() if column in row), otherwise)


def renamed(row: Row, columns: Mapping[str, str], where: str) -> Row:
    """The row by the names of known fields: those that a mapping gives to its columns, and its own in any case.

    A column may be a path to what is inside one (`meta.answers.0.text`). Where the fields of the mapping make a row by
    themselves, no other column is in it.

    Raises: DataError if a field or column of the mapping is unknown.
    """
    if not columns:
        names = _known_names(tuple(row))
        return {names[key]: value for key, value in row.items()} if names else row
    for field, column in columns.items():
        if field not in FIELDS:
            raise DataError(f"world.data.columns has no field {field!r}; {nearest(field, FIELDS)}")
        if not _at(row, column):
            raise DataError(
                f"{where}: there is no column {column!r}, which world.data.columns.{field} names; "
                f"{nearest(column, map(str, row))}"
            )
    named = {field: _at(row, column)[0] for field, column in columns.items()}
    if any(named.keys() >= {*needed} for needed in (*(form.needed for form in FORMS), ("chosen", "rejected"))):
        return named
    taken = {*named, *columns.values(), *(column.split(".")[0] for column in columns.values() if column not in row)}
    rest = {key: value for key, value in row.items() if key not in taken}
    return {**renamed(rest, {}, where), **named}


def _at(value: Any, path: str) -> list[Any]:
    """The value at a column or, with dots between, at a path of keys and places of lists; empty if it is not there.

    >>> _at({"a": [{"b.c": 1}]}, "a.0.b.c")
    [1]
    """
    inner = opened(value)
    if isinstance(inner, list):
        inner = {str(place): item for place, item in enumerate(inner)}
    if not isinstance(inner, Mapping):
        return []
    if path in inner:
        return [inner[path]]
    key, _, rest = path.partition(".")
    return _at(inner[key], rest) if key in inner else []


@lru_cache(maxsize=1024)
def _known_names(names: tuple[str, ...]) -> Mapping[str, str]:
    """The name of each column as forms write it, where only upper or lower case differs; empty if all are so already.

    >>> _known_names(("Prompt", "answerkey", "mine"))
    {'Prompt': 'prompt', 'answerkey': 'answerKey', 'mine': 'mine'}
    """
    fields = {field.lower(): field for field in FIELDS - {*OPTIONS}}
    known, taken = dict[str, str](), {*names}
    for name in names:
        field = fields.get(str(name).lower(), name)
        known[name] = name if name in FIELDS or field in taken else field
        taken.add(known[name])
    return known if any(name != field for name, field in known.items()) else {}


def slots(meaning: str) -> dict[str, str]:
    """Slots of a meaning representation `name[X], food[Y]`; empty if the text is not one.

    >>> slots("name[The Vaults], food[Thai]")
    {'name': 'The Vaults', 'food': 'Thai'}
    """
    slot = r"(\w[\w ]*)\[([^\[\]]*)\]"
    return dict(re.findall(slot, meaning)) if re.fullmatch(f"{slot}(, ?{slot})*", meaning) else {}


def text_of(row: Row, field: str) -> str:
    """A field that holds text; numbers are written out, null is as empty as a cell of CSV. Raises WrongValueError."""
    value = row[field]
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float | Decimal) and math.isfinite(value)):
        return str(value)
    if not isinstance(value, str):
        found = value if isinstance(value, float) else type(value).__name__
        raise WrongValueError(f"{field!r} must be text, found {found}")
    return value


def domain_of(row: Row, *fields: str) -> str:
    """What the first of these fields that says something says, as the name of a domain."""
    said = (row[field] for field in fields if not _none(row.get(field)) and row[field] not in ("", []))
    return next(map(_name, said), NO_DOMAIN)


def _none(value: Any) -> bool:
    """Whether a value is null, or NaN, which columns of numbers have in its place."""
    return value is None or value != value


def _name(value: Any) -> str:
    """A value as the name of a class or domain: 1.0 is 1, as columns of numbers with gaps are read."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _system(row: Row) -> tuple[Turn, ...]:
    """What the system says of a row beside it, in a field of its own."""
    field = next((field for field in SYSTEMS if row.get(field) and not _none(row[field])), None)
    return () if field is None else (Turn("system", text_of({field: said_in(row[field], field)}, field)),)


def _dialogue(turns: Sequence[Turn], row: Row) -> Example:
    """The last turn of the assistant is the answer to all before it; without one there is no answer."""
    last = max((place for place, turn in enumerate(turns) if turn.role == "assistant"), default=0)
    before, domain = tuple(turns[:last]), domain_of(row, "category")
    if before and turns[0].role != "system":
        before = (*_system(row), *before)
    if not before:
        return Example(written(turns), "", domain, tuple(turns))
    tools = tools_of(row.get("tools") or row.get("functions"))
    return Example(written(before), turns[last].text, domain, before, turns[last], tools)


def _messages(field: str) -> Callable[[Row], Example]:
    return lambda row: _dialogue(turns_of(row[field], field), row)


def _pair(prompt: str, answer: str, verbatim: bool = False) -> Callable[[Row], Example]:
    def convert(row: Row) -> Example:
        label = row.get("label")
        if isinstance(label, bool) or (verbatim and str(label).lower() in ("0", "1", "0.0", "1.0", "true", "false")):
            raise WrongValueError(
                f"the 'label' {label!r} says whether the answer is wanted; keep rows that are, without it"
            )
        asked, said, earlier = unpacked(row[prompt]), unpacked(row[answer]), opened(row.get("history")) or ()
        if isinstance(asked, list) or isinstance(said, list) or earlier:
            before = turns_of(asked, prompt) if isinstance(asked, list) else (Turn("user", text_of(row, prompt)),)
            after = turns_of(said, answer) if isinstance(said, list) else (Turn("assistant", text_of(row, answer)),)
            return _dialogue((*turns_before(earlier, "history"), *before, *after), row)
        question, reply, domain = text_of(row, prompt), text_of(row, answer), domain_of(row, "category")
        if not (instructed := _system(row)):
            return Example(question, reply, domain, verbatim=verbatim)
        turns = (*instructed, Turn("user", question))
        return Example(written(turns), reply, domain, turns, Turn("assistant", reply))

    return convert


def _instruction(answer: str) -> Callable[[Row], Example]:
    """Alpaca's instruction with its input, or Dolly's with its context."""

    def convert(row: Row) -> Example:
        context = next((text_of(row, field) for field in ("input", "context") if row.get(field)), "")
        prompt = text_of(row, "instruction")
        whole = {**row, "instruction": f"{prompt}\n\n{context}" if context.strip() else prompt}
        return _pair("instruction", answer)(whole)

    return convert


def _meaning(row: Row) -> Example:
    prompt = text_of(row, "input")
    slot = slots(prompt.strip())
    return Example(prompt, text_of(row, "output"), slot.get("food") or slot.get("eatType") or NO_DOMAIN)


def _choice(options: str | None, answer: str) -> Callable[[Row], Example]:
    def convert(row: Row) -> Example:
        texts, labels = opened(row[options]) if options else {c: row[c] for c in OPTIONS if not _none(row.get(c))}, None
        if isinstance(texts, Mapping) and "text" in texts:
            texts, labels = texts["text"], texts.get("label")
        elif isinstance(texts, Mapping):
            texts, labels = [*texts.values()], [*texts]
        if not isinstance(texts, list) or not 2 <= len(texts) <= 26:
            raise WrongValueError(f"{options or OPTIONS!r} must be a list of 2 to 26 texts")
        letters = [chr(ord("A") + i) for i in range(len(texts))]
        right, asked = row[answer], labels or letters
        if isinstance(right, str):
            known = [str(label) for label in asked] if right in map(str, asked) else [str(text) for text in texts]
            right = known.index(right) if right in known else int(right) if right.isdecimal() else right
        if type(right) is not int or not 0 <= right < len(texts):  # a bool is an int, but no index
            raise WrongValueError(
                f"{answer!r} must be the index of an option, 0 to {len(texts) - 1}, its letter or its text, "
                f"found {right!r}"
            )
        lettered = [f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True)]
        about = [f"{text_of(row, field)}\n" for field in CONTEXTS if row.get(field)][:1]
        prompt = "\n".join([*about, text_of(row, "question"), *lettered])
        return Example(prompt, lettered[right], domain_of(row, "difficulty", "category", "subject"))

    return convert


def _from_context(context: str, answer: str) -> Callable[[Row], Example]:
    """A question about a context; of SQuAD's several answers the first, none where there is none."""

    def convert(row: Row) -> Example:
        found = opened(row[answer]) if answer == "answers" else row[answer]
        if answer == "answers" and isinstance(found, str) and found.lstrip().startswith(("{", "[")):
            raise WrongValueError(f"{answer!r} must be texts, found a list or object that is not written as JSON")
        found = found.get("text") if isinstance(found, Mapping) else found
        if isinstance(found, list):
            found = found[0] if found else ""
            found = found.get("text") if isinstance(found, Mapping) else found
        answers = {answer: found}
        prompt = f"{text_of(row, context)}\n\n{text_of(row, 'question')}"
        return Example(prompt, text_of(answers, answer), domain_of(row, "category", "title"))

    return convert


def _class(label: str, text: str, second: str | None = None) -> Callable[[Row], Example]:
    def convert(row: Row) -> Example:
        value = row[label]
        whole = isinstance(value, str | int) or (isinstance(value, float) and value.is_integer())
        if not whole or not str(value).strip():
            raise WrongValueError(f"{label!r} must be a class, as text or a whole number, found {value!r}")
        name = _name(value).strip()
        return Example(text_of(row, text), name, name, second=text_of(row, second) if second else "")

    return convert


def _plain(field: str) -> Callable[[Row], Example]:
    return lambda row: Example("", text_of(row, field), domain_of(row, "category"), verbatim=True)


DIALOGUES = ("messages", "conversations", "conversation", "contents")
SYSTEMS = ("system", "system_prompt", "systemInstruction", "system_instruction")
OPTIONS = ("A", "B", "C", "D", "E", "F")  # columns of options, two at least
CONTEXTS = ("context", "passage", "article")
INSTRUCTED = ("output", "response", "completion", "answer")  # what follows `instruction`
ANSWERS = ("answerKey", "answers", "answer")
CHOICES = tuple((options, answer) for options in ("options", "choices") for answer in ("answer", "answerKey"))
TOPICS = ("difficulty", "category", "subject")
PAIRS = (
    ("prompt", "response"), ("prompt", "output"), ("prompt", "answer"), ("question", "answer"),
    ("question", "response"), ("query", "response"), ("query", "answer"), ("inputs", "targets"), ("input", "target"),
    ("input", "response"), ("problem", "solution"),
)  # fmt: skip
TEXT_PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("text1", "text2"), ("question1", "question2"),
    ("text", "text_pair"), ("question", "sentence"),
)  # fmt: skip
TEXTS, LABELS = ("text", "sentence", "prompt", "content", "review"), ("label", "labels")
SAID = ("category", "history", *SYSTEMS)

# The first form whose fields are all there is taken, so a form stands before those whose fields it contains.
FORMS: tuple[Form, ...] = (
    *(Form((field,), _messages(field), ("tools", "functions", *SYSTEMS, "category")) for field in DIALOGUES),
    *(Form(("instruction", answer), _instruction(answer), ("input", "context", *SAID)) for answer in INSTRUCTED),
    *(Form(("question", *pair), _choice(*pair), (*CONTEXTS, *TOPICS)) for pair in CHOICES),
    *(Form(("question", *OPTIONS[:2], a), _choice(None, a), (*CONTEXTS, *OPTIONS, *TOPICS)) for a in ANSWERS),
    *(Form((c, "question", a), _from_context(c, a), ("category", "title")) for c in CONTEXTS for a in ANSWERS[1:]),
    Form(("input", "output"), _meaning),
    Form(("prompt", "completion"), _pair("prompt", "completion", verbatim=True), SAID),
    *(Form(pair, _pair(*pair), SAID) for pair in PAIRS),
    *(Form((*pair, label), _class(label, *pair)) for pair in TEXT_PAIRS for label in LABELS),
    *(Form((text, label), _class(label, text)) for text in TEXTS for label in LABELS),
    *(Form((text,), _plain(text), ("category",), (*LABELS, "role", "from")) for text in ("text", "content")),
)
FIELDS = frozenset(field for form in FORMS for field in form.fields) | {"chosen", "rejected", "source"}
UNREAD = {
    "completions": "Several answers in 'completions' are read where they have a score, rating or rank; choose one as "
    "'response', or two as 'chosen' and 'rejected' for train-reward",
}
"""Columns of forms that are known and not read, and what to do."""
KNOWN = (
    "{messages} or {conversations}, {instruction, output}, {prompt, response}, {prompt, completion}, "
    "{question, answer}, {question, options, answer}, {input, output}, {text, label}, {premise, hypothesis, label}, "
    "{text}"
)
