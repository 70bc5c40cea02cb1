"""Reward models that runs have trained, kept in the cache by all that they come from, so that the next run need not.

What is used longest ago goes when the cache is full.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch

from wavetune.data.examples import PreferenceCorpus
from wavetune.errors import RunFolderError
from wavetune.federation.folder_lock import NAME
from wavetune.federation.rewards import RewardTraining
from wavetune.models.cache import cached, make_room, recalled, state_of_code, state_of_folder, written_once
from wavetune.models.resolve import resolve_model
from wavetune.runtimes.inputs import digest_of_pairs

LIMIT_BYTES = 1_000_000_000
_DIGESTS = "kept.json"


def place_of(corpus: PreferenceCorpus, settings: RewardTraining, beside: Mapping[str, Any]) -> Path:
    """Where the reward model of this training is kept, whether it is there or not.

    `beside` is what else the files depend on, as JSON. Raises ModelError if there is no such base model.
    """
    base = resolve_model(settings.model).folder
    pairs = [digest_of_pairs(part) for part in (corpus.train, corpus.validation, corpus.test)]
    said = [state_of_code(), state_of_folder(base), torch.get_num_threads()]
    key = json.dumps([*said, corpus.kind, corpus.name, pairs, asdict(settings), dict(beside)])
    return cached("rewards") / sha256(key.encode()).hexdigest()


def recall(place: Path, out: Path) -> bool:
    """Make a folder of what is kept there; False, and nothing was made, if it is missing or damaged."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        if not place.is_dir():
            return False
        shutil.copytree(place, partial)
        if recalled(partial / _DIGESTS) != _digests(partial):
            shutil.rmtree(place, ignore_errors=True)
            return False
        (partial / _DIGESTS).unlink()
        partial.rename(out)
        os.utime(place)
    except OSError:  # another process makes room, or something stands there
        return False
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def keep(place: Path, trained: Path) -> None:
    """Keep the files of a trained reward model; a cache that cannot be written is done without."""

    def write(folder: Path) -> None:
        shutil.copytree(trained, folder, ignore=shutil.ignore_patterns(NAME), dirs_exist_ok=True)
        (folder / _DIGESTS).write_text(json.dumps(_digests(folder)), encoding="utf-8")

    with suppress(RunFolderError, OSError):
        sizes = [file.stat().st_size for file in trained.rglob("*") if file.is_file()]
        written_once(place, write, 2 * sum(sizes), RunFolderError)
        make_room(place, LIMIT_BYTES)


def _digests(folder: Path) -> dict[str, str]:
    found = dict[str, str]()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != _DIGESTS:
            with file.open("rb") as content:
                found[str(file.relative_to(folder))] = file_digest(content, "sha256").hexdigest()
    return found
