"""Workers as real Ray actors. Ray is started once for all tests of this file."""

import os
import re
import signal

import pytest

from helpers.command_line import assert_refused, wavetune
from helpers.runs import SMALL, Silent, assert_same_run, small, train
from wavetune.errors import ConfigError
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.ray_engine import connected, engine, placed

pytest.importorskip("ray", reason="Ray is not installed")
ALONE = ("run.tokens_per_pass=1", "run.evaluate_every=1", "run.samples=0")


@pytest.fixture(scope="module")
def ray():
    with connected(None, 2) as module:
        yield module


class Killer(Silent):
    """Kills a worker's process after the first step, from which Ray starts it again."""

    def __init__(self):
        super().__init__()
        self.processes = []

    def message(self, text):
        super().message(text)
        self.processes += [int(process) for process in re.findall(r"^worker \d.* process (\d+)", text)]

    def step(self, round_index, step, _result):
        if (round_index, step) == (0, 0) and len(self.processes) == 2:
            os.kill(self.processes.pop(), signal.SIGKILL)


def test_round_of_a_killed_worker_is_computed_again_to_the_same_files_as_in_one_process(ray, tmp_path):
    recipe, observer = small("sflllm", *ALONE), Killer()
    train(recipe, tmp_path / "one")
    run(recipe, tmp_path / "two", observer, engine=engine(2))
    assert len(observer.processes) == 1
    assert any("round 1 is computed again" in text for text in observer.messages)
    assert_same_run(tmp_path / "two", tmp_path / "one")


def test_what_a_worker_refuses_is_said_as_in_one_process(ray, tmp_path):
    recipe = small("sflllm", *ALONE, "method.optimiser.learning_rate=1e30", "method.optimiser.warmup_steps=0")
    with pytest.raises(ArithmeticError, match=r"^round 0, local step 1: the (loss|gradient) of "):
        run(recipe, tmp_path / "two", Silent(), engine=engine(2))


def test_command_line_trains_in_workers_and_continues_without_them(ray, tmp_path):
    recipe, command = small("sflllm", *ALONE), [word for s in (*SMALL, *ALONE) for word in ("--set", s)]
    train(recipe, tmp_path / "one")
    answer = wavetune("run", "sflllm", *command, "--workers", 2, "--out", tmp_path / "two")
    assert answer.code == 0, answer.err
    assert "worker 1: client" in answer.out
    assert_same_run(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workers", 4), ("4 workers", "3 clients")),
        (("--ray", "ray://127.0.0.1:10001"), ("Ray client", "--ray auto")),
    ],
)
def test_workers_that_cannot_be_had_are_refused(options, words, tmp_path):
    recipe = [word for s in SMALL for word in ("--set", s)]
    assert_refused(wavetune("run", "sflllm", *recipe, *options, "--out", tmp_path / "run"), *words)


def test_more_workers_than_gpus_or_cores_are_refused():
    with pytest.raises(ConfigError, match="3 workers ask for a GPU each, and Ray sees 2"):
        placed([{"CPU": 8, "GPU": 2}], 3, 5, "auto")
    with pytest.raises(ConfigError, match="5 workers need a CPU core each, and Ray sees 4"):
        placed([{"CPU": 3}, {"CPU": 1}], 5, 5, "cpu")
    assert placed([{"CPU": 8, "GPU": 2}], 3, 5, "cpu").cores == 2
