"""Two processes never write one folder; a process that was killed holds nobody up."""

import os
import signal
import subprocess
import sys

import pytest

from wavetune.errors import RunFolderError
from wavetune.federation.folder_lock import NAME, locked
from wavetune.runtimes.scoring import _place

HOLDER = """
import sys, time
from pathlib import Path
from wavetune.federation.folder_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_by_name_until_the_first_is_killed(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(RunFolderError, match=rf"run is in use by process {holder.pid} on .*wavetune"),
            locked(folder),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
    assert (folder / NAME).exists()
    with locked(folder):
        pass
    assert not (folder / NAME).exists()


def test_one_process_does_not_enter_twice_either(tmp_path):
    with locked(tmp_path), pytest.raises(RunFolderError, match=str(os.getpid())), locked(tmp_path):
        pass


def test_a_folder_that_stays_empty_is_removed_with_its_parents(tmp_path):
    with pytest.raises(ValueError, match="failed"), locked(tmp_path / "runs" / "a"):
        raise ValueError("failed")
    assert not (tmp_path / "runs").exists()
    with locked(tmp_path / "runs" / "a"):
        (tmp_path / "runs" / "a" / "kept").touch()
    assert [p.name for p in (tmp_path / "runs" / "a").iterdir()] == ["kept"]


def test_what_stands_in_the_place_of_the_lock_does_not_block(tmp_path):
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(RunFolderError), locked(tmp_path):
        pass
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).write_text("[" * 5000)
    with locked(tmp_path), pytest.raises(RunFolderError, match="in use by process"), locked(tmp_path):
        pass


@pytest.mark.parametrize("link", ["checkpoints", "adapters/global", "rounds.jsonl", "devices/device-00/log.txt"])
@pytest.mark.parametrize("target", ["..", "../there.txt", "/etc"])
def test_a_link_that_leads_out_of_a_folder_is_refused_by_name(tmp_path, link, target):
    """What is written, or cleaned up, in a folder that somebody else made stays in it."""
    folder = tmp_path / "run"
    (folder / link).parent.mkdir(parents=True)
    (folder / link).symlink_to(target if target.startswith("/") else tmp_path / "run" / target)
    with pytest.raises(RunFolderError, match=f"{link} is a link that leads out of"), locked(folder):
        pass
    with pytest.raises(RunFolderError, match="leads out of"), _place(folder, {"data": "rows", "adapters": "global"}):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert not (folder / "evaluations").exists()


def test_links_within_a_folder_and_what_is_hidden_hold_nobody_up(tmp_path):
    folder = tmp_path / "run"
    (folder / ".venv").mkdir(parents=True)
    (folder / ".venv" / "python").symlink_to("/usr/bin/python3")
    (folder / "wandb").mkdir()
    (folder / "wandb" / "latest-run").symlink_to("../wandb")
    (tmp_path / "here").symlink_to(folder)
    with locked(tmp_path / "here"):
        pass
