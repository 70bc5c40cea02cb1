"""What a row must hold to become a preference pair: a prompt, an answer that was chosen and one that was rejected.

Answers are texts or lists of messages. The prompt may be a field of its own (text or messages), or what both answers
begin with, as in hh-rlhf and in TRL's forms without prompt.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from wavetune.data.dialogues import WrongValueError, turns_of, unpacked
from wavetune.data.examples import PreferencePair, Turn
from wavetune.data.rows import domain_of, remedy_for, text_of
from wavetune.errors import DataError

MARKS = {"Human": "user", "Assistant": "assistant", "System": "system"}
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant|System):")
PROMPTS = ("prompt", "question", "instruction", "input", "messages", "conversations", "history")
NAMES = (  # of the answer that was chosen and the one that was rejected
    ("chosen", "rejected"), ("accepted", "rejected"), ("preferred", "rejected"), ("preferred", "dispreferred"),
    ("preferred_output", "non_preferred_output"), ("response_j", "response_k"), ("better", "worse"),
)  # fmt: skip
ANSWERS = ("response", "answer", "completion", "output", "conversation", "human_ref")  # of two, _0 and _1 or such
ENDS = (("_0", "_1"), ("_a", "_b"), ("_A", "_B"), ("_1", "_2"), ("1", "2"))
VERDICTS = ("better_response_id", "safer_response_id", "winner", "preferred", "preference", "choice", "label", "labels")
EQUAL = ("", "none", "nan", "tie", "equal", "both", "neither", "tie (bothbad)", "both_bad", "both_good", "draw")

Row = Mapping[str, Any]


def pair_of(row: Row, where: str, verdict: str | None = None) -> PreferencePair | None:
    """Pair of a row with `chosen`, `rejected` and perhaps a prompt, `system`, `source` and `domain` (else the source).

    Instead of these a row may have two answers such as `response_0` and `response_1` and say which is the better one;
    `verdict` is the field that says it, where there are several. None where an answer is empty, both are equal, neither
    is better, or the dialogues differ before it: such a pair prefers nothing, or not an answer.

    Raises: DataError that starts with `where` if an answer is missing, a value has the wrong type, or there is no
        prompt.
    """
    try:
        found = _answers(row, verdict)
        if found is None:
            return None
        row = {**row, **{key: unpacked(value) for key, value in found.items()}}
        for key in ("chosen", "rejected"):
            if row.get(key) is None:
                remedy = f"Name yours by world.data.columns, or --column {key}=NAME of train-reward"
                raise WrongValueError(
                    f"a preference pair needs {key!r} as text or a list of messages; found the columns "
                    f"{', '.join(map(str, row))}. {remedy_for(row, remedy)}"
                )
        as_text = isinstance(row["chosen"], str) and isinstance(row["rejected"], str)
        turns, prompt, chosen, rejected = _of_texts(row) if as_text else _of_messages(row)
    except WrongValueError as error:
        raise DataError(f"{where}: {error}") from error
    if not chosen or not rejected or chosen == rejected:
        return None
    if not prompt.strip():
        raise DataError(
            f"{where}: there is no prompt: no column {' or '.join(map(repr, PROMPTS[:3]))}, and 'chosen' and "
            "'rejected' do not begin alike"
        )
    source, domain = domain_of(row, "source"), domain_of(row, "domain", "source")
    return PreferencePair(prompt, chosen, rejected, source, domain, turns)


def used(row: Row) -> set[str]:
    """The columns of a row that are looked at."""
    names = {name for pair in NAMES for name in pair} | {
        answer + end for answer in ANSWERS for pair in ENDS for end in pair
    }
    return {str(key) for key in row if key in {*PROMPTS, *VERDICTS, *names, "system", "source", "domain"}}


def _answers(row: Row, verdict: str | None) -> Row | None:
    """`chosen` and `rejected` of a row, by whatever names; None where neither is better."""
    for better, worse in NAMES:
        if row.get(better) is not None and row.get(worse) is not None:
            return {"chosen": row[better], "rejected": row[worse]}
    two = [(a + one, a + other) for a in ANSWERS for one, other in ENDS if {a + one, a + other} <= row.keys()]
    told = [field for field in (verdict, *VERDICTS) if field and field in row]
    if not two or not told:
        return {}
    said, (one, other), field = str(row[told[0]]).strip().lower().removesuffix(".0"), two[0], told[0]
    if said in EQUAL:
        return None
    named = {name.lower(): name for name in two[0]}
    named |= {end: name for name in two[0] for end in (name.lower()[-1], f"model_{name.lower()[-1]}")}
    if one.startswith("human_ref"):  # SHP: 1 where A is preferred
        named |= {"1": one, "0": other}
    if said not in named:
        raise WrongValueError(f"{field!r} must say which of {one!r} and {other!r} is better, found {row[field]!r}")
    best = named[said]
    return {"chosen": row[best], "rejected": row[other if best == one else one]}


def dialogue(prompt: str) -> tuple[Turn, ...]:
    r"""Turns of a prompt marked `Human:` and `Assistant:`; none where it is not.

    >>> dialogue("Human: Hello?\n\nAssistant:")[0].content
    'Hello?'
    """
    before, *marked = TURN.split(prompt)
    if before.strip():
        return ()
    turns = zip(marked[::2], marked[1::2], strict=True)
    return tuple(Turn(MARKS[role], content.strip()) for role, content in turns if content.strip())


def marked(turns: Sequence[Turn]) -> str:
    r"""Turns as text in the way of hh-rlhf, ready for an answer.

    >>> marked([Turn("user", "Hello?")])
    'Human: Hello?\n\nAssistant:'
    """
    names = {role: mark for mark, role in MARKS.items()}
    said = [f"{names.get(turn.role, turn.role.capitalize())}: {turn.text.strip()}" for turn in turns]
    return "\n\n".join([*said, "Assistant:"])


def _of_texts(row: Row) -> tuple[tuple[Turn, ...], str, str, str]:
    """Turns of the prompt, its text, and both answers, where the answers are texts."""
    chosen, rejected = row["chosen"].strip(), row["rejected"].strip()
    field = _prompt_field(row)
    if field is None:
        prompt = _common(chosen, rejected)
        answers = [text[len(prompt) :].strip() for text in (chosen, rejected)]
        chosen, rejected = ("" if TURN.search(answer) else answer for answer in answers)
        return (), prompt, chosen, rejected
    value = _dialogue_so_far(row[field])
    turns = () if isinstance(value, str | int | float) else turns_of(value, field)
    if row.get("system"):
        turns = (Turn("system", text_of(row, "system")), *(turns or (Turn("user", text_of(row, field).strip()),)))
    return turns, marked(turns) if turns else text_of(row, field).strip(), chosen, rejected


def _of_messages(row: Row) -> tuple[tuple[Turn, ...], str, str, str]:
    """The same where an answer is a list of messages, or one message."""
    chosen, rejected = (_as_turns(row[key], key) for key in ("chosen", "rejected"))
    pairs = enumerate(zip(chosen[:-1], rejected[:-1], strict=False))
    shared = next((i for i, (one, other) in pairs if one != other), min(len(chosen), len(rejected)) - 1)
    asked, field = chosen[: max(0, shared)], _prompt_field(row)
    if not asked and field is not None:
        value = _dialogue_so_far(row[field])
        asked = turns_of(value, field) if isinstance(value, list) else (Turn("user", text_of(row, field)),)
    answers = [turns[max(0, shared) :] for turns in (chosen, rejected)]
    said = [turns[0].text.strip() if [t.role for t in turns] == ["assistant"] else "" for turns in answers]
    if row.get("system") and asked and asked[0].role != "system":
        asked = (Turn("system", text_of(row, "system")), *asked)
    return asked, marked(asked) if asked else "", said[0], said[1]


def _as_turns(value: Any, key: str) -> tuple[Turn, ...]:
    if isinstance(value, str):
        return (Turn("assistant", value),)
    return turns_of([value] if isinstance(value, Mapping) else value, key)


def _dialogue_so_far(value: Any) -> Any:
    """What came before the answers: a text, or messages, perhaps as JSON or in an object that holds them."""
    return unpacked(value["messages"] if isinstance(value, Mapping) and "messages" in value else value)


def _prompt_field(row: Row) -> str | None:
    return next((field for field in PROMPTS if row.get(field) not in (None, "", [])), None)


def _common(chosen: str, rejected: str) -> str:
    """What both begin with: up to the last mark of the assistant in it or, without marks, to the last white space."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = chosen[: next((i for i, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))]
    marks = [found.end() for found in TURN.finditer(shared) if found[1] == "Assistant"]
    if marks:
        return shared[: marks[-1]]
    return shared[: len(shared) - len(re.split(r"\s", shared)[-1])].rstrip()
