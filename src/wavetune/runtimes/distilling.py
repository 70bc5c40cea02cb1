"""Before the federated rounds: the server trains the clients' model to do what its own does."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavetune.costs.adapter import AdapterSite
from wavetune.data.batching import Batching, batch_indices, collate
from wavetune.errors import NumericsError
from wavetune.federation.distillation import Distillation
from wavetune.federation.optimise import AdamW, StackedOptimiser
from wavetune.federation.phases import Phase
from wavetune.federation.run_folder import fitting, part_of
from wavetune.models.lora import AdapterBank, named_matrices
from wavetune.models.ragged import ragged_layout
from wavetune.runtimes.server_training import flop_of
from wavetune.runtimes.session import Session, kept_by_clients
from wavetune.runtimes.world import workload_of

STEPS_A_ROUND = 25  # of a record
LOSS = "loss"


@dataclass
class Distilling(Phase):
    """Some steps a round. The adapters that clients keep are trained in one copy, which all clients then start with;
    prompts and prefixes, which stand before a text, stay as they are.
    """

    session: Session
    settings: Distillation
    bank: AdapterBank = field(init=False)  # of one client
    optimiser: StackedOptimiser = field(init=False)
    losses: list[float] = field(default_factory=list[float])
    records = "distillation.jsonl"

    @property
    def rounds(self) -> int:
        """As many as records."""
        return -(-self.settings.steps // STEPS_A_ROUND)

    def begin(self, done: int, saved: Mapping[str, Tensor]) -> None:
        """A copy of the first client's adapters, as they were or as a checkpoint has them."""
        cohort = self.session.cohort
        sites = self._sites()
        local = {
            site.name: {
                name: t[:1].detach().clone().requires_grad_(t.requires_grad)
                for name, t in cohort.bank.local[site.name].items()
            }
            for site in sites
        }
        alone = np.ones((cohort.backbone.num_layers, 1), np.bool_)
        self.bank = replace(cohort.bank, sites=sites, local_LK=alone, local=local, shared={})
        rate = self.settings.learning_rate
        self.optimiser = StackedOptimiser(self.bank, AdamW(rate, schedule="constant", warmup_steps=0, weight_decay=0.0))
        if done:
            with torch.no_grad():
                for name, t in named_matrices(self.bank.local):
                    t.copy_(fitting(saved, f"adapter.{name}", t))
            self.losses = saved[LOSS].tolist()
            self.optimiser.load_state(part_of(saved, "optimiser."))

    def round(self, index: int) -> dict[str, Any]:
        """Some steps; after the last all clients have what was trained. Raises NumericsError."""
        first = index * STEPS_A_ROUND
        steps = range(first, min(first + STEPS_A_ROUND, self.settings.steps))
        found = [self._step(self._rows(step)) for step in steps]
        self.losses.append(float(np.mean(found)))
        if index + 1 == self.rounds:
            own = dict(named_matrices(self.bank.local))
            with torch.no_grad():
                for name, stack in kept_by_clients(self.session.recipe.method, self.session.cohort):
                    if name in own:
                        stack.copy_(own[name].expand_as(stack))
        return {"steps": len(steps), "loss": self.losses[-1], **self._spent(steps)}

    def state(self) -> dict[str, Tensor]:
        """Adapters, moments and losses so far."""
        found = {f"adapter.{name}": t.detach() for name, t in named_matrices(self.bank.local)}
        found |= {f"optimiser.{name}": t for name, t in self.optimiser.state().items()}
        return found | {LOSS: torch.tensor(self.losses, dtype=torch.float64)}

    def summary(self) -> dict[str, Any]:
        """Where the loss began and where it ended."""
        return {
            "first_loss": self.losses[0],
            "last_loss": self.losses[-1],
            **self._spent(range(self.settings.steps)),
        }

    def _sites(self) -> tuple[AdapterSite, ...]:
        """Adapters that clients keep, but for what stands before a text: neither model's pass here has any."""
        method, bank = self.session.recipe.method, self.session.cohort.bank
        names = {name.rpartition(".")[0] for name, _ in kept_by_clients(method, self.session.cohort)}
        ahead = {one.name for one in method.beside_lora if one.prompt_tokens or one.key_tokens}
        return tuple(site for site in bank.sites if site.name in names and site.kind not in ahead)

    def _rows(self, step: int) -> Any:
        session, own = self.session, self.session.data.server_rows
        batching = Batching(min(self.settings.batch_size, len(own)))
        lengths, number = session.data.train.lengths[own], len(session.data.rows_by_client) + 1
        return own[batch_indices(lengths, batching, session.recipe.run.seed, number, step)]

    def _step(self, rows: Any) -> float:
        """One step on these rows; the loss before it."""
        pupil, teacher = self.session.cohort.backbone, self.session.serving.backbone
        tokens = self.session.data.train.with_prompt(0)
        batch = collate(tokens, [rows])
        ids_N, lengths = torch.from_numpy(batch.input_ids).to(pupil.device), batch.lengths.tolist()
        layout = ragged_layout(lengths, pupil.device)
        with torch.no_grad():
            teacher_ND = teacher.forward(ids_N, layout)
        hidden_ND = pupil.forward(ids_N, layout, self.bank, [0], [len(ids_N)])
        loss = self.settings.loss(pupil, hidden_ND, teacher_ND)
        if not torch.isfinite(loss.detach()):
            raise NumericsError(f"distillation: the loss is {float(loss.detach())}; lower its learning_rate")
        loss.backward()
        self.optimiser.step_clients(1.0)
        return float(loss.detach())

    def _spent(self, steps: range) -> dict[str, float]:
        """Seconds and joules of the server: a pass of the teacher, and forward and backward of the pupil."""
        session, rank = self.session, max(self.session.rank_K)
        work = workload_of(session.data.train, [[self._rows(step)] for step in steps])
        flop = flop_of(session.servers_table, 0, work, forward_only=True) + flop_of(session.planner.table, rank, work)
        problem = session.planner.known(0)
        return {"server_s": flop / problem.server_flop_per_s, "server_j": flop * problem.server_energy_j_per_flop}
