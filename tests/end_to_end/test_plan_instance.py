"""`wavetune plan INSTANCE.json` on whatever may be written into it: a plan, code 3 or code 2, never a warning."""

import copy
import json

import numpy as np
import pytest

from helpers.command_line import assert_refused, wavetune
from helpers.problems import cell_problem
from wavetune.allocation.feasibility import violations
from wavetune.allocation.instance import allocation_from_json, problem_from_json, problem_to_json
from wavetune.allocation.plan import evaluate, make_plan

K, M = 4, 9
PLAIN = problem_to_json(cell_problem(K, M, seed=5))


def with_gains(gain_KM):
    """The plain instance with these gains in both bands."""
    instance = copy.deepcopy(PLAIN)
    for band in instance["bands"].values():
        band["gain"] = np.broadcast_to(gain_KM, (K, M)).tolist()
    return instance


def with_caps(client_w, total_w):
    instance = copy.deepcopy(PLAIN)
    for client in instance["clients"]:
        client["tx_power_max_w"] = client_w
    for band in instance["bands"].values():
        band["total_power_max_w"] = total_w
    return instance


def with_one_client():
    instance = copy.deepcopy(PLAIN)
    instance["clients"] = instance["clients"][:1]
    for band in instance["bands"].values():
        band["gain"] = band["gain"][:1]
    return instance


def answered(tmp_path, instance, *options):
    path = tmp_path / "instance.json"
    path.write_text(json.dumps(instance))
    return wavetune("plan", path, "--json", "-", *options)


WIDE = 10 ** np.random.default_rng(0).uniform(-18, 0, (K, M))
ONE_EACH = np.where(np.eye(K, M) > 0, 1e-10, 0.0)
SOLVABLE = {
    "gains from 1e-18 to 1": with_gains(WIDE),
    "zero gains but one each": with_gains(ONE_EACH),
    "all gains equal": with_gains(np.full((K, M), 1e-11)),
    "one client hears all best": with_gains(np.where(np.arange(K)[:, None] == 2, 1.0, 1e-18)),
    "one client at the edge": with_gains(np.where(np.arange(K)[:, None] == 2, 1e-18, 1e-9)),
    "one client": with_one_client(),
    "client caps bind": with_caps(1e-3, 1e3),
    "the total binds": with_caps(1e3, 1e-3),
    "hardly any power": with_caps(1e-9, 1e-9),
    "power without end": with_caps(1e20, 1e20),
}


@pytest.mark.parametrize("name", SOLVABLE)
@pytest.mark.parametrize("options", [(), ("--time-limit", "0.001")])
def test_extreme_instances_are_planned_without_a_warning(name, options, tmp_path):
    problem = problem_from_json(SOLVABLE[name])
    answer = answered(tmp_path, SOLVABLE[name], *options)
    assert (answer.code, answer.err) == (0, "")
    written = json.loads(answer.out)
    cut, rank, main, fed = allocation_from_json(written)
    assert violations(problem, make_plan(problem, cut, rank, main, fed)) == []
    assert np.isfinite(written["delay_s"])
    assert evaluate(problem, cut, rank, main, fed)[1] == pytest.approx(written["delay_s"], rel=1e-12)
    assert 0 < written["lower_bound_s"] <= written["delay_s"]
    assert options or written["lower_bound_s"] > 0.99 * written["delay_s"]


def without_subchannels():
    instance = copy.deepcopy(PLAIN)
    for band in instance["bands"].values():
        band["gain"] = [row[: K - 1] for row in band["gain"]]
    return instance


def with_little_memory():
    instance = copy.deepcopy(PLAIN)
    instance["costs"]["memory_bytes"] = [1e9] * 12
    instance["clients"][3]["memory_bytes"] = 1e8
    return instance


@pytest.mark.parametrize(
    ("instance", "words"),
    [
        (without_subchannels(), ["main band", f"{K - 1} subchannels for {K} clients"]),
        (with_gains(np.where(np.arange(K)[:, None] == 1, 0.0, 1e-9)), ["client 1", "zero gain"]),
        (with_gains(np.where((np.arange(K)[:, None] < 2) & (np.arange(M) > 0), 0.0, 1e-9)), ["clients 0, 1", "only 1"]),
        (with_caps(0.0, 1.0), ["tx_power_max_w of client 0"]),
        (with_caps(1.0, 0.0), ["total_power_max_w is 0"]),
        (with_little_memory(), ["memory", "client 3", "cut 1 with rank 1 needs"]),
    ],
)
def test_an_instance_without_a_plan_is_code_3_and_names_what_is_too_tight(instance, words, tmp_path):
    answer = answered(tmp_path, instance)
    assert answer.code == 3
    assert answer.err.startswith("wavetune: no plan exists: ")
    written = json.loads(answer.out)
    assert written["status"] == "infeasible"
    assert all(word in written["reason"] for word in words), written["reason"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("bands", "main", "gain", 1, 2), "NaN"),
        (("bands", "main", "gain", 1, 2), -1e-9),
        (("bands", "fed", "gain", 2), [1e-9]),
        (("clients", 0, "flop_per_s"), 0),
        (("clients", 3), None),
        (("rounds_to_target",), {"8": "many"}),
        (("cuts", 0), 40),
        (("costs", "activation_bits"), {}),
        (("server",), []),
    ],
)
def test_a_malformed_instance_is_code_2_and_names_the_path(path, value, tmp_path):
    instance = copy.deepcopy(PLAIN)
    at = instance
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    named = "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    assert_refused(answered(tmp_path, instance), named)
