"""Kill a run at any moment: the resumed run ends with the same bytes of adapters and the same records."""

import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers import forked, held
from helpers.runs import ALIGNED, SMALL, assert_same_run, count_rounds, lasting, read_rounds, small, train
from wavetune.errors import RunFolderError
from wavetune.federation.alignment import Alignment
from wavetune.federation.cohort import Cohort
from wavetune.federation.run_folder import RunFolder
from wavetune.models import export
from wavetune.recipe import load

ONE_STEP = ("run.local_steps=1",)  # what is saved is the same after two, as the first kind has
KINDS = {
    "split_int8": small(
        "sflllm",
        "run.precision=int8",
        "run.rounds=3",
        "run.evaluate_every=1",
        "method.activation_codec.kind=int8",
        "method.price_downlink=true",
        "world.scenario.bands.main.interference_dbm_per_hz=-165",
    ),
    "mixed_cuts_and_ranks_averaged_by_product": small(
        "sflllm",
        *ONE_STEP,
        "run.rounds=4",
        "run.checkpoint_every=2",
        "method.topology.cut=[1,3,2]",
        "method.lora.rank=[2,4,1]",
        "method.mixing.kind=average_product",
    ),
    "one_factor_kept": small("fedavg_lora", *ONE_STEP, "run.rounds=2", "method.sharing.factors=A"),
    "sequential_frozen_a": small("split_lora_sequential", *ONE_STEP, "run.rounds=2", "method.mixing.kind=frozen_a"),
    "cuts_and_shares_of_the_server_per_client": small(
        "sflllm",
        *ONE_STEP,
        "run.rounds=2",
        "run.samples=1",
        "method.planner.cut_per_client=true",
        "method.server_shares=optimal",
        "world.scenario.server.flop_per_s=1e10",
        "world.scenario.population.clock_hz=[1e6,3e7]",
        "method.planner.time_limit_s=0.3",
    ),
    "federated": small("fedavg_lora", *ONE_STEP, "run.rounds=2"),
    "personal_sparse_and_lost": small(
        "fedavg_lora",
        *ONE_STEP,
        "run.rounds=4",
        "run.checkpoint_every=2",
        "method.bottleneck.width=4",
        'method.sharing.shared=["bottleneck"]',
        "method.adapter_codec.kind=top_k",
        "method.link.kind=outage",
        "method.link.loss_probability=0.5",
        "method.link.lost=reuse",
        "run.samples=0",
    ),
    "private": small(
        "fedavg_lora",
        *ONE_STEP,
        "run.rounds=2",
        "run.samples=0",
        "method.privacy.noise_multiplier=0.5",
        "method.link.kind=outage",
        "method.link.loss_probability=0.3",
    ),
    "central": small("centralised_lora", *ONE_STEP, "run.rounds=2"),
    "gossip": small("gossip", *ONE_STEP, "run.rounds=2", "run.samples=0"),
    "hierarchical_blended": small(
        "stfl",
        *ONE_STEP,
        "run.rounds=4",
        "run.checkpoint_every=2",
        "run.samples=0",
        "method.exchange.kind=hierarchical",
        "method.exchange.edges=2",
    ),
    "aligned": small(
        "fedavg_lora",
        "run.rounds=1",
        "run.samples=1",
        *ALIGNED,
        "method.alignment.learning.prompts_per_step=2",
        "method.alignment.held_out_prompts=2",
    ),
}


class Killed(BaseException):
    """Stands in for the end of the process."""


