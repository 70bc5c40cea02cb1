"""The worlds of examples/worlds: cut and rank are between the ends of what is allowed and move as the files say."""

from functools import cache
from pathlib import Path

import pytest

from wavetune import plan, recipe
from wavetune.api.recipe import as_recipe

WORLDS = Path(__file__).parents[2] / "examples" / "worlds"
SCENARIO = "world.scenario."


@cache
def chosen(world, *settings, seed=0):
    """Cut, rank and proved gap of a world's plan."""
    found = plan(recipe(WORLDS / f"{world}.yaml", *settings, seed=seed))
    return int(found.plan.cut_K[0]), int(found.plan.rank_K[0]), found.plan.gap


def test_these_are_the_worlds():
    assert sorted(path.stem for path in WORLDS.glob("*.yaml")) == ["loaded_server", "mixed_devices", "private_blocks"]


@pytest.mark.parametrize(
    ("world", "seed"),
    [("loaded_server", 0), ("loaded_server", 1), ("private_blocks", 0), ("mixed_devices", 0), ("mixed_devices", 3)],
)
def test_cut_and_rank_are_between_the_ends(world, seed):
    cut, rank, gap = chosen(world, seed=seed)
    table = as_recipe(WORLDS / f"{world}.yaml").method.rounds_to_target
    assert 1 < cut < 29  # blocks of the recipe's model
    assert min(table) < rank < max(table)
    assert gap < 0.05


def test_room_and_a_faster_server_move_the_cut_of_a_loaded_server():
    cut, rank, _ = chosen("loaded_server")
    assert chosen("loaded_server", f"{SCENARIO}population.memory_bytes=6e8")[0] > cut
    assert chosen("loaded_server", f"{SCENARIO}server.flop_per_s=1.6e14")[0] == 1
    narrow = chosen("loaded_server", f"{SCENARIO}bands.fed.subchannel_hz=5e5")
    assert narrow[0] < cut or narrow[1] < rank


def test_the_floor_moves_the_cut_of_private_blocks_and_the_band_of_the_adapters_their_rank():
    cut, rank, _ = chosen("private_blocks")
    deeper = chosen("private_blocks", "method.topology.least_cut=8")
    assert cut == 6
    assert deeper[0] == 8
    assert deeper[1] < rank < chosen("private_blocks", f"{SCENARIO}bands.fed.subchannel_hz=1e6")[1]


def test_a_slower_server_moves_the_cut_of_mixed_devices():
    cut, _, _ = chosen("mixed_devices")
    assert chosen("mixed_devices", f"{SCENARIO}server.flop_per_s=2e13")[0] < cut
