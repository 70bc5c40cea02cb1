"""Benchmarks run to their end, at their smallest size."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
SMALLEST = {
    "data_plane": "--only exchange --megabytes 0.01 --repeats 1",
    "faults": "--runs 1 --devices 1",
    "generation": "--model tiny --clients 2 --samples 1 --new-tokens 2 --repeats 1",
    "planner": "--sizes 3x7 --seeds 1 --baseline-size 3x7 --anytime-size 3x7 --skip-cvxpy --skip-start",
    "training_speed": "--model tiny --clients 2 --batch-size 1 --repeats 1 --precision fp32 --memory-clients 1",
}
ELSEWHERE = {  # what the others start is started by these tests
    "flower": "tests/end_to_end/test_flower.py",
    "ray_workers": "tests/end_to_end/test_ray.py",
}


def benchmark(name):
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_benchmark_has_a_smallest_size_or_a_test_elsewhere():
    assert sorted({*SMALLEST, *ELSEWHERE}) == BENCHMARKS
    assert all((ROOT / path).exists() for path in ELSEWHERE.values())


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs_to_its_end_at_its_smallest_size(name, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    benchmark(name).main(SMALLEST[name].split())
    said = capfd.readouterr().out
    assert said.strip()
    assert "WRONG" not in said
