"""Losses of untouched models on validation rows, kept in the cache by all that they come from: every run asks for them
before its first step.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavetune.data.templates import TokenSet
from wavetune.federation.cohort import Cohort, Evaluation
from wavetune.federation.place import Place
from wavetune.models.cache import cached, recalled, remembered, state_of_code, state_of_folder

MOST_ROWS = 20_000  # a larger part of validation is no longer what a step waits for


def recalled_losses(serving: Cohort, model: Path, precision: str, rows: TokenSet, judge: Place) -> Evaluation:
    """What the judge finds of the plain model, or found of it before, in whichever process.

    `serving` holds the model of the folder `model`; `precision` says what it computes in.
    """
    if len(rows) > MOST_ROWS:
        return judge.evaluate(rows, None)
    kept = 0 if serving.prefix is None else serving.prefix.blocks
    how = [
        precision,
        str(serving.backbone.device),
        torch.get_num_threads(),
        serving.tokens_per_pass,
        kept,
        rows.prompt_tokens,
    ]
    digest = sha256(json.dumps([state_of_code(), state_of_folder(model), type(judge).__name__, *how]).encode())
    for array in (rows.ids, rows.offsets, rows.label_start, rows.labels):
        digest.update(repr(None if array is None else (array.shape, str(array.dtype))).encode())
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    place = cached(f"untouched/{digest.hexdigest()}.json")
    if (known := read(place, len(rows))) is not None:
        return known
    found = judge.evaluate(rows, None)
    if np.isfinite(found.nll_R).all():
        remembered(place, {name: values.tolist() for name, values in vars(found).items()})
    return found


def read(place: Path, rows: int) -> Evaluation | None:
    """What a file holds; None if it is missing or damaged."""
    values: Any = recalled(place)
    try:
        found = Evaluation(*(np.array(values[name], np.float64) for name in ("nll_R", "positions_R", "correct_R")))
    except (TypeError, KeyError, ValueError):
        return None
    arrays = vars(found).values()
    return found if all(array.shape == (rows,) and np.isfinite(array).all() for array in arrays) else None
