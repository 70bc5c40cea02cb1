"""A finished run says so at once, and trains on where more rounds are asked for."""

import json
import shutil
import subprocess
import sys

import pytest

from helpers.command_line import assert_refused, settings, wavetune
from helpers.runs import assert_same_run, read_json, read_rounds

QUICK = settings("run.samples=0", "run.evaluate_every=1", "method.optimiser.schedule=constant")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert wavetune("run", "sflllm", *QUICK, "--rounds", 1, "--out", folder).code == 0
    return folder


def copy_of(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def test_a_finished_run_says_so_without_torch_and_how_to_train_it_further(finished):
    script = f"""
import sys
sys.modules["torch"] = None
sys.argv = ["wavetune", "run", "--resume", "--out", {str(finished)!r}]
from wavetune.cli import main
main()
"""
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert f"the run in {finished} is finished" in answer.stdout
    assert "wavetune run --resume --rounds TOTAL --out" in answer.stdout
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_with_a_constant_rate_an_extended_run_ends_as_a_longer_one(finished, tmp_path):
    longer, extended = tmp_path / "longer", copy_of(finished, tmp_path)
    assert wavetune("run", "sflllm", *QUICK, "--rounds", 3, "--out", longer).code == 0
    answer = wavetune("run", "--resume", "--rounds", 3, "--out", extended)
    assert answer.code == 0, answer.err
    assert "goes on from round 1 to 3 rounds" in answer.err
    assert "the end is not that of" not in answer.err
    assert_same_run(extended, longer)


def test_with_another_schedule_the_difference_is_said(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    recipe = read_json(run / "recipe.json")
    recipe["method"]["optimiser"]["schedule"] = "linear"
    (run / "recipe.json").write_text(json.dumps(recipe))
    (run / "inputs.json").unlink()  # which knows of the constant one
    answer = wavetune("run", "--resume", "--rounds", 2, "--out", run)
    assert answer.code == 0, answer.err
    assert "the end is not that of a run of 2 rounds from the start" in answer.err
    assert len(read_rounds(run)) == read_json(run / "summary.json")["rounds"] == 2


def test_rounds_that_cannot_follow_are_refused_and_change_nothing(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    recipe = (run / "recipe.json").read_bytes()
    with (run / "rounds.jsonl").open("a") as file:
        file.write((finished / "rounds.jsonl").read_text().replace('"round": 0', '"round": 1', 1))
    assert_refused(wavetune("run", "--resume", "--rounds", 2, "--out", run), "has done 2", "give more")
    (run / "alignment.jsonl").write_text("{}\n")
    assert_refused(wavetune("run", "--resume", "--rounds", 5, "--out", run), "alignment", "start a new run")
    assert (run / "recipe.json").read_bytes() == recipe
    assert (run / "summary.json").exists()
