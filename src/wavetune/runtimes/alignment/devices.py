"""Alignment on the devices of a run: each aligns itself, the servers order steps and hear how they went."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from wavetune.data_plane.messages_pb2 import Align, RewardModel, RoundOrder, RoundReport
from wavetune.errors import DeploymentError
from wavetune.runtimes.alignment import report
from wavetune.runtimes.alignment.here import Step
from wavetune.runtimes.alignment.task import Task, trained_files
from wavetune.runtimes.orders import Orders
from wavetune.runtimes.rewards import Say
from wavetune.runtimes.session import Session


@dataclass
class OnDevices:
    """The work of a task's clients, each on its device.

    A device that leaves in a step is waited for and ordered the step again; one that stays away, or fails, is named as
    lost, and does what it missed once it is back.
    """

    orders: Orders
    task: Task
    rewards: tuple[RewardModel, ...]
    _told: set[int] = field(default_factory=set[int])  # devices that were sent the rewards

    def advance(self, steps: int, evaluate: bool) -> Step:
        """Have so many steps done in all; the last one and, if asked for, the scores of held-out prompts after it.

        Raises DeploymentError if no device does it.
        """
        orders, align = self.orders, Align(steps=steps, evaluate=evaluate)
        index = self.task.recipe.run.rounds + steps - 1  # states are numbered on from the rounds'

        def order(client: int) -> RoundOrder:
            return self._order(client, index, align)

        def judge(client: int, told: RoundReport) -> str | None:
            return report.wrong_in(self.task, client, told.aligned, align) if told.HasField("aligned") else None

        deadline_s = orders.deadline_s + (orders.patience_s if evaluate else 0.0)
        reports, lost = orders.ask(range(len(self.task.lambdas)), order, judge, deadline_s, orders.patience_s)
        if not reports:
            raise DeploymentError(f"no device took step {steps} of alignment: {next(iter(lost.values()))}")
        return report.read(self.task, reports, lost, evaluate)

    def state(self) -> dict[str, Tensor]:
        """Nothing: every device keeps its own."""
        return {}

    def _order(self, client: int, index: int, align: Align) -> RoundOrder:
        """A device's order; the shared adapters and the rewards are in it where the device may not have them."""
        known = self.orders.knows(client, index)
        own = self.orders.order(index, align=align, adapters=b"" if known else self.orders.adapters_of(client))
        if not known or client not in self._told:
            own.align.rewards.extend(self.rewards)
            self._told.add(client)
        return own


def begin(
    orders: Orders, session: Session, task: Task, folder: Path, _saved: Mapping[str, Tensor], say: Say
) -> OnDevices:
    """The work on a deployed run's devices; embedded rewards are trained here, once for all. Raises as the parts do."""
    trained = trained_files(task.recipe, folder, session.cohort.backbone.device, say)
    return OnDevices(orders, task, tuple(RewardModel(name=name, files=files) for name, files in trained.items()))
