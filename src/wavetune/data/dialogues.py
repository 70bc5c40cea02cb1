"""Dialogues as data sets write them (lists of messages in the manner of OpenAI, ShareGPT or TRL), read as turns."""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from tokenize import NL, STRING, TokenError, generate_tokens
from typing import Any

from wavetune.data.examples import Example, Turn

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "client", "input"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "chatbot", "model", "bot", "ai", "bing", "bard", "function_call", "output"),
        "assistant",
    ),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "ipython"), "tool"),
}
"""What data sets call those who speak, and what chat templates call them."""
WHO = ("from", "role", "speaker")  # what data sets call who speaks
CONTENTS = ("content", "value", "parts", "text")  # what data sets call what is said
LEARNED = ("weight", "train", "training", "loss")  # 0 or false where a turn is not to be learned
TURN_KEYS = {*WHO, *CONTENTS, "name", *LEARNED, "tool_calls", "tool_call_id", "function_call", "refusal"}


class WrongValueError(Exception):
    """A field of a row does not hold what its form needs; the message says which and why."""


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages and nothing else."""
    return isinstance(value, list) and bool(value) and all(_is_message(message) for message in value)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and any(key in value for key in WHO) and {*value} <= TURN_KEYS


def unpacked(value: Any) -> Any:
    """The list of messages that a text writes; else the value."""
    return found if is_messages(found := opened(value)) else value


def opened(value: Any) -> Any:
    """The list or object that a text writes as JSON or, as tables saved as CSV do, as Python; else the value.

    >>> opened("['a', 'b']")
    ['a', 'b']
    >>> opened("['a' 'b']")  # NumPy's way, which Python would read as the one text 'ab'
    "['a' 'b']"
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    for read in (json.loads, _python):
        with suppress(ValueError, SyntaxError, TokenError, RecursionError, MemoryError):
            return read(value.strip())
    return value


def _python(text: str) -> Any:
    """What a literal of Python says. Raises ValueError or SyntaxError, also where texts stand side by side."""
    kinds = [token.type for token in generate_tokens(StringIO(text).readline) if token.type != NL]
    if (STRING, STRING) in pairwise(kinds):
        raise ValueError("texts without a comma between them")
    return ast.literal_eval(text)


def turns_of(messages: Any, field: str) -> tuple[Turn, ...]:
    """Turns of a list of messages, each with `role` and `content` (or `from` and `value`), of the field of that name.

    The list may be written as JSON, and a message be an object from who speaks to what is said. Contents may be texts,
    null, or lists of parts with text. Raises WrongValueError.
    """
    messages = unpacked(messages)
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise WrongValueError(f"{field!r} must be a list of messages {{role, content}}, found {_type(messages)}")
    return tuple(turn for place, message in enumerate(messages) for turn in _turns(message, f"{field}[{place}]"))


def turns_before(history: Any, field: str) -> tuple[Turn, ...]:
    """Turns of a dialogue so far: a list of messages, or of pairs of question and answer. Raises WrongValueError."""
    pairs = history if isinstance(history, list) else []
    if pairs and all(isinstance(pair, list | tuple) and [*map(type, pair)] == [str, str] for pair in pairs):
        return tuple(Turn(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True))
    return turns_of(history, field)


def said_in(content: Any, where: str) -> str:
    """The text of a content, as text or as a list of parts, perhaps in an object that holds them. WrongValueError."""
    if isinstance(content, Mapping):
        content = next((content[key] for key in CONTENTS if key in content), content)
    return _content(content, where)


def written(turns: Sequence[Turn]) -> str:
    """Turns as plain text: what is said alone if there is one, else a line each behind who says it."""
    if len(turns) == 1:
        return turns[0].text
    return "\n".join(f"{turn.role.capitalize()}: {turn.text}" for turn in turns)


def is_dialogue(example: Example) -> bool:
    """Whether an example was given as turns, and not as a text in which turns are marked."""
    return bool(example.turns) and (example.reply is not None or example.prompt == written(example.turns))


def without_oldest(turns: Sequence[Turn], exchanges: int) -> tuple[Turn, ...]:
    """The turns but those of the oldest exchanges, which start with the user; the first turns of the system stay."""
    first = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    starts = exchange_starts(turns)
    return (*turns[:first], *turns[starts[exchanges] if exchanges else first :])


