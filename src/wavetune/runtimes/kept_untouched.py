"""What untouched models do, kept in the cache by all that it comes from: losses on validation rows, and sample answers.

Every run asks for these before its first step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavetune.data.templates import TokenSet
from wavetune.federation.cohort import Cohort, Evaluation
from wavetune.federation.place import Place
from wavetune.models.cache import cached, recalled, remembered, state_of_code, state_of_folder
from wavetune.models.stopping import Ends

MOST_ROWS = 20_000  # a larger part of validation is no longer what a step waits for


def recalled_losses(serving: Cohort, model: Path, precision: str, rows: TokenSet, judge: Place) -> Evaluation:
    """What the judge finds of the plain model, or found of it before, in whichever process.

    `serving` holds the model of the folder `model`; `precision` says what it computes in.
    """
    if len(rows) > MOST_ROWS:
        return judge.evaluate(rows, None)
    digest, kept = sha256(), 0 if serving.prefix is None else serving.prefix.blocks
    for array in (rows.ids, rows.offsets, rows.label_start, rows.labels):
        digest.update(repr(None if array is None else (array.shape, str(array.dtype))).encode())
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    how = type(judge).__name__, serving.tokens_per_pass, kept, rows.prompt_tokens, digest.hexdigest()
    place = _place(serving, model, precision, *how)
    if (known := _read(place, len(rows))) is not None:
        return known
    found = judge.evaluate(rows, None)
    if np.isfinite(found.nll_R).all():
        remembered(place, {name: values.tolist() for name, values in vars(found).items()})
    return found


def recalled_answers(
    serving: Cohort,
    model: Path,
    precision: str,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    ends: Ends,
    answer: Callable[[], list[str]],
) -> list[str]:
    """What `answer` says to these prompts with the plain model, or said before, in so many tokens at most."""
    place = _place(serving, model, precision, "answers", [*map(list, prompts)], tokens, sorted(map(list, ends)))
    known = recalled(place)
    if isinstance(known, list) and [type(text) for text in known] == [str] * len(prompts):
        return known
    found = answer()
    remembered(place, found)
    return found


def _place(serving: Cohort, model: Path, precision: str, *how: Any) -> Path:
    """Where what a plain model does is kept."""
    where = str(serving.backbone.device), torch.get_num_threads(), precision
    key = json.dumps([state_of_code(), state_of_folder(model), *where, *how])
    return cached(f"untouched/{sha256(key.encode()).hexdigest()}.json")


def _read(place: Path, rows: int) -> Evaluation | None:
    """The losses of so many rows in a file; None if it is missing or damaged."""
    values: Any = recalled(place)
    try:
        found = Evaluation(*(np.array(values[name], np.float64) for name in ("nll_R", "positions_R", "correct_R")))
    except (TypeError, KeyError, ValueError):
        return None
    arrays = vars(found).values()
    return found if all(array.shape == (rows,) and np.isfinite(array).all() for array in arrays) else None
