"""Clients that hold the whole model may make fewer local steps than others: trained, planned and paid for as such."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.deployment import nothing
from helpers.local_steps import after_local_steps
from helpers.runs import EXACT, small, told
from wavetune.costs.workload import split_work
from wavetune.errors import ConfigError, NumericsError, WavetuneError
from wavetune.federation.topology import Federated, Split
from wavetune.runtimes.round import prepare, train_round
from wavetune.runtimes.session import build
from wavetune.runtimes.world import workload_of

STEPS = (3, 1, 2)
RANK = "method.lora.rank=2"
BASE = (*EXACT, RANK, "run.tokens_per_pass=1")
OWN = (*BASE, "run.local_steps=3", "method.topology.steps=[3,1,2]")


def test_a_client_ends_its_steps_where_it_ends_if_all_make_as_many():
    found, losses = after_local_steps(*OWN)
    for client, steps in enumerate(STEPS):
        alike, others = after_local_steps(*BASE, f"run.local_steps={steps}")
        assert losses[client] == others[client]
        for name, values in alike[client].items():
            torch.testing.assert_close(found[client][name], values, rtol=0, atol=0)


def test_seconds_joules_and_samples_are_of_a_clients_own_steps_and_nobody_waits_between_them():
    session = build(small("fedavg_lora", *OWN, "world.scenario.population.clock_hz=[1e9,3e9]"))
    ready, record = prepare(session, 0), told(train_round(session, 0, nothing))
    charged, phases, delay_s = record["charged"], record["charged"]["phases"], []
    assert record["planned"] == charged
    for client, (device, steps) in enumerate(zip(session.planner.devices, STEPS, strict=True)):
        work = workload_of(session.data.train, [[rows[client]] for rows in ready.steps[:steps]])
        asked = split_work(session.planner.table, 4, 2, 2, work)
        for name in ("forward", "backward"):
            flop = getattr(asked, f"client_{name}_flop_K").sum()
            np.testing.assert_allclose(phases[f"client_{name}_s"][client], flop / device.flop_per_s)
        delay_s.append(phases["client_forward_s"][client] + phases["client_backward_s"][client])
        joules = delay_s[-1] * device.flop_per_s * device.energy_j_per_flop
        np.testing.assert_allclose(charged["energy"]["client_compute_j"][client], joules)
    np.testing.assert_allclose(
        charged["delay_s"], max(delay_s) + sum(max(phases[f"fed_{way}_s"]) for way in ("upload", "download"))
    )
    rows = [session.step_rows(step)[client] for client in range(3) for step in range(STEPS[client])]
    assert record["samples"] == sum(map(len, rows))


def test_a_plan_counts_what_each_clients_steps_take_on_average():
    own, alike = (build(small("fedavg_lora", *given)) for given in (OWN, (*BASE, "run.local_steps=3")))
    for name in ("client_forward_s", "client_backward_s"):
        of_own, of_all = (getattr(session.plan.phases, name)[0] for session in (own, alike))
        np.testing.assert_allclose(of_own * 3, of_all * STEPS)
    assert own.planner.chosen == "local steps of the clients: 3, 1, 2"


def test_who_makes_more_steps_than_others_and_diverges_is_given_up_and_the_round_goes_on(monkeypatch):
    session = build(small("fedavg_lora", *OWN))
    step = session.cohort.step

    def failing(tokens, rows, factor, active_K=None):
        if active_K == [True, False, False]:
            raise NumericsError("the loss of client 0 is nan")
        return step(tokens, rows, factor, active_K)

    monkeypatch.setattr(session.cohort, "step", failing)
    record = told(train_round(session, 0, nothing))
    assert record["lost"] == [{"client": 0, "why": "given up in local step 2: the loss of client 0 is nan"}]
    assert session.server.mixed_by_round == [2]


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("fedavg_lora", "method.topology.steps=[3,1,4]", "method.topology.steps has 4 and run.local_steps is 3"),
        ("fedavg_lora", "method.topology.steps=[3,1]", "method.topology.steps has 2 entries for 3 clients"),
        ("fedavg_lora", "method.topology.steps=[3,1,0]", "method.topology.steps"),
        ("sflllm", "method.topology.steps=[3,1,2]", "method.topology has no field 'steps'"),
    ],
)
def test_steps_that_a_run_has_not_or_that_a_cut_makes_together_are_refused(name, setting, words):
    with pytest.raises(ConfigError) as refused:
        build(small(name, *BASE, "run.local_steps=3", setting))
    assert words in str(refused.value)


class Uneven(Split):
    """A cut whose clients make other numbers of steps."""

    def steps_K(self, samples_K, batch_size_K, local_steps):
        return [1, 2, 2]


class Wrong(Federated):
    """No steps of each client."""

    def steps_K(self, samples_K, batch_size_K, local_steps):
        return [1, 2.5, 3]


@pytest.mark.parametrize(
    ("topology", "words"),
    [(Uneven(cut=2), "which only those can that wait for nobody"), (Wrong(), "one number for each of 3 clients")],
)
def test_somebody_elses_topology_says_what_its_clients_can_do(topology, words):
    recipe = small("sflllm", RANK)
    with pytest.raises(WavetuneError, match=words):
        build(replace(recipe, method=replace(recipe.method, topology=topology)))
