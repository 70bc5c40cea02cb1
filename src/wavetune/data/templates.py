"""From examples to token ids: templates that write the prompt, and the ragged set of tokenised rows.

The prompt and the answer are tokenised apart, so that training and generation see the same tokens before the answer.
Legend: R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wavetune.data.examples import Example, Turn
from wavetune.errors import ConfigError, DataError, ModelError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PlainTemplate:
    """The prompt, then a separator, then the answer; no separator where both are one text."""

    kind: Literal["plain"] = field(default="plain", kw_only=True)
    separator: str = "\n"

    def prompt_texts(self, examples: Sequence[Example], tokenizer: Any) -> list[str]:
        """What stands before each answer."""
        return [example.prompt + ("" if example.verbatim else self.separator) for example in examples]

    def end_ids(self, tokenizer: Any) -> list[int]:
        """Tokens that end an answer."""
        return [eos_id(tokenizer)]


@dataclass(frozen=True)
class InstructionTemplate:
    """A heading over the prompt and one over the answer."""

    kind: Literal["instruction"] = field(default="instruction", kw_only=True)
    prompt_heading: str = "### Instruction:\n"
    answer_heading: str = "\n\n### Response:\n"

    def prompt_texts(self, examples: Sequence[Example], tokenizer: Any) -> list[str]:
        """What stands before each answer."""
        return [self.prompt_heading + example.prompt + self.answer_heading for example in examples]

    def end_ids(self, tokenizer: Any) -> list[int]:
        """Tokens that end an answer."""
        return [eos_id(tokenizer)]


@dataclass(frozen=True)
class ChatTemplate:
    """The tokenizer's own chat template: the turns of a chat row, else the prompt as one user turn."""

    kind: Literal["chat"] = field(default="chat", kw_only=True)

    def prompt_texts(self, examples: Sequence[Example], tokenizer: Any) -> list[str]:
        """What stands before each answer, up to and with the heading of the assistant's turn."""
        return [
            _apply(tokenizer, example.turns or (Turn("user", example.prompt),), add_generation_prompt=True)
            for example in examples
        ]

    def end_ids(self, tokenizer: Any) -> list[int]:
        """Tokens that the chat template writes after an assistant's turn, less white space; EOS if it writes none."""
        marker = "wavetune-answer"
        dialogue = _apply(tokenizer, (Turn("user", "?"), Turn("assistant", marker)), add_generation_prompt=False)
        end = dialogue.rpartition(marker)[2].strip()
        return list(tokenizer(end, add_special_tokens=False)["input_ids"]) if end else [eos_id(tokenizer)]


@dataclass(frozen=True)
class ClassTemplate:
    """The prompt alone: what is learned is its class, by `classes.tokenise_classes`, and no text is written.

    `partition_by` says by what clients are told apart: the class (label skew) or the domain of a row.
    """

    kind: Literal["class"] = field(default="class", kw_only=True)
    partition_by: Literal["label", "domain"] = "label"

    def prompt_texts(self, examples: Sequence[Example], tokenizer: Any) -> list[str]:
        """The texts to classify."""
        return [example.prompt for example in examples]

    def end_ids(self, tokenizer: Any) -> list[int]:
        """Nothing: there is no answer to end."""
        return []


Template = PlainTemplate | InstructionTemplate | ChatTemplate | ClassTemplate


@dataclass(frozen=True)
class TokenSet:
    """R tokenised rows, end to end. With `classes`, what is learned of a row is its class; else its last tokens."""

    ids: NDArray[np.int32]
    offsets: Ints  # row i is ids[offsets[i]:offsets[i + 1]]
    label_start: Ints  # where in its row an answer starts
    domains: tuple[str, ...]
    example_index: Ints  # which example a row came from
    dropped: int = 0  # examples with an empty answer
    truncated_prompts: int = 0
    truncated_answers: int = 0
    classes: Ints | None = None

    def __len__(self) -> int:
        return len(self.label_start)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows are kept, and of how many something was left out."""
        return {
            "kept": len(self),
            "dropped": self.dropped,
            "truncated_prompts": self.truncated_prompts,
            "truncated_answers": self.truncated_answers,
        }

    def told(self, name: str) -> tuple[str, ...]:
        """In sentences what was dropped and cut of the rows of a part of that name."""
        prompts, answer = ("prompts", "an answer") if self.classes is None else ("texts", "a text")
        counts = (
            (self.dropped, f"{name} rows without {answer} dropped"),
            (self.truncated_prompts, f"{name} {prompts} cut to world.data.max_tokens"),
            (self.truncated_answers, f"{name} answers cut to world.data.max_tokens"),
        )
        return tuple(f"{count:,} {what}" for count, what in counts if count)

    def row(self, index: int) -> NDArray[np.int32]:
        """Token ids of one row."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> Ints:
        """Tokens that go through the model per row, [R]: all, or all but the last where it is only ever a label."""
        return np.diff(self.offsets) - (self.classes is None)

    @property
    def labelled(self) -> Ints:
        """Labelled positions per row, [R]; one where rows have classes."""
        return np.diff(self.offsets) - self.label_start


