"""Data settings of a recipe, and what they come to: tokenised rows and each client's share of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import numpy as np
from annotated_types import Ge, Le, MinLen

from wavetune.data.batching import Batching
from wavetune.data.chat_template import REASONING
from wavetune.data.classes import class_names, look_alikes, of_drawn_classes, tokenise_classes, with_known_classes
from wavetune.data.corpora import EMBEDDED, embedded, load_corpus
from wavetune.data.dialogues import trimmed
from wavetune.data.examples import Corpus, Example
from wavetune.data.given_rows import opened
from wavetune.data.hold_out import HOLD_OUT
from wavetune.data.partition import Dirichlet, Partition
from wavetune.data.pieces import special_texts
from wavetune.data.preferences import chosen_answers, holds_preferences
from wavetune.data.source import is_function
from wavetune.data.stream import Stream
from wavetune.data.templates import THINK, AutoTemplate, Template, TokenSet, ends_of, text_template, tokenise
from wavetune.data.token_cache import recalled_tokens
from wavetune.errors import ConfigError
from wavetune.given import folder_of, is_given
from wavetune.seeds import stream
from wavetune.units import Ints

T = TypeVar("T")
_MOST_WRITTEN = 1_000_000  # rows of an embedded corpus, in about a gigabyte of memory


@dataclass(frozen=True)
class DataSettings:
    """Which corpus, how much of it, how it is split over clients, written as text and batched."""

    source: Annotated[str, MinLen(1)] = (
        "restaurants"  # or `concierge`, `movie-reviews`, a folder, a file, a Hugging Face id
    )
    columns: dict[str, str] = field(default_factory=dict[str, str])  # of the files, by the field that each holds
    train_samples: Annotated[int, Ge(1)] | None = None  # drawn at random from train; None: all
    validation_samples: Annotated[int, Ge(1)] = 256  # at most
    validation_fraction: Annotated[float, Ge(0), Le(0.9)] = HOLD_OUT  # held out where there is no validation part
    partition: Partition = field(default_factory=Dirichlet)
    minimum_samples: Annotated[int, Ge(1)] = 1  # rows that every client gets at least
    trim: bool = False  # white space around texts is taken away
    template: Template = field(default_factory=AutoTemplate)
    max_tokens: Annotated[int, Ge(4)] = 256
    batching: Batching = field(default_factory=Batching)
    stream: Stream | None = None  # None: clients hold all their rows from the beginning
    server_samples: Annotated[int, Ge(0)] = 0  # rows of train that the server holds, and no client


@dataclass(frozen=True)
class PreparedData:
    """What training reads."""

    corpus: Corpus  # after sampling
    train: TokenSet
    validation: TokenSet
    rows_by_client: tuple[Ints, ...]  # rows of `train` that client k holds
    template: Template  # with all that the settings left open
    classes: tuple[str, ...] = ()  # names of the classes, where the template is for classification
    ends: tuple[tuple[int, ...], ...] = ()  # token sequences that end an answer
    notes: tuple[str, ...] = ()  # what was drawn, held out, dropped or cut, in sentences
    server_rows: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # of `train`, no client's

    def held(self, arriving: Stream | None, rows: Ints, seed: int, client: int, round_index: int) -> Ints:
        """Those of a trainer's rows of `train` that it has in a round."""
        return rows if arriving is None else arriving.held(rows, self.train.domains, seed, client, round_index)

    def with_prompt(self, tokens: int) -> PreparedData:
        """The same with room for a soft prompt of so many tokens before every row."""
        return replace(self, train=self.train.with_prompt(tokens), validation=self.validation.with_prompt(tokens))

    @property
    def told(self) -> str:
        """The notes in one line that names the data."""
        counts = f"{len(self.train):,} training and {len(self.validation):,} validation rows"
        return "; ".join((f"data: {counts} of {self.corpus.name}", *self.notes))

    def domains_of(self, client_id: int) -> dict[str, int]:
        """Rows of each domain that a client holds; of each class, where clients are told apart by the label."""
        return dict(sorted(Counter(self.train.domains[i] for i in self.rows_by_client[client_id]).items()))


def load_samples(settings: DataSettings, seed: int) -> Corpus:
    """Corpus of the settings, cut down at random to the samples they ask for.

    Raises: ConfigError if train has fewer rows than `train_samples`.
    """
    asked, source = settings.train_samples, settings.source
    if source in EMBEDDED and asked is not None:
        if asked > _MOST_WRITTEN:
            raise ConfigError(
                f"world.data.train_samples is {asked:,}, and of {source} at most {_MOST_WRITTEN:,} rows are written"
            )
        corpus = _written(source, asked, seed)
    else:
        folder = opened(source)
        read = chosen_answers if source not in EMBEDDED and holds_preferences(folder) else load_corpus
        corpus = read(source, seed, settings.columns, settings.validation_fraction)
    if is_given(source):
        corpus = replace(corpus, name=f"{folder_of(source).name}, given as an object")
    elif is_function(source):
        corpus = replace(corpus, name=source)
    if not settings.template.writes_text:
        corpus = with_known_classes(corpus)
    if asked is not None and asked > len(corpus.train):
        raise ConfigError(
            f"world.data.train_samples is {asked} and {corpus.name} has {len(corpus.train)} training rows; ask for "
            "fewer, or for all by null"
        )
    if settings.trim:
        train, validation, test = (tuple(map(trimmed, p)) for p in (corpus.train, corpus.validation, corpus.test))
        corpus = replace(corpus, train=train, validation=validation, test=test)
    train = sample(corpus.train, asked, seed, "train")
    validation = sample(corpus.validation, settings.validation_samples, seed, "validation")
    drawn = [
        f"{len(part):,} of {len(whole):,} {name} rows drawn (world.data.{setting})"
        for part, whole, name, setting in (
            (train, corpus.train, "training", "train_samples"),
            (validation, corpus.validation, "validation", "validation_samples"),
        )
        if len(part) < len(whole)
    ]
    if not settings.template.writes_text and len(train) < len(corpus.train):
        validation, left_out = of_drawn_classes(validation, train)
        drawn += left_out
    return replace(corpus, train=train, validation=validation, notes=(*corpus.notes, *drawn))


