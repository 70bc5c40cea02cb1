"""Options of the planner in whole runs: who takes part, budgets of joules, and resuming with them."""

import numpy as np
import pytest

from helpers.command_line import assert_refused, settings, wavetune
from helpers.runs import PAPER, assert_same_run, read_json, read_rounds, small, train
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.session import build

SELECTED = (*PAPER, "method.lora.rank=1", "method.selection.kind=deadline")
DEADLINE = (*SELECTED, "method.selection.round_deadline_s=0.0082", "run.rounds=4")

ENERGY = (*PAPER, "method.planner.energy_weight_s_per_j=0.5", "method.planner.energy_budget_j=0.006", "run.rounds=3")


class StopsAfter:
    """An observer that interrupts a run once a round is done."""

    def __init__(self, rounds):
        self.rounds = rounds

    def message(self, _):
        pass

    def started(self, *_):
        pass

    def step(self, *_):
        pass

    def round(self, record):
        if record.round + 1 == self.rounds:
            raise KeyboardInterrupt


def test_selected_clients_train_and_the_others_keep_still(tmp_path):
    train(small("sflllm", *DEADLINE), tmp_path / "run")
    records = read_rounds(tmp_path / "run")
    taking_part = np.array([record["active_K"] for record in records])
    assert 0 < taking_part.sum() < taking_part.size
    assert len({tuple(row) for row in taking_part}) > 1, "every round had the same clients"
    for record in records:
        for k, active in enumerate(record["active_K"]):
            busy_s = [record["charged"]["phases"][name][k] for name in ("client_forward_s", "uplink_s", "fed_upload_s")]
            assert all(s > 0 for s in busy_s) if active else not any(busy_s)
            owned = [k in record["allocation"][band]["owner"] for band in ("main", "fed")]
            assert owned == [active, active]
        assert record["planned"] == record["charged"]
    assert read_json(tmp_path / "run" / "plan.json")["active"] == records[0]["active_K"]


@pytest.mark.parametrize("options", [DEADLINE, ENERGY], ids=["selection", "energy"])
def test_resumed_run_ends_as_an_uninterrupted_one(options, tmp_path):
    recipe = small("sflllm", *options)
    train(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "cut", StopsAfter(2))
    train(recipe, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_more_clients_than_subchannels_train_in_turns():
    few = ("world.scenario.bands.main.num_subchannels=2", "world.scenario.bands.fed.num_subchannels=2")
    assert "subchannels for 3 clients" in build(small("sflllm", *few)).reason
    session = build(small("sflllm", *few, "method.selection.kind=fastest", "method.selection.count=2"))
    assert session.plan.active_K.sum() == 2


@pytest.mark.parametrize("name", ["sflllm", "fedavg_lora"])
def test_no_client_spends_more_than_its_budget_in_any_round(name, tmp_path):
    budget_j = 0.006 if name == "sflllm" else 0.012
    train(small(name, *PAPER, "run.rounds=3"), tmp_path / "free")
    train(small(name, *PAPER, "run.rounds=3", f"method.planner.energy_budget_j={budget_j}"), tmp_path / "kept")

    def most_j(folder):
        energies = [record["charged"]["energy"] for record in read_rounds(folder)]
        return max(np.max(np.add(e["client_compute_j"], e["client_radio_j"])) for e in energies)

    assert most_j(tmp_path / "free") > budget_j
    assert most_j(tmp_path / "kept") <= budget_j * (1 + 1e-9)
    for record in read_rounds(tmp_path / "kept"):
        assert record["planned"] == record["charged"]


def test_who_saves_energy_stays_above_the_rate_of_an_outage(tmp_path):
    """Without the least rate the deadline would let the uploads be slower than that."""
    outage = (*PAPER, "method.link.kind=outage", "method.link.min_rate_bit_per_s=4e7", "run.rounds=3")
    slow = (*PAPER, "method.planner.minimise=energy", "method.planner.round_deadline_s=0.02")
    train(small("fedavg_lora", *slow, "run.rounds=3"), tmp_path / "free")
    train(small("fedavg_lora", *slow, *outage), tmp_path / "heard")
    fastest_bit_per_s = max(max(record["rate_bit_per_s"]["fed"]) for record in read_rounds(tmp_path / "free"))
    assert fastest_bit_per_s < 4e7
    summary = read_json(tmp_path / "free/summary.json")
    assert summary["plan"]["lower_bound_s"] is None  # of delays, which are not what is minimised
    for record in read_rounds(tmp_path / "heard"):
        assert record["lost"] == []
        assert min(record["rate_bit_per_s"]["fed"]) >= 4e7
        assert record["planned"] == record["charged"]


def test_selection_leaves_out_whose_update_would_be_lost(tmp_path):
    outage = (*PAPER, "method.link.kind=outage", "method.link.min_rate_bit_per_s=6e7", "run.rounds=3")
    train(small("fedavg_lora", *outage), tmp_path / "all")
    train(small("fedavg_lora", *outage, "method.selection.kind=deadline"), tmp_path / "some")
    lost = [len(record["lost"]) for record in read_rounds(tmp_path / "all")]
    assert sum(lost) > 0
    for record in read_rounds(tmp_path / "some"):
        assert record["lost"] == []
        assert 0 < sum(record["active_K"]) < 3


def test_command_says_who_takes_part_and_how_many_could_at_most():
    tight = wavetune("plan", "sflllm", *settings(*SELECTED, "method.selection.round_deadline_s=0.006"))
    assert tight.code == 0, tight
    assert "of 3 clients take part in this round" in tight.out
    assert "clients can end a round by the deadline" in tight.out


def test_a_limit_on_time_is_refused_where_the_planner_searches_for_nothing():
    answer = wavetune("plan", "fedsllm", "--time-limit", "3")
    assert_refused(answer, "--time-limit", "method.planner fedsllm", "method.planner.kind=optimal")
    optimal = ["--set", "method.planner.kind=optimal", "--set", "run.local_steps=2"]
    assert wavetune("plan", "fedsllm", "--time-limit", "0.3", *optimal).code == 0


def test_selection_that_cannot_be_is_refused():
    for bad, word in (
        (("method.selection.kind=fastest", "method.selection.count=9"), "count is 9"),
        (("method.selection.kind=deadline", "method.selection.min_clients=4"), "min_clients is 4"),
        (("method.selection.kind=fastest", "method.replan=never"), "replan=every_round"),
        (("method.selection.kind=soonest",), "soonest"),
    ):
        assert_refused(wavetune("plan", "sflllm", *settings(*bad)), word)
