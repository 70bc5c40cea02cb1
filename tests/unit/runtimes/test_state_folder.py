"""What a device keeps: each run's states in a folder of their own, for its owner alone."""

import os
import re
import stat

import pytest
import torch

from wavetune.errors import RunFolderError
from wavetune.runtimes import state_folder


def keep(folder, run, done, value):
    place = state_folder.of_run(folder, run)
    state_folder.write(place, run, done, {done: {"t": torch.tensor(value)}})
    return place


def value_of(place, done):
    return state_folder.read(place)[1][done]["t"].item()


def test_a_second_run_leaves_the_states_of_the_first_as_they_are(tmp_path):
    first, second = keep(tmp_path, "aa01", 2, 1.0), keep(tmp_path, "bb02", 2, 2.0)
    assert (first, second) == (tmp_path, tmp_path / "run-bb02")
    assert (value_of(first, 2), value_of(second, 2)) == (1.0, 2.0)
    assert state_folder.read(first)[0] == "aa01"
    assert keep(tmp_path, "aa01", 3, 3.0) == first
    assert state_folder.latest(tmp_path) == first
    assert value_of(second, 2) == 2.0


@pytest.mark.parametrize("run", ["../../etc", "a/b", "", ".", "x" * 300, "a\x00b"])
def test_a_runs_name_never_leads_out_of_the_folder(tmp_path, run):
    keep(tmp_path, "aa01", 1, 1.0)
    place = state_folder.of_run(tmp_path, run)
    assert place.parent == tmp_path
    assert place.name.startswith("run-")
    assert len(place.name) < 80


def test_nothing_but_the_owner_reads_what_a_device_keeps(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    keep(folder, "aa01", 1, 1.0)
    keep(folder, "bb02", 1, 1.0)
    for name in ("alignment_before.json", "log.txt", "recipe.json", "of-somebody-else.txt"):
        (folder / name).write_text("{}")
        (folder / name).chmod(0o644)
    (folder / "adapters" / "client-01").mkdir(parents=True)
    (folder / "adapters" / "client-01" / "adapter_config.json").write_text("{}")
    state_folder.hide(folder)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert modes.pop(folder / "of-somebody-else.txt") == 0o644
    assert not any(mode & 0o077 for mode in modes.values())


def test_a_damaged_state_is_named(tmp_path):
    path = tmp_path / "state-000001.safetensors"
    for damage in (lambda: path.write_bytes(b"rubbish"), lambda: (path.unlink(), os.mkfifo(path))):
        damage()
        with pytest.raises(RunFolderError, match="remove it to start this device afresh"):
            state_folder.read(tmp_path)
        with pytest.raises(RunFolderError, match="remove it to start this device afresh"):
            state_folder.of_run(tmp_path, "aa01")


def damaged(path):
    """A bit in the values is another."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_state_that_is_not_as_it_was_written_is_named_and_passed_over(tmp_path):
    state = {done: {"t": torch.tensor(float(done))} for done in (1, 2)}
    state_folder.write(tmp_path, "aa01", 1, {1: state[1]}, "a recipe")
    state_folder.write(tmp_path, "aa01", 2, state, "a recipe")
    assert [*state_folder.read(tmp_path, pytest.fail)[1]] == [1, 2]
    damaged(tmp_path / "state-000002.safetensors")
    said = list[str]()
    run, states, recipe = state_folder.read(tmp_path, said.append)
    assert (run, [*states], recipe) == ("aa01", [1], "a recipe")
    assert len(said) == 1
    assert re.search(r"passes over .*state-000002\.safetensors \(it is another than was written there\)", said[0])
    assert [*state_folder.kept(tmp_path)[1]] == [1]
    damaged(tmp_path / "state-000001.safetensors")
    with pytest.raises(RunFolderError, match=r"state-000002\.safetensors \(it is another .*start this device afresh"):
        state_folder.read(tmp_path)


def test_a_process_killed_while_it_writes_a_state_again_leaves_one_that_is_taken(tmp_path, monkeypatch):
    keep(tmp_path, "aa01", 1, 1.0)
    with monkeypatch.context() as here:
        here.setattr(state_folder.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        here.setattr(state_folder, "write_whole", lambda path, text, _: path.write_text(text))
        with pytest.raises(KeyboardInterrupt):
            keep(tmp_path, "aa01", 1, 2.0)
    assert value_of(tmp_path, 1) == 1.0
    two = {1: {"t": torch.tensor(1.0)}, 2: {"t": torch.tensor(3.0)}}
    state_folder.write(tmp_path, "aa01", 2, two)
    assert (value_of(tmp_path, 1), value_of(tmp_path, 2)) == (1.0, 3.0)
    keep(tmp_path, "aa01", 1, 2.0)
    assert value_of(tmp_path, 1) == 2.0


def test_states_of_a_version_without_digests_are_taken_and_get_one(tmp_path):
    keep(tmp_path, "aa01", 1, 1.0)
    (tmp_path / "states.sha256").unlink()
    assert value_of(tmp_path, 1) == 1.0
    state_folder.write(tmp_path, "aa01", 2, {1: {"t": torch.tensor(1.0)}, 2: {"t": torch.tensor(2.0)}})
    damaged(tmp_path / "state-000001.safetensors")
    assert [*state_folder.read(tmp_path)[1]] == [2]
