"""What codecs at the cut cost in rounds, measured by training with each: the table that the planner chooses from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from wavetune.errors import ConfigError, JsonError
from wavetune.federation.codec_choice import CodecCandidate, described
from wavetune.federation.codecs import Codec
from wavetune.json_reader import value_of
from wavetune.logs import LOG
from wavetune.measure_ranks import loss_curve, origin, reached_by_all, rounds_to
from wavetune.part_values import read_part, values_of
from wavetune.recipe import Recipe


def measure(recipe: Recipe, candidates: Sequence[CodecCandidate], seeds: int, kept: Path) -> dict[str, Any]:
    """Train with each candidate and seed, evaluating every round; returns the table with the curves behind it.

    For each seed the target is the least validation loss that every candidate reached, and a candidate's factor is its
    rounds to that target over those of the first candidate: the batches, channels and first adapters are the same. The
    table has the mean over the seeds, but at least 1, as what is below is noise. Finished runs are kept in the file
    `kept`, as those of ranks are.
    """
    curves: list[list[list[float]]] = [[] for _ in candidates]
    for offset in range(seeds):
        for candidate, own in zip(candidates, curves, strict=True):
            both = f"{described(candidate.activation)} up, {described(candidate.gradient)} down"
            LOG.info(f"{both}, seed {recipe.run.seed + offset}")
            method = replace(recipe.method, activation_codec=candidate.activation, gradient_codec=candidate.gradient)
            own.append(loss_curve(replace(recipe, method=method), recipe.run.seed + offset, kept))
    targets = reached_by_all(curves)
    rounds = [list(map(rounds_to, own, targets)) for own in curves]
    factors = [[n / first for n, first in zip(own, rounds[0], strict=True)] for own in rounds]
    tabled = [replace(c, rounds_factor=max(1.0, fmean(own))) for c, own in zip(candidates, factors, strict=True)]
    return {
        "candidates": values_of(tabled),
        "factor_by_seed": factors,
        "target_loss_by_seed": targets,
        **origin(recipe, seeds),
        "validation_loss_by_round": curves,
    }


def candidates_of(text: str) -> list[CodecCandidate]:
    """Candidates from their names, separated by commas: KIND[:SETTING=VALUE...] for both ways, or two with a slash.

    Raises:
        ConfigError: a codec or setting is not known, or nothing is named.

    >>> [c.sentence for c in candidates_of("bf16, int8:outlier_channels=0/bf16")]  # doctest: +NORMALIZE_WHITESPACE
    ['activations as bf16, gradients as bf16, at 1 times the rounds',
     'activations as int8 (outlier_channels 0), gradients as bf16, at 1 times the rounds']
    """
    found: list[CodecCandidate] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        activation, _, gradient = part.partition("/")
        found.append(CodecCandidate(_codec(activation), _codec(gradient or activation)))
    if not found:
        raise ConfigError("--codecs names none; give codecs such as fp32,bf16,int8:outlier_channels=8")
    return found


def _codec(text: str) -> Codec:
    kind, *settings = text.strip().split(":")
    try:
        values = {name: value_of(value) for name, _, value in (setting.partition("=") for setting in settings)}
        return read_part(Codec, {"kind": kind, **values})
    except (ConfigError, JsonError):
        raise ConfigError(
            f"--codecs has {text.strip()!r}; write KIND or KIND:SETTING=VALUE with a codec of method.activation_codec, "
            "such as int8:outlier_channels=8"
        ) from None
