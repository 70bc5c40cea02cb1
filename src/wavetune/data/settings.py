"""Data settings of a recipe, and what they come to: tokenised rows and each client's share of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from wavetune.data.batching import Batching
from wavetune.data.classes import class_names, tokenise_classes
from wavetune.data.corpora import EMBEDDED, load_corpus
from wavetune.data.examples import Corpus, Example
from wavetune.data.partition import Dirichlet, Partition
from wavetune.data.preferences import chosen_answers, holds_preferences
from wavetune.data.templates import ClassTemplate, PlainTemplate, Template, TokenSet, tokenise
from wavetune.errors import ConfigError
from wavetune.seeds import stream


@dataclass(frozen=True)
class DataSettings:
    """Which corpus, how much of it, how it is split over clients, written as text and batched."""

    source: str = "restaurants"  # or `concierge`, `movie-reviews`, a folder, a file, a Hugging Face id
    train_samples: Annotated[int, Ge(1)] | None = None  # drawn at random from train; None: all
    validation_samples: Annotated[int, Ge(1)] = 256  # at most
    partition: Partition = field(default_factory=Dirichlet)
    minimum_samples: Annotated[int, Ge(1)] = 1  # rows that every client gets at least
    template: Template = field(default_factory=PlainTemplate)
    max_tokens: Annotated[int, Ge(4)] = 256
    batching: Batching = field(default_factory=Batching)


@dataclass(frozen=True)
class PreparedData:
    """What training reads."""

    corpus: Corpus  # after sampling
    train: TokenSet
    validation: TokenSet
    rows_by_client: tuple[NDArray[np.int64], ...]  # rows of `train` that client k holds
    classes: tuple[str, ...] = ()  # names of the classes, where the template is for classification

    def domains_of(self, client_id: int) -> dict[str, int]:
        """Rows of each domain that a client holds; of each class, where clients are told apart by the label."""
        return dict(sorted(Counter(self.train.domains[i] for i in self.rows_by_client[client_id]).items()))


def load_samples(settings: DataSettings, seed: int) -> Corpus:
    """Corpus of the settings, cut down at random to the samples they ask for.

    Raises: ConfigError if train has fewer rows than `train_samples`.
    """
    asked = settings.train_samples
    if settings.source in EMBEDDED and asked is not None:
        corpus = EMBEDDED[settings.source](train=asked, seed=seed)  # as many as wanted
    elif holds_preferences(Path(settings.source).expanduser()):
        corpus = chosen_answers(Path(settings.source).expanduser(), seed)
    else:
        corpus = load_corpus(settings.source, seed)
    if asked is not None and asked > len(corpus.train):
        raise ConfigError(
            f"train_samples is {asked} and {corpus.name} has {len(corpus.train)} training rows; ask for fewer"
        )
    train = _sample(corpus.train, asked or len(corpus.train), seed, "train")
    validation = _sample(corpus.validation, settings.validation_samples, seed, "validation")
    return Corpus(corpus.name, train, validation, corpus.test, corpus.notes)


def prepare(settings: DataSettings, tokenizer: Any, num_clients: int, seed: int) -> PreparedData:
    """Corpus, token sets and partition of the settings.

    Raises: DataError, ConfigError or ModelError as the parts do.
    """
    corpus = load_samples(settings, seed)
    classes = class_names(corpus) if isinstance(settings.template, ClassTemplate) else ()
    train = tokenise_part(corpus.train, tokenizer, settings, classes)
    validation = tokenise_part(corpus.validation, tokenizer, settings, classes)
    rows = settings.partition.split(train.domains, num_clients, seed, settings.minimum_samples)
    return PreparedData(corpus, train, validation, tuple(rows), classes)


def tokenise_part(
    examples: Sequence[Example], tokenizer: Any, settings: DataSettings, classes: Sequence[str]
) -> TokenSet:
    """Tokenised rows of a part of a corpus (its test part, too), as the settings' template writes them.

    Raises: DataError, ConfigError or ModelError as `tokenise` or `tokenise_classes`.
    """
    if isinstance(settings.template, ClassTemplate):
        return tokenise_classes(examples, tokenizer, settings.template, settings.max_tokens, classes)
    return tokenise(examples, tokenizer, settings.template, settings.max_tokens)


def _sample(examples: Sequence[Example], count: int, seed: int, part: str) -> tuple[Example, ...]:
    if count >= len(examples):
        return tuple(examples)
    chosen = stream(seed, f"sample {part}").permutation(len(examples))[:count]
    return tuple(examples[i] for i in sorted(chosen))
