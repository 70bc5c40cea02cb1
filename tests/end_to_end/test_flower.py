"""`wavetune deploy --flower`: SuperLink, SuperNodes and app as processes, with the end of the run in one process."""

import os
import signal
from pathlib import Path

from helpers.runs import read_rounds, small, train
from wavetune.runtimes.flower.launch import deploy

DEVICES = 1  # each message to one is a process; tests/laws/test_simulated_equals_flower.py has several
LONG_S = 900.0  # for whatever a loaded machine takes


def flowers():
    """Flower's processes of this machine."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"flwr-" in command or b"flower-" in command:
                found.add(entry.name)
        except OSError:  # it ended meanwhile
            continue
    return found


def test_a_run_whose_superlink_is_killed_ends_as_the_run_in_one_process(tmp_path):
    recipe, out = small("sflllm", f"world.scenario.population.num_clients={DEVICES}"), tmp_path / "run"
    said: list[str] = []

    def kill_once(parties):
        if not killed and (out / "rounds.jsonl").exists():
            killed.append(parties[0].name)
            os.kill(parties[0].process.pid, signal.SIGKILL)

    killed: list[str] = []
    before = flowers()
    assert deploy(recipe, out, DEVICES, {"deadline": LONG_S, "patience": LONG_S}, said.append, kill_once) == 0, said
    assert killed == ["the SuperLink"]
    assert any(line.startswith("the SuperLink ended with code -9") for line in said), said
    train(recipe, tmp_path / "simulated")
    for wanted in (tmp_path / "simulated").glob("adapters/*/adapter_model.safetensors"):
        assert (out / wanted.relative_to(tmp_path / "simulated")).read_bytes() == wanted.read_bytes(), wanted
    assert [record["lost"] for record in read_rounds(out)] == [[], []]
    for client in range(DEVICES):
        kept = out / "devices" / f"device-{client:02d}"
        assert (kept / "state-000002.safetensors").exists()
        assert "round 2: done" in (kept / "log.txt").read_text()
    assert (out / "report.html").exists()
    assert not flowers() - before, "a process outlived the SuperLink that was killed, or the run"
