"""Scores of a run's model on rows: what `wavetune evaluate` writes."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Decoding:
    """How answers are written: up to so many tokens, so many beams, drawn by the seed at a temperature above 0."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    beams: int = 1
    seed: int = 0
    batch_size: int = 16


@dataclass(frozen=True)
class Scored:
    """Whose answers to which prompts, and what metrics say of them; an undefined score is absent.

    `adapters` is the folder's name, None of the untouched model; `drawn_by_seed` is None where all prompts are scored;
    `decoding` is None of a classifier. `libraries` names what computed a score, where that is not wavetune.
    """

    model: str
    data: str
    part: str
    prompts: int
    rows: int
    adapters: str | None = None
    drawn_by_seed: int | None = None
    decoding: Decoding | None = None
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    libraries: Mapping[str, str] = field(default_factory=dict[str, str])
