"""What is advised after a run is accepted as it stands."""

import shlex
from itertools import pairwise

import pytest

from helpers.runs import small, train
from wavetune import recipes
from wavetune.recipe import load, save, with_settings
from wavetune.reporting.next_steps import next_steps

BESIDE = [n for n in recipes.names() if recipes.get(n).method.alignment is None and not n.startswith("pwff")]
SUMMARY = {"personal": False, "plan": {"rank_K": [1, 4, 2]}, "local_steps": 3}
PARTICULAR = {
    "rank": "method.lora.rank=[1,4,2]",
    "codec": "method.adapter_codec.kind=int8",
    "sparse": "method.adapter_codec.kind=top_k",
    "outage": "method.link.kind=outage",
    "median": "method.mixing.kind=median",
    "screening": "method.screening.max_norm_ratio=3",
    "replan": "method.replan=never",
    "downlink": "method.price_downlink=true",
    "layers": "method.sharing.shared_layers=1",
    "privacy": "method.privacy.noise_multiplier=1",
    "fastest": "method.selection.kind=fastest",
    "planner": "method.planner.kind=all_random",
    "proximal": "method.proximal=0.5",
}


def advised(recipe, folder):
    """The recipe of the run that is advised beside this one."""
    folder.mkdir()
    save(recipe, folder / "recipe.json")
    lines = next_steps(folder, SUMMARY, comparable=False)
    words = shlex.split(next(line for line in lines if "wavetune run" in line))
    settings = [word for option, word in pairwise(words) if option == "--set"]
    return with_settings(load(folder / "recipe.json"), settings)


@pytest.mark.parametrize("particular", PARTICULAR)
def test_one_trainer_is_advised_without_what_only_clients_have(particular, tmp_path):
    own = small("fedavg_lora", "method.optimiser.learning_rate=0.02", PARTICULAR[particular])
    beside = advised(own, tmp_path / "run")
    beside.method.check(3, 4, 96)
    assert beside.method.topology.kind == "central"
    assert beside.method.optimiser == own.method.optimiser
    assert beside.method.lora.rank == (4 if particular == "rank" else own.method.lora.rank)
    assert (beside.world, beside.run) == (own.world, own.run)


def test_a_rate_of_the_server_is_all_that_a_split_optimiser_loses(tmp_path):
    own = small("sflllm", "method.optimiser.server_learning_rate=0.5", "method.optimiser.learning_rate=0.02")
    optimiser = advised(own, tmp_path / "run").method.optimiser
    assert (optimiser.learning_rate, optimiser.server_learning_rate) == (0.02, None)


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_advised_beside_a_built_in_recipe_runs(name, tmp_path):
    steps = min(1, recipes.get(name).run.local_steps)  # some leave them to their planner
    own = small(name, "run.rounds=1", f"run.local_steps={steps}")
    assert train(advised(own, tmp_path / "run"), tmp_path / "beside")["rounds"] == 1
