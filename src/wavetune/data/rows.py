"""Row forms: what a JSON object must hold to become an `Example`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from wavetune.data.examples import NO_DOMAIN, Example
from wavetune.errors import DataError

Row = Mapping[str, Any]


def example_of(row: Row, where: str) -> Example:
    """Example of a row in any known form; a `domain` field, where there is one, overrides the form's own domain.

    Raises: DataError that starts with `where` if the keys match no form, or a value has the wrong type.
    """
    if "chosen" in row:
        raise DataError(
            f"{where}: rows with 'chosen' are preference pairs, which train reward models and alignment, "
            "not supervised fine-tuning; give rows with one answer"
        )
    for needed, convert in FORMS:
        if all(key in row for key in needed):
            try:
                example = convert(row)
            except _WrongValueError as error:
                raise DataError(f"{where}: {error}") from error
            return replace(example, domain=str(row["domain"])) if row.get("domain") is not None else example
    known = "; ".join("{" + ", ".join(needed) + "}" for needed, _ in FORMS)
    raise DataError(f"{where}: found keys {{{', '.join(row)}}}; known row forms are {known}")


def slots(meaning: str) -> dict[str, str]:
    """Slots of a meaning representation `name[X], food[Y]`; empty if the text is not one.

    >>> slots("name[The Vaults], food[Thai]")
    {'name': 'The Vaults', 'food': 'Thai'}
    """
    slot = r"(\w[\w ]*)\[([^\[\]]*)\]"
    return dict(re.findall(slot, meaning)) if re.fullmatch(f"{slot}(, ?{slot})*", meaning) else {}


class _WrongValueError(Exception):
    pass


def _text(row: Row, key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise _WrongValueError(f"{key!r} must be text, found {type(value).__name__}")
    return value.strip()


def _chat(row: Row) -> Example:
    try:
        turns = [(str(turn["role"]), turn["content"].strip()) for turn in row["messages"]]
    except (TypeError, KeyError, AttributeError):
        raise _WrongValueError("'messages' must be a list of {role, content} objects with text contents") from None
    answers = [i for i, (role, _) in enumerate(turns) if role == "assistant"]
    if not answers or answers[-1] == 0:
        raise _WrongValueError("'messages' needs a turn with role 'assistant' after another turn")
    before = tuple(turns[: answers[-1]])
    prompt = (
        before[0][1] if len(before) == 1 else "\n".join(f"{role.capitalize()}: {content}" for role, content in before)
    )
    return Example(prompt, turns[answers[-1]][1], NO_DOMAIN, before)


def _instruction(row: Row) -> Example:
    context = _text(row, "input") if row.get("input") else ""
    prompt = _text(row, "instruction")
    return Example(
        f"{prompt}\n\n{context}" if context else prompt, _text(row, "output"), str(row.get("category") or NO_DOMAIN)
    )


def _choice(row: Row) -> Example:
    options, answer = row["options"], row["answer"]
    if not isinstance(options, list) or not 2 <= len(options) <= 26:
        raise _WrongValueError("'options' must be a list of 2 to 26 texts")
    if type(answer) is not int or not 0 <= answer < len(options):  # a bool is an int, but no index
        raise _WrongValueError(f"'answer' must be the index of an option, 0 to {len(options) - 1}, found {answer!r}")
    lettered = [f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options)]
    return Example(
        "\n".join([_text(row, "question"), *lettered]), lettered[answer], str(row.get("difficulty") or NO_DOMAIN)
    )


def _class(text: str) -> Callable[[Row], Example]:
    def convert(row: Row) -> Example:
        label = row["label"]
        if not isinstance(label, str | int) or not str(label).strip():
            raise _WrongValueError(f"'label' must be a class, as text or a whole number, found {label!r}")
        return Example(_text(row, text), str(label).strip(), str(label).strip())

    return convert


def _meaning(row: Row) -> Example:
    prompt = _text(row, "input")
    slot = slots(prompt)
    return Example(prompt, _text(row, "output"), slot.get("food") or slot.get("eatType") or NO_DOMAIN)


def _pair(prompt: str, answer: str) -> Callable[[Row], Example]:
    return lambda row: Example(_text(row, prompt), _text(row, answer), str(row.get("category") or NO_DOMAIN))


# The first form whose keys are all there is taken, so a form stands before those whose keys it contains.
FORMS: tuple[tuple[tuple[str, ...], Callable[[Row], Example]], ...] = (
    (("messages",), _chat),
    (("instruction", "output"), _instruction),
    (("question", "options", "answer"), _choice),
    (("input", "output"), _meaning),
    (("prompt", "response"), _pair("prompt", "response")),
    (("prompt", "completion"), _pair("prompt", "completion")),
    (("question", "answer"), _pair("question", "answer")),
    (("text", "label"), _class("text")),
    (("prompt", "label"), _class("prompt")),
)
