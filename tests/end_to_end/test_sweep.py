"""A sweep as its user meets it: processes that are stopped and killed, results that do not care, and bad input."""

import json
import os
import signal
import subprocess
import sys

import pytest

from helpers.command_line import assert_refused, wavetune
from helpers.sweeps import QUICK, without_times
from wavetune.terminal import CountDisplay

SMALLEST = (*QUICK, *(f"world.scenario.bands.{band}.num_subchannels=5" for band in ("main", "fed")))
SETTINGS = [word for setting in SMALLEST for word in ("--set", setting)]
OVER = ["--over", "bandwidth_hz=5e6,10e6", "--seeds", "2", "--methods", "proposed,greedy,uniform-power,bound"]
SWEEP = ["sweep", "sflllm", *SETTINGS, *OVER]
CELLS = 2 * 2 * 3


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """No model in the cache, and a torch that cannot be imported: neither is needed, in no process of a sweep."""
    folder = tmp_path_factory.mktemp("environment")
    (folder / "torch.py").write_text("raise ImportError('a sweep imported torch')\n")
    return {**os.environ, "WAVETUNE_CACHE": str(folder / "cache"), "PYTHONPATH": str(folder)}


def start(environment, folder, jobs):
    command = [sys.executable, "-m", "wavetune", *SWEEP, "--jobs", str(jobs), "--out", str(folder / "sweep")]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **streams)


def cells(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def by_cell(records):
    return sorted(without_times(records), key=lambda r: (r["seed"], r["value"], r["method"]))


def test_sweep_that_is_interrupted_and_killed_ends_like_one_that_is_not(environment, tmp_path, monkeypatch):
    monkeypatch.setenv("WAVETUNE_CACHE", environment["WAVETUNE_CACHE"])
    whole, folder = tmp_path / "whole", tmp_path / "sweep"
    answer = wavetune(*SWEEP, "--jobs", 1, "--out", whole)
    assert answer.code == 0, answer.err

    progress = CountDisplay.progress

    def interrupted(display, what, done, total):
        progress(display, what, done, total)
        if (what, done) == ("cells", 5):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(CountDisplay, "progress", interrupted)
        answer = wavetune(*SWEEP, "--jobs", 1, "--out", folder)
    assert answer.code == 130
    assert f"the same command goes on from {folder}" in answer.err
    assert len(cells(folder)) == 5

    process = start(environment, tmp_path, jobs=2)
    next(line for line in process.stderr if line.startswith("cells "))
    process.kill()
    _, err = process.communicate()  # to the end of both streams, which every worker holds open: none outlives it
    assert "Traceback" not in err
    after_kill = cells(folder)
    assert len(after_kill) > 5

    process = start(environment, tmp_path, jobs=1)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert len(cells(folder)) == CELLS
    assert cells(folder)[: len(after_kill)] == after_kill
    assert by_cell(cells(folder)) == by_cell(cells(whole))
    readings = [json.loads((path / "summary.json").read_text())["reading"] for path in (folder, whole)]
    assert readings[0] == readings[1]
    assert readings[0] in " ".join(out.split())
    assert "Samples were estimated at 4 characters a token" in readings[0]


def test_world_without_a_plan_is_exit_code_3_and_the_reason_is_in_every_file(tmp_path):
    answer = wavetune("sweep", "sflllm", *SETTINGS, "--set", "world.scenario.population.memory_bytes=1000", "--over",
                      "cell_radius_m=100,200", "--seeds", 1, "--jobs", 1, "--out", tmp_path / "sweep")  # fmt: skip
    assert answer.code == 3
    assert "No cell of the sweep has a plan." in answer.out
    for name in ("results.jsonl", "table.csv", "summary.json", "sweep.md"):
        assert "memory" in (tmp_path / "sweep" / name).read_text()


def test_folder_that_holds_another_sweep_is_refused(tmp_path):
    sweep = ["sweep", "sflllm", *SETTINGS, "--seeds", 1, "--methods", "all-random", "--out", tmp_path / "sweep"]
    assert wavetune(*sweep, "--over", "cell_radius_m=100").code == 0
    assert_refused(wavetune(*sweep, "--over", "num_clients=2"), "another field", "choose another --out")
    for other in (("--seed", 1), ("--model", "gpt2"), ("--data", "concierge")):
        assert_refused(wavetune(*sweep, "--over", "cell_radius_m=100", *other), "another recipe")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--over", "bandwith_hz=1e6"], ["'bandwith_hz'", "did you mean 'bandwidth_hz'"]),
        (["--over", "world.scenario.cell_radius=5"], ["did you mean 'cell_radius_m'"]),
        (["--over", "foo"], ["FIELD=v1,v2,..."]),
        (["--over", "foo=1"], ["no field 'foo'; choose one of", " (or give the path of a recipe's field)"]),
        (["--over", "num_clients=two"], ["num_clients takes numbers, not 'two'"]),
        (["--over", "num_clients=2.5"], ["num_clients is 2.5", "integer"]),
        (["--over", "run.local_steps=many"], ["run.local_steps is 'many'"]),
        (["--over", "bandwidth_hz"], ["FIELD=v1,v2"]),
        (["--methods", "gredy"], ["'gredy'", "did you mean 'greedy'"]),
        (["--methods", ""], ["--methods names none"]),
        (["--seeds", "0"], ["--seeds is 0"]),
        (["--seeds=-3"], ["--seeds is -3"]),
        (["--jobs", "0"], ["--jobs is 0"]),
        (["--set", "run.rouns=3"], ["did you mean 'rounds'"]),
        (["--over", "world.model=gpt3"], ["'gpt3'", "no preset"]),
        (["--over", "num_clients=2,90"], ["without data"]),
    ],
)
def test_bad_input_is_one_sentence_and_writes_no_cell(changed, words, tmp_path):
    sweep = SWEEP
    if changed[0] in SWEEP and changed[0] != "--set":  # in the place of what is given there
        sweep = [*SWEEP[: SWEEP.index(changed[0])], *SWEEP[SWEEP.index(changed[0]) + 2 :]]
    jobs = [] if changed[0] == "--jobs" else ["--jobs", 1]
    assert_refused(wavetune(*sweep, *jobs, *changed, "--out", tmp_path / "sweep"), *words)
    assert not (tmp_path / "sweep" / "results.jsonl").exists()


def test_unknown_recipe_is_refused():
    assert_refused(wavetune("sweep", "sfllm", "--over", "num_clients=2"), "did you mean 'sflllm'")
