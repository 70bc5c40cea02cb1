"""Devices with adapters of their own end as the clients of a run in one process, and of these nothing leaves them.

The deployed runs are interrupted after their first round and go on with new servers and new devices, which have
nothing but their folders.
"""

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers.deployment import NUM_DEVICES, run_deployed
from helpers.runs import Silent, read_json, read_rounds, small, train
from wavetune.data_plane import control
from wavetune.data_plane.server import Line
from wavetune.models.adapter_folder import PEFT_FILE, WEIGHTS
from wavetune.reporting.farewell import last_lines
from wavetune.runtimes.answer import answer

RECIPES = {
    "pwff": small("pwff", "method.alignment=null", "world.data.max_tokens=224", "run.evaluate_every=1"),
    "pwff_task": small("pwff_task", "world.model=tiny-bert", "run.samples=0", "run.evaluate_every=1"),
}
TOLERANCE = 1e-6


class StopsAfterOne(Silent):
    def round(self, record):
        raise KeyboardInterrupt


@pytest.fixture(scope="module", params=RECIPES)
def runs(request, tmp_path_factory):
    """A deployed run's folder, that of the run in one process, and all bytes that moved between devices and servers."""
    folder, recipe, moved = tmp_path_factory.mktemp(request.param), RECIPES[request.param], []
    receive, next_answer, parsed = Line.receive, Line.next_answer, control._parsed

    def tapped_receive(line, content):
        moved.append(content)
        receive(line, content)

    def tapped_answer(line):
        moved.append(next_answer(line))
        return moved[-1]

    def tapped_report(content):
        moved.append(content)
        return parsed(content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Line, "receive", tapped_receive)
        patch.setattr(Line, "next_answer", tapped_answer)
        patch.setattr(control, "_parsed", tapped_report)
        with pytest.raises(KeyboardInterrupt):
            run_deployed(recipe, folder / "deployed", folder / "certificates", StopsAfterOne())
        run_deployed(recipe, folder / "deployed", folder / "certificates", Silent(), resume=True)
    train(recipe, folder / "in-process")
    return folder / "deployed", folder / "in-process", b"".join(moved)


def files(folder):
    found = {p.name: load_file(p) for p in (folder / PEFT_FILE, folder / WEIGHTS) if p.exists()}
    assert found
    return {f"{name}:{tensor}": value for name, tensors in found.items() for tensor, value in tensors.items()}


def assert_same(found, wanted):
    mine, theirs = files(found), files(wanted)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(mine[name], value, rtol=0, atol=TOLERANCE, err_msg=name)


def test_the_servers_end_with_the_shared_adapters_and_no_others(runs):
    deployed, in_process, _ = runs
    assert [p.name for p in (deployed / "adapters").iterdir()] == ["global"]
    said = {folder: last_lines(folder, read_json(folder / "summary.json"), folder) for folder in (deployed, in_process)}
    assert any("adapters/global, what all share" in line for line in said[deployed])
    assert any("client-NN" in line for line in said[in_process])
    assert_same(deployed / "adapters" / "global", in_process / "adapters" / "global")


def test_every_device_ends_with_its_own_model_which_answers_from_its_folder(runs):
    deployed, in_process, _ = runs
    for client in range(NUM_DEVICES):
        own, name = deployed / "devices" / f"device-{client:02d}", f"client-{client:02d}"
        assert_same(own / "adapters" / name, in_process / "adapters" / name)
    asked = ("Is it any good?", client, False, 4, 0.0, 0)
    assert answer(own, *asked) == answer(in_process, *asked)


def test_validation_losses_that_devices_tell_are_those_of_the_run_in_one_process(runs):
    deployed, in_process, _ = runs
    for mine, theirs in zip(read_rounds(deployed), read_rounds(in_process), strict=True):
        assert mine["lost"] == theirs["lost"]
        assert mine["evaluation"].keys() == theirs["evaluation"].keys()
        for name, value in theirs["evaluation"].items():
            assert mine["evaluation"][name] == pytest.approx(value, rel=1e-5), name
    assert read_json(deployed / "summary.json")["personal"]


def test_no_value_of_a_personal_adapter_moves_between_devices_and_servers(runs):
    """Two neighbouring values of a tensor, along rows or columns, are looked for side by side among all bytes."""
    deployed, _, moved = runs
    places = [np.frombuffer(moved[start : start + len(moved) // 4 * 4 - 4], np.float32) for start in range(4)]
    there = np.unique(np.concatenate([side_by_side(values) for values in places]))
    for client in range(NUM_DEVICES):
        states = sorted((deployed / "devices" / f"device-{client:02d}").glob("state-*.safetensors"))
        assert len(states) == 2
        for state in map(load_file, states):
            found = {name for name, value in state.items() if value.ndim > 1 and occur(neighbours(value), there)}
            broadcast = {name for name in state if name.startswith("exchange.current")}
            shared = {name for name in state if ":bottleneck" in name and name.startswith("adapter.")}
            assert len(shared) < len(state) - len(broadcast)
            assert found == shared | broadcast


def side_by_side(values):
    """Pairs of successive floats, each as one number."""
    words = values.view(np.uint32).astype(np.uint64)
    return words[:-1] | words[1:] << np.uint64(32)


def occur(numbers, sorted_numbers):
    places = np.searchsorted(sorted_numbers, numbers).clip(max=len(sorted_numbers) - 1)
    return bool((sorted_numbers[places] == numbers).any())


def neighbours(value):
    pairs = [np.stack([value[..., :-1], value[..., 1:]], -1), np.stack([value[..., :-1, :], value[..., 1:, :]], -1)]
    flat = np.concatenate([pair.reshape(-1, 2) for pair in pairs])
    flat = flat[(np.abs(flat) > 1e-8).all(1)]
    return flat.view(np.uint32).astype(np.uint64) @ np.array([1, 1 << 32], np.uint64)
