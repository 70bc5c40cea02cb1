"""Devices that align themselves end as the clients of a run in one process, and tell the servers scores alone.

The deployed run is interrupted after its second step of alignment, of which its servers have no checkpoint: they go on
from the last round, with new devices that have nothing but their folders and are two steps ahead.
"""

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers.deployment import NUM_DEVICES, run_deployed
from helpers.flower import ThreadGrid
from helpers.leaving import anywhere, assert_same, eight_bytes, interrupted_and_whole, occur
from helpers.runs import ALIGNED, EXACT, Silent, read_json, read_rounds, small
from wavetune.errors import DeploymentError, NumericsError
from wavetune.reporting.farewell import last_lines
from wavetune.reporting.html import write_report
from wavetune.runtimes.alignment.device import OwnAlignment
from wavetune.runtimes.alignment.devices import OnDevices
from wavetune.runtimes.device import Agent
from wavetune.runtimes.flower.launch import free_ports
from wavetune.runtimes.flower.servers import FlowerSettings, flower_engine
from wavetune.runtimes.inprocess import run

STEPS, LOST = 3, 1
RECIPE = small(
    "pwff",
    *ALIGNED,
    *EXACT,
    f"method.alignment.learning.steps={STEPS}",
    "method.alignment.learning.max_prompt_tokens=80",
    "method.alignment.learning.max_new_tokens=8",
    "method.alignment.learning.prompts_per_step=2",
    "method.alignment.held_out_prompts=2",
    "method.alignment.learning.objective.epochs=1",
    "method.alignment.evaluate_every=2",
    "run.checkpoint_every=5",
    "run.rounds=1",
    "run.local_steps=1",
)
DEVICES = range(NUM_DEVICES)


class StopsAfterTwoSteps(Silent):
    def aligned(self, record, steps):
        if record.step == 1:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A deployed run's folder, that of the run in one process, and all bytes that moved between devices and servers."""
    return interrupted_and_whole(RECIPE, tmp_path_factory.mktemp("aligned"), StopsAfterTwoSteps())


def device_folder(run, client):
    return run / "devices" / f"device-{client:02d}"


def test_every_device_ends_with_the_adapters_of_the_run_in_one_process(runs):
    deployed, in_process, _ = runs
    for client in DEVICES:
        name = f"adapters/client-{client:02d}"
        assert_same(device_folder(deployed, client) / name, in_process / name)


def test_steps_and_scores_are_those_of_the_run_in_one_process(runs):
    deployed, in_process, _ = runs
    steps = [read_rounds(run, "alignment.jsonl") for run in (deployed, in_process)]
    assert [record["step"] for record in steps[0]] == list(range(STEPS))
    for mine, theirs in zip(*steps, strict=True):
        assert mine["lost"] == []
        assert len(mine["measured"]["align_s_K"]) == NUM_DEVICES
        assert mine["charged"] == theirs["charged"]
        for name, values in {**theirs, **theirs.get("evaluation", {})}.items():
            if isinstance(values, list):
                assert {**mine, **mine.get("evaluation", {})}[name] == pytest.approx(values, abs=1e-9), name
    mine, theirs = (read_json(run / "summary.json")["alignment"] for run in (deployed, in_process))
    for part in ("before", "after"):
        assert mine[part].keys() == theirs[part].keys()
        for name, values in theirs[part].items():
            assert mine[part][name] == pytest.approx(values, abs=1e-9), name
    for gain, wanted in zip(mine["mixed_gain_K"], theirs["mixed_gain_K"], strict=True):
        assert gain == pytest.approx(wanted, abs=1e-9)


def test_answers_stay_with_their_device(runs):
    deployed, in_process, moved = runs
    for name in ("alignment_before.json", "alignment_after.json"):
        told, whole = read_json(deployed / name), read_json(in_process / name)
        for part in ("own", "foreign"):
            for client in DEVICES:
                (own,) = read_json(device_folder(deployed, client) / name)[part]
                assert own == whole[part][client]
                assert told[part][client] == own | {"answers": []}
                kept = [answer.encode() for answer in own["answers"] if len(answer.encode()) > 3]
                assert kept
                assert not any(answer in moved for answer in kept)


def test_no_private_adapter_moment_or_value_head_leaves_a_device(runs):
    deployed, _, moved = runs
    there = anywhere(moved)
    for client in DEVICES:
        states = sorted(device_folder(deployed, client).glob("state-*.safetensors"))
        last = load_file(states[-1])
        assert any(name.startswith("alignment.value") for name in last)
        own = {
            n: v
            for n, v in last.items()
            if v.ndim > 1 and v.dtype in (np.float32, np.float64) and (":lora" in n or "alignment." in n)
        }
        assert len(own) > 10
        assert not {name for name, value in own.items() if occur(eight_bytes(value), there)}


