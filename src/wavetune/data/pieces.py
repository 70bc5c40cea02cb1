"""Pieces of a row's text and their token ids: encoding one after another, and cutting what is too long.

Pieces are tokenised apart, so that an answer's tokens do not depend on what stands before it and generation starts from
the tokens that training saw.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wavetune.errors import ModelError, one_line
from wavetune.units import Ints


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a row's text. An answer is `learned`; EOS follows it where `ended`, or a piece that is `closing`.

    `cut` says where it may be shortened: it loses its `beginning` or its `end`, or nothing.
    """

    text: str
    learned: bool = False
    ended: bool = False
    cut: Literal["", "beginning", "end"] = ""
    closing: bool = False  # what a chat template writes behind an answer


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of a row, which of them are labels, and what was cut to make it fit."""

    ids: list[int]
    labels: list[bool]
    cut_prompt: bool = False
    cut_answer: bool = False


Encoded = tuple[Piece, list[int]]
_AT_ONCE = 10_000  # texts


@dataclass(frozen=True)
class Encodings(Sequence[list[int]]):
    """Token ids of texts, in four bytes each: a list is made of those that are asked for.

    Text i is the `place[i]`th of those that stand end to end in `ids`, without its first `skipped` tokens.
    """

    ids: NDArray[np.int32]
    ends: Ints
    place: Ints
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, index: Any) -> Any:
        place = int(self.place[index])
        start = int(self.ends[place - 1]) if place else 0
        return self.ids[start : self.ends[place]].tolist()[self.skipped :]


def encode(tokenizer: Any, texts: Sequence[str]) -> Encodings:
    """Token ids of each text, without special tokens; repeated texts are tokenised once."""
    place_of: dict[str, int] = {}
    place = np.array([place_of.setdefault(text, len(place_of)) for text in texts], np.int64)
    distinct, found, lengths = list(place_of), list[NDArray[np.int32]](), list[int]()
    for start in range(0, len(distinct), _AT_ONCE):  # a tokenizer's answer is thirty times as large as its ids
        ids = _ids(tokenizer, distinct[start : start + _AT_ONCE])
        lengths += map(len, ids)
        found.append(np.fromiter(chain.from_iterable(ids), np.int32))
    return Encodings(np.concatenate(found or [np.zeros(0, np.int32)]), np.cumsum(lengths, dtype=np.int64), place)


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    try:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]
    except BaseException as error:  # a panic of tokenizers is no Exception
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ModelError(
                f"the model's tokenizer fails on the texts ({one_line(error)}): correct its tokenizer.json and"
                " tokenizer_config.json, or choose another model"
            ) from error
        raise


def encode_after(tokenizer: Any, texts: Sequence[str]) -> Encodings:
    """Token ids of texts that stand behind others: without the space that some tokenizers put before a first word."""
    newline, one, other = encode(tokenizer, ["\n", "\na", "a"])
    if one == newline + other:
        return encode(tokenizer, texts)
    behind = encode(tokenizer, ["\n" + text for text in texts])
    if any(ids[: len(newline)] != newline for ids in behind):
        return encode(tokenizer, texts)
    return replace(behind, skipped=len(newline))


def encode_rows(rows: Sequence[Sequence[Piece]], tokenizer: Any) -> Iterator[list[Encoded]]:
    """Every row's pieces with their token ids, EOS included where it follows."""
    first = iter(encode(tokenizer, [row[0].text for row in rows if row]))
    later = iter(encode_after(tokenizer, [piece.text for row in rows for piece in row[1:]]))
    end = [eos_id(tokenizer)] if any(piece.ended for row in rows for piece in row) else []
    for row in rows:
        yield [(piece, next(later if i else first) + (end if piece.ended else [])) for i, piece in enumerate(row)]


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces with neighbours that are not learned made one, which so are tokenised together."""
    found: list[Piece] = []
    for piece in pieces:
        if found and not piece.learned and not found[-1].learned:
            found[-1] = Piece(found[-1].text + piece.text)
        else:
            found.append(piece if piece.learned else Piece(piece.text))
    return found


def says_something(parts: Sequence[Encoded]) -> bool:
    """Whether anything of an answer is left as tokens, rather than its end alone."""
    return any(len(own) > piece.ended for piece, own in parts if piece.learned and not piece.closing)


def row_of(parts: Sequence[Encoded], begin: Sequence[int]) -> Row:
    """A row of pieces as they are, behind BOS where the tokenizer puts it and the text does not."""
    return _row(_without_bos(parts, begin), begin)


def _without_bos(parts: Sequence[Encoded], begin: Sequence[int]) -> Sequence[Encoded]:
    """The pieces without the BOS that their text begins with itself."""
    first = next((i for i, (_, own) in enumerate(parts) if own), 0)
    if not parts or not begin or parts[first][1][: len(begin)] != list(begin):
        return parts
    piece, own = parts[first]
    return [*parts[:first], (piece, own[len(begin) :]), *parts[first + 1 :]]


def _row(parts: Sequence[Encoded], begin: Sequence[int]) -> Row:
    ids = [*begin, *(token for _, own in parts for token in own)]
    labels = [False for _ in begin] + [piece.learned for piece, own in parts for _ in own]
    return Row(ids, [False, *labels[1:]] if labels else [])  # nothing stands before the first token to predict it from


def shortened(parts: Sequence[Encoded], begin: Sequence[int], room: int) -> Row:
    """A row cut to `room` tokens: the texts before the answer share what it leaves, the longest is cut first.

    An answer that does not fit alone loses its end; texts that stand between headings then keep up to half of the room.
    """
    parts = _without_bos(parts, begin)
    answer = len(parts) - next((i for i, (piece, _) in enumerate(reversed(parts)) if not piece.learned), len(parts))
    fixed = sum(len(own) for piece, own in parts[:answer] if not piece.cut)
    sizes = [len(own) for piece, own in parts[:answer] if piece.cut]
    left = room - len(begin) - fixed
    said = [token for _, own in parts[answer:] for token in own]
    if left < 2:  # not even the headings fit
        return _shortened_blindly(parts, said, begin, room)
    fits, share = len(said) <= left - (not fixed), left // 2 if fixed else 1
    kept = len(said) if fits else min(len(said), max(left - sum(sizes), left - share))
    level = iter(_levels(sizes, left - kept))
    cut = [(piece, _cut(piece, own, next(level)) if piece.cut else own) for piece, own in parts[:answer]]
    row = _row([*cut, (Piece("", learned=True), said[:kept])], begin)
    return Row(row.ids, row.labels, left - kept < sum(sizes), kept < len(said))


def _shortened_blindly(parts: Sequence[Encoded], said: Sequence[int], begin: Sequence[int], room: int) -> Row:
    kept = min(len(said), room - 1 - len(begin))
    before = keep_end([*begin, *(t for p, own in parts if not p.learned for t in own)], room - kept, len(begin))
    return Row(before + list(said[:kept]), [False] * len(before) + [True] * kept, True, kept < len(said))


def _levels(sizes: Sequence[int], room: int) -> list[int]:
    """What is kept of each size so that together they fill the room: all are cut to one level, smaller ones not at all.

    >>> _levels([10, 2, 7], 12)
    [5, 2, 5]
    """
    kept = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    for place, i in enumerate(order):
        kept[i] = min(sizes[i], max(room, 0) // (len(order) - place))
        room -= kept[i]
    return kept


def _cut(piece: Piece, ids: list[int], kept: int) -> list[int]:
    return ids[:kept] if piece.cut == "end" else ids[len(ids) - kept :]


def keep_end(prompt: list[int], room: int, begin: int) -> list[int]:
    """Prompt cut to `room` tokens: its first `begin` tokens (BOS) and its end.

    >>> keep_end([0, 1, 2, 3, 4], room=3, begin=1)
    [0, 3, 4]
    """
    return prompt if len(prompt) <= room else prompt[:begin] + prompt[len(prompt) - (room - begin) :]


def bos_ids(tokenizer: Any) -> list[int]:
    """[BOS] if the tokenizer itself puts BOS before a text, else []."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return [bos] if bos is not None and list(tokenizer("a")["input_ids"][:1]) == [bos] else []


def special_texts(tokenizer: Any) -> list[str]:
    """What a text may say that the tokenizer takes for a special token, such as the end of a turn."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return sorted({token.content for token in added if token.special and token.content.strip()})


def eos_id(tokenizer: Any) -> int:
    """Id of the end-of-sequence token.

    Raises: ModelError if there is none.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token, so answers would never end; name one as "
            "eos_token in its tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)
