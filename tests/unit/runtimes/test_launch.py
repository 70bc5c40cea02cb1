"""The processes that a deployed run starts."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from wavetune import recipes
from wavetune.console import COMMAND, as_command, given_command
from wavetune.data_plane.certificates import device_name, write_certificates
from wavetune.federation.run_folder import RunFolderError
from wavetune.runtimes import launch
from wavetune.runtimes.launch import Party

PROGRAM = "from wavetune.console import given_command; print(given_command())"


def test_a_program_that_was_started_knows_the_users_command_and_only_its_owner_reads_its_log(tmp_path, monkeypatch):
    monkeypatch.delenv(COMMAND, raising=False)
    monkeypatch.setattr(sys, "argv", ["/somewhere/wavetune", "deploy", "sflllm", "--out", "a folder"])
    party = Party("a device", ["device"], tmp_path / "log.txt", (sys.executable, "-c", PROGRAM))
    with as_command():
        party.start()
        party.process.wait()
        party.stop()
        assert given_command() == "wavetune deploy sflllm --out 'a folder'"
    assert (tmp_path / "log.txt").read_text() == "wavetune deploy sflllm --out 'a folder'\n"
    assert given_command() == "python /somewhere/wavetune deploy sflllm --out 'a folder'"
    assert stat.S_IMODE((tmp_path / "log.txt").stat().st_mode) == 0o600


def test_a_fork_has_its_own_session_log_and_code_and_what_it_says_is_added_at_each_start(tmp_path):
    log = tmp_path / "log.txt"
    party = Party("a device", ["device", "localhost:1", "--certificates", str(tmp_path / "none")], log)
    for starts in (1, 2):
        party.start()
        pid = party.process.pid
        assert pid != os.getpid()
        party.process.wait()
        assert party.process.poll() == 2
        assert log.read_text().count("wavetune: ") == starts, log.read_text()
    party.stop()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


@pytest.mark.parametrize(("end", "code"), [("killed", -signal.SIGKILL), ("its input ends", 130)])
def test_a_fork_that_waits_ends_as_it_is_made_to(tmp_path, end, code):
    write_certificates(tmp_path, 1)
    log = tmp_path / "log.txt"
    party = Party("a device", ["device", "localhost:1", "--certificates", str(tmp_path / device_name(0))], log)
    party.start()
    while "attends" not in log.read_text():
        assert party.process.poll() is None
        time.sleep(0.05)
    assert os.getsid(party.process.pid) == party.process.pid
    if end == "killed":
        os.kill(party.process.pid, signal.SIGKILL)
    else:
        party.process.stdin.close()
    party.process.wait(60.0)
    assert party.process.returncode == code, log.read_text()
    party.stop()


STARTS_A_FORK = """
import os, signal, sys
from multiprocessing import forkserver
from pathlib import Path
from wavetune.errors import DeploymentError
from wavetune.runtimes import forked, launch

forked.LOADED = ("slow",)
servers = launch.Party("the servers", ["device", "localhost:1", "--certificates", "."], Path("log.txt"))
try:
    servers.start()
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    launch._watch_over(servers, (), Path("run"), print, lambda: None)
except KeyboardInterrupt:
    print("interrupted")
except DeploymentError as error:
    print(error)
    servers.stop()
"""
SLOW = "import pathlib, time; pathlib.Path('loading').touch(); time.sleep(1)"


@pytest.mark.parametrize(
    ("interrupted", "said"),
    [(True, "interrupted"), (False, "all others are forks of was killed, .* --resume")],
)
def test_what_is_forked_ends_without_a_traceback_where_it_is_interrupted_or_killed(interrupted, said, tmp_path):
    write_certificates(tmp_path, 1)
    (tmp_path / "slow.py").write_text(SLOW)
    started = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_FORK], cwd=tmp_path / device_name(0), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    if interrupted:
        while not (tmp_path / device_name(0) / "loading").exists():
            assert started.poll() is None
            time.sleep(0.02)
        os.killpg(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert re.search(said, out), out + err
    assert err == ""


STARTS_ANOTHER = """
import pathlib, subprocess, sys, time
pathlib.Path(sys.argv[1]).write_text(str(subprocess.Popen(["sleep", "600"]).pid))
time.sleep(600)
"""


def is_running(pid):
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_a_stopped_program_started_ends_with_it(tmp_path):
    told = tmp_path / "pid"
    party = Party("a program", [str(told)], None, [sys.executable, "-c", STARTS_ANOTHER])
    party.start()
    while not (told.exists() and told.read_text()):
        time.sleep(0.05)
    pid = told.read_text()
    assert is_running(pid)
    party.stop()
    until = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(pid)


def test_a_device_whose_log_cannot_be_written_is_told_by_its_folder(tmp_path, monkeypatch):
    idle, start = SimpleNamespace(poll=lambda: 0, wait=lambda *_: 0, stdin=None), Party.start
    monkeypatch.setattr(Party, "start", lambda party: start(party) if party.log else setattr(party, "process", idle))
    monkeypatch.setattr(launch, "_address", lambda *_: "127.0.0.1:1")
    state = tmp_path / "out" / "devices" / device_name(0)
    (state / "log.txt").mkdir(parents=True)
    with pytest.raises(RunFolderError, match=f"cannot write {state}: is a directory"):
        launch.deploy(recipes.get("fedavg_lora"), tmp_path / "out", 1, (), print, lambda _: None)
