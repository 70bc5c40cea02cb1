"""The golden runs: a checkout equals itself to the last bit, and what differs is found."""

import json

import golden_runs
import pytest

from helpers.runs import small


@pytest.fixture
def folder(tmp_path):
    """A run as the comparison reads it."""
    record = {"round": 0, "train_loss": 1.0, "wall_s": 2.0, "lost": [{"client": 1}]}
    (tmp_path / "adapters" / "global").mkdir(parents=True)
    (tmp_path / "adapters" / "global" / "adapter_model.safetensors").write_bytes(b"one")
    (tmp_path / "rounds.jsonl").write_text(json.dumps(record) + "\n")
    return tmp_path


def test_two_checkouts_of_one_commit_run_the_same_to_the_last_bit(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # for a few clients, compiling the checkout's kernels takes longest
    found = golden_runs.compare("HEAD", ["central", "deployed_uncut_sparse"], tmp_path)
    assert found == {"central": "", "deployed_uncut_sparse": ""}
    assert capsys.readouterr().out.count("same") == 2
    assert not (tmp_path / "checkout").exists()


def test_one_digit_of_a_record_or_byte_of_an_adapter_is_a_difference_and_a_clock_is_none(folder):
    before = golden_runs.contents(folder)
    rounds, adapter = folder / "rounds.jsonl", folder / "adapters" / "global" / "adapter_model.safetensors"
    rounds.write_text(rounds.read_text().replace('"wall_s": 2.0', '"wall_s": 3.0'))
    assert golden_runs.difference(before, golden_runs.contents(folder)) == ""
    rounds.write_text(rounds.read_text().replace('"client": 1', '"client": 2'))
    found = golden_runs.difference(before, golden_runs.contents(folder))
    assert found == "rounds.jsonl[0].lost[0].client was 1 and is 2"
    adapter.write_bytes(b"two")
    assert "adapter_model.safetensors differs" in golden_runs.difference(before, golden_runs.contents(folder))


def test_a_file_or_field_that_is_only_on_one_side_is_a_difference(folder):
    before = golden_runs.contents(folder)
    (folder / "adapters" / "global" / "adapter_model.safetensors").unlink()
    found = golden_runs.difference(before, golden_runs.contents(folder))
    assert found.endswith("adapter_model.safetensors is only before")


@pytest.mark.parametrize("name", [n for n, (_, _, settings) in golden_runs.GOLDEN.items() if "ALIGNED" not in settings])
def test_every_golden_recipe_fits_its_clients(name):
    kind, _, settings = golden_runs.GOLDEN[name]
    recipe = small(kind, *settings)
    recipe.method.check(recipe.world.scenario.population.num_clients, 4, 16)