def tokenise(examples: Sequence[Example], tokenizer: Any, template: Template, max_tokens: int) -> TokenSet:
    """Tokenised rows: [BOS] prompt answer EOS, with labels on the answer and EOS alone.

    A row longer than `max_tokens` loses the beginning of its prompt (after BOS); an answer that still does not fit
    loses its end, EOS included. Examples with an empty answer are dropped. All three are counted. Where nothing stands
    before an answer, its first token is not labelled, as there is nothing to predict it from.

    Args:
        examples: what to tokenise.
        tokenizer: called as `tokenizer(texts, add_special_tokens=False)["input_ids"]`.
        template: what is written before and after an answer.
        max_tokens: longest row, at least 4 tokens.
    Raises: ConfigError if max_tokens < 4 or the chat template is missing; DataError if no row is left; ModelError if
        the tokenizer has no EOS.
    """
    if max_tokens < 4:
        raise ConfigError(f"max_tokens is {max_tokens}; a row needs at least 4 tokens")
    kept = [i for i, example in enumerate(examples) if example.answer.strip()]
    if not kept:
        raise DataError(f"none of the {len(examples)} examples has an answer; there is nothing to train on")
    chosen = [examples[i] for i in kept]
    begin, end = bos_ids(tokenizer), template.end_ids(tokenizer)
    prompts = prompt_ids(chosen, tokenizer, template)
    answers = [answer + end for answer in encode(tokenizer, [example.answer for example in chosen])]
    room = max_tokens - 1 - len(begin)  # the first answer token is predicted from a prompt token
    contexts = [
        keep_end(prompt, max_tokens - min(len(answer), room), len(begin))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    rows = [context + answer[:room] for context, answer in zip(contexts, answers, strict=True)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return TokenSet(
        ids=np.fromiter(chain.from_iterable(rows), np.int32, count=int(offsets[-1])),
        offsets=offsets,
        label_start=np.array([max(1, len(context)) for context in contexts], np.int64),
        domains=tuple(example.domain for example in chosen),
        example_index=np.array(kept, np.int64),
        dropped=len(examples) - len(kept),
        truncated_prompts=sum(len(c) < len(p) for c, p in zip(contexts, prompts, strict=True)),
        truncated_answers=sum(len(answer) > room for answer in answers),
    )


def prompt_ids(examples: Sequence[Example], tokenizer: Any, template: Template) -> list[list[int]]:
    """Token ids of all that stands before each answer, BOS included: what generation starts from."""
    begin = bos_ids(tokenizer)
    encoded = encode(tokenizer, template.prompt_texts(examples, tokenizer))
    return [ids if ids[: len(begin)] == begin else begin + ids for ids in encoded]


def keep_end(prompt: list[int], room: int, begin: int) -> list[int]:
    """Prompt cut to `room` tokens: its first `begin` tokens (BOS) and its end.

    >>> keep_end([0, 1, 2, 3, 4], room=3, begin=1)
    [0, 3, 4]
    """
    return prompt if len(prompt) <= room else prompt[:begin] + prompt[len(prompt) - (room - begin) :]


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens; one call for all, in which repeated texts occur once."""
    distinct = list(dict.fromkeys(texts))
    if not distinct:  # which a fast tokenizer does not take
        return []
    ids = dict(zip(distinct, tokenizer(distinct, add_special_tokens=False)["input_ids"], strict=True))
    return [ids[text] for text in texts]


def bos_ids(tokenizer: Any) -> list[int]:
    """[BOS] if the tokenizer itself puts BOS before a text, else []."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return [bos] if bos is not None and list(tokenizer("a")["input_ids"][:1]) == [bos] else []


def eos_id(tokenizer: Any) -> int:
    """Id of the end-of-sequence token.

    Raises: ModelError if there is none.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token, so answers would never end; set tokenizer.eos_token"
        )
    return int(tokenizer.eos_token_id)


def _apply(tokenizer: Any, turns: Sequence[Turn], add_generation_prompt: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "template 'chat' needs a tokenizer with a chat template; use template 'instruction' or 'plain'"
        )
    messages = [turn.message for turn in turns]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
