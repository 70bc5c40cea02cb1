"""Clients may take fewer rows in a step than others: trained, planned and ordered as such."""

import json
import runpy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.deployment import deployed, nothing, play
from helpers.local_steps import after_local_steps
from helpers.runs import EXACT, Silent, assert_same_run, small, told, train
from helpers.workers import train_in_workers, workers_here
from wavetune.allocation.certificate import plan_with_certificate
from wavetune.allocation.delay import RoundLoad, load_of
from wavetune.allocation.instance import plan_to_json, problem_from_json, problem_to_json
from wavetune.costs.workload import split_work
from wavetune.errors import ConfigError, WavetuneError
from wavetune.federation.topology import Federated, Split
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.round import prepare, train_round
from wavetune.runtimes.session import build
from wavetune.runtimes.world import workload_of

SIZES = (3, 1, 2)
BASE = (*EXACT, "method.lora.rank=2", "run.tokens_per_pass=1")
LARGEST = "world.data.batching.batch_size=3"
OWN = (*BASE, LARGEST, "method.topology.batch_sizes=[3,1,2]")
CUT = ("method.topology.cut=2", "method.activation_codec.kind=fp64", "method.gradient_codec.kind=fp64")
OWN_CUTS = ("method.topology.cut=[1,3,2]", "method.lora.rank=[2,2,2]")
BOTH = (*OWN, "method.topology.steps=[1,2,2]", "method.lora.rank=[2,4,1]")
RECIPES = {
    "uncut": small("fedavg_lora", *BOTH),
    "cut": small("sflllm", *OWN, *CUT),
    "own_cuts_in_turn": small("split_lora_sequential", *OWN, *CUT, *OWN_CUTS),
}


def test_a_client_ends_its_steps_where_it_ends_if_all_take_as_many_rows():
    found, losses = after_local_steps(*OWN)
    for client, size in enumerate(SIZES):
        alike, others = after_local_steps(*BASE, f"world.data.batching.batch_size={size}")
        assert losses[client] == others[client]
        for name, values in alike[client].items():
            torch.testing.assert_close(found[client][name], values, rtol=0, atol=0)


def test_seconds_joules_and_samples_are_of_a_clients_own_rows():
    session = build(small("fedavg_lora", *OWN, "world.scenario.population.clock_hz=[1e9,3e9]"))
    ready, record = prepare(session, 0), told(train_round(session, 0, nothing))
    charged, phases = record["charged"], record["charged"]["phases"]
    assert record["planned"] == charged
    for client, (device, size) in enumerate(zip(session.planner.devices, SIZES, strict=True)):
        assert [len(rows[client]) for rows in ready.steps] == [size, size]
        work = workload_of(session.data.train, [[rows[client]] for rows in ready.steps])
        asked = split_work(session.planner.table, 4, 2, 2, work)
        flop = [getattr(asked, f"client_{name}_flop_K").sum() for name in ("forward", "backward")]
        for name, own in zip(("forward", "backward"), flop, strict=True):
            np.testing.assert_allclose(phases[f"client_{name}_s"][client], own / device.flop_per_s)
        joules = sum(flop) * device.energy_j_per_flop
        np.testing.assert_allclose(charged["energy"]["client_compute_j"][client], joules)
    assert record["samples"] == 2 * sum(SIZES)


def test_a_plan_counts_a_clients_own_rows_in_time_and_memory():
    own, alike = (build(small("fedavg_lora", *given)) for given in (OWN, (*BASE, LARGEST)))
    for name in ("client_forward_s", "client_backward_s"):
        of_own, of_all = (getattr(session.plan.phases, name)[0] for session in (own, alike))
        np.testing.assert_allclose(of_own * max(SIZES), of_all * SIZES)
    assert own.planner.chosen == "rows of a local step of the clients: 3, 1, 2"
    needs = [replace(own.planner, batch_size=size).layer_costs for size in SIZES]
    need_K = [costs.memory_bytes_L.sum() + 2 * costs.memory_bytes_per_rank_L.sum() for costs in needs]
    devices = tuple(replace(d, memory_bytes=1.01 * n) for d, n in zip(own.planner.devices, need_K, strict=True))
    assert replace(own.planner, devices=devices).first_plan().status == "ok"
    less = (*devices[:2], replace(devices[2], memory_bytes=0.99 * need_K[2]))
    for planner in (replace(own.planner, devices=less), replace(alike.planner, devices=devices)):
        plan = planner.first_plan()
        assert plan.status == "infeasible"
        assert plan.reason.startswith("memory: client ")


