"""Clients against virtual energy queues: what is chosen, what it costs in the long run, and that a run remembers it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from helpers.deployment import run_deployed
from helpers.runs import PAPER, Silent, assert_same_run, read_json, read_rounds, small, train
from wavetune.federation.selection.energy_queues import EnergyQueues
from wavetune.records.rounds import Account, Energy, Round
from wavetune.runtimes.inprocess import run

NUM_CLIENTS, ROUNDS = 3, 4
TIGHT = (*PAPER, "method.selection.budget_j=0.004", "method.planner.round_deadline_s=1.0", f"run.rounds={ROUNDS}")


def charged(spent_j):
    return Round(0, charged=Account(energy=Energy(tuple(spent_j), tuple(0.0 for _ in spent_j))))


@given(seed=st.integers(0, 500), patience=st.floats(0.0, 20.0))
def test_no_other_set_of_clients_has_more_drift_plus_penalty(seed, patience):
    generator, K = np.random.default_rng(seed), 6
    part = EnergyQueues(budget_j=0.7, patience=patience)
    samples, spends, queue = generator.integers(1, 90, K) * 1.0, generator.uniform(0, 3, K), generator.uniform(0, 9, K)

    def worth(clients):
        gain = patience * 0.7**2 * samples * K / samples.sum() - queue * spends
        return sum(gain[list(clients)])

    sets = [s for size in range(1, K + 1) for s in itertools.combinations(range(K), size)]
    assert worth(part.worthy(samples, spends, queue)) == pytest.approx(max(map(worth, sets)), abs=1e-12)


@given(seed=st.integers(0, 500))
def test_mean_energy_is_within_the_budget_and_what_is_left_in_the_queue(seed):
    generator, part, rounds = np.random.default_rng(seed), EnergyQueues(budget_j=1.0), 40
    spent_TK = generator.exponential(generator.uniform(0.1, 3.0, 5), (rounds, 5))
    state = part.init(5)
    for spent_K in spent_TK:
        state = part.settle(state, charged(spent_K))
        assert (state["queue_j"] >= 0).all()
    assert (spent_TK.mean(0) <= 1.0 + state["queue_j"] / rounds + 1e-9).all()


def test_clients_that_would_overspend_meet_the_budget_in_the_long_run():
    part, state = EnergyQueues(budget_j=1.0, patience=2.0), EnergyQueues().init(4)
    lone_j, spent_K = np.array([0.5, 1.5, 3.0, 6.0]), np.zeros(4)
    for _ in range(2000):
        active = part.worthy(np.ones(4), lone_j, state["queue_j"])
        now = np.where(np.isin(np.arange(4), active), lone_j, 0.0)
        spent_K, state = spent_K + now, part.settle(state, charged(now))
    assert spent_K / 2000 == pytest.approx([0.5, 1.0, 1.0, 1.0], abs=0.02)


def test_endless_patience_is_everyone(tmp_path):
    train(small("cre", "method.selection.patience=1e12"), tmp_path / "patient")
    train(small("cre", "method.selection.kind=all"), tmp_path / "everyone")
    assert read_rounds(tmp_path / "patient")[1]["active_K"] == [True] * NUM_CLIENTS
    for name in ("global", "client-00"):
        files = [tmp_path / who / "adapters" / name / "adapter_model.safetensors" for who in ("patient", "everyone")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cre") / "run"
    train(small("cre", *TIGHT), folder)
    return folder


def test_queues_grow_with_what_rounds_were_charged_and_clients_sit_out(whole):
    part, state = EnergyQueues(budget_j=0.004), EnergyQueues().init(NUM_CLIENTS)
    records = read_rounds(whole)
    for record in records:
        energy = record["charged"]["energy"]
        spent_j = np.add(energy["client_compute_j"], energy["client_radio_j"])
        assert [j > 0 for j in spent_j] == record["active_K"]
        state = part.settle(state, charged(spent_j))
    checkpoint = load_file(whole / "checkpoints" / f"round-{ROUNDS:06d}" / "state.safetensors")
    assert checkpoint["schedule.queue_j"].tolist() == state["queue_j"].tolist()
    assert records[0]["active_K"] == [True] * NUM_CLIENTS
    assert 0 < sum(sum(record["active_K"]) for record in records[1:]) < NUM_CLIENTS * (ROUNDS - 1)


def test_a_resumed_run_remembers_who_has_spent_what(whole, tmp_path):
    class Stops(Silent):
        def round(self, record):
            if record.round == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small("cre", *TIGHT), tmp_path / "run", Stops())
    train(small("cre", *TIGHT), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_devices_are_scheduled_as_clients_in_one_process_are(whole, tmp_path):
    run_deployed(small("cre", *TIGHT), tmp_path / "run", tmp_path / "certificates", Silent())
    mine, theirs = read_rounds(tmp_path / "run"), read_rounds(whole)
    for name in ("active_K", "charged", "allocation"):
        assert [record[name] for record in mine] == [record[name] for record in theirs], name
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "finished"
