"""What untouched models do, kept in the cache by all that it comes from: losses on validation rows, and sample answers.

Every run asks for these before its first step.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavetune.data.templates import TokenSet
from wavetune.federation.cohort import Cohort, Evaluation
from wavetune.federation.place import Place
from wavetune.models.cache import kept, place_of, state_of_code, state_of_folder
from wavetune.models.stopping import Ends

MOST_ROWS = 20_000  # a larger part of validation is no longer what a step waits for


def recalled_losses(serving: Cohort, model: Path, precision: str, rows: TokenSet, judge: Place) -> Evaluation:
    """What the judge finds of the plain model, or found of it before, in whichever process.

    `serving` holds the model of the folder `model`; `precision` says what it computes in.
    """
    if len(rows) > MOST_ROWS:
        return judge.evaluate(rows, None)
    digest, ready = sha256(), 0 if serving.prefix is None else serving.prefix.blocks
    for array in (rows.ids, rows.offsets, rows.label_start, rows.labels):
        digest.update(repr(None if array is None else (array.shape, str(array.dtype))).encode())
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    how = type(judge).__name__, serving.tokens_per_pass, ready, rows.prompt_tokens, digest.hexdigest()

    def read(value: Any) -> Evaluation:
        found = Evaluation(*(np.array(value[name], np.float64) for name in ("nll_R", "positions_R", "correct_R")))
        if not all(array.shape == (len(rows),) and np.isfinite(array).all() for array in vars(found).values()):
            raise ValueError("no losses of these rows")
        return found

    def written(found: Evaluation) -> dict[str, list[float]]:
        return {name: values.tolist() for name, values in vars(found).items()}

    return kept(_place(serving, model, precision, *how), lambda: judge.evaluate(rows, None), written, read)


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

    def read(value: Any) -> list[str]:
        if not isinstance(value, list) or [type(text) for text in value] != [str] * len(prompts):
            raise ValueError("no answers to these prompts")
        return value

    return kept(place, answer, list, read)


def _place(serving: Cohort, model: Path, precision: str, *how: Any) -> Path:
    """Where what a plain model does is kept."""
    where = str(serving.backbone.device), torch.get_num_threads(), precision
    return place_of("untouched", [state_of_code(), state_of_folder(model), *where, *how])