def exchange_starts(turns: Sequence[Turn]) -> list[int]:
    """Places at which an exchange starts: turns of the user that do not follow one another, and the first of all."""
    first = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    later = range(first + 1, len(turns))
    return [first, *(i for i in later if turns[i].role == "user" and turns[i - 1].role != "user")]


def trimmed(example: Example) -> Example:
    """The example without white space around its texts."""
    turns = [replace(turn, content=turn.content.strip()) for turn in example.dialogue]
    before = tuple(turns[: len(example.turns)])
    return replace(
        example,
        prompt=written(before) if is_dialogue(example) else example.prompt.strip(),
        answer=example.answer.strip(),
        turns=before,
        reply=turns[-1] if example.reply else None,
        second=example.second.strip(),
    )


def tools_of(tools: Any) -> str:
    """The tools that a dialogue may call, as a JSON list; data sets give a list or its JSON. Raises WrongValueError."""
    if isinstance(tools, str):
        tools = _parsed(tools)
    if tools is not None and not isinstance(tools, list):
        raise WrongValueError(f"'tools' must be a list of tools, found {_type(tools)}")
    return _json(tools) if tools else ""


def _turns(message: Any, where: str) -> Iterator[Turn]:
    if not isinstance(message, Mapping):
        raise WrongValueError(f"{where} must be a message {{role, content}}, found {_type(message)}")
    if message and all(str(who).lower() in ROLES and isinstance(said, str) for who, said in message.items()):
        yield from (Turn(ROLES[str(who).lower()], said) for who, said in message.items())  # {"human": .., "gpt": ..}
    else:
        yield _turn(message, where)


def _turn(message: Mapping[str, Any], where: str) -> Turn:
    role_key = next((key for key in WHO if key in message), None)
    if role_key is None:
        known = "', '".join(WHO)
        raise WrongValueError(f"{where} does not say who speaks: it has none of '{known}', but {', '.join(message)}")
    content_key = next((key for key in CONTENTS if key in message), None)
    role = ROLES.get(str(message.get(role_key)).lower())
    if role is None:
        known = ", ".join(sorted({*ROLES.values()}))
        raise WrongValueError(f"{where} has the {role_key} {message.get(role_key)!r}; known are {known}")
    if content_key is None and not message.keys() & {"tool_calls", "function_call", "refusal"}:
        raise WrongValueError(f"{where} says nothing: it has none of {', '.join(CONTENTS)}, but {', '.join(message)}")
    kept = (role_key, content_key, *LEARNED, "function_call", "refusal")
    more = {key: value for key, value in message.items() if key not in kept and value is not None}
    if called := message.get("function_call"):  # what came before `tool_calls`
        more["tool_calls"] = [{"type": "function", "function": called}]
    if "tool_calls" in more:
        if not isinstance(more["tool_calls"], list):
            raise WrongValueError(f"{where}.tool_calls must be a list, found {_type(more['tool_calls'])}")
        more["tool_calls"] = [_with_arguments(call, where) for call in more["tool_calls"]]
    said = message[content_key] if content_key is not None else None
    content = _content(message.get("refusal") if said is None else said, f"{where}.{content_key or 'content'}")
    return Turn(role, content, _json(more) if more else "", all(_asked(message.get(key)) for key in LEARNED))


def _asked(value: Any) -> bool:
    """Whether a turn with this weight or flag is to be learned; null says nothing."""
    return value is None or str(value).strip().lower() not in ("0", "0.0", "false")


def _content(content: Any, where: str) -> str:
    if content is None:  # beside tool calls
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise WrongValueError(f"{where} must be text, found {_type(content)}")
    return "".join(_part(part, f"{where}[{place}]") for place, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str) and part.get("type", "text") == "text":
        return part["text"]
    kind = part.get("type") if isinstance(part, Mapping) else _type(part)
    raise WrongValueError(f"{where} is of type {kind!r}; text alone is trained on")


def _with_arguments(call: Any, where: str) -> Any:
    """A tool call whose arguments are an object, as chat templates expect them, where the data holds their JSON."""
    if not isinstance(call, Mapping):
        raise WrongValueError(f"{where}.tool_calls must hold objects, found {_type(call)}")
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    return {**call, "function": {**function, "arguments": _parsed(function["arguments"])}}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _type(value: Any) -> str:
    return "null" if value is None else type(value).__name__
