"""What a device tells of a step of its alignment: both halves of the message, the device's and the servers'.

Legend: K clients.
"""

import re
from collections.abc import Mapping
from dataclasses import fields

from wavetune.data.examples import Example
from wavetune.data_plane.messages_pb2 import Align, Aligned, RoundReport, Scores
from wavetune.records.alignment import AlignmentMeasured, AlignmentStep, Answers, HeldOut
from wavetune.records.fields import UNKNOWN
from wavetune.records.rounds import Lost
from wavetune.runtimes.alignment.here import Step
from wavetune.runtimes.alignment.task import Task

SCORES, OPTIONAL = ("helpful", "safe", "true_helpful", "true_safe"), {"true_helpful", "true_safe"}
SIDES = ("own", "foreign")
_METRICS = 40  # at most; an objective may have some of its own
_RECORDED = {field.name for field in fields(AlignmentStep)}  # beside which they stand in a record


def write(step: Step, steps: int) -> Aligned:
    """The report on so many steps, of one client: means and scores, without any prompt or answer."""
    report = Aligned(steps=steps, metrics={name: value for name, (value,) in step.metrics.items()})
    for side in SIDES if step.evaluation is not None else ():
        for one in getattr(step.evaluation, side):
            for name, values in one.scores.items():
                getattr(report, side)[name].CopyFrom(Scores(values=values))
    return report


def wrong_in(task: Task, client: int, told: Aligned, asked: Align) -> str:
    """Why a report does not answer an order; empty if it does."""
    if told.steps != asked.steps:
        return f"client {client} reported {told.steps} steps of alignment and {asked.steps} were ordered"
    for side in SIDES:
        prompts, scores = _prompts(task, side, client), getattr(told, side)
        due = set(SCORES) if asked.evaluate and prompts else set[str]()
        if not due - OPTIONAL <= scores.keys() <= due or any(len(s.values) != len(prompts) for s in scores.values()):
            return f"client {client} reported other scores of held-out prompts than it was asked for"
    strange = [name for name in told.metrics if name in _RECORDED or not re.fullmatch(r"[A-Za-z0-9_]{1,40}", name)]
    if strange or len(told.metrics) > _METRICS:
        return f"client {client} reported {len(told.metrics)} metrics of a step, {len(strange)} by names that are none"
    if not 0 <= told.metrics.get("answer_tokens", 0) <= task.settings.learning.max_new_tokens:
        return f"client {client} reported answers of {told.metrics['answer_tokens']:.6g} tokens"
    return ""


def read(task: Task, reports: Mapping[int, RoundReport], lost: Mapping[int, str], evaluated: bool) -> Step:
    """The step that reports tell of, by client; unknown where a client did not take it."""
    clients = range(len(task.lambdas))
    told = {k: report.aligned for k, report in reports.items()}
    names = sorted({name for one in told.values() for name in one.metrics})
    evaluation = {
        side: tuple(
            Answers(
                tuple(example.prompt for example in _prompts(task, side, k)),
                scores={name: tuple(scores.values) for name, scores in sorted(getattr(told[k], side).items())},
            )
            if k in told
            else Answers(())
            for k in clients
        )
        for side in (SIDES if task.asked_foreign else SIDES[:1])
    }
    return Step(
        {name: tuple(told[k].metrics.get(name, UNKNOWN) if k in told else UNKNOWN for k in clients) for name in names},
        HeldOut(**evaluation) if evaluated else None,
        tuple(Lost(k, why) for k, why in sorted(lost.items())),
        AlignmentMeasured(tuple(reports[k].seconds["align_s"] if k in reports else UNKNOWN for k in clients)),
    )


def _prompts(task: Task, side: str, client: int) -> tuple[Example, ...]:
    """The held-out prompts of a side that a client is asked for."""
    asked = task.own if side == "own" else task.asked_foreign
    return asked[client] if asked else ()
