"""Where the local steps of a round are made: in this process, in workers, or on devices."""

from collections.abc import Collection, Sequence
from typing import Protocol

from wavetune.data.partition import Rows
from wavetune.data.templates import TokenSet
from wavetune.federation.cohort import Evaluation, StepResult
from wavetune.federation.messages import EVERYTHING, Agenda
from wavetune.models.lora import AdapterBank


class Place(Protocol):
    """What makes the local steps of a run: a cohort in this process, or what holds one and has others help."""

    def begin_round(self, names: Collection[str], agenda: Agenda = EVERYTHING) -> None:
        """Start from the adapters in the bank, and train what is on the agenda.

        Where training is to stay near something, that is the clients' adapters of these names as they are now.
        """
        ...

    def step(
        self, tokens: TokenSet, rows: Sequence[Rows], factor: float, active_K: Sequence[bool] | None = None
    ) -> StepResult:
        """The result of the next local step of the active clients (all if None), at `factor` of the full rate.

        Client k trains on `rows[k]` of the set. Raises NumericsError if no active client's values stay finite.
        """
        ...

    def end_round(self) -> None:
        """Bring here what the exchange of adapters needs of the clients."""
        ...

    def evaluate(
        self, tokens: TokenSet, bank: AdapterBank | None, client: int = 0, passes: slice = slice(None)
    ) -> Evaluation:
        """Losses of all rows of a set as one client of a bank, or the plain base, sees them."""
        ...
