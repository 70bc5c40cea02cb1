"""Federated tuning as a phase of a run: rounds of local steps, each ended by an exchange of adapters."""

from dataclasses import dataclass

from wavetune.federation.phases import Phase
from wavetune.federation.run_folder import ROUNDS, RunFolder
from wavetune.models.lora import Matrices
from wavetune.records.rounds import Round
from wavetune.runtimes.engine import Observer, TrainRound
from wavetune.runtimes.evaluation import evaluate
from wavetune.runtimes.export import clients_models, export
from wavetune.runtimes.saved import Trained
from wavetune.runtimes.session import Session


@dataclass
class Tuning(Phase):
    """The federated rounds of a session. All that they go on from is the session's."""

    session: Session
    folder: RunFolder
    observer: Observer
    train: TrainRound
    records, record = ROUNDS, Trained

    @property
    def rounds(self) -> int:
        """As the recipe says."""
        return self.session.recipe.run.rounds

    def round(self, index: int) -> Round:
        """Train a round and evaluate where that is due; after the last the models are written."""
        session = self.session
        last = index + 1 == self.rounds
        personal: dict[int, dict[str, Matrices]] = {}

        def keep_personal() -> None:
            personal.update(clients_models(session))

        # where clients have models of their own, these hold what all share after the mixing
        before_mixing = last and not session.central and not session.personal and session.one_model
        outcome = self.train(session, index, self.observer.step, keep_personal if before_mixing else None)
        if last and session.personal and not session.on_devices:
            keep_personal()
        seen, due = outcome.witness, session.recipe.run.evaluates_after(index)
        scores, lost = (None, ()) if seen is None else (seen.scores, seen.lost)
        record = outcome.record(evaluate(session, outcome.mixed.factors, index, scores, lost) if due else None)
        if last:
            export(self.folder, session, outcome.mixed.factors, personal)
        session.settle(record)
        return record

    def show(self, record: Round) -> None:
        """A round is done."""
        self.observer.round(record)
