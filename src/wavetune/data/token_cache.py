"""Tokenised rows, kept in the cache by what they come from: the rows, the tokenizer, the template and our code.

They are read by mapping their files, so that processes that train on the same rows hold them once. What is used longest
ago goes when the cache is full.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from wavetune.data.examples import Example
from wavetune.data.templates import Template, TokenSet
from wavetune.errors import DataError
from wavetune.models.cache import cached, make_room, state_of, written_once
from wavetune.parts import foreign_packages

LEAST_ROWS = 1_000  # fewer are tokenised in a moment
LIMIT_BYTES = 4_000_000_000
_ARRAYS = ("ids", "offsets", "label_start", "example_index", "labels")
_COUNTS = ("dropped", "truncated_prompts", "truncated_answers", "shortened_dialogues", "dropped_turns")


@cache
def code_of_data() -> str:
    """Changes with the sources and words that write and tokenise data, and with the library that tokenises."""
    library = find_spec("tokenizers")  # to import it for its version would take longer
    files = [*filter(Path.is_file, Path(__file__).parent.iterdir()), (library and library.origin) or __file__]
    return state_of(files)


def recalled_tokens(
    examples: Sequence[Example], tokenizer: Any, template: Template, max_tokens: int, make: Callable[[], TokenSet]
) -> TokenSet:
    """What `make` makes of these rows, or made of them before, in whichever process."""
    digest = None if len(examples) < LEAST_ROWS else _digest(examples, tokenizer, template, max_tokens)
    if digest is None:
        return make()
    made: list[TokenSet] = []

    def write(folder: Path) -> None:
        made.append(make())
        _write(folder, made[0])

    folder = cached("tokens") / digest
    try:
        written_once(folder, write, size_bytes=64 * len(examples), error=_NotKeptError)
    except _NotKeptError:  # the cache is done without
        return made[0] if made else make()
    if made:
        make_room(folder, LIMIT_BYTES)
        return made[0]
    return _read(folder, examples) or make()


class _NotKeptError(DataError):
    pass


def _digest(examples: Sequence[Example], tokenizer: Any, template: Template, max_tokens: int) -> str | None:
    """A name for all that the tokens depend on; None where a change would not be noticed."""
    from wavetune.part_values import values_of  # it brings pydantic, which a plan without much data need not load

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or foreign_packages(template):
        return None
    found = sha256(backend.to_str().encode())
    special = [type(tokenizer).__name__, repr(tokenizer.special_tokens_map), repr(tokenizer.chat_template)]
    found.update(json.dumps([code_of_data(), *special, values_of(template), max_tokens], default=repr).encode())
    for e in examples:
        row = (e.prompt, e.answer, e.domain, e.turns, e.reply, e.tools, e.verbatim, e.second)
        found.update(repr(row).encode(errors="surrogatepass"))
    return found.hexdigest()


def _write(folder: Path, tokens: TokenSet) -> None:
    for name in _ARRAYS:
        if (values := getattr(tokens, name)) is not None:
            np.save(folder / f"{name}.npy", values, allow_pickle=False)
    (folder / "counts.json").write_text(json.dumps({name: getattr(tokens, name) for name in _COUNTS}), encoding="utf-8")


def _read(folder: Path, examples: Sequence[Example]) -> TokenSet | None:
    """The tokens in a folder; None, and no folder any more, where they are damaged."""
    try:
        arrays: dict[str, Any] = {
            name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in _ARRAYS
            if name != "labels" or (folder / "labels.npy").exists()
        }
        found = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
        counts: dict[str, Any] = {name: int(found[name]) for name in _COUNTS}
        domains = tuple(examples[i].domain for i in arrays["example_index"].tolist())
        tokens = TokenSet(**arrays, domains=domains, **counts)
        if len(tokens.ids) != tokens.offsets[-1] or len(tokens.offsets) != len(tokens.label_start) + 1:
            raise ValueError("the arrays do not belong together")
        os.utime(folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return tokens
