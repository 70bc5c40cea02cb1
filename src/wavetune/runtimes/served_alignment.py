"""The second stage of a deployed run: every device aligns itself, the servers order steps and hear how they went.

Legend: K clients.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from wavetune.data_plane.messages_pb2 import Align, Aligned, RewardModel, RoundOrder, RoundReport
from wavetune.data_plane.refusal import quoted
from wavetune.errors import DeploymentError
from wavetune.federation.alignment import Evaluation
from wavetune.federation.alignment.evaluation import Scores
from wavetune.federation.rewards import EmbeddedReward
from wavetune.records.alignment import AlignmentMeasured
from wavetune.records.fields import UNKNOWN
from wavetune.records.rounds import Lost
from wavetune.runtimes.aligning import Say, Stepped, Task, Watcher
from wavetune.runtimes.rewards import read_files, trained
from wavetune.runtimes.session import Session

if TYPE_CHECKING:
    from wavetune.runtimes.deployed import Servers

SCORES, OPTIONAL = ("helpful", "safe", "true_helpful", "true_safe"), {"true_helpful", "true_safe"}
_POLL_S = 1.0


@dataclass
class ServedStage:
    """Alignment on the devices of a run.

    A device that leaves in a step is waited for and ordered the step again, as long as the deployment's patience; one
    that stays away, or fails, is named in the record, and does what it missed once it is back.
    """

    servers: Servers
    task: Task
    rewards: tuple[RewardModel, ...]
    rounds: int
    _told: set[int] = field(default_factory=set[int])  # who was sent the rewards
    _away: set[int] = field(default_factory=set[int])  # who is not waited for any more

    def advance(self, steps: int, evaluate: bool) -> tuple[Stepped, Evaluation | None]:
        """Have so many steps done; what the last was like and, if asked for, scores of held-out prompts.

        Raises DeploymentError if no device does it.
        """
        reports, lost = self._ask(steps, evaluate)
        if not reports:
            raise DeploymentError(f"no device took step {steps} of alignment: {next(iter(lost.values()))}")
        clients = range(len(self.task.lambdas))
        names = sorted({name for report in reports.values() for name in report.aligned.metrics})
        told = {k: report.aligned.metrics for k, report in reports.items()}
        last = Stepped(
            {name: tuple(told[k].get(name, UNKNOWN) if k in told else UNKNOWN for k in clients) for name in names},
            tuple(Lost(k, why) for k, why in sorted(lost.items())),
            AlignmentMeasured(tuple(reports[k].seconds["align_s"] if k in reports else UNKNOWN for k in clients)),
        )
        if not evaluate:
            return last, None
        foreign = self.task.foreign if all(self.task.foreign) else ()
        own, others = (
            tuple(
                Scores(
                    tuple(example.prompt for example in part[k]),
                    (),
                    {
                        name: np.array(scores.values)
                        for name, scores in sorted(getattr(reports[k].aligned, side).items())
                    },
                )
                if k in reports
                else Scores((), (), {})
                for k in range(len(part))
            )
            for side, part in (("own", self.task.own), ("foreign", foreign))
        )
        return last, Evaluation(own, others)

    def state(self) -> dict[str, Tensor]:
        """Nothing: every device keeps its own."""
        return {}

    def _ask(self, steps: int, evaluate: bool) -> tuple[dict[int, RoundReport], dict[int, str]]:
        """The reports of all that do it, and why others do not."""
        control, deployment = self.servers.coordinator, self.servers.deployment
        deadline_s = deployment.deadline_s + (deployment.patience_s if evaluate else 0.0)
        order = self.servers.common_order(self.rounds + steps - 1)
        order.align.CopyFrom(Align(steps=steps, evaluate=evaluate))
        reports, lost = dict[int, RoundReport](), dict[int, str]()
        missing, until = set(range(len(self.task.lambdas))), time.monotonic() + deployment.patience_s
        while missing:
            here = control.present() & missing
            if (not here and missing <= self._away) or time.monotonic() > until:
                break
            for client in sorted(here):
                self._order(client, order)
            for client in sorted(here):
                asked = time.monotonic()
                report = self._report(client, order.round, deadline_s)
                wrong = (
                    "" if report is None else quoted(report.failure) or self._wrong(client, report.aligned, order.align)
                )
                if wrong:
                    lost[client] = wrong
                elif report is not None:
                    reports[client] = report
                elif time.monotonic() >= asked + deadline_s:
                    lost[client] = f"client {client} did not answer within {deadline_s:.3g} s"
            missing -= reports.keys() | lost.keys()
            if missing:
                control.wait_for(missing - self._away, _POLL_S)
        self._away = missing
        return reports, lost | {client: f"client {client} is away" for client in missing}

    def _order(self, client: int, order: RoundOrder) -> None:
        """Order a step; who may not have what it takes to go on is sent the shared adapters and the rewards."""
        own, servers = RoundOrder(), self.servers
        own.CopyFrom(order)
        known = servers.coordinator.can_go_on(client, order.run, order.round)
        if not known:
            own.adapters = servers.adapters_of(client)
        if not known or client not in self._told:
            own.align.rewards.extend(self.rewards)
            self._told.add(client)
        servers.coordinator.order(client, own)

    def _wrong(self, client: int, told: Aligned, asked: Align) -> str:
        """Why a report does not answer an order; empty if it does."""
        if told.steps != asked.steps:
            return f"client {client} reported {told.steps} steps of alignment and {asked.steps} were ordered"
        foreign = self.task.foreign if all(self.task.foreign) else ((),) * len(self.task.own)
        for scores, prompts in ((told.own, self.task.own[client]), (told.foreign, foreign[client])):
            due = set(SCORES) if asked.evaluate and prompts else set[str]()
            if not due - OPTIONAL <= scores.keys() <= due or any(
                len(s.values) != len(prompts) for s in scores.values()
            ):
                return f"client {client} reported other scores of held-out prompts than it was asked for"
        return ""

    def _report(self, client: int, index: int, patience_s: float) -> RoundReport | None:
        """A device's report on an order to align; late ones on the round before it are passed over."""
        until = time.monotonic() + patience_s
        while True:
            left_s = max(0.0, until - time.monotonic())
            report = self.servers.report(client, index, left_s)
            if report is None or report.failure or report.HasField("aligned"):
                return report


def begin(
    servers: Servers, session: Session, task: Task, folder: Path, _saved: Mapping[str, Tensor], say: Say
) -> ServedStage:
    """The stage of a deployed run; embedded rewards are trained here, once for all devices. Raises as the parts do."""
    recipe, device = session.recipe, session.cohort.backbone.device
    source, seed, models = recipe.world.data.source, recipe.run.seed, list[RewardModel]()

    def train(part: EmbeddedReward) -> Path:
        own = trained(part, source, folder, Watcher(say), seed, device, columns=recipe.world.data.columns)
        models.append(RewardModel(name=part.preference, files=read_files(own)))
        return own

    for part in (task.settings.helpful, task.settings.safe):
        part.trained_by(train)
    return ServedStage(servers, task, tuple(models), recipe.run.rounds)
