"""One process, and servers and devices as processes of their own, end with the same adapters."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers.runs import EXACT, small, train
from wavetune.runtimes.launch import deploy

CLIENTS = 3
ALONE = ("run.tokens_per_pass=1", "run.samples=0")  # a pass a client, as on devices
RECIPES = {  # more kinds with devices and workers in one process: tests/laws/test_simulated_equals_deployed.py and
    # tests/laws/test_workers_equal_one_process.py
    "mixed_cuts": small("sflllm", *EXACT, *ALONE, "method.topology.cut=[1,3,2]", "method.lora.rank=[2,4,1]"),
    "pwff_first_stage": small("pwff", *ALONE, "method.alignment=null", "world.data.max_tokens=224"),
}
TOLERANCE = {"mixed_cuts": 1e-6}  # whose deployed servers add up in another order; the other agrees to the bit


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in-process")
    for name, recipe in RECIPES.items():
        train(recipe, folder / name)
    return folder


def adapters(run):
    """Tensors of every adapter of a run; what its servers do not have from the folders of the devices."""
    pattern = "adapters/*/adapter_model.safetensors"
    return {path.parent.name: load_file(path) for path in (*run.glob(f"devices/*/{pattern}"), *run.glob(pattern))}


def assert_same(found, wanted, tolerance=0.0):
    assert adapters(found).keys() == adapters(wanted).keys()
    for name, theirs in adapters(wanted).items():
        mine = adapters(found)[name]
        assert mine.keys() == theirs.keys()
        for tensor, value in theirs.items():
            np.testing.assert_allclose(mine[tensor], value, rtol=0, atol=tolerance, err_msg=f"{name} {tensor}")


@pytest.mark.parametrize("name", RECIPES)
def test_servers_and_devices_end_as_one_process(name, in_process, tmp_path):
    assert deploy(RECIPES[name], tmp_path / "run", CLIENTS, [], lambda _text: None) == 0
    assert_same(tmp_path / "run", in_process / name, TOLERANCE.get(name, 0.0))
