"""Where an answer ends: token sequences after which nothing more is generated."""

from collections.abc import Collection, Sequence
from typing import Any

Ends = Collection[tuple[int, ...]]


def own_ends(model: Any) -> set[tuple[int, ...]]:
    """The single tokens that a model's generation config, or else its config, names as ends."""
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        eos = getattr(config, "eos_token_id", None)
        if eos is not None:
            named = eos if isinstance(eos, list | tuple) else [eos]
            return {(token,) for token in named if isinstance(token, int)}
    return set()


def length_of_end(ids: Sequence[int], ends: Ends) -> int:
    """How many tokens the longest of the ends has that the ids end with; 0 if they end with none.

    >>> length_of_end([5, 6, 7], [(7,), (6, 7), (1,)])
    2
    """
    return max((len(end) for end in ends if end and tuple(ids[-len(end) :]) == tuple(end)), default=0)


def up_to_end(ids: Sequence[int], ends: Ends) -> list[int]:
    """The ids before the first of the ends.

    >>> up_to_end([5, 6, 7, 8], [(7,), (6, 7)])
    [5]
    """
    for stop in range(1, len(ids) + 1):
        if size := length_of_end(ids[:stop], ends):
            return list(ids[: stop - size])
    return list(ids)
