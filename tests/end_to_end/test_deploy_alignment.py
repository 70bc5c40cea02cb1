"""Alignment on devices, with real processes: a device and the servers are killed in it, and nothing is lost."""

import os
import signal

import pytest

from helpers import held
from helpers.leaving import assert_same
from helpers.runs import ALIGNED, EXACT, count_rounds, read_json, read_rounds, small, train
from wavetune.models.reward import LOADED
from wavetune.runtimes.launch import Party, deploy

STEPS, CLIENTS = 4, 2
REWARD = "method.alignment.safe"  # trained at the servers, scored in bf16; the other is an exact function
RECIPE = small(
    "pwff",
    *(setting for setting in ALIGNED if not setting.startswith(REWARD)),
    *EXACT,
    f"method.alignment.learning.steps={STEPS}",
    "method.alignment.evaluate_every=3",
    "method.alignment.lambdas=[1.0]",  # towards that one
    "world.scenario.population.num_clients=2",
    "method.alignment.learning.prompts_per_step=2",
    "method.alignment.held_out_prompts=2",
    f"{REWARD}.training.model=tiny-bert",
    f"{REWARD}.training.steps=4",
    f"{REWARD}.training.train_pairs=16",
    f"{REWARD}.training.validation_pairs=4",
    f"{REWARD}.training.test_pairs=4",
)
SERVERS, DEVICE = 0, 2


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in-process") / "run"
    train(RECIPE, folder)
    return folder


def test_killed_devices_and_servers_go_on_aligning_where_they_were(tmp_path, in_process):
    out, said, killed = tmp_path / "run", [], {}

    def watch(parties: list[Party]) -> None:
        steps = count_rounds(out, "alignment.jsonl")
        for who, after in ((DEVICE, 1), (SERVERS, 2)):
            if who not in killed and steps >= after:
                killed[who] = parties[who].process.pid
                os.kill(killed[who], signal.SIGKILL)
                if who == SERVERS:
                    held.release(out)

    held.hold(out, STEPS - 1)
    assert deploy(RECIPE, out, CLIENTS, held.OPTION, said.append, watch) == 0
    assert killed.keys() == {SERVERS, DEVICE}
    assert any("the servers ended with code -9" in line for line in said), said
    steps = read_rounds(out, "alignment.jsonl")
    assert [record["step"] for record in steps] == list(range(STEPS))
    for client in range(CLIENTS):
        own, name = out / "devices" / f"device-{client:02d}", f"adapters/client-{client:02d}"
        assert_same(own / name, in_process / name)
        assert {f"rewards/harmless/{file}" for file in LOADED} <= files_under(own)
        assert not any(file.startswith("rewards/helpful") for file in files_under(own))
    for run in (out, in_process):
        assert len(read_rounds(run)) == RECIPE.run.rounds
    mine, theirs = (read_json(run / "summary.json")["alignment"]["after"] for run in (out, in_process))
    assert mine.keys() == theirs.keys()
    for name in ("helpful_K", "mixed_reward_K", "true_safe_K"):
        assert mine[name] == pytest.approx(theirs[name], abs=1e-9), name
    assert mine["safe_K"] == pytest.approx(theirs["safe_K"], abs=0.05)


def files_under(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
