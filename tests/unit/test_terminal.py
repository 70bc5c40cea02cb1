"""What a terminal of usual width shows of a run."""

import io
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from wavetune.console import Console
from wavetune.federation.optimise import AdamW
from wavetune.records.alignment import AlignmentStep
from wavetune.records.rounds import Account, Lost, Phases, Round, Straggler
from wavetune.terminal import CountDisplay, RewardDisplay, RunDisplay

SESSION = SimpleNamespace(
    recipe=SimpleNamespace(
        run=SimpleNamespace(rounds=160, local_steps=4),
        method=SimpleNamespace(title="A method with a long name", optimiser=AdamW()),
    ),
    plan=None,
    planner=SimpleNamespace(chosen=""),
    central=True,
    precision="fp32",
    cohort=SimpleNamespace(backbone=SimpleNamespace(device="cpu")),
)
PLAN = SimpleNamespace(
    cut_K=np.array([4, 4]),
    rank_K=np.array([8, 8]),
    phases=SimpleNamespace(round_s=1.0, straggler=lambda: (0, "uplink")),
)
RECORD = Round(
    round=8,
    charged=Account(delay_s=285.1, energy_j=1680.0),
    metered_bits={"activations_up": 10.1e6},
    train_loss=5.5412,
    straggler=Straggler(0, "uplink"),
)


def shown(width):
    """The last state of the live display, and all that was written."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with RunDisplay(console) as display:
        display.started(SESSION, 8, 6.1)
        display.round(RECORD)
        display.step(9, 0, SimpleNamespace(tokens=1000, loss_K=np.array([5.54])))
        display.bars.refresh()
        lines = [
            "".join(segment.text for segment in line)
            for line in console.render_lines(display.bars.get_renderable(), pad=False)
        ]
    return lines, console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_round_bar_steps_and_time_left_are_seen_at_every_width(width):
    (bar, below), _ = shown(width)
    assert all(part in bar for part in ("round 10/160", "━", "33/640 steps"))
    assert re.search(r"\d:\d\d:\d\d|-:--:--", bar)
    assert max(len(bar), len(below)) <= width
    assert "loss 5.540" in below
    assert "simulated" in below


@pytest.mark.parametrize(
    ("steps", "warmup", "schedule", "reached"),
    [
        (4, 10, "linear", "40.0 %"),
        (1, 2, "constant", "50.0 %"),
        (10, 10, "cosine", ""),
        (9, 3, "linear", ""),
        (1, 0, "linear", ""),
    ],
)
def test_a_run_that_ends_in_its_warm_up_says_at_what_share_of_the_rate(steps, warmup, schedule, reached):
    console = Console(file=io.StringIO(), width=300)
    run = SimpleNamespace(rounds=steps, local_steps=1)
    method = SimpleNamespace(title="", optimiser=AdamW(warmup_steps=warmup, schedule=schedule))
    session = SimpleNamespace(**vars(SESSION) | {"recipe": SimpleNamespace(run=run, method=method)})
    with RunDisplay(console) as display:
        display.started(session, 0, 6.1)
    told = console.file.getvalue()
    assert ("warms up for longer than the run" in told) == bool(reached)
    assert f"ends at {reached} of it" in told or not reached


def test_a_round_says_whose_updates_did_not_arrive():
    console = Console(file=io.StringIO(), width=200)
    with RunDisplay(console) as display:
        display.started(SESSION, 8, 6.1)
        display.round(replace(RECORD, lost=(Lost(1, "client 1 is away"), Lost(4, "it was late"))))
        display.round(RECORD)
    without, whole = [line for line in console.file.getvalue().splitlines() if line.startswith("round 9/160")]
    assert "Mbit  without clients 1, 4" in without
    assert "without" not in whole


def test_a_round_that_waits_for_no_client_most_of_its_time_names_none():
    console = Console(file=io.StringIO(), width=200)
    session = SimpleNamespace(**vars(SESSION) | {"central": False, "plan": PLAN})
    with RunDisplay(console) as display:
        display.started(session, 8, 6.1)
        for link_s in (0.6, 0.4):
            phases = Phases(client_forward_s=(0.2, 0.4), link_s=link_s)
            display.round(replace(RECORD, charged=Account(delay_s=1.0, energy_j=1.0, phases=phases)))
    told = [line.rpartition("slowest: ")[2] for line in console.file.getvalue().splitlines() if "slowest" in line]
    assert told == ["other links", "client 0, uplink"]


def test_a_step_of_alignment_tells_of_its_record_whatever_the_objective():
    console = Console(file=io.StringIO(), width=200)
    dpo = {"preference_loss": (0.6, 0.8), "margin": (0.0, 0.5), "preferred": (0.5, 1.0), "distance": (1.0, 1.0)}
    with RunDisplay(console) as display:
        display.started(SESSION, 8, 6.1)
        display.aligned(AlignmentStep(0, {"reward": (1.0, 2.0), "kl": (0.0, 0.1)}), 2)
        display.aligned(AlignmentStep(1, dpo), 2)
    told = [line.rstrip() for line in console.file.getvalue().splitlines() if line.startswith("alignment")]
    assert told == [
        "alignment 1/2  reward 1.500  kl 0.050",
        "alignment 2/2  preference loss 0.700  margin 0.250  preferred 0.750",
    ]


def test_a_round_in_which_nobody_trained_says_why():
    console = Console(file=io.StringIO(), width=120, color_system=None)
    lost = (Lost(0, "the stream of client 0 broke"), Lost(2, "the stream broke", "no such file: rows.jsonl"))
    with RunDisplay(console) as display:
        display.started(SESSION, 8, 6.1)
        display.round(replace(RECORD, train_loss=math.nan, lost=lost))
        display.round(replace(RECORD, lost=lost))
    assert console.file.getvalue().count("nobody trained; client 2: no such file: rows.jsonl") == 1


def test_a_round_without_an_evaluation_leaves_a_line_on_a_terminal():
    assert "round 9/160  loss 5.5412" in shown(80)[1]


def test_a_reward_model_in_training_shows_its_steps():
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    with RewardDisplay(console) as display:
        display.step(30, 120, 0.61)
        display.bars.refresh()
    assert "30/120 steps" in console.file.getvalue()
    assert "loss 0.6100" in console.file.getvalue()


def counted(is_terminal):
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=80)
    with CountDisplay(console) as display:
        for done in range(1, 41):
            display.progress("cells", done, 40)
    return console.file.getvalue()


def test_counts_without_a_terminal_are_a_line_every_tenth_of_the_way():
    assert counted(False).splitlines() == [f"cells {done}/40" for done in range(4, 41, 4)]


def test_counts_on_a_terminal_are_a_bar():
    assert "━" in counted(True)
    assert "40/40" in counted(True)