class Reaper:
    """Counts the moments of a run, before, in and after everything that touches the disk or the model; dies at one."""

    def __init__(self, patch, moment):
        self.moment, self.dead = moment, False
        self.names = []  # of all moments so far
        for owner, name, torn in (
            (os, "replace", None),
            (shutil, "rmtree", None),
            (Path, "mkdir", None),
            (Path, "write_text", lambda path, text, **_: path.write_bytes(text.encode()[: len(text) // 2])),
            (RunFolder, "append_round", _append_half),
            (export, "save_file", lambda _tensors, path, **_: path.write_bytes(b"half")),
            (Cohort, "step", None),
            (Cohort, "evaluate", None),
            (Alignment, "step", None),
            (Alignment, "evaluate", None),
        ):
            patch.setattr(owner, name, self.watched(name, getattr(owner, name), torn))

    def watched(self, name, function, torn):
        def call(*arguments, **options):
            self.tick(f"before {name}")
            if torn is not None and len(self.names) == self.moment:
                torn(*arguments, **options)
            self.tick(f"in {name}")
            result = function(*arguments, **options)
            self.tick(f"after {name}")
            return result

        return call

    def tick(self, name):
        if self.dead or len(self.names) == self.moment:
            self.dead = True  # nothing may be written by what still unwinds
            raise Killed
        self.names.append(name)


def _append_half(folder, record, name="rounds.jsonl"):
    with (folder.path / name).open("a") as file:
        file.write(str(record)[:40])


def run_until_killed(recipe, out, moment):
    """Run, or continue if there is something to continue; True if it was killed. Also the names of its moments."""
    with pytest.MonkeyPatch.context() as patch:
        reaper = Reaper(patch, moment)
        try:
            train(recipe, out, resume=(out / "recipe.json").exists())
        except Killed:
            return True, reaper.names
        return False, reaper.names


@pytest.fixture(scope="module", params=KINDS)
def job(request, tmp_path_factory):
    """A recipe, its place among all, its uninterrupted run and the moments at which that could have been killed."""
    recipe, folder = KINDS[request.param], tmp_path_factory.mktemp(request.param) / "run"
    killed, moments = run_until_killed(recipe, folder, moment=None)
    assert not killed
    return recipe, list(KINDS).index(request.param), folder, moments


LIVES, KILLS = 2, 3  # of a recipe, and how often each may be killed, also while it continues


@pytest.mark.parametrize("life", range(LIVES))
def test_run_killed_at_random_moments_ends_as_if_never_killed(job, tmp_path, life):
    """Names of moments are taken in turn, over all recipes, so that none is left out."""
    recipe, place, uninterrupted, moments = job
    draw, out, names = random.Random(f"{recipe.name} {life}"), tmp_path / "run", sorted(set(moments))
    killed = True
    for kill in range(KILLS):
        name = names[(KILLS * (LIVES * place + life) + kill) % len(names)]
        killed, _ = run_until_killed(recipe, out, draw.choice([m for m, n in enumerate(moments) if n == name]))
        if not killed:
            break
    if killed:
        train(recipe, out, resume=(out / "recipe.json").exists())
    assert_same_run(out, uninterrupted)


def test_run_killed_while_its_first_files_are_written_ends_as_if_never_killed(tmp_path):
    recipe = replace(KINDS["split_int8"], run=replace(KINDS["split_int8"].run, rounds=1, samples=0))
    train(recipe, tmp_path / "whole")
    out = tmp_path / "run"
    for moment in range(0, 34, 4):
        killed, _ = run_until_killed(recipe, out, moment)
        assert killed
    train(recipe, out, resume=(out / "recipe.json").exists())
    assert_same_run(out, tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(job):
    recipe, _, folder, _ = job
    before = lasting(folder)
    train(recipe, folder, resume=True)
    assert lasting(folder) == before


def test_damaged_newest_checkpoint_costs_a_round_and_not_the_run(job, tmp_path):
    recipe, _, uninterrupted, _ = job
    out = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    newest = max((out / "checkpoints").iterdir())
    (newest / "state.safetensors").write_bytes(b"damaged")
    train(recipe, out, resume=True)
    assert_same_run(out, uninterrupted)


def test_checkpoint_of_another_recipe_is_refused(tmp_path):
    recipe = small("fedavg_lora", "run.rounds=1", "run.samples=0")
    train(recipe, tmp_path / "run")
    text = (tmp_path / "run" / "recipe.json").read_text()
    for name in ("plan.json", "inputs.json"):
        (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / "recipe.json").write_text(text.replace('"rank": 8', '"rank": 4'))
    with pytest.raises(RunFolderError, match="does not fit its recipe"):
        train(recipe, tmp_path / "run", resume=True)


def test_a_checkpoint_that_lacks_a_tensor_or_has_another_shape_or_type_is_refused(tmp_path):
    train(small("fedavg_lora", "run.rounds=1", "run.samples=0", "method.adapter_codec.kind=top_k"), tmp_path)
    (path,) = tmp_path.glob("checkpoints/*/state.safetensors")
    whole = load_file(path)
    moment = next(name for name in whole if name.startswith("optimiser.") and not name.endswith(".step"))
    held = next(name for name in whole if name.startswith("server.held."))
    left_out = next(name for name in whole if name.startswith("server.part.0|"))
    names = (moment, held, left_out)
    changes = [{name: torch.zeros(())} for name in (*names, "server.mixed_by_round")]
    changes += [{name: change} for name in (moment, held) for change in (None, whole[name].int())]
    others = {
        held: whole[held].double(),
        "server.weight.fed": torch.zeros(2),
        "server.mixed_by_round": torch.ones(3, 5),
    }
    for change in (*changes, *({name: t} for name, t in others.items())):
        kept = {name: tensor for name, tensor in {**whole, **change}.items() if tensor is not None}
        RunFolder(tmp_path).save_checkpoint(1, kept)
        with pytest.raises(RunFolderError, match="what was saved does not fit its recipe"):
            train(load(tmp_path / "recipe.json"), tmp_path, resume=True)


ROUNDS = 5


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_process_killed_by_sigkill_is_continued_by_another_to_the_same_bytes(tmp_path):
    out, own = tmp_path / "run", (*ONE_STEP, f"run.rounds={ROUNDS}")
    settings = [word for setting in (*SMALL, *own) for word in ("--set", setting)]
    train(small("sflllm", *own), tmp_path / "whole")
    draw = random.Random(5)
    rounds = draw.randint(1, 3)
    held.hold(out, ROUNDS - 1)
    process = forked.wavetune("run", "sflllm", *settings, "--out", out, *held.OPTION)
    while process.poll() is None and count_rounds(out) < rounds:
        time.sleep(0.005)
    time.sleep(draw.random() * 0.05)
    assert process.poll() is None, process.communicate()
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it ended before it could be killed: {errors}"
    assert not (out / "summary.json").exists()
    again = forked.wavetune("run", "--resume", "--out", out)
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert_same_run(out, tmp_path / "whole")
    assert len(read_rounds(out)) == ROUNDS
