"""Benchmarks run to their end, at their smallest size."""

import importlib.util
import io
import json
import subprocess
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from time import process_time
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest

from helpers.command_line import settings
from wavetune import recipes
from wavetune.allocation.feasibility import check_feasible
from wavetune.runtimes import reward_cache, untouched_cache
from wavetune.runtimes.round import train_round

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
SMALLEST = {
    "alignment": "--model tiny --clients 2 --prompts 1 --new-tokens 2 --steps 1 --before .",
    "data_plane": "--only exchange --megabytes 0.01 --repeats 1",
    "faults": "--runs 1 --devices 1",
    "frozen": "--count 1 --out .",
    "generation": "--model tiny --clients 2 --samples 1 --new-tokens 2 --repeats 1",
    "gpu": "--out gpu.json --device cpu --precision fp32 --model tiny --data mine.jsonl --clients 2 "
    "--batch-size 1 --repeats 1 --large "
    '{"hidden_size":64,"intermediate_size":96,"num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":2}',
    "planner": "--sizes 3x7 --seeds 1 --baseline-size 3x7 --anytime-size 3x7 --skip-cvxpy --skip-start",
    "planner_classes": "--most-clients 5 --seeds 1 --classes steps",
    "precision": "--model tiny --data mine.jsonl --rows 2",
    "scale": "--clients 2 3 --large 2 --sizes "
    '{"hidden_size":64,"intermediate_size":96,"num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":2,'
    '"vocab_size":512}',
    "start": "--only help --repeats 1",
    "training_speed": "--model tiny --data mine.jsonl --clients 2 --batch-size 1 --repeats 1 --precision fp32 "
    "--memory-clients 1",
}
# These two time parties that are processes of their own, which test_flower.py and test_ray.py start for real.
STARTERS = {"flower": "--rounds 3 --devices 1", "ray_workers": "--workers 1 --rounds 1"}


def benchmark(name):
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_benchmark_has_a_smallest_size():
    assert sorted({*SMALLEST, *STARTERS}) == BENCHMARKS


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs_to_its_end_at_its_smallest_size(name, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    timing = benchmark(name)
    if name == "training_speed":  # its peak memory is that of a process that imports all anew

        def here(command, **_):
            with redirect_stdout(io.StringIO()) as said:
                timing.main(command[2:])
            return SimpleNamespace(stdout=said.getvalue())

        monkeypatch.setattr(timing, "subprocess", SimpleNamespace(run=here))
    if name == "scale":  # whose cases are such processes
        monkeypatch.setattr(timing, "alone", lambda function, *given: function(*given))
    if name == "alignment":  # whose turns are such processes

        class Here:
            def __init__(self, _checkout, given):
                self.given = given

            def step(self, how=""):
                stage, start = timing.stage_of(*self.given), process_time()
                found = timing.products_of(stage) if how else stage.step() and {}
                return found | {"a step": process_time() - start}

            def end(self):
                pass

        monkeypatch.setattr(timing, "Side", Here)
    rows = [{"prompt": f"where is {i}?", "completion": f"it is {i}"} for i in range(24)]
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    timing.main(SMALLEST[name].split())
    said = capfd.readouterr().out
    assert said.strip()
    assert "WRONG" not in said
    assert '"failed"' not in said


def test_every_class_of_hard_problems_is_one():
    timing = benchmark("planner_classes")
    for kind, K, M in timing.CLASSES:
        problem = timing.problem_of(kind, K, M, 0)
        assert (problem.cut_per_client, problem.share_server) == ("cuts" in kind, "shares" in kind)
        assert bool(check_feasible(problem).pairs) or "cuts" in kind


def test_the_stages_of_a_run_are_where_they_are_timed():
    timing = benchmark("alignment")
    assert all(callable(getattr(*timing.stages_of(name))) for name in timing.STAGES)
    assert callable(reward_cache.recall)
    assert callable(untouched_cache.kept)
    assert recipes.get("pwff").with_settings(*timing.SHORT).run.rounds == 1


SPEAKS = """
import os, signal, sys, time
for _ in range(3):
    with open(sys.argv[1], "a") as told:
        told.write(os.environ["PYTHONPATH"][-5] + " ")
    os.kill(os.getpid(), signal.SIGSTOP)
print("x" * 100_000)
sys.exit(os.environ["PYTHONPATH"][-5] == sys.argv[2])
"""


def test_two_runs_take_turns_from_stage_to_stage(tmp_path):
    timing, told = benchmark("alignment"), tmp_path / "told"
    sides = {name: tmp_path / name for name in "ab"}
    said = timing.in_turns([sys.executable, "-c", SPEAKS, str(told), "-"], sides)
    assert told.read_text() == "a b a b a b "
    assert {name: len(words) for name, words in said.items()} == {"a": 100_001, "b": 100_001}
    with pytest.raises(subprocess.CalledProcessError):
        timing.in_turns([sys.executable, "-c", SPEAKS, str(told), "b"], sides)


def test_exchanges_of_two_checkouts_are_read_as_they_are_printed(monkeypatch, capsys, tmp_path):
    timing = benchmark("data_plane")
    took = iter([4.0, 5.0] * 3)  # milliseconds: now, before

    def rows(sizes, _repeats):
        names = [f"{name}{end}" for name in ("exchange", "bare", "grpc", "codec") for end in ("_ms", "_least_ms")]
        return [{"bytes": size} | dict.fromkeys(names, ms) for size, ms in zip(sizes, took, strict=False)]

    def printed(command, **_):
        timing.main(command[2:])
        return SimpleNamespace(stdout=capsys.readouterr().out)

    monkeypatch.setattr(timing, "time_exchanges", rows)
    monkeypatch.setattr(timing, "subprocess", SimpleNamespace(run=printed, PIPE=None))
    timing.main(["--before", str(tmp_path), "--megabytes", "4"])
    assert "now 4.0 ms, before 5.0 ms, 1.25 times as fast" in capsys.readouterr().out


def test_rounds_over_flower_are_timed_beside_those_over_the_control_stream(monkeypatch, capsys):
    def deploy(recipe, out, _devices, _options, _say, watch):
        out.mkdir()
        for index in range(recipe.run.rounds):
            with (out / "rounds.jsonl").open("a") as records:
                records.write(f'{{"round": {index}}}\n')
            watch([])
        return 0

    timing = benchmark("flower")
    for launcher in (timing.launch, timing.flower):
        monkeypatch.setattr(launcher, "deploy", create_autospec(launcher.deploy, side_effect=deploy))
    timing.main(STARTERS["flower"].split())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["control stream", "Flower"]
    assert all("s a round, between" in line for line in lines)


def test_rounds_in_workers_are_timed_beside_those_of_one_process(monkeypatch, capsys):
    timing = benchmark("ray_workers")
    here = nullcontext(SimpleNamespace(train_round=train_round))
    start = create_autospec(timing.engine(1), return_value=here)
    monkeypatch.setattr(timing, "engine", create_autospec(timing.engine, return_value=start))
    timing.main(STARTERS["ray_workers"].split() + settings("run.samples=0"))
    assert capsys.readouterr().out.splitlines()[-1].startswith("ratio: ")
    assert start.call_count == 1
