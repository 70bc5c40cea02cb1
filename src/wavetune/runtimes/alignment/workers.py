"""Alignment in workers: each takes the steps of its slice of the clients, as a device takes its own.

A request has all that a worker needs, so that one that died is asked the same again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavetune.federation.slices import client_adapters
from wavetune.models.lora import named_matrices
from wavetune.records.alignment import HeldOut
from wavetune.runtimes.alignment.here import METRIC, STATE, Step
from wavetune.runtimes.alignment.task import Share, Task, share_of, trained_files
from wavetune.runtimes.fleet import Fleet
from wavetune.runtimes.rewards import Say
from wavetune.runtimes.session import Session
from wavetune.runtimes.worker import Arrays, arrays, tensors


@dataclass
class OnWorkers:
    """The work of a session's clients, each slice in its worker; what is saved is kept here."""

    fleet: Fleet
    session: Session
    shares: tuple[Share, ...]
    rewards: Any  # the files of the trained ones, as the fleet shares them
    saved: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def advance(self, steps: int, evaluate: bool) -> Step:
        """Have so many steps done in all; the last one and, if asked for, the scores of held-out prompts after it."""
        cohort, requests = self.session.cohort, list[tuple[int, tuple[Any, ...]]]()
        for worker, (clients, share) in enumerate(zip(self.fleet.slices, self.shares, strict=True)):
            own = {name: t[clients.start : clients.stop] if t.dim() else t for name, t in self.saved.items()}
            adapters = arrays(client_adapters(cohort, clients))
            requests.append((worker, (self.rewards, share, adapters, arrays(own), steps, evaluate)))
        found: list[tuple[Step, Arrays]] = self.fleet.ask("align", requests, again=True)
        states = [tensors(state) for _, state in found]
        self.saved = {name: torch.cat([s[name] for s in states]) if t.dim() else t for name, t in states[0].items()}
        self._take_adapters()
        return joined([step for step, _ in found])

    def state(self) -> dict[str, Tensor]:
        """That of all clients, as one process has it."""
        return self.saved

    @torch.no_grad()
    def _take_adapters(self) -> None:
        for name, parameter in named_matrices(self.session.cohort.bank.only(("lora",)).local):
            parameter.copy_(self.saved[f"{STATE}lora.{name}"])


def joined(steps: list[Step]) -> Step:
    """One step of all clients, given those of consecutive ones."""
    found = [step.evaluation for step in steps if step.evaluation is not None]
    evaluation = {f.name: sum((getattr(one, f.name) for one in found), ()) for f in fields(HeldOut)}
    return Step(
        {name: sum((step.metrics[name] for step in steps), ()) for name in steps[0].metrics},
        HeldOut(**evaluation) if found else None,
    )


def begin(fleet: Fleet, session: Session, task: Task, folder: Path, saved: Mapping[str, Tensor], say: Say) -> OnWorkers:
    """The work in a fleet, from where a checkpoint left it; embedded rewards are trained here.

    Raises as the parts do.
    """
    rewards = fleet.share(trained_files(task.recipe, folder, session.cohort.backbone.device, say))
    known = {name: tensor for name, tensor in saved.items() if name.startswith((STATE, METRIC))}
    return OnWorkers(fleet, session, tuple(share_of(task, clients) for clients in fleet.slices), rewards, known)
