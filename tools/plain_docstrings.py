"""Griffe extension for the documentation: docstrings are plain text with backticks, and this makes them Markdown."""

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"(?m)(^>>> .*(?:\n.+)*)")
CODE_OR_BRACKET = re.compile(r"(`[^`]*`)|\[")


def to_markdown(text: str) -> str:
    """A fence around every doctest, and no links made of the brackets of shapes and formulas.

    >>> to_markdown("Rates [K][M] of `x[0]`.")
    'Rates \\\\[K]\\\\[M] of `x[0]`.'
    """
    parts = DOCTEST.split(text)
    parts[::2] = [CODE_OR_BRACKET.sub(lambda found: found[1] or r"\[", prose) for prose in parts[::2]]
    parts[1::2] = [f"```pycon\n{doctest}\n```" for doctest in parts[1::2]]
    return "".join(parts)


class PlainDocstrings(griffe.Extension):
    """Apply `to_markdown` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
