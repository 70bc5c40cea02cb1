"""Rows that hold several answers to choose from, made rows of the usual forms: rated answers, and trees of messages.

Rated answers are a list of objects in one column, each with its rating (UltraFeedback's `completions`) or rank
(Nectar's `answers`), or a list of texts beside a list of ratings. Trees are nested, as OpenAssistant's `prompt` with
`replies`, or flat: a row a message with `message_id`, `parent_id`, `role` and `text`, whose replies may have a `rank`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from wavetune.data.dialogues import ROLES, opened

Row = Mapping[str, Any]
Rows = Iterable[tuple[str, Row]]
Link = tuple[Row, Any]  # a message, and the link of the one that it answers; None at the beginning

SEVERAL = ("completions", "answers", "responses", "generations", "candidates")  # columns of several answers
TEXTS = ("response", "answer", "text", "content", "completion", "output")  # what each is in, and rows of one have
FIRST_OF = ("answer", "answers", "response", "completion", "output")  # columns that may list what counts as right
RATINGS = ("fine-grained_score", "overall_score", "score", "rating")  # of an answer, the greater the better
RATINGS_BESIDE = ("ratings", "rating", "scores")  # columns with a rating for each answer
LISTED = (*SEVERAL, *RATINGS_BESIDE)  # columns whose lists and objects may be written as text, as in cells of CSV
MESSAGE = {"message_id", "parent_id", "role", "text"}  # columns of a tree's message in a row of its own


def unfolded(rows: Rows, told: Counter[str], pairs: bool = False) -> Iterator[tuple[str, Row]]:
    """The rows, where those of several answers become rows of the best or, for `pairs`, of the best and a worse one.

    Of a tree's messages the way along the best replies is one dialogue; pairs are of the replies to one message, the
    best with each of lower rank. Replies to a message that is not there are left out. Of answers without a rating, as
    questions have, the first is learned.

    Args:
        rows: pairs (place, row) of one file or split.
        told: counts here in words what was chosen.
        pairs: whether preference pairs are wanted.
    """
    messages: list[tuple[str, Row]] = []
    for place, row in rows:
        if written := [name for name in LISTED if isinstance(row.get(name), str)]:
            row = {**row, **{name: opened(row[name]) for name in written}}
        if {*row} >= MESSAGE:
            messages.append((place, row))
        elif isinstance(tree := row.get("prompt"), Mapping) and "replies" in tree:
            yield from ((place, one) for one in _of_tree(tree, told, pairs))
        elif (answers := _answers(row)) or _to_be_rated(row):
            yield from ((place, one) for one in _of_answers(row, answers, told, pairs))
        elif not pairs and (field := next((name for name in FIRST_OF if _are_texts(row.get(name))), None)):
            told["rows with several answers, of which the first is learned"] += len(row[field]) > 1
            rest = {key: value for key, value in row.items() if key != field}
            yield place, {**rest, field.removesuffix("s"): row[field][0]}
        else:
            yield place, row
    known: dict[str, Row] = {}  # a message that is there twice counts once
    places: dict[str, str] = {}
    for place, row in messages:
        known.setdefault(key := str(row["message_id"]), {**row, "replies": list[Any]()})
        places.setdefault(key, place)
    for message in known.values():
        if not _none(message["parent_id"]):
            parent = known.get(str(message["parent_id"]))
            told["messages left out, as what they reply to is not there"] += parent is None
            if parent:
                parent["replies"].append(message)
    for key, message in known.items():
        if _none(message["parent_id"]):
            yield from ((places[key], one) for one in _of_tree(message, told, pairs))


def _of_answers(row: Row, answers: list[tuple[float, str]], told: Counter[str], pairs: bool) -> Iterator[Row]:
    best, chosen = max(answers, key=lambda rated: rated[0], default=(0.0, ""))
    rest = {key: value for key, value in row.items() if key not in (*SEVERAL, *TEXTS, *RATINGS_BESIDE)}
    if not pairs:
        told["rows with several answers, of which the best rated is learned"] += bool(answers)
        yield {**rest, "response": chosen}
        return
    worse = [text for rating, text in answers if rating < best]
    for rejected in worse or [chosen]:  # a pair of equals is counted as one that prefers nothing
        told["pairs of the best rated of several answers and a worse one"] += bool(worse)
        yield {**rest, "chosen": chosen, "rejected": rejected}


def _of_tree(root: Row, told: Counter[str], pairs: bool) -> Iterator[Row]:
    domain = {"domain": root["lang"]} if root.get("lang") else {}
    if not pairs:
        told["trees of messages, each read along its best replies"] += 1
        link: Link = (root, None)
        while replies := _replies(link[0]):
            link = (replies[0], link)
        yield {"messages": _said(link), **domain}
        return
    waiting: list[Link] = [(root, None)]
    while waiting:
        link = waiting.pop()
        replies = _replies(link[0])
        answers = [reply for reply in replies if ROLES.get(str(reply.get("role")).lower()) == "assistant"]
        for worse in answers[1:]:
            if _rank(answers[0]) < _rank(worse) < math.inf:
                told["pairs of the best ranked of several replies and a worse one"] += 1
                yield {"prompt": _said(link), "chosen": answers[0]["text"], "rejected": worse["text"], **domain}
        waiting.extend((reply, link) for reply in reversed(replies))


def _replies(message: Row) -> list[Row]:
    """Replies to a message, the best ranked first, less those that were deleted."""
    there = message.get("replies")
    replies = [r for r in there if isinstance(r, Mapping) and "text" in r] if isinstance(there, list) else []
    return sorted((r for r in replies if str(r.get("deleted")).lower() not in ("true", "1", "1.0")), key=_rank)


def _rank(message: Row) -> float:
    """The rank of a reply, 0 for the best; infinite where it has none."""
    return math.inf if (rank := _number(message.get("rank"))) is None else rank


def _said(link: Link | None) -> list[Row]:
    """The messages up to that of a link."""
    said: list[Row] = []
    while link:
        said.append({"role": link[0].get("role"), "content": link[0].get("text")})
        link = link[1]
    return said[::-1]


def _are_texts(value: Any) -> bool:
    """Whether a value is a list of texts, such as the answers to a question that count as right."""
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _answers(row: Row) -> list[tuple[float, str]]:
    """Several answers of a row with a rating each, the greater the better; empty where there are none."""
    for column in SEVERAL:
        found = row.get(column)
        if not isinstance(found, list) or not found:
            continue
        beside = next((row[name] for name in RATINGS_BESIDE if isinstance(row.get(name), list)), None)
        if beside is not None and len(beside) == len(found) and all(isinstance(text, str) for text in found):
            rated = zip(map(_number, beside), found, strict=True)
        elif all(isinstance(answer, Mapping) for answer in found):
            texts = (next((a[key] for key in TEXTS if isinstance(a.get(key), str)), "") for a in found)
            rated = zip(map(_rating, found), texts, strict=True)
        else:
            continue
        if answers := [(rating, text) for rating, text in rated if rating is not None and text.strip()]:
            return answers
    return []


def _to_be_rated(row: Row) -> bool:
    """Whether a row has room for rated answers, and none that is rated: it is dropped and counted."""
    places = ("rank", "annotations", *RATINGS)
    found = next((row[column] for column in SEVERAL if column != "answers" and isinstance(row.get(column), list)), None)
    return found is not None and all(isinstance(answer, Mapping) and {*answer} & {*places} for answer in found)


def _rating(answer: Row) -> float | None:
    """What an answer is rated, the greater the better; of several annotations their mean."""
    told = next((number for key in RATINGS if (number := _number(answer.get(key))) is not None), None)
    if told is None and isinstance(annotations := answer.get("annotations"), Mapping):
        marks = [_number(note.get("Rating")) for note in annotations.values() if isinstance(note, Mapping)]
        known = [mark for mark in marks if mark is not None]
        told = sum(known) / len(known) if known else None
    if told is None and (rank := _number(answer.get("rank"))) is not None:
        return -rank
    return told


def _number(value: Any) -> float | None:
    """A finite number, or the text of one; else None."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _none(value: Any) -> bool:
    return value is None or value != value or value == ""