@lru_cache(maxsize=4)
def _written(source: str, train: int, seed: int) -> Corpus:
    """An embedded corpus with as many training rows as wanted; written once a process."""
    return embedded(source, train=train, seed=seed)


def prepare(settings: DataSettings, tokenizer: Any, num_clients: int, seed: int) -> PreparedData:
    """Corpus, token sets and partition of the settings.

    Raises: DataError, ConfigError or ModelError as the parts do.
    """
    corpus = load_samples(settings, seed)
    settings = replace(settings, template=settings.template.resolved(corpus.train, tokenizer))
    classes = () if settings.template.writes_text else class_names(corpus)
    train = tokenise_part(corpus.train, tokenizer, settings, classes)
    validation = tokenise_part(corpus.validation, tokenizer, settings, classes)
    rows, servers = deal(settings, train.domains, num_clients, seed)
    notes = (*corpus.notes, *look_alikes(classes), *_told_of_dialogues(corpus.train, settings.template, tokenizer))
    notes += _told_of_special_texts(corpus.train, tokenizer)
    notes += tuple(note for part, name in ((train, "training"), (validation, "validation")) for note in part.told(name))
    ends = ends_of(settings.template, tokenizer)
    return PreparedData(corpus, train, validation, tuple(rows), settings.template, classes, ends, notes, servers)


def deal(settings: DataSettings, domains: Sequence[str], num_clients: int, seed: int) -> tuple[list[Ints], Ints]:
    """Rows of each client, and of the server, given the domains of all training rows.

    The server's are drawn at random first. Raises ConfigError where too few are left.
    """
    order, count = np.arange(len(domains)), settings.server_samples
    if count:
        order = stream(seed, "server rows").permutation(order)
    own, rest = np.sort(order[:count]), np.sort(order[count:])
    if count and len(rest) < num_clients * settings.minimum_samples:
        raise ConfigError(
            f"world.data.server_samples is {count} of {len(domains)} training rows, which leaves too few for "
            f"{num_clients} clients; ask for fewer"
        )
    left = [domains[int(i)] for i in rest]
    rows = settings.partition.split(left, num_clients, seed, settings.minimum_samples)
    return [rest[part] for part in rows], own


def _told_of_dialogues(examples: Sequence[Example], template: Template, tokenizer: Any) -> tuple[str, ...]:
    """In sentences how dialogues are written, and what of them is not; nothing where there are none."""
    if not any(example.reply for example in examples) or not template.writes_text:
        return ()
    answers = "the last answer is" if template.learn == "last" else "all answers are"
    held = Counter(field for example in examples for field in _not_always_written(example))
    unwritten = [
        f"{template.described} writes no {field}, which {count:,} training rows have"
        for field, count in sorted(held.items())
        if not template.writes(tokenizer, field)
    ]
    return (f"dialogues written by {template.described}, {answers} learned", *unwritten)


def _not_always_written(example: Example) -> set[str]:
    """What a dialogue holds that templates may leave out: tools, calls of them, reasoning."""
    fields = {key for turn in example.dialogue if turn.more for key, value in turn.message.items() if value}
    held = {THINK} if any(t.role == "assistant" and "</think>" in t.content for t in example.dialogue) else set[str]()
    held |= {"tool_calls"} & fields | ({"tools"} if example.tools else set())
    return held | ({"reasoning"} if fields & {*REASONING} else set())


def _told_of_special_texts(examples: Sequence[Example], tokenizer: Any) -> tuple[str, ...]:
    """In a sentence how many texts say what the tokenizer takes for a special token; nothing where none does."""
    if not (special := special_texts(tokenizer)):
        return ()
    pattern = re.compile("|".join(map(re.escape, special)))
    found = [pattern.search("\n".join((e.prompt, e.second, e.answer))) for e in examples]
    names = sorted({match[0] for match in found if match})
    if not names:
        return ()
    count, several = sum(match is not None for match in found), ", ..." if len(names) > 3 else ""
    return (f"{count:,} training rows hold {', '.join(names[:3])}{several} in their texts, read as special tokens",)


def tokenise_part(
    examples: Sequence[Example], tokenizer: Any, settings: DataSettings, classes: Sequence[str]
) -> TokenSet:
    """Tokenised rows of a part of a corpus (its test part, too), as the settings' template writes them.

    Raises: DataError, ConfigError or ModelError as `tokenise` or `tokenise_classes`.
    """
    if not settings.template.writes_text:
        return tokenise_classes(examples, tokenizer, settings.template, settings.max_tokens, classes)
    chosen, room = text_template(settings.template, examples, tokenizer), settings.max_tokens
    return recalled_tokens(examples, tokenizer, chosen, room, lambda: tokenise(examples, tokenizer, chosen, room))


def sample(rows: Sequence[T], count: int | None, seed: int, part: str) -> tuple[T, ...]:
    """At most `count` of the rows of a part (None: all), drawn at random, in their order."""
    if count is None or count >= len(rows):
        return tuple(rows)
    chosen = stream(seed, f"sample {part}").permutation(len(rows))[:count]
    return tuple(rows[i] for i in sorted(chosen))