class StopsAfterARound(Silent):
    def round(self, record):
        raise KeyboardInterrupt


def test_a_plan_behind_a_cut_counts_a_clients_own_rows_in_time_and_bits_both_ways():
    own, alike = (build(small("sflllm", *given, *CUT)) for given in (OWN, (*BASE, LARGEST)))
    loads = [load_of(session.planner.known(0), 2, 2) for session in (own, alike)]
    for field in fields(RoundLoad):
        of_own, of_all = (getattr(load, field.name) for load in loads)
        shares = np.array(SIZES) / 3 if field.name.endswith("_IK") else 1.0
        np.testing.assert_allclose(of_own, of_all * shares)
    assert own.plan.delay_s < alike.plan.delay_s


@pytest.mark.parametrize("each", [(), ("method.topology.cut=null", "method.topology.cuts=[1,2]")], ids=["cut", "free"])
def test_the_proof_of_a_plan_with_own_rows_is_confirmed_by_the_verifier(each, tmp_path):
    recipe = small("sflllm", *OWN, *CUT, *each)
    session = build(recipe)
    problem = problem_from_json(json.loads(json.dumps(problem_to_json(session.planner.known(0)))))
    assert problem.batch_size_K.tolist() == list(SIZES)
    verify = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "verify_plan.py"))
    found, proof = plan_with_certificate(problem)
    instance, planned = problem_to_json(problem), plan_to_json(found)
    assert verify["plan_delay"](instance, planned) == pytest.approx(found.delay_s)
    assert verify["bound"](instance, proof) <= found.delay_s


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_planned_is_charged_and_metered(recipe):
    record = told(train_round(build(recipe), 0, nothing))
    assert record["planned"] == record["charged"]
    assert record["metered_bits"] == record["charged"]["bits"]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_workers_and_a_continued_run_end_as_one_process(recipe, tmp_path):
    train(recipe, tmp_path / "one")
    train_in_workers(recipe, tmp_path / "workers", workers_here(2))
    assert_same_run(tmp_path / "workers", tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "continued", StopsAfterARound(), False)
    train(recipe, tmp_path / "continued", resume=True)
    assert_same_run(tmp_path / "continued", tmp_path / "one")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_devices_are_ordered_their_own_rows_and_end_as_one_process(recipe, tmp_path):
    session = build(recipe)
    wanted = [train_round(session, index, nothing) for index in range(2)]
    with deployed(recipe, tmp_path / "certificates") as servers:
        found = play(servers, 2)
    for mine, theirs in zip(map(told, found), map(told, wanted), strict=True):
        np.testing.assert_allclose(mine["train_loss_K"], theirs["train_loss_K"], rtol=1e-9)
        for name in ("planned", "charged", "metered_bits", "lost", "samples"):
            assert mine[name] == theirs[name], name
    for site, pair in wanted[-1].mixed.factors.items():
        for name, values in pair.items():
            torch.testing.assert_close(found[-1].mixed.factors[site][name], values, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "sizes", "words"),
    [
        ("fedavg_lora", [3, 1, 4], "batch_sizes has 4 and world.data.batching.batch_size is 3, of which clients make"),
        ("fedavg_lora", [3, 1], "method.topology.batch_sizes has 2 entries for 3 clients"),
        ("fedavg_lora", [3, 1, 0], "method.topology.batch_sizes"),
        ("sflllm", [3, 1, 4], "batch_sizes has 4 and world.data.batching.batch_size is 3, of which clients make"),
        ("centralised_lora", [3, 1, 2], "method.topology has no field 'batch_sizes'"),
    ],
)
def test_batches_that_a_run_has_not_are_refused(name, sizes, words):
    with pytest.raises(ConfigError) as refused:
        build(small(name, *BASE, LARGEST, f"method.topology.batch_sizes={sizes}"))
    assert words in str(refused.value)


class Uneven(Split):
    """A cut whose clients make other numbers of steps."""

    def steps_K(self, samples_K, batch_size_K, local_steps):
        return [1, 2, 2]


class Wrong(Federated):
    """No rows of each client."""

    def batch_size_K(self, samples_K, batch_size):
        return [1, 2.5, 2]


@pytest.mark.parametrize(
    ("topology", "words"),
    [(Uneven(cut=2), "which only those can that wait for nobody"), (Wrong(), "one number for each of 3 clients")],
)
def test_somebody_elses_topology_says_what_its_clients_can_do(topology, words):
    recipe = small("sflllm", "method.lora.rank=2")
    with pytest.raises(WavetuneError, match=words):
        build(replace(recipe, method=replace(recipe.method, topology=topology)))
