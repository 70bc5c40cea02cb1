"""Prompts with answers as whole rows, for models that score an answer: [CLS] prompt [SEP] answer [SEP] and the like.

Legend: R rows, P pairs.
"""

from collections.abc import Sequence
from typing import Any

from wavetune.data.classes import class_rows, frame
from wavetune.data.examples import PreferencePair
from wavetune.data.pieces import encode, keep_end
from wavetune.data.templates import TokenSet
from wavetune.errors import ConfigError


def answer_rows(
    prompts: Sequence[str], answers: Sequence[str], tokenizer: Any, max_tokens: int
) -> tuple[list[list[int]], int, int]:
    """Token ids of each prompt with its answer, how many prompts were truncated, and how many answers.

    Between the two stands the tokenizer's separator, or a line break where it has none. A row that is too long loses
    the beginning of its prompt; an answer that does not fit alone loses its end.

    Args:
        prompts, answers: N each.
        tokenizer: called as `tokenizer(texts, add_special_tokens=False)["input_ids"]`.
        max_tokens: longest row, at least 8 tokens.
    Raises: ConfigError if max_tokens < 8.
    """
    if max_tokens < 8:
        raise ConfigError(f"max_tokens is {max_tokens}; a prompt with an answer needs at least 8 tokens")
    before, after = frame(tokenizer)
    separator = getattr(tokenizer, "sep_token_id", None)
    between = encode(tokenizer, ["\n"])[0] if separator is None else [int(separator)]
    room = max_tokens - len(before) - len(between) - len(after)
    said = encode(tokenizer, list(answers))
    asked = encode(tokenizer, list(prompts))
    kept = [(keep_end(p, max(0, room - len(a)), 0), a[:room]) for p, a in zip(asked, said, strict=True)]
    return (
        [before + prompt + between + answer + after for prompt, answer in kept],
        sum(len(prompt) < len(whole) for (prompt, _), whole in zip(kept, asked, strict=True)),
        sum(len(answer) < len(whole) for (_, answer), whole in zip(kept, said, strict=True)),
    )


def tokenise_pairs(pairs: Sequence[PreferencePair], tokenizer: Any, max_tokens: int) -> TokenSet:
    """Tokenised pairs: row 2i is the chosen answer of pair i (class 1), row 2i + 1 the rejected one (class 0).

    Raises: ConfigError if max_tokens < 8.
    """
    rows, prompts, answers = answer_rows(
        [pair.prompt for pair in pairs for _ in range(2)],
        [text for pair in pairs for text in (pair.chosen, pair.rejected)],
        tokenizer,
        max_tokens,
    )
    domains = [pair.domain for pair in pairs for _ in range(2)]
    index = [i for i in range(len(pairs)) for _ in range(2)]
    return class_rows(rows, [1, 0] * len(pairs), domains, index, truncated_prompts=prompts, truncated_answers=answers)
