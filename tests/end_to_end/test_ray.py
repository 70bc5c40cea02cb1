"""Workers as real Ray actors, in processes of their own, since Ray leaves warnings behind where it was started."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.command_line import assert_refused, wavetune
from helpers.runs import SMALL, assert_same_run, small, train
from wavetune.errors import ConfigError
from wavetune.runtimes.ray_engine import placed

ALONE = ("run.tokens_per_pass=1", "run.samples=0")


def start(out, *settings):
    """`wavetune run` in two workers."""
    pytest.importorskip("ray", reason="Ray is not installed")
    words = [word for setting in (*SMALL, *ALONE, *settings) for word in ("--set", setting)]
    return subprocess.Popen(
        [sys.executable, "-m", "wavetune.cli", "run", "sflllm", *words, "--workers", "2", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def skip_if_ray_ran_out_of_time(errors):
    if "timed out during startup" in errors:
        pytest.skip("Ray's processes did not come up within the 30 s that Ray gives them on this machine")


def rounds_in(out):
    path = out / "rounds.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for_rounds(process, out, count):
    while process.poll() is None and rounds_in(out) < count:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()


def ends(process, patience_s=30.0):
    """Whether a process ends in time; one that only waits to be reaped has ended."""
    stat, until = Path(f"/proc/{process}/stat"), time.monotonic() + patience_s
    while time.monotonic() < until:
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_run_survives_a_killed_worker_stops_when_asked_and_goes_on_in_one_process_to_the_same_files(tmp_path):
    train(small("sflllm", *ALONE, "run.rounds=14"), tmp_path / "one")
    out = tmp_path / "two"
    process = start(out, "run.rounds=14")
    said = [process.stdout.readline()]
    while said[-1] and not said[-1].startswith("worker 1"):
        said.append(process.stdout.readline())
    workers = [int(number) for number in re.findall(r"^worker \d.* process (\d+)", "".join(said), re.MULTILINE)]
    if len(workers) < 2:
        errors = process.communicate()[1]
        skip_if_ray_ran_out_of_time(errors)
        pytest.fail(errors)
    wait_for_rounds(process, out, 1)
    os.kill(workers[1], signal.SIGKILL)
    wait_for_rounds(process, out, rounds_in(out) + 4)
    process.terminate()  # as Ctrl-C, which a background process may ignore
    text, errors = process.communicate()
    assert process.returncode == 130, errors
    assert ends(workers[1])
    assert f"wavetune run --workers 2 --resume --out {out}" in text
    assert ends(workers[0])
    assert rounds_in(out) < 14
    train(small("sflllm", *ALONE, "run.rounds=14"), out, resume=True)
    assert_same_run(out, tmp_path / "one")


def test_what_a_worker_refuses_is_said_in_one_sentence(tmp_path):
    learning = ("method.optimiser.learning_rate=1e30", "method.optimiser.warmup_steps=0")
    process = start(tmp_path / "run", *learning)
    _, errors = process.communicate()
    skip_if_ray_ran_out_of_time(errors)
    assert process.returncode == 2, errors
    assert re.match(r"wavetune: round 0, local step 1: the (loss|gradient) of .* is ", errors)
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workers", 4), ("4 workers", "3 clients")),
        (("--ray", "ray://127.0.0.1:10001"), ("Ray client", "--ray auto")),
    ],
)
def test_workers_that_cannot_be_had_are_refused(options, words, tmp_path):
    recipe = [word for setting in SMALL for word in ("--set", setting)]
    assert_refused(wavetune("run", "sflllm", *recipe, *options, "--out", tmp_path / "run"), *words)


def test_more_workers_than_gpus_or_cores_are_refused():
    with pytest.raises(ConfigError, match="3 workers ask for a GPU each, and Ray sees 2"):
        placed([{"CPU": 8, "GPU": 2}], 3, 5, "auto")
    with pytest.raises(ConfigError, match="5 workers need a CPU core each, and Ray sees 4"):
        placed([{"CPU": 3}, {"CPU": 1}], 5, 5, "cpu")
    assert placed([{"CPU": 8, "GPU": 2}], 3, 5, "cpu").cores == 2
