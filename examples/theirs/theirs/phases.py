"""After the federated rounds: how far to go from the model as it was to the tuned one (WiSE-FT, arXiv 2109.01903)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt, Le, MinLen

from wavetune.errors import ConfigError
from wavetune.federation.phases import Phase, PhasePart, Running

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.models.lora import Matrices

Share = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class Interpolate(PhasePart):
    """Each of some `shares` of the shared LoRA's update is tried; the one of least validation loss is exported."""

    shares: Annotated[tuple[Share, ...], MinLen(1)] = (0.5, 0.75, 1.0)

    def phase(self, running: Running) -> Phase:
        """The phase in a run under way."""
        if running.session.personal:
            raise ConfigError("method.phases: Interpolate needs one model of all clients; share all adapters")
        return Interpolation(self.shares, running)


@dataclass
class Interpolation(Phase):
    """A round a share. What the rounds found is what a continued run goes on from."""

    shares: tuple[float, ...]
    running: Running
    losses: list[float] = field(default_factory=list[float])
    records = "interpolation.jsonl"

    @property
    def rounds(self) -> int:
        """As many as there are shares."""
        return len(self.shares)

    def begin(self, done: int, saved: Mapping[str, Tensor]) -> None:
        """Read what the rounds before have found."""
        self.losses = [float(line["loss"]) for line in self.running.folder.read_rounds(self.records)]

    def round(self, index: int) -> dict[str, Any]:
        """Try a share; after the last the best is exported."""
        from wavetune.runtimes.evaluation import evaluate
        from wavetune.runtimes.export import export

        session = self.running.session
        self.losses.append(evaluate(session, self._scaled(self.shares[index]), index).loss)
        if index + 1 == self.rounds:
            export(self.running.folder, session, self._scaled(self.best), {})
        return {"share": self.shares[index], "loss": self.losses[index]}

    @property
    def best(self) -> float:
        """The share of the least loss."""
        return self.shares[self.losses.index(min(self.losses))]

    def show(self, record: dict[str, Any]) -> None:
        """Say what was found."""
        self.running.say(f"{record['share']:.0%} of the update: validation loss {record['loss']:.4f}")

    def summary(self) -> dict[str, Any]:
        """The best share and its loss."""
        return {"share": self.best, "validation_loss": min(self.losses)}

    def _scaled(self, share: float) -> dict[str, Matrices]:
        """The shared adapters with so much of LoRA's update."""
        session = self.running.session
        lora = {site.name for site in session.cohort.bank.sites if site.kind == "lora"}
        current = session.server.current
        return {name: {**own, "B": share * own["B"]} if name in lora else own for name, own in current.items()}
