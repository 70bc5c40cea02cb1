"""Devices with adapters of their own end as the clients of a run in one process, and of these nothing leaves them.

The deployed runs are interrupted after their first round and go on with new servers and new devices, which have
nothing but their folders.
"""

import json

import pytest
from safetensors.numpy import load_file

from helpers.deployment import NUM_DEVICES, run_deployed
from helpers.leaving import anywhere, assert_same, eight_bytes, interrupted_and_whole, occur
from helpers.runs import EXACT, Silent, read_json, read_rounds, small
from wavetune.errors import DeploymentError
from wavetune.recipe import with_settings
from wavetune.reporting.farewell import last_lines
from wavetune.runtimes.answer import answer
from wavetune.runtimes.device_permission import Allowed

RECIPES = {
    "pwff": small("pwff", *EXACT, "method.alignment=null", "world.data.max_tokens=224", "run.evaluate_every=1"),
    "one_factor_kept": small("fedavg_lora", *EXACT, "method.sharing.factors=A", "run.evaluate_every=1"),
    "pwff_task": small("pwff_task", *EXACT, "world.model=tiny-bert", "run.samples=0", "run.evaluate_every=1"),
}
SHARED = {"one_factor_kept": "_proj.A"}


class StopsAfterOne(Silent):
    def round(self, record):
        raise KeyboardInterrupt


@pytest.fixture(scope="module", params=RECIPES)
def runs(request, tmp_path_factory):
    """A deployed run's folder, that of the run in one process, all bytes that moved between devices and servers, and
    what is in the names of all that is shared.
    """
    folder, recipe = tmp_path_factory.mktemp(request.param), RECIPES[request.param]
    if request.param == "pwff_task":  # whose own 33,000 reviews each device would read
        recipe = with_settings(recipe, [f"world.data.source={labelled(folder / 'films')}"])
    return *interrupted_and_whole(recipe, folder, StopsAfterOne()), SHARED.get(request.param, ":bottleneck")


def labelled(folder):
    """Rows to classify, in a folder of their own."""
    folder.mkdir()
    rows = [{"text": f"film number {i} of {i % 7}", "label": i % 2} for i in range(100)]
    for part, own in (("train", rows[:80]), ("valid", rows[80:])):
        (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, own)))
    return folder


def test_the_servers_end_with_the_shared_adapters_and_no_others(runs):
    deployed, in_process, *_ = runs
    assert [p.name for p in (deployed / "adapters").iterdir()] == ["global"]
    said = {folder: last_lines(folder, read_json(folder / "summary.json"), folder) for folder in (deployed, in_process)}
    assert any("adapters/global, what all share" in line for line in said[deployed])
    assert any("client-NN" in line for line in said[in_process])
    assert_same(deployed / "adapters" / "global", in_process / "adapters" / "global")


def test_every_device_ends_with_its_own_model_which_answers_from_its_folder(runs):
    deployed, in_process, *_ = runs
    for client in range(NUM_DEVICES):
        own, name = deployed / "devices" / f"device-{client:02d}", f"client-{client:02d}"
        assert_same(own / "adapters" / name, in_process / "adapters" / name)
    asked = ("Is it any good?", client, False, 4, 0.0, 0)
    assert answer(own, *asked) == answer(in_process, *asked)


def test_validation_losses_that_devices_tell_are_those_of_the_run_in_one_process(runs):
    deployed, in_process, *_ = runs
    for mine, theirs in zip(read_rounds(deployed), read_rounds(in_process), strict=True):
        assert mine["lost"] == theirs["lost"]
        assert mine["evaluation"].keys() == theirs["evaluation"].keys()
        for name, value in theirs["evaluation"].items():
            assert mine["evaluation"][name] == pytest.approx(value, rel=1e-9), name
    assert read_json(deployed / "summary.json")["personal"]


def test_no_value_of_a_personal_adapter_moves_between_devices_and_servers(runs):
    """Single values in fp64, and neighbouring ones in fp32, are looked for among all bytes."""
    deployed, _, moved, common = runs
    there = anywhere(moved)
    for client in range(NUM_DEVICES):
        states = sorted((deployed / "devices" / f"device-{client:02d}").glob("state-*.safetensors"))
        assert len(states) == 2
        for state in map(load_file, states):
            found = {name for name, value in state.items() if value.ndim > 1 and occur(eight_bytes(value), there)}
            broadcast = {name for name in state if name.startswith("exchange.held.fed.") and common in name}
            shared = {name for name in state if name.startswith("adapter.") and common in name}
            assert len(shared) < len(state) - len(broadcast)
            assert found == shared | broadcast


def test_where_no_device_can_judge_its_model_the_run_says_what_the_devices_say(tmp_path):
    some = ("run.rounds=1", 'method.selection={"kind":"at_random","count":2}', "method.sharing.shared_layers=2")
    recipe = small("fedavg_lora", *some)
    with pytest.raises(DeploymentError, match=r"no device told its validation loss \(.*requires run\.seed=99"):
        run_deployed(recipe, tmp_path, tmp_path / "certificates", Silent(), allowed=Allowed(required=("run.seed=99",)))
