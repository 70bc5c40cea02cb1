"""The words of the embedded corpora, in JSON files beside this one: what there is to say, and ways to say it.

Fields of the patterns stand in braces. The concierge's: {slot} is what is asked about and {Slot} the same at the start
of a sentence, {value} and {Value} alike, {who} and {whose} the guest as the caller puts it. No slot or hotel name holds
a value of any kind or another slot; months leave out May and March, which are words of their own; a place stands with
how it is found in a text of lower case in which ordinals are digits.

A cuisine has dishes and owners. A phrase table of the restaurants maps a role to alternatives; tables of one slot keep
them in the same order over its values, so that a preferred way of saying carries over from value to value. Roles are
`adjective` before a noun, `modifier` after it, `verb` phrase after a subject, `clause`, `noun` phrase, `tag` in a list,
`front` before a sentence. An opening is the pattern of a first sentence: choices are put where they stand in angle
brackets, and `lead` is a fact of one of its `leads` in a role.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wavetune.json_reader import read_json

Table = dict[str, list[str]]


def _read(name: str) -> Any:
    return SimpleNamespace(**read_json(Path(__file__).with_name(f"{name}_lexicon.json")))


concierge_words, restaurant_words = _read("concierge"), _read("restaurant")
