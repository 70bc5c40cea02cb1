import copy
import json

import numpy as np
import pytest

from helpers.problems import cell_problem
from wavetune.allocation.feasibility import violations
from wavetune.allocation.instance import (
    allocation_from_json,
    plan_to_json,
    problem_from_json,
    problem_to_json,
    read_instance,
)
from wavetune.allocation.plan import evaluate, infeasible
from wavetune.allocation.planner import plan
from wavetune.errors import InstanceError

GOOD = problem_to_json(cell_problem(2, 3))


def changed(path, value):
    data = copy.deepcopy(GOOD)
    at = data
    for key in path[:-1]:
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("local_steps",), 0, "$.local_steps"),
        (("local_steps",), 1.5, "$.local_steps"),
        (("batch_size",), True, "$.batch_size"),
        (("rounds_to_target",), {}, "$.rounds_to_target"),
        (("rounds_to_target",), {"one": 3}, "$.rounds_to_target.one"),
        (("rounds_to_target", "4"), 0, "$.rounds_to_target.4"),
        (("cuts",), [], "$.cuts"),
        (("cuts",), [1, 13], "$.cuts[1]"),
        (("costs", "activation_bits"), [1.0], "$.costs.activation_bits"),
        (("costs", "activation_bits", 3), "many", "$.costs.activation_bits[3]"),
        (("costs", "backward_flop"), None, "$.costs.backward_flop"),
        (("server", "flop_per_s"), 0, "$.server.flop_per_s"),
        (("clients",), [], "$.clients"),
        (("clients", 1), 7, "$.clients[1]"),
        (("clients", 1, "tx_power_max_w"), -1.0, "$.clients[1].tx_power_max_w"),
        (("clients", 0, "flop_per_s"), None, "$.clients[0].flop_per_s"),
        (("clients", 1, "wavetune:batch_size"), 0, "$.clients[1].wavetune:batch_size"),
        (("clients", 1, "wavetune:batch_size"), 10**6, "$.clients[1].wavetune:batch_size"),
        (("bands", "main", "gain"), [[1.0, 1.0, 1.0]], "$.bands.main.gain"),
        (("bands", "fed", "gain", 1), [1.0], "$.bands.fed.gain[1]"),
        (("bands", "fed", "gain", 1, 2), float("nan"), "$.bands.fed.gain[1][2]"),
        (("bands", "main", "noise_psd_w_per_hz"), -174, "$.bands.main.noise_psd_w_per_hz"),
        (("bands", "main", "noise_psd_w_per_hz"), 1e-300, "$"),
        (("rounds_to_target",), {"8": 1, "08": 2}, "$.rounds_to_target.08"),
        (("rounds_to_target",), {"1" * 5000: 1}, f"$.rounds_to_target.{'1' * 37}..."),
        (("bands", "main", "subchannel_hz"), 10**400, "$.bands.main.subchannel_hz"),
        (("bands", "fed"), None, "$.bands.fed"),
    ],
)
def test_malformed_instance_names_the_json_path(path, value, named):
    with pytest.raises(InstanceError) as caught:
        problem_from_json(changed(path, value))
    assert str(caught.value).startswith(f"{named}:")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", "3"])
def test_a_file_that_is_no_instance_is_refused(tmp_path, text):
    path = tmp_path / "instance.json"
    path.write_text(text)
    with pytest.raises(InstanceError, match=r"instance\.json( is not JSON|: \$: is )"):
        read_instance(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InstanceError, match="cannot read"):
        read_instance(tmp_path / "nowhere.json")


def test_unknown_keys_are_ignored_and_optional_ones_have_defaults():
    data = copy.deepcopy(GOOD) | {"comment": "ours"}
    data["clients"][0]["name"] = "phone"
    del data["costs"]["memory_bytes"], data["costs"]["memory_bytes_per_rank"]
    problem = problem_from_json(data)
    assert problem.costs.memory_bytes_L.tolist() == [0.0] * 12
    assert problem.memory_bytes_K.tolist() == [np.inf, np.inf]


def test_instance_survives_writing_and_reading(tmp_path):
    data = changed(("clients", 1, "memory_bytes"), 5e9)
    path = tmp_path / "instance.json"
    path.write_text(json.dumps(data))
    assert problem_to_json(read_instance(path)) == data


def test_written_plan_has_the_format_and_can_be_evaluated_again():
    problem = cell_problem(3, 8)
    outcome = plan(problem)
    data = json.loads(json.dumps(plan_to_json(outcome)))
    assert set(data) == {"status", "delay_s", "lower_bound_s", "cut", "rank", "bands", "phases"}
    assert [len(data["phases"][name]) for name in ("client_forward_s", "uplink_s", "fed_upload_s")] == [3, 3, 3]
    assert isinstance(data["phases"]["server_forward_s"], float)
    cut, rank, main, fed = allocation_from_json(data)
    assert evaluate(problem, cut, rank, main, fed)[1] == data["delay_s"]
    assert violations(problem, outcome) == []


def test_written_infeasible_plan_says_why():
    assert plan_to_json(infeasible("no power")) == {"status": "infeasible", "reason": "no power"}


@pytest.mark.parametrize("path", [("bands", "main", "gain", 0, 0), ("clients", 0, "tx_power_max_w")])
def test_negative_powers_and_gains_are_asked_whether_they_are_db(path):
    with pytest.raises(InstanceError, match=r"looks like dB or dBm.*linear"):
        problem_from_json(changed(path, -97.5))


def test_numbers_of_the_format_are_read_whatever_their_size_and_other_keys_ignored():
    data = changed(("bands", "main", "noise_psd_w_per_hz"), 1e-40)
    data["costs"]["adapter_bits"] = "mine"
    problem = problem_from_json(data)
    assert problem.main.noise_psd_w_per_hz == 1e-40
    assert problem.costs.adapter_bits_L is None


def test_a_gain_above_one_is_asked_whether_it_is_a_loss_in_db_unless_gains_and_noise_are_normalised():
    data = copy.deepcopy(GOOD)
    data["bands"]["fed"]["gain"][1][0] = 97.3
    data["bands"]["fed"]["noise_psd_w_per_hz"] = 4e-21
    with pytest.raises(InstanceError, match=r"\$\.bands\.fed\.gain\[1\]\[0\]: is 97\.3, which looks like a loss in dB"):
        problem_from_json(data)
    data["bands"]["fed"]["noise_psd_w_per_hz"] = 1 / data["bands"]["fed"]["subchannel_hz"]
    assert problem_from_json(data).fed.gain_KM[1, 0] == 97.3
