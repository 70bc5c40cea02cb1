"""Cuts, ranks, memory and shares of the server that differ between clients, from the command line to the report."""

import json

import numpy as np
import pytest

from helpers.command_line import settings, wavetune
from helpers.runs import read_json, read_rounds
from wavetune.allocation import describe
from wavetune.records.reading import read_run
from wavetune.reporting.accounts import CHANGING, critical_s, pipelines

SLOW_SERVER = (
    "world.data.max_tokens=96",
    "method.lora.rank=1",
    "world.scenario.server.flop_per_s=1e10",
    "world.scenario.population.clock_hz=[1e6,3e7]",
    "world.scenario.bands.main.subchannel_hz=5e6",
)
DIFFERENT = (*SLOW_SERVER, "method.planner.cut_per_client=true", "method.server_shares=optimal")


def options(*changes):
    return [part for change in changes for part in ("--set", change)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("differ") / "run"
    answer = wavetune("run", "sflllm", *settings(), *options(*DIFFERENT, "method.price_downlink=true"), "--out", folder)
    assert answer.code == 0, answer.err
    return folder


def planned(tmp_path, *changes):
    answer = wavetune("plan", "sflllm", *settings(), *options(*changes), "--json", tmp_path / "plan.json")
    return answer, json.loads((tmp_path / "plan.json").read_text())


def test_plans_name_each_clients_cut_and_share_and_are_faster_than_common_ones(tmp_path):
    _, common = planned(tmp_path, *SLOW_SERVER)
    _, cuts = planned(tmp_path, *SLOW_SERVER, "method.planner.cut_per_client=true")
    answer, both = planned(tmp_path, *DIFFERENT)
    assert len(set(both["cut"])) > 1
    assert np.sum(both["server_share"]) == pytest.approx(1.0)
    assert "server_share" not in cuts
    assert both["delay_s"] < cuts["delay_s"] < common["delay_s"]
    assert both["lower_bound_s"] > 0.9 * both["delay_s"]
    header = next(line for line in answer.out.splitlines() if "client" in line)
    assert "share" in header
    assert "cut" in header


def test_a_run_trains_with_them_and_its_records_and_report_agree(folder):
    plan, rounds = read_json(folder / "plan.json"), read_rounds(folder)
    for record, read in zip(rounds, read_run(folder).rounds, strict=True):
        assert record["cut_K"] == plan["cut"]
        assert record["planned"] == record["charged"]
        assert len(record["charged"]["step"]["server_forward_s"]) == 3
        assert len(pipelines(read.charged.step)) == 3
        parts = critical_s(read.charged)
        assert sum(parts.values()) == pytest.approx(record["charged"]["delay_s"], rel=1e-6)
        assert parts[CHANGING] < record["charged"]["delay_s"]
    assert 'class="fill phase-server_forward_s"' in (folder / "report.html").read_text()


def test_a_run_does_not_end_with_long_searches_for_what_more_of_each_resource_would_save(tmp_path, monkeypatch):
    """Where clients may differ, also in a plan in which they do not."""
    searched = []
    monkeypatch.setattr(describe, "sensitivities", lambda *problem, **_: searched.append(problem) or [])
    for name, of_each in (("common", ()), ("of-each", ("method.planner.cut_per_client=true",))):
        answer = wavetune("run", "sflllm", *settings("run.rounds=1"), *options(*of_each), "--out", tmp_path / name)
        assert answer.code == 0, answer.err
        assert np.ptp(read_json(tmp_path / name / "plan.json")["cut"]) == 0
        assert len(searched) == 1


def test_each_clients_memory_is_kept_and_who_lacks_it_is_named(tmp_path):
    free, _ = planned(tmp_path, *SLOW_SERVER, "method.planner.cut_per_client=true")
    assert free.code == 0
    _, plan = planned(
        tmp_path,
        *SLOW_SERVER,
        "method.planner.cut_per_client=true",
        "world.scenario.population.memory_bytes=[1e9,2.5e6,1e9]",
    )
    assert plan["cut"][1] < plan["cut"][2]
    answer = wavetune("plan", "sflllm", *settings(), *options("world.scenario.population.memory_bytes=[1e9,1e9,1000]"))
    assert answer.code == 3
    assert "memory: client 2 has 1000 bytes" in answer.err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("world.scenario.population.memory_bytes=[1e9,1e9]", "2 values for 3 clients"),
        ("method.topology.kind=federated", "method.server_shares"),
        ("method.planner.rank_slack=-1", "method.planner.rank_slack"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(change, sentence):
    answer = wavetune("plan", "sflllm", *settings(), *options("method.server_shares=optimal", change))
    assert answer.code == 2
    assert sentence in answer.err
