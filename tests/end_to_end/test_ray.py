"""Workers as real Ray actors, in processes of their own, since Ray leaves warnings behind where it was started."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from helpers import forked, held
from helpers.command_line import assert_refused, wavetune
from helpers.ray_cluster import TwoMachines, two_machines
from helpers.runs import EXACT, SMALL, assert_same_run, count_rounds, small, train
from wavetune.errors import ConfigError
from wavetune.runtimes.ray_engine import placed

ALONE = ("run.tokens_per_pass=1", "run.samples=0")  # a pass a client, as in workers
FIVE = (*EXACT, "method.topology.cut=[1,3,2]", "method.lora.rank=[2,4,1]", "run.rounds=5")
FIVE_ROUNDS = small("sflllm", *ALONE, *FIVE)


@pytest.fixture(scope="module")
def cluster():
    with two_machines() as machines:
        yield machines


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The folder of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("one") / "run"
    train(FIVE_ROUNDS, out)
    return out


def start(out, *settings, workers=2, options=()):
    """`wavetune run` in workers."""
    pytest.importorskip("ray", reason="Ray is not installed")
    words = [word for setting in (*SMALL, *ALONE, *settings) for word in ("--set", setting)]
    return forked.wavetune("run", "sflllm", *words, "--workers", workers, *options, "--out", out)


def go_on(out, workers, options):
    """`wavetune run --resume` in workers."""
    return forked.wavetune("run", "--resume", "--workers", workers, *options, "--out", out)


def skip_if_ray_ran_out_of_time(errors):
    if "timed out during startup" in errors:
        pytest.skip("Ray's processes did not come up within the 30 s that Ray gives them on this machine")


def introduced(process):
    """Processes of the two workers, once they have started."""
    said = [process.stderr.readline()]
    while said[-1] and not said[-1].startswith("worker 1"):
        said.append(process.stderr.readline())
    workers = [int(number) for number in re.findall(r"^worker \d.* process (\d+)", "".join(said), re.MULTILINE)]
    if len(workers) < 2:
        errors = "".join(said)
        skip_if_ray_ran_out_of_time(errors)
        pytest.fail(errors)
    return workers


def parent(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for_rounds(process, out, count):
    while process.poll() is None and count_rounds(out) < count:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()


def ends(process, patience_s=120.0):
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


def test_run_survives_a_killed_worker_stops_when_asked_and_goes_on_in_one_process_to_the_same_files(
    one_process, tmp_path
):
    out = tmp_path / "two"
    held.hold(out, 2)
    process = start(out, *FIVE, options=held.OPTION)
    workers = introduced(process)
    wait_for_rounds(process, out, 1)
    os.kill(workers[1], signal.SIGKILL)
    enough = count_rounds(out) + 2  # the round that goes on may need that worker no more
    held.hold(out, enough)
    wait_for_rounds(process, out, enough)
    process.terminate()  # as Ctrl-C, which a background process may ignore
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert ends(workers[1])
    assert f"wavetune run --workers 2 --resume --out {out}" in errors
    assert ends(workers[0])
    assert count_rounds(out) < 5
    train(FIVE_ROUNDS, out, resume=True)
    assert_same_run(out, one_process)


def test_what_a_worker_refuses_is_said_in_one_sentence(cluster: TwoMachines, tmp_path):
    learning = ("method.optimiser.learning_rate=1e30", "method.optimiser.warmup_steps=0")
    cluster.complete()
    process = start(tmp_path / "run", *learning, workers=1, options=("--ray", cluster.address))
    _, errors = process.communicate()
    skip_if_ray_ran_out_of_time(errors)
    assert process.returncode == 2, errors
    *progress, refusal = errors.splitlines()
    assert re.match(r"wavetune: round 0, local step 1: the (loss|gradient) of .* is ", refusal)
    assert not any("Traceback" in line for line in progress)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, where the workers would just start")
def test_each_worker_is_given_a_gpu_of_its_own_and_says_so_where_pytorch_sees_none(cluster: TwoMachines, tmp_path):
    """Ray counts GPUs that it is told of: two on each machine, whose numbers differ from the other's."""
    cluster.complete()
    process = start(tmp_path / "run", "run.device=auto", workers=3, options=("--ray", cluster.address))
    _, errors = process.communicate()
    skip_if_ray_ran_out_of_time(errors)
    assert process.returncode == 2, errors
    gpus = re.findall(r"^worker \d: client \d on .*, process \d+, GPU (\d), 1 thread$", errors, re.MULTILINE)
    assert len(set(gpus)) == 3
    assert set(gpus) & {"0", "1"}
    assert set(gpus) & {"2", "3"}
    assert re.match(r"wavetune: Ray gave GPU \d of .* to worker 0, but PyTorch sees no", errors.splitlines()[-1])


def test_workers_are_spread_over_a_cluster_and_after_the_loss_of_a_machine_one_worker_ends_as_one_process(
    cluster: TwoMachines, one_process, tmp_path
):
    cluster.complete()
    out = tmp_path / "two"
    held.hold(out, 3)
    process = start(out, *FIVE, options=("--ray", cluster.address, *held.OPTION))
    workers = introduced(process)
    assert parent(workers[0]) != parent(workers[1])  # each machine's raylet starts the workers there
    wait_for_rounds(process, out, 2)
    cluster.lose(1)
    held.release(out)
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert errors.splitlines()[-1].startswith("wavetune: a machine left the Ray cluster")
    assert 2 <= count_rounds(out) <= 3
    process = go_on(out, workers=1, options=("--ray", cluster.address))
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert re.findall(r"^worker (\d) took [\d,]+ MB of memory at most$", errors, re.MULTILINE) == ["0"]
    assert_same_run(out, one_process)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workers", 4), ("4 workers", "3 clients")),
        (("--ray", "ray://127.0.0.1:10001"), ("Ray client", "--ray auto")),
        (("--ray", "here"), ("--ray here is neither HOST:PORT nor auto",)),
        (("--ray", "127.0.0.1:1"), ("no Ray cluster answers at 127.0.0.1:1", "refused")),
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
    with pytest.raises(ConfigError, match="2 workers need a CPU core beside its GPU, and Ray sees 5"):
        placed([{"CPU": 1, "GPU": 2}, {"CPU": 4}], 2, 5, "cuda")
    assert placed([{"CPU": 8, "GPU": 2}], 3, 5, "cpu").cores == 2
