"""Workers of a run, each with a slice of its clients, as whoever has work for them sees them."""

from collections.abc import Sequence
from typing import Any, Protocol


class WorkerLostError(Exception):
    """A worker lost what it was told since the round began; where it can be started again, it was."""


class Fleet(Protocol):
    """Workers, one a slice."""

    slices: Sequence[range]

    def ask(self, method: str, requests: Sequence[tuple[int, tuple[Any, ...]]], again: bool = False) -> list[Any]:
        """What a method of these workers answers to these arguments, in order; all work at once.

        With `again` a worker that is lost is asked again once it is back. Raises WorkerLostError, and what workers do.
        """
        ...

    def share(self, value: Any) -> Any:
        """A value to be given to several workers."""
        ...
