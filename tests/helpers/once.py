"""What depends on its arguments alone is made once in a process of tests, however many runs ask for it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest


def plan(patch: pytest.MonkeyPatch) -> None:
    """Plan each problem once, and once what a plan is compared with."""
    from wavetune.allocation import baselines, describe, energy_search
    from wavetune.federation import planning

    for module, name in (
        (energy_search, "plan_with_energy"),
        (planning, "plan_fixed"),
        (planning, "best_schedule"),
        (planning, "plan_subchannels"),
        (baselines, "plan_baselines"),
        (describe, "sensitivities"),
    ):
        patch.setattr(module, name, _remembered(getattr(module, name), lambda *given: as_bytes(given)))


def load(patch: pytest.MonkeyPatch) -> None:
    """Read the reviews once, tokenise rows once, and read a model's files once."""
    from wavetune.data import movie_reviews, settings, token_cache
    from wavetune.models import backbone

    def reviews(given: Any, named: Any) -> Any:
        return as_bytes((given, named)) if given[0] == movie_reviews.NAME else None

    def rows(given: Any, named: Any) -> Any:
        return token_cache._digest(*given[:4])

    def files(given: Any, named: Any) -> Any:
        folder, *others = given
        states = [(path.name, path.stat().st_mtime_ns) for path in sorted(Path(folder).iterdir())]
        return as_bytes((str(folder), others, named, states))

    patch.setattr(settings, "load_corpus", _remembered(settings.load_corpus, reviews))
    patch.setattr(settings, "recalled_tokens", _remembered(settings.recalled_tokens, rows))
    loaded = _remembered(backbone.load_stock_model, files)
    patch.setattr(backbone, "load_stock_model", lambda *given, **named: copy.deepcopy(loaded(*given, **named)))


def as_bytes(value: Any) -> bytes:
    """The same for equal values, whatever they have worked out of their fields and share with each other."""
    written = io.BytesIO()
    pickler = _Fields(written)
    pickler.fast = True  # notes no object that it has written before
    pickler.dump(value)
    return written.getvalue()


class _Fields(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not is_dataclass(value) or isinstance(value, type):
            return NotImplemented
        return type(value), tuple(getattr(value, field.name) for field in fields(value))


def _remembered(function: Callable[..., Any], name_of: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """The function, which is asked once for all arguments of a name; each time for those of the name None."""
    known = dict[Any, Any]()

    def call(*given: Any, **named: Any) -> Any:
        name = name_of(given, named)
        if name is None or name not in known:
            known[name] = function(*given, **named)
        return known[name]

    return call
