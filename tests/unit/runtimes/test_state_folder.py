"""What a device keeps: each run's states in a folder of their own, for its owner alone."""

import os
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
