"""Runs and sweeps on a trace: charged by its gains, continued with no other, and what old knowledge of it costs."""

import csv
import json

import numpy as np
import pytest

from helpers.command_line import wavetune
from helpers.runs import read_json, read_rounds, small, train
from wavetune.errors import ConfigError, DataError, RunFolderError
from wavetune.records.reading import read_run
from wavetune.reporting.story import lead

BANDS = [f"world.scenario.bands.{band}.num_subchannels=6" for band in ("main", "fed")]


@pytest.fixture
def trace(tmp_path):
    """Gains of three clients in four rounds, of which client 1 has no link in the second."""
    gains = 10 ** -np.random.default_rng(1).uniform(7, 9, (4, 3, 6))
    gains[1, 1] = 0
    np.savez(tmp_path / "gains.npz", gain=gains)
    return tmp_path / "gains.npz"


def on(trace, *settings):
    channel = ["world.scenario.channel.kind=trace", f"world.scenario.channel.file={trace}", *BANDS]
    rows = "world.data.max_tokens=96"  # long enough for the links to matter
    return small("sflllm", *channel, rows, "run.local_steps=1", *settings)


def test_a_run_on_a_trace_is_charged_by_it_and_not_continued_with_another(trace, tmp_path):
    recipe = on(trace, "run.rounds=3")
    train(recipe, tmp_path / "run")
    rounds = read_rounds(tmp_path / "run")
    assert [one["active_K"] for one in rounds] == [[True] * 3, [True, False, True], [True] * 3]
    assert all(one["planned"]["delay_s"] == one["charged"]["delay_s"] for one in rounds)
    assert len({one["charged"]["delay_s"] for one in rounds}) == 3
    assert "informed_s" not in rounds[0]
    assert list(read_json(tmp_path / "run" / "inputs.json")["channel"]) == [str(trace)]
    np.savez(trace, gain=np.load(trace)["gain"] / 2)
    with pytest.raises(RunFolderError, match=r"the channel in .*gains\.npz has changed since the run in .* began"):
        train(recipe, tmp_path / "run", resume=True)
    trace.unlink()
    with pytest.raises(DataError, match="there is no such file"):
        train(recipe, tmp_path / "run", resume=True)


def test_a_run_that_is_longer_than_its_trace_is_refused_before_it_begins(trace, tmp_path):
    with pytest.raises(ConfigError, match=r"ends after 4 rounds and the run has 5; set .*after_end=repeat or hold, or"):
        train(on(trace, "run.rounds=5"), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_the_report_says_what_old_knowledge_cost(trace, tmp_path):
    old = "world.scenario.knowledge.age_rounds=1"
    train(on(trace, "run.rounds=3", old), tmp_path / "run")
    rounds = read_rounds(tmp_path / "run")
    charged_s, informed_s = (np.array(x) for x in zip(*((r["charged"]["delay_s"], r["informed_s"]) for r in rounds),
                                                      strict=True))  # fmt: skip
    assert charged_s[0] == informed_s[0]  # nothing is older than the first round
    assert (charged_s >= informed_s * (1 - 1e-6)).all()
    assert charged_s.sum() > 1.05 * informed_s.sum()
    assert rounds[2]["planned"]["delay_s"] != rounds[2]["charged"]["delay_s"]
    less = 100 * (1 - informed_s.sum() / charged_s.sum())
    said = next(sentence for sentence in lead(read_run(tmp_path / "run")) if "old or estimated gains" in sentence)
    assert f"({less:.1f} % less)" in said


def test_a_sweep_plans_on_a_trace_and_goes_on_with_the_same_alone(trace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "mine.json"
    recipe.write_text(json.dumps(on(trace).to_dict()))
    words = ["sweep", recipe, "--over", "tx_power_max_dbm=20,30", "--seeds", "1", "--jobs", "1", "--methods", "greedy",
             "--out", "out"]  # fmt: skip
    assert wavetune(*words).code == 0
    with (tmp_path / "out" / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    np.savez(trace, gain=np.load(trace)["gain"] / 2)
    answer = wavetune(*words)
    assert answer.code == 2
    assert "another channel" in answer.err


def test_whom_a_trace_does_not_reach_sits_out_in_a_sweep_and_a_curve_as_in_a_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gains = 10 ** -np.random.default_rng(1).uniform(7, 9, (2, 3, 6))
    gains[0, 1] = 0
    np.savez("gains.npz", gain=gains)
    recipe = on("gains.npz", "run.rounds=1")
    (tmp_path / "mine.json").write_text(json.dumps(recipe.to_dict()))
    assert wavetune("plan", "mine.json", "--json", "plan.json").code == 0
    planned_s = read_json(tmp_path / "plan.json")["delay_s"]
    fields = ("--over", "world.scenario.knowledge.age_rounds=0,1", "--seeds", "1", "--jobs", "1", "--out", "out")
    swept = wavetune("sweep", "mine.json", *fields, "--methods", "proposed,greedy,bound")
    assert swept.code == 0, swept.err
    assert "Clients whom the channel does not reach sit out, in a cell up to 1." in swept.out
    cells = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [cell["sit_out"] for cell in cells] == [1] * 4
    assert cells[0]["delay_s"] == planned_s
    curve = wavetune("trade-off", "mine.json", "--points", "2", "--out", "curve")
    assert curve.code == 0, curve.err
    assert "1 of the clients, whom the channel does not reach, sit out" in curve.out
    assert read_json(tmp_path / "curve" / "trade-off.json")["points"][0]["delay_s"] == pytest.approx(
        planned_s, rel=1e-6
    )
