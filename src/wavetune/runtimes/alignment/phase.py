"""Local alignment as a phase of a run: steps that every client takes alone, judged on held-out prompts.

Legend: K clients.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from wavetune.costs.table import Workload
from wavetune.costs.workload import split_work
from wavetune.federation.account import bits_by_kind
from wavetune.federation.phases import Phase
from wavetune.federation.run_folder import ALIGNMENT, RunFolder
from wavetune.records.alignment import AlignmentInfo, AlignmentStep, ByName, Charged, HeldOut
from wavetune.records.fields import total
from wavetune.records.reading import read_record
from wavetune.runtimes.alignment.held_out import AFTER, BEFORE, keep, kept
from wavetune.runtimes.alignment.here import Align, Work
from wavetune.runtimes.alignment.task import Task
from wavetune.runtimes.engine import Observer
from wavetune.runtimes.export import clients_models, export
from wavetune.runtimes.session import Session


@dataclass
class Aligning(Phase):
    """The steps of alignment of a session's clients, wherever `align` has them taken."""

    session: Session
    folder: RunFolder
    observer: Observer
    task: Task
    align: Align
    work: Work = field(init=False)
    before: HeldOut = field(init=False)
    records = ALIGNMENT

    @property
    def rounds(self) -> int:
        """The steps of the recipe."""
        return self.task.settings.learning.steps

    def begin(self, done: int, saved: Mapping[str, Tensor]) -> None:
        """Set the work up; before the first step the clients are judged."""
        self.observer.message("aligning every client to its owner's wishes")
        rewards = self.folder.path / "rewards"
        self.work = self.align(self.session, self.task, rewards, saved, self.observer.message)
        before = kept(self.folder, BEFORE)
        if before is None:
            before = self.work.advance(done, evaluate=True).evaluation
            assert before is not None
            keep(self.folder, BEFORE, before)
        self.before = before

    def round(self, index: int) -> AlignmentStep:
        """Have a step taken, judged where that is due; after the last the models are written."""
        started, last, session = time.perf_counter(), index + 1 == self.rounds, self.session
        due = last or (index + 1) % self.task.settings.evaluate_every == 0
        step = self.work.advance(index + 1, due)
        found = step.evaluation
        record = AlignmentStep(
            step=index,
            metrics=step.metrics,
            charged=charge(session, self.task, step.metrics),
            wall_s=time.perf_counter() - started,
            evaluation={} if found is None else by_name(found, self.task.lambdas, self.before.scale()),
            metered_bits=bits_by_kind([session.door.take()]),
            lost=step.lost,
            measured=step.measured,
        )
        if last and found is not None:
            keep(self.folder, AFTER, found)
            export(self.folder, session, session.server.current, {} if session.on_devices else clients_models(session))
        return record

    def state(self) -> dict[str, Tensor]:
        """That of the work."""
        return self.work.state()

    def show(self, record: AlignmentStep) -> None:
        """A step of so many is done."""
        self.observer.aligned(record, self.rounds)

    def summary(self) -> dict[str, Any]:
        """What the alignment came to."""
        info = summary(self.task, self.before, kept(self.folder, AFTER) or self.before)
        charged = [read_record(Charged, line["charged"]) for line in self.folder.read_rounds(ALIGNMENT)]
        return {"alignment": replace(info, charged=total(charged)) if charged else info}


def charge(session: Session, task: Task, metrics: ByName) -> Charged:
    """Seconds and joules of a step: the slowest client's and all clients' computing. Nothing is sent.

    Counted are the passes that the objective makes with the policy and its reference; the answers to a prompt share its
    tokens. Scoring by the reward models is not. Answers of pairs are counted at their longest.
    """
    learning, planner = task.settings.learning, session.planner
    forward, backward = learning.objective.passes
    prompts, answers, prompt_K = learning.prompts_per_step, learning.answers_per_step, np.array(task.prompt_tokens_K)
    answer_K = np.array(metrics.get("answer_tokens", [learning.max_new_tokens] * len(prompt_K)), float)
    work = split_work(
        planner.table,
        planner.table.num_layers,
        np.array(session.rank_K),
        0,
        Workload(
            answers,
            prompts * prompt_K + answers * answer_K,
            prompts * prompt_K**2 + answers * ((prompt_K + answer_K) ** 2 - prompt_K**2),
            answers * answer_K,
        ),
    )
    flop_K = forward * work.client_forward_flop_K + backward * work.client_backward_flop_K
    speed_K = np.array([device.flop_per_s for device in planner.devices])
    price_K = np.array([device.energy_j_per_flop for device in planner.devices])
    flop_K[np.isnan(answer_K)] = 0.0
    return Charged(float(np.max(flop_K / speed_K)), float(flop_K @ price_K))


def summary(task: Task, before: HeldOut, after: HeldOut) -> AlignmentInfo:
    """What the stage came to, for a run's summary: scores before and after, and each client's gain in its own mixture.

    A gain is in standard deviations of all answers before, so that both rewards count alike.
    """
    return AlignmentInfo(
        lambdas=task.lambdas,
        objective=task.settings.learning.objective.kind,
        steps=task.settings.learning.steps,
        before=by_name(before, task.lambdas, before.scale()),
        after=by_name(after, task.lambdas, before.scale()),
        scale=before.scale(),
        mixed_gain_K=after.mixed_gain(before, task.lambdas),
    )


def by_name(found: HeldOut, lambdas: Sequence[float], scale: Mapping[str, float]) -> ByName:
    """Means of every score of each client's answers to own prompts, and of its mixtures.

    The rewards are in their own units, and mixed in those of `scale` (a reward without any spread in its own); exact
    scores, all from 0 to 1, as they are.
    """
    names = sorted({name for one in found.own for name in one.scores})
    means = {f"{name}_K": np.array([one.mean(name).mean for one in found.own]) for name in names}
    lambda_K = np.array(lambdas)
    exact = {"true_helpful": 1.0, "true_safe": 1.0}
    for name, (helps, guards), units in (
        ("mixed_reward_K", ("helpful", "safe"), scale),
        ("true_mixed_K", ("true_helpful", "true_safe"), exact),
    ):
        if f"{helps}_K" in means:
            means[name] = lambda_K * means[f"{helps}_K"] / (units[helps] or 1.0)
            means[name] += (1 - lambda_K) * means[f"{guards}_K"] / (units[guards] or 1.0)
    return {name: tuple(values_K.tolist()) for name, values_K in means.items()}
