"""Held-out prompts, answers and scores in the files of a run or device, before its alignment and after it."""

from __future__ import annotations

import numpy as np

from wavetune.federation.alignment import Evaluation
from wavetune.federation.alignment.evaluation import Scores
from wavetune.federation.run_folder import RunFolder
from wavetune.records.alignment import Answers, HeldOut
from wavetune.records.fields import as_json
from wavetune.runtimes import saved

BEFORE, AFTER = "alignment_before.json", "alignment_after.json"


def keep(folder: RunFolder, name: str, evaluation: Evaluation) -> None:
    """Write an evaluation, for `kept` and whoever reads the folder."""
    parts = (
        tuple(
            Answers(one.prompts, one.texts, {name: tuple(values.tolist()) for name, values in one.by_name.items()})
            for one in part
        )
        for part in (evaluation.own, evaluation.foreign)
    )
    folder.write_json(name, as_json(HeldOut(*parts)))


def kept(folder: RunFolder, name: str) -> Evaluation | None:
    """The evaluation in a file, None where there is no such file. Raises RunFolderError where it is damaged."""
    found = folder.read_json(name, saved.HeldOut)
    if found is None:
        return None
    own, foreign = (
        tuple(
            Scores(tuple(c["prompts"]), tuple(c["answers"]), {n: np.array(v) for n, v in c["scores"].items()})
            for c in found[part]
        )
        for part in ("own", "foreign")
    )
    return Evaluation(own, foreign)
