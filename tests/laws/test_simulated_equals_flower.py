"""Orders and reports that Flower's messages carry end in the adapters, records and bits of the run in one process.

Here the SuperNodes are threads; messages cross as the bytes that Flower writes, and a device starts every round from
nothing but its folder. tests/end_to_end/test_flower.py starts the processes.
"""

from pathlib import Path

import pytest

from helpers.flower import ThreadGrid, free_port
from helpers.runs import Silent, read_rounds, small, train
from wavetune.recipe import Recipe
from wavetune.runtimes.flower.servers import FlowerSettings, flower_engine
from wavetune.runtimes.inprocess import run

CLIENTS = 2
METHODS = {
    name: small(name, f"world.scenario.population.num_clients={CLIENTS}", *changes)
    for name, changes in {"sflllm": (), "fedavg_lora": ()}.items()
}


def over_flower(recipe: Recipe, out: Path, grid: ThreadGrid, resume: bool = False, **changes: object) -> Silent:
    address, observer = f"127.0.0.1:{free_port()}", Silent()
    settings = {"out": str(out), "address": address, "public-address": address, **changes}
    run(recipe, out, observer, resume, flower_engine(grid, FlowerSettings.of(settings)))
    return observer


def adapters(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("adapters/*/adapter_model.safetensors")}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_over_flower_ends_where_the_run_in_one_process_ends(method, tmp_path):
    recipe = METHODS[method]
    train(recipe, tmp_path / "simulated")
    over_flower(recipe, tmp_path / "flower", ThreadGrid(tmp_path / "states", CLIENTS))
    assert adapters(tmp_path / "flower") == adapters(tmp_path / "simulated")
    mine, theirs = read_rounds(tmp_path / "flower"), read_rounds(tmp_path / "simulated")
    for found, wanted in zip(mine, theirs, strict=True):
        for name in ("train_loss_K", "validation_loss", "planned", "charged", "metered_bits", "lost", "active_K"):
            assert found[name] == pytest.approx(wanted[name]) if "loss" in name else found[name] == wanted[name], name
        sent = found["measured"]["payload_bytes"]
        assert {kind: 8 * count for kind, count in sent.items()} == wanted["metered_bits"]
