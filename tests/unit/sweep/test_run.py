import json
import multiprocessing

import pytest

from helpers.sweeps import SUBCHANNELS, sweep_of, without_times
from wavetune.errors import ConfigError, RunFolderError
from wavetune.sweep.methods import METHODS
from wavetune.sweep.run import run


@pytest.fixture(autouse=True)
def no_models(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


def silent(*_):
    pass


SWEEP = sweep_of("bandwidth_hz=5e6,10e6", 2, "proposed,greedy,random-rank,bound")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAVETUNE_CACHE", str(folder / "cache"))
        return run(SWEEP, folder / "sweep", 1, silent)


def test_every_cell_is_planned_in_the_order_of_seeds_values_and_methods(whole):
    assert [(r["seed"], r["value"], r["method"]) for r in whole] == [
        (seed, value, name)
        for seed in (0, 1)
        for value in (5e6, 10e6)
        for name in ("proposed", "greedy", "random-rank")
    ]
    for r in whole:
        assert r["delay_s"] > 0
        assert r["wall_s"] > 0
        assert "estimated at 4 characters a token" in r["samples"]


def test_all_methods_plan_the_same_world_at_a_seed(whole):
    for i in range(0, len(whole), 3):
        proposed, *others = whole[i : i + 3]
        assert all(other["delay_s"] >= proposed["lower_bound_s"] > 0 for other in others)


def test_processes_find_what_one_process_finds(whole, tmp_path):
    told = []
    found = run(SWEEP, tmp_path / "sweep", 2, lambda *progress: told.append(progress))
    assert without_times(found) == without_times(whole)
    assert told[:2] == [("data sets", 1, 2), ("data sets", 2, 2)]
    assert told[2:] == [("cells", done, 12) for done in range(1, 13)]
    lines = (tmp_path / "sweep" / "results.jsonl").read_text().splitlines()
    assert sorted(lines) == sorted(json.dumps(r) for r in found)


def test_process_that_is_killed_ends_the_sweep_in_a_sentence(tmp_path):
    def kill_one(*_):
        multiprocessing.active_children()[0].kill()

    with pytest.raises(RunFolderError, match="one of its processes was killed"):
        run(SWEEP, tmp_path / "sweep", 2, kill_one)
    assert multiprocessing.active_children() == []


def test_stopped_sweep_goes_on_where_it_was_to_the_same_end(whole, tmp_path):
    def stop(what, done, total):
        if (what, done) == ("cells", 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SWEEP, tmp_path / "sweep", 1, stop)
    kept = (tmp_path / "sweep" / "results.jsonl").read_text()
    assert len(kept.splitlines()) == 5
    told = []
    found = run(SWEEP, tmp_path / "sweep", 1, lambda *progress: told.append(progress))
    assert without_times(found) == without_times(whole)
    assert (tmp_path / "sweep" / "results.jsonl").read_text().startswith(kept)
    assert told[:3] == [("data sets", 1, 2), ("data sets", 2, 2), ("cells", 6, 12)]
    assert run(SWEEP, tmp_path / "sweep", 1, None) == found  # nothing is left to do or to tell


def test_more_values_seeds_and_methods_add_to_what_is_there(whole, tmp_path):
    few = run(sweep_of("bandwidth_hz=5e6", 1, "greedy"), tmp_path / "sweep", 1, silent)
    assert without_times(few) == [r for r in without_times(whole) if r in without_times(few)]
    more = run(SWEEP, tmp_path / "sweep", 1, silent)
    assert few[0] in more
    assert without_times(more) == without_times(whole)


def test_cells_without_a_plan_are_records_with_a_reason(tmp_path):
    found = run(sweep_of("num_clients=3,5", 1, None, f"{SUBCHANNELS}=4"), tmp_path, 1, silent)
    none = [r for r in found if r["status"] == "infeasible"]
    split = {*METHODS} - {"fedavg-lora"}  # which sends nothing over the main band
    assert {(r["value"], r["method"]) for r in none} == {(5, name) for name in split}
    assert all(r["delay_s"] is r["lower_bound_s"] is None for r in none)
    assert all("4 subchannels for 5 clients" in r["reason"] for r in none)


def test_samples_counted_otherwise_do_not_go_into_one_sweep(tmp_path):
    sweep = sweep_of("bandwidth_hz=5e6", 1, "all-random")
    run(sweep, tmp_path, 1, silent)
    path = tmp_path / "results.jsonl"
    path.write_text(path.read_text().replace("estimated at 4", "estimated at 3"))
    with pytest.raises(RunFolderError, match=r"estimated at 3 .* now they are estimated at 4 .* another --out"):
        run(sweep_of("bandwidth_hz=5e6", 2, "all-random"), tmp_path, 1, silent)


def test_value_that_does_not_suit_the_model_is_refused_before_anything_is_planned(tmp_path):
    with pytest.raises(ConfigError, match=r"method.topology.cut is 77"):
        run(sweep_of("method.topology.cut=3,77", 1, None, "method.topology.cuts=null"), tmp_path, 1, silent)
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["method.topology.kind=central"], "nothing: there is no plan"),
        (["method.topology.cut=[1,2,1]"], "one cut and one rank"),
        (["method.lora.rank=[1,2,4]"], "one cut and one rank"),
        (["method.planner.energy_budget_j=5"], "compares delays alone"),
        (["method.selection.kind=fastest"], "all clients together"),
    ],
)
def test_recipe_that_has_nothing_to_sweep_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        sweep_of("num_clients=3", 1, None, *(["method.topology.cuts=null"] * ("cut=" in settings[0])), *settings)


def test_every_value_is_checked_before_anything_is_planned():
    with pytest.raises(ConfigError, match="compares delays alone"):
        sweep_of("method.planner.energy_weight_s_per_j=0,0.5")


@pytest.mark.parametrize("seeds", [0, 10_001])
def test_seeds_that_cannot_be_counted_through_are_refused(seeds):
    with pytest.raises(ConfigError, match=f"--seeds is {seeds} but must be from 1 to 10,000"):
        sweep_of("num_clients=3", seeds)
