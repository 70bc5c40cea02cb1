"""Orders and reports that Flower's messages carry end in the adapters, records and bits of the run in one process.

Here the SuperNodes are threads; messages cross as the bytes that Flower writes, and a device starts every round from
nothing but its folder. tests/end_to_end/test_flower.py starts the processes.
"""

import shutil
from pathlib import Path

import pytest

from helpers.deployment import NUM_DEVICES, run_deployed
from helpers.flower import LateGrid, ThreadGrid
from helpers.runs import Silent, read_rounds, small, train
from wavetune.data_plane.certificates import device_name
from wavetune.recipe import Recipe
from wavetune.runtimes.flower import coordinator
from wavetune.runtimes.flower.launch import free_ports
from wavetune.runtimes.flower.servers import FlowerSettings, flower_engine
from wavetune.runtimes.inprocess import run

CLIENTS = 2
CHANGES = {
    "sflllm": (),
    "fedavg_lora": (),
    "pwff": ("method.alignment=null", "world.data.max_tokens=224", "run.evaluate_every=1"),
}


class StopsAfterOne(Silent):
    """An observer that ends the run, as a dying ServerApp does, once a round is done and saved."""

    def round(self, record: object) -> None:
        raise KeyboardInterrupt


@pytest.fixture(scope="module", params=CHANGES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return small(request.param, f"world.scenario.population.num_clients={CLIENTS}", *CHANGES[request.param])


@pytest.fixture(scope="module")
def simulated(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "run"
    train(recipe, folder)
    return folder


def over_flower(
    recipe: Recipe,
    out: Path,
    observer: Silent,
    num_clients: int = CLIENTS,
    resume: bool = False,
    kind: type[ThreadGrid] = ThreadGrid,
) -> None:
    """A run with a grid of its own, so with nodes that Flower did not know before."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    settings = FlowerSettings.of({"out": str(out), "address": address, "public-address": address})
    grid = kind(out.with_name("states"), num_clients)
    run(recipe, out, observer, resume, flower_engine(grid, settings))


def adapters(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.rglob("adapter_model.safetensors")}


def assert_ends_alike(recipe: Recipe, out: Path, simulated: Path) -> None:
    """The same adapters to the bit, and the same records.

    Devices with the whole model have it in their folders: that of their client or, where all end with the same, that.
    """
    ours, kept, wanted = adapters(out), adapters(out.with_name("states")), adapters(simulated)
    if recipe.name == "pwff":
        assert ours | kept == wanted
    else:
        whole = ["client-00", "client-01"] if recipe.name == "fedavg_lora" else []
        assert ours == wanted
        assert kept == dict.fromkeys(whole, wanted["global"])
    for found, wanted in zip(read_rounds(out), read_rounds(simulated), strict=True):
        for name in ("planned", "charged", "metered_bits", "lost", "active_K"):
            assert found[name] == wanted[name], name
        for name in ("train_loss_K", "validation_loss"):
            assert found[name] == pytest.approx(wanted[name]), name
        sent = found["measured"]["payload_bytes"]
        assert {kind: 8 * count for kind, count in sent.items()} == wanted["metered_bits"]


def test_a_run_over_flower_ends_where_the_run_in_one_process_ends(recipe, simulated, tmp_path):
    over_flower(recipe, tmp_path / "run", Silent())
    assert_ends_alike(recipe, tmp_path / "run", simulated)


def test_nodes_that_send_an_answer_only_when_the_next_message_comes_are_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(coordinator, "_ASK_AGAIN_S", 0.5)
    recipe = small("fedavg_lora", f"world.scenario.population.num_clients={CLIENTS}", "run.rounds=2")
    over_flower(recipe, tmp_path / "run", Silent(), kind=LateGrid)
    assert [record["lost"] for record in read_rounds(tmp_path / "run")] == [[], []]


def test_servers_that_start_again_go_on_with_devices_that_have_nothing_but_their_folders(recipe, simulated, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        over_flower(recipe, tmp_path / "run", StopsAfterOne())
    over_flower(recipe, tmp_path / "run", Silent(), resume=True)
    assert_ends_alike(recipe, tmp_path / "run", simulated)


def test_devices_end_with_the_same_files_over_flower_as_over_streams(tmp_path):
    recipe = small("fedavg_lora", f"world.scenario.population.num_clients={NUM_DEVICES}", "run.rounds=1")
    over_flower(recipe, tmp_path / "run", Silent(), NUM_DEVICES)
    run_deployed(recipe, tmp_path / "streams", tmp_path / "certificates", Silent())
    for client in range(NUM_DEVICES):
        mine, theirs = tmp_path / "states" / str(client), tmp_path / "streams" / "devices" / device_name(client)
        assert files(mine).keys() == files(theirs).keys()
        assert files(mine) == files(theirs)


def files(folder: Path) -> dict[str, bytes]:
    """All that a device wrote, but for the state, which names the run, and its digest."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(("state-", "states."))}


def test_a_device_that_lost_its_folder_sits_a_round_out_and_is_given_the_adapters_in_the_next(tmp_path):
    class Burgles(Silent):
        def round(self, record):
            if record.round == 0:
                shutil.rmtree(tmp_path / "states" / "1")

    recipe = small("fedavg_lora", f"world.scenario.population.num_clients={CLIENTS}", "run.rounds=3")
    over_flower(recipe, tmp_path / "run", Burgles())
    first, second, third = read_rounds(tmp_path / "run")
    assert first["lost"] == third["lost"] == []
    assert [lost["client"] for lost in second["lost"]] == [1]
    assert "kept after round 1" in second["lost"][0]["why"]
    assert third["active_K"] == [True, True]
