"""The three first jobs of examples/ do what they say, and stay short."""

from pathlib import Path

import pytest

import wavetune as wt
from wavetune.foreign import imported

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
JOBS = ("tune_your_rows", "plan_your_cell", "from_one_process_to_devices")


def job(name):
    return imported(f"{EXAMPLES / name}.py:main", "the example", "function")


@pytest.mark.parametrize("name", JOBS)
def test_a_first_job_is_under_thirty_lines(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 30


def test_rows_of_ones_own_are_tuned_and_answered(tmp_path, capsys):
    run = job("tune_your_rows")(str(tmp_path / "run"))
    assert run.status == "finished"
    assert "round 1 loss" in capsys.readouterr().out


def test_a_cell_is_planned_and_swept(tmp_path, capsys, monkeypatch):
    """The sweep is that of the example, with a seed and a few of its values and subchannels."""

    def swept_shortly(cell, over, *, seeds, **given):
        assert seeds > 1
        shorter = cell.with_settings("world.scenario.bands.main.num_subchannels=8")
        return sweep(shorter, {field: values[:2] for field, values in over.items()}, seeds=1, **given)

    sweep = wt.sweep
    monkeypatch.setattr(wt, "sweep", swept_shortly)
    swept = job("plan_your_cell")(str(tmp_path))
    assert swept.feasible
    assert "no plan is below" in capsys.readouterr().out


def test_one_process_and_devices_end_with_the_same_adapters(tmp_path, capsys):
    here, there = job("from_one_process_to_devices")(str(tmp_path), devices=2)
    told = capsys.readouterr().out
    assert float(told.split("largest difference: ")[1].split()[0]) < 1e-4
    assert (here.status, there.status) == ("finished", "finished")