def test_the_report_shows_what_devices_told(runs, tmp_path):
    deployed, _, _ = runs
    page = write_report([deployed], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Helpfulness and safety of each client" in page
    assert "What each client gained" in page
    assert "The slowest device took" in page


def test_a_device_that_fails_in_a_step_is_named_and_does_what_it_missed_in_the_next(runs, tmp_path, monkeypatch):
    _, in_process, _ = runs
    go_on, failed = OwnAlignment.go_on, []

    def fails_once(own, align, saved):
        if own.device.client == LOST and align.steps == 2 and not failed:
            failed.append(align.steps)
            raise NumericsError("a loss is not finite")
        return go_on(own, align, saved)

    monkeypatch.setattr(OwnAlignment, "go_on", fails_once)
    run_deployed(RECIPE, tmp_path / "run", tmp_path / "certificates", Silent())
    assert failed
    steps = read_rounds(tmp_path / "run", "alignment.jsonl")
    assert [step["lost"] for step in steps] == [[], [{"client": LOST, "why": "a loss is not finite"}], []]
    assert [steps[1][name][LOST] for name in ("reward", "kl")] == [None, None]
    assert steps[1]["evaluation"]["helpful_K"][LOST] is None
    for client in DEVICES:
        name = f"adapters/client-{client:02d}"
        assert_same(device_folder(tmp_path / "run", client) / name, in_process / name)


def test_without_a_device_that_never_comes_back_the_others_end_as_they_would(runs, tmp_path, monkeypatch):
    _, in_process, _ = runs
    handle, advance = Agent.handle, OnDevices.advance

    def leaves(agent, order):
        if agent.client == LOST and order.align.steps == 2:
            raise DeploymentError("this device is gone")
        return handle(agent, order)

    def hurried(own, steps, evaluate):
        own.orders.patience_s = 0.2 if steps > 1 else own.orders.patience_s  # nobody who is there is waited for less
        return advance(own, steps, evaluate)

    monkeypatch.setattr(Agent, "handle", leaves)
    monkeypatch.setattr(OnDevices, "advance", hurried)
    out = tmp_path / "run"
    run_deployed(RECIPE, out, tmp_path / "certificates", Silent())
    steps, summary = read_rounds(out, "alignment.jsonl"), read_json(out / "summary.json")
    assert [[lost["client"] for lost in step["lost"]] for step in steps] == [[], [LOST], [LOST]]
    for client in set(DEVICES) - {LOST}:
        name = f"adapters/client-{client:02d}"
        assert_same(device_folder(out, client) / name, in_process / name)
    gains = [gain["mean"] for gain in summary["alignment"]["mixed_gain_K"]]
    wanted = [gain["mean"] for gain in read_json(in_process / "summary.json")["alignment"]["mixed_gain_K"]]
    assert [gain is None for gain in gains] == [client == LOST for client in DEVICES]
    assert [gains[k] for k in DEVICES if k != LOST] == pytest.approx([wanted[k] for k in DEVICES if k != LOST])
    assert any("of 2 clients rose" in line for line in last_lines(out, summary, out / "report.html"))
    assert "What each client gained" in write_report([out], tmp_path / "report.html").read_text(encoding="utf-8")


def say_nan(report):
    report.aligned.metrics["kl"] = math.nan


def leave_a_score_out(report):
    del report.aligned.own["helpful"].values[0]


def add_a_score(report):
    report.aligned.foreign["secret"].values.append(0.0)


FALSE = {  # by step: who reports falsely, how, and what is said of it
    0: (1, say_nan, "not finite"),
    1: (2, leave_a_score_out, "other scores"),
    2: (0, add_a_score, "other scores"),
}


def test_a_false_report_of_a_step_is_refused_and_harms_neither_the_others_nor_the_next_step(
    runs, tmp_path, monkeypatch
):
    _, in_process, _ = runs
    handle = Agent.handle

    def lies(agent, order):
        report = handle(agent, order)
        client, falsify, _ = FALSE.get(order.align.steps - 1, (None, None, None))
        if agent.client == client and report.HasField("aligned"):
            falsify(report)
        return report

    monkeypatch.setattr(Agent, "handle", lies)
    out = tmp_path / "run"
    run_deployed(RECIPE, out, tmp_path / "certificates", Silent())
    steps, wanted = (read_rounds(run, "alignment.jsonl") for run in (out, in_process))
    for (client, _, why), mine, theirs in zip(FALSE.values(), steps, wanted, strict=True):
        (lost,) = mine["lost"]
        assert lost["client"] == client
        assert why in lost["why"]
        for other in set(DEVICES) - {client}:
            assert mine["kl"][other] == pytest.approx(theirs["kl"][other], abs=1e-9)


def over_flower(out: Path, observer: Silent, resume: bool = False) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    settings = FlowerSettings.of({"out": str(out), "address": address, "public-address": address})
    run(RECIPE, out, observer, resume, flower_engine(ThreadGrid(out / "devices", NUM_DEVICES), settings))


def test_orders_that_flower_carries_align_devices_alike(runs, tmp_path):
    """Every step is a message to a device that has nothing but its folder; the servers stop after the second."""
    _, in_process, _ = runs
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        over_flower(out, StopsAfterTwoSteps())
    over_flower(out, Silent(), resume=True)
    assert [step["lost"] for step in read_rounds(out, "alignment.jsonl")] == [[]] * STEPS
    for client in DEVICES:
        name = f"adapters/client-{client:02d}"
        assert_same(out / "devices" / str(client) / name, in_process / name)
