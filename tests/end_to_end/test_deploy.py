"""`wavetune deploy` with real processes: the same end as a run in one process, whatever is killed on the way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers import held
from helpers.command_line import assert_refused, settings, wavetune
from helpers.runs import EXACT, count_rounds, read_rounds, small, train
from wavetune.data_plane.certificates import write_certificates
from wavetune.recipe import load
from wavetune.runtimes import launch
from wavetune.runtimes.launch import Party, deploy

COMMAND = [sys.executable, "-c", "from wavetune.cli import main; main()", "deploy"]
TOLERANCE = 1e-6
LONG_S = 400.0  # for whatever a loaded machine takes
ALL = 4  # processes of one device: the servers and it, what they are forked from, and Python's own tracker


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def descendants(pid: int) -> list[int]:
    """Processes below one, of those that this machine runs now."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found, level = [], {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found += level
    return found


def alive(pids: list[int]) -> list[int]:
    """Of these processes, those that still run."""
    states = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    return [pid for pid, stat in states.items() if stat.exists() and ") Z" not in stat.read_text()]


def wait_until(true, what: str) -> None:
    until = time.monotonic() + LONG_S
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.05)


def assert_same_adapters(found: Path, wanted: Path) -> None:
    names = sorted(p.name for p in (wanted / "adapters").iterdir())
    assert names == sorted(p.name for p in (found / "adapters").iterdir())
    for name in names:
        file = Path("adapters") / name / "adapter_model.safetensors"
        mine, theirs = load_file(found / file), load_file(wanted / file)
        assert mine.keys() == theirs.keys()
        for tensor, value in theirs.items():
            np.testing.assert_allclose(mine[tensor], value, rtol=0, atol=TOLERANCE, err_msg=f"{name} {tensor}")


ROUNDS = 3
RECIPE = small("sflllm", *EXACT, f"run.rounds={ROUNDS}")


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in-process") / "run"
    train(RECIPE, folder)
    return folder


def test_deployed_run_whose_servers_are_killed_ends_as_the_run_in_one_process(tmp_path, in_process):
    """The servers die after the first round, and go on from their checkpoint with devices that lived on."""
    out, said, killed, seen = tmp_path / "run", [], [], set()

    def watch(parties: list[Party]) -> None:
        seen.update(party.process.pid for party in parties)
        if not killed and count_rounds(out):
            killed.append(parties[0].process.pid)
            os.kill(killed[0], signal.SIGKILL)
            held.release(out)

    held.hold(out, ROUNDS - 1)
    assert deploy(RECIPE, out, 3, held.OPTION, said.append, watch) == 0
    assert killed
    assert any("the servers ended with code -9" in line for line in said)
    assert_same_adapters(out, in_process)
    found, wanted = read_rounds(out), read_rounds(in_process)
    assert [r["round"] for r in found] == list(range(ROUNDS))
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine["metered_bits"] == theirs["metered_bits"]
        assert 8 * sum(mine["measured"]["payload_bytes"].values()) == sum(theirs["metered_bits"].values())
        assert mine["lost"] == []
    assert "round 3: done" in (out / "devices" / "device-02" / "log.txt").read_text()
    assert len(seen) == 5
    assert alive(list(seen)) == []


def test_no_process_outlives_a_deployment_that_is_killed_and_it_can_be_continued(tmp_path):
    """Even kill -9 leaves nobody behind; what Ctrl-C does besides is to stop in order."""
    out = tmp_path / "run"
    one = settings("world.scenario.population.num_clients=1", "run.rounds=200", "run.checkpoint_every=50")
    started = start("sflllm", *one, "--out", out)
    try:
        wait_until(lambda: count_rounds(out), "no round was done")
        parties = descendants(started.pid)
        assert len(parties) >= ALL
    finally:
        started.kill()
        started.communicate()
    wait_until(lambda: not alive(parties), "a process outlived its deployment")

    again = start("--resume", "--out", out)
    try:
        wait_until(lambda: len(descendants(again.pid)) >= ALL, "the run did not continue")
        parties = descendants(again.pid)
        again.send_signal(signal.SIGINT)
        again.communicate(timeout=LONG_S)
    finally:
        again.kill()
        again.communicate()
    assert again.returncode == 130
    wait_until(lambda: not alive(parties), "a process outlived its deployment")


@pytest.mark.parametrize("command", ["serve", "deploy"])
def test_so_many_rounds_are_served_and_a_finished_run_is_served_further(command, in_process, tmp_path, monkeypatch):
    """What starts the servers is replaced: which rounds the run in their folder has is all that is looked at."""
    starts = []
    monkeypatch.setattr("wavetune.cli.serve.train", lambda chosen, folder, *_: starts.append((chosen, folder)))
    monkeypatch.setattr(launch, "deploy", lambda chosen, folder, *_: starts.append((chosen, folder)) or 0)
    write_certificates(tmp_path, 3)
    own = ("--certificates", tmp_path / "server", "--address", "127.0.0.1:0") if command == "serve" else ()
    further = Path(shutil.copytree(in_process, tmp_path / "further"))
    for words in (("sflllm", *settings(), "--out", tmp_path / "run"), ("--resume", "--out", further)):
        answer = wavetune(command, *words, "--rounds", ROUNDS + 4, *own)
        assert answer.code == 0, answer.err
    (begun, folder), (continued, again) = starts
    assert (begun.run.rounds, folder) == (ROUNDS + 4, tmp_path / "run")
    assert (continued, again) == (None, further)
    assert load(further / "recipe.json").run.rounds == ROUNDS + 4


def test_what_cannot_be_deployed_is_refused_in_a_sentence(tmp_path):
    write_certificates(tmp_path, 1)
    common = ("--certificates", tmp_path / "server", "--address", "127.0.0.1:0", "--out", tmp_path / "run")
    assert_refused(wavetune("serve", "centralised_lora", *settings(), *common), "method.topology central", "federated")
    assert_refused(wavetune("deploy", "--resume", "--out", tmp_path / "nothing"), "holds no run")
    assert_refused(wavetune("device", "localhost:1", "--certificates", tmp_path / "server"), "'server'", "device-00")
    assert_refused(wavetune("device", "localhost:1", "--certificates", tmp_path / "nobody"), "wavetune certificates")
