"""A run whose clients are spread over workers is the run of one process, file by file where passes are the same."""

from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from helpers.runs import ALIGNED, ANSWERING, EMBEDDED, EXACT, assert_same_run, read_json, read_rounds, small, train
from helpers.workers import Here, train_in_workers, workers_here
from wavetune.data.examples import Example
from wavetune.errors import ConfigError
from wavetune.recipe import with_settings
from wavetune.runtimes.alignment.task import rewards_of
from wavetune.runtimes.session import build
from wavetune.runtimes.sliced import slices_of

ALONE = (
    "run.tokens_per_pass=1",  # every client is a pass of its own
    "run.evaluate_every=1",
    "run.samples=0",
    "world.data.validation_samples=2",
)
PWFF = ("method.alignment=null", "world.data.max_tokens=128", "method.bottleneck.width=4", "method.lora.rank=2")
MIXED = ("method.topology.cut=[1,3,2]", "method.lora.rank=[2,4,1]")
RECIPES = {
    "sflllm": ("sflllm",),
    "mixed_cuts_and_ranks_near_an_anchor": ("sflllm", *MIXED, "method.proximal=0.1"),
    "u_shape_int8": (
        "sflllm",
        "method.topology.labels=client",
        "method.activation_codec.kind=int8",
        "run.precision=int8",
    ),
    "fedavg_lora_by_product": ("fedavg_lora", "method.mixing.kind=average_product"),
    "sequential_frozen_a": ("split_lora_sequential", "method.mixing.kind=frozen_a"),
    "sequential_kinds_in_turn": (
        "split_lora_sequential",
        "method.bottleneck.width=4",
        'method.turns=[["lora"],["bottleneck"]]',
    ),
    "one_factor_kept": ("fedavg_lora", "method.sharing.factors=B"),
    "pwff_first_stage": ("pwff", *PWFF),
    "aligned": ("pwff", *ANSWERING),
    "aligned_in_bf16": ("pwff", *ANSWERING, "run.precision=bf16", "method.alignment.learning.steps=1"),
    "two_chosen_of_three": ("fedavg_lora", "method.selection.kind=fastest", "method.selection.count=2"),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """By the name of a recipe: the recipe, and its run in one process, which is made once."""

    @cache
    def made(name):
        recipe, folder = small(*RECIPES[name], *ALONE), tmp_path_factory.mktemp("alone") / "one"
        train(recipe, folder)
        return recipe, folder

    return made


def newest_state(folder):
    return load_file(max((folder / "checkpoints").iterdir()) / "state.safetensors")


@pytest.mark.parametrize("name", RECIPES)
def test_runs_in_two_workers_and_in_one_process_leave_the_same_files(name, alone, tmp_path):
    recipe, one = alone(name)
    train_in_workers(recipe, tmp_path / "two", workers_here(2))
    assert_same_run(tmp_path / "two", one)


def test_passes_put_together_otherwise_change_nothing_but_rounding(tmp_path):
    cut = ("method.activation_codec.kind=fp64", "method.gradient_codec.kind=fp64")
    recipe = small("sflllm", *EXACT, *cut, "run.samples=0")
    train(recipe, tmp_path / "one")
    train_in_workers(recipe, tmp_path / "three", workers_here(3))
    one, three = newest_state(tmp_path / "one"), newest_state(tmp_path / "three")
    assert one.keys() == three.keys()
    for name, value in one.items():
        torch.testing.assert_close(three[name], value, rtol=0, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")
    for mine, theirs in zip(read_rounds(tmp_path / "three"), read_rounds(tmp_path / "one"), strict=True):
        assert mine["metered_bits"] == theirs["metered_bits"]
        assert mine["charged"] == theirs["charged"]
        assert mine["train_loss_K"] == pytest.approx(theirs["train_loss_K"], abs=1e-10)


@pytest.mark.parametrize("moment", [2, 4, 5])
def test_round_of_a_worker_that_was_started_again_is_computed_again(moment, alone, tmp_path):
    (recipe, one), asked = alone("mixed_cuts_and_ranks_near_an_anchor"), list[str]()

    def start_again(fleet: Here, method: str) -> None:
        asked.append(method)
        if len([name for name in asked if name != "evaluate"]) == moment:
            fleet.workers[1] = fleet.fresh(1)

    observer = train_in_workers(recipe, tmp_path / "two", workers_here(2, start_again))
    assert asked.count("load") == (3 if moment != 5 else 2)  # the fifth request is itself a load
    assert ("a worker was started again; round 1 is computed again" in observer.messages) == (moment != 5)
    assert_same_run(tmp_path / "two", one)


def test_run_stopped_in_workers_goes_on_in_one_process_to_the_same_files(alone, tmp_path):
    (recipe, one), steps = alone("sflllm"), list[str]()

    def stop_in_the_second_round(_fleet: Here, method: str) -> None:
        steps.extend([method] * (method == "step"))
        if len(steps) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_in_workers(recipe, tmp_path / "two", workers_here(2, stop_in_the_second_round))
    assert len(read_rounds(tmp_path / "two")) == 1
    train(recipe, tmp_path / "two", resume=True)
    assert_same_run(tmp_path / "two", one)


ALIGNING = small(
    "pwff",
    *ALIGNED,
    *EXACT,
    "run.rounds=1",
    "run.local_steps=1",
    "method.alignment.learning.prompts_per_step=2",
    "method.alignment.held_out_prompts=2",
    "method.alignment.evaluate_every=1",
)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A run in one process whose clients are aligned."""
    folder = tmp_path_factory.mktemp("aligned") / "one"
    train(ALIGNING, folder)
    return folder


def assert_same_alignment(run, one):
    """Answers to the letter, numbers to the rounding of passes that are put together otherwise."""
    for name in ("alignment_before.json", "alignment_after.json"):
        mine, theirs = read_json(run / name), read_json(one / name)
        for side in ("own", "foreign"):
            assert [own["answers"] for own in mine[side]] == [own["answers"] for own in theirs[side]]
    for mine, theirs in zip(*(read_rounds(folder, "alignment.jsonl") for folder in (run, one)), strict=True):
        assert mine["charged"] == theirs["charged"]
        for name, values_K in {**theirs, **theirs["evaluation"]}.items():
            if isinstance(values_K, list):
                assert {**mine, **mine["evaluation"]}[name] == pytest.approx(values_K, abs=1e-9), name
    states = [newest_state(folder) for folder in (run, one)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[1].items():
        torch.testing.assert_close(states[0][name], value, rtol=0, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")
    files = sorted(path.relative_to(one) for path in (one / "adapters").rglob("*.safetensors"))
    assert files == sorted(path.relative_to(run) for path in (run / "adapters").rglob("*.safetensors"))
    for file in files:
        own = load_file(run / file)
        for name, value in load_file(one / file).items():
            torch.testing.assert_close(own[name], value, rtol=0, atol=1e-6, msg=lambda text, f=file: f"{f}: {text}")


def test_clients_aligned_in_two_workers_of_which_one_is_started_again_are_those_of_one_process(aligned, tmp_path):
    asked = list[str]()

    def start_again(fleet: Here, method: str) -> None:
        asked.append(method)
        if method == "align" and asked.count("align") == 2:
            fleet.workers[0] = fleet.fresh(0)

    train_in_workers(ALIGNING, tmp_path / "two", workers_here(2, start_again))
    assert asked.count("align") == 3  # before the first step, and after each
    assert_same_alignment(tmp_path / "two", aligned)


def test_alignment_stopped_in_workers_goes_on_in_one_process(aligned, tmp_path):
    def stop_after_a_step(fleet: Here, method: str) -> None:
        asked.append(method)
        if asked.count("align") == 3:
            raise KeyboardInterrupt

    asked = list[str]()
    with pytest.raises(KeyboardInterrupt):
        train_in_workers(ALIGNING, tmp_path / "run", workers_here(2, stop_after_a_step))
    assert len(read_rounds(tmp_path / "run", "alignment.jsonl")) == 1
    train(ALIGNING, tmp_path / "run", resume=True)
    assert_same_alignment(tmp_path / "run", aligned)


def test_workers_score_by_the_reward_model_that_the_run_trained(tmp_path):
    only_judged = ("method.alignment.learning.steps=0", "method.alignment.safe.kind=embedded")
    recipe = with_settings(ALIGNING, [*only_judged, "method.alignment.safe.preference=harmless", *EMBEDDED])
    train_in_workers(recipe, tmp_path / "run", workers_here(2))
    rewards = rewards_of(recipe, tmp_path / "run" / "rewards", torch.device("cpu"), pytest.fail)
    for own in read_json(tmp_path / "run" / "alignment_before.json")["own"]:
        asked = [Example(prompt, "") for prompt in own["prompts"]]
        assert own["scores"]["safe"] == pytest.approx(rewards.safe(asked, own["answers"]), abs=1e-6)


def test_more_workers_than_clients_are_refused():
    session = build(small("sflllm"))
    assert [len(clients) for clients in slices_of(session, 3)] == [1, 1, 1]
    with pytest.raises(ConfigError, match="4 workers but 3 clients"):
        slices_of(session, 4)
