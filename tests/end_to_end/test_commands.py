"""The command line from a recipe to adapters, report and answers, on the tiny model."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from helpers.command_line import settings, wavetune
from helpers.runs import assert_same_run, read_json, read_rounds, small, train
from helpers.training import folder_of
from wavetune import recipes
from wavetune.allocation.instance import problem_to_json
from wavetune.federation.cohort import Cohort
from wavetune.models.generate import load_for_generation
from wavetune.records.fields import as_json
from wavetune.records.reading import read_run
from wavetune.runtimes import inprocess
from wavetune.runtimes.session import build
from wavetune.terminal import RunDisplay

FILES = {
    "recipe.json",
    "world.json",
    "instance.json",
    "plan.json",
    "state.json",
    "inputs.json",
    "rounds.jsonl",
    "samples.json",
    "summary.json",
    "report.html",
    "log.txt",
    "adapters",
    "checkpoints",
}
COMMON = [name for name in recipes.names() if not name.startswith("pwff")]  # these have test_pwff.py
ACCOUNT = {"delay_s", "local_steps", "phases", "step", "energy_j", "energy", "bits", "bits_up_K", "bits_down_K"}
PHASES = ("client_forward", "uplink", "downlink", "client_backward", "fed_upload", "fed_download")


@pytest.fixture(scope="module", params=COMMON)
def finished(request, tmp_path_factory):
    """Two rounds of a recipe, run as a user runs them."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return request.param, folder, wavetune("run", request.param, *settings(), "--out", folder)


@pytest.fixture(scope="module")
def sflllm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sflllm") / "run"
    assert wavetune("run", "sflllm", *settings(), "--out", folder).code == 0
    return folder


def test_every_recipe_runs_to_a_complete_folder(finished):
    name, folder, answer = finished
    assert answer.code == 0, answer.err
    assert {path.name for path in folder.iterdir()} == FILES | ({"distillation.jsonl"} if name == "fedsp" else set())
    assert not list(folder.rglob("*.part"))
    summary = read_json(folder / "summary.json")
    assert (summary["recipe"], summary["status"], summary["rounds"], summary["num_clients"]) == (name, "finished", 2, 3)
    assert repr(summary["samples"]) == str(2 * 2 * 3 * 2)  # rounds, steps, clients, rows a batch
    assert summary["bits"] == ({} if name == "centralised_lora" else summary["bits"])


def test_every_record_is_complete_and_adds_up_to_the_summary(finished):
    _, folder, _ = finished
    records, summary = read_rounds(folder), read_json(folder / "summary.json")
    assert [record["round"] for record in records] == [0, 1]
    for record in records:
        assert record["planned"].keys() == record["charged"].keys() == ACCOUNT
        charged = record["charged"]
        to_and_from = sum(bits for kind, bits in charged["bits"].items() if kind.endswith(("_up", "_down")))
        assert sum(charged["bits_up_K"]) + sum(charged["bits_down_K"]) == to_and_from
        assert record["straggler"]["phase"] in PHASES
        assert record["lost"] == [] or read_json(folder / "recipe.json")["name"] == "stfl"
    for name in ("delay_s", "energy_j"):
        assert summary[name] == pytest.approx(sum(record["charged"][name] for record in records))
    for kind, bits in summary["bits"].items():
        assert bits == sum(record["metered_bits"].get(kind, 0) for record in records)
    assert summary["tokens"] == sum(record["tokens"] for record in records)


def test_what_is_read_of_a_run_is_all_that_was_written(finished):
    _, folder, _ = finished
    run = read_run(folder)
    assert run.problems == ()
    assert as_json(run.rounds) == read_rounds(folder)
    for name in ("summary", "world", "samples"):
        assert as_json(getattr(run, name)) == read_json(folder / f"{name}.json"), name


def test_last_lines_say_what_was_achieved_where_it_is_and_what_to_try(finished):
    _, folder, answer = finished
    loss = read_json(folder / "summary.json")["validation_loss"]
    lines = answer.out.strip().splitlines()
    assert f"{loss['before']:.4f}" in lines[0]
    assert f"{loss['after']:.4f}" in lines[0]
    assert str(folder / "report.html") in answer.out
    assert str(folder / "adapters" / "global") in answer.out
    advised = next(index for index, line in enumerate(lines) if line.startswith("Try next: wavetune generate"))
    assert all(str(folder) in line for line in lines[advised:])
    assert f"wavetune compare {folder / 'recipe.json'}" in lines[advised + 1]


@pytest.mark.parametrize(
    "name", [name for name in COMMON if name not in ("sparse_dp", "fedsp")]
)  # whose noise outweighs a few clients; whose clients train another model than the one that is judged
def test_training_lowers_the_validation_loss(name, tmp_path):
    """On a tiny random model the first thing learnt is which bytes occur."""
    recipe = small(name, "run.rounds=3", "run.local_steps=3", "method.optimiser.learning_rate=0.03",
                   "method.optimiser.warmup_steps=1", "method.lora.rank=8", "run.samples=0")  # fmt: skip
    loss = train(recipe, tmp_path / name)["validation_loss"]
    assert loss["after"] < loss["before"] - 0.3


def test_saved_recipe_runs_again_to_the_identical_result(sflllm, tmp_path):
    again = tmp_path / "again"
    assert wavetune("run", sflllm / "recipe.json", "--out", again).code == 0
    assert_same_run(again, sflllm)


def test_samples_hold_prompt_reference_and_answers_before_and_after(sflllm):
    samples = read_json(sflllm / "samples.json")
    assert len(samples) == 2
    assert all(sample.keys() == {"prompt", "reference", "before", "after", "domain", "client"} for sample in samples)
    assert len({sample["domain"] for sample in samples}) == 2


def test_a_terminal_shows_live_progress_and_ends_with_the_same_records(sflllm, tmp_path):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=200)
    with RunDisplay(terminal) as display:
        inprocess.run(small("sflllm", "run.samples=2"), tmp_path / "run", display)
    shown = terminal.file.getvalue()
    for words in ("round 2/2", "tokens/s", "simulated", "slowest: client", "4/4 steps", "validation"):
        assert words in shown
    assert_same_run(tmp_path / "run", sflllm)


@pytest.mark.parametrize("frozen", [False, True])
def test_trainable_parameters_are_those_that_peft_counts(frozen, tmp_path):
    mixing = "frozen_a" if frozen else "average_factors"
    recipe = small("fedavg_lora", "run.rounds=1", "run.samples=0", f"method.mixing.kind={mixing}")
    summary = train(recipe, tmp_path / "run")
    model = load_for_generation(folder_of("tiny"), tmp_path / "run" / "adapters" / "client-00")
    values = sum(p.numel() for n, p in model.named_parameters() if "lora_B" in n or ("lora_A" in n and not frozen))
    assert summary["trainable_parameters"] == {"client": values, "server": 0}


def test_folder_is_chosen_where_none_is_named_and_never_taken_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = settings("run.rounds=1", "run.samples=0")
    for expected in ("fedavg_lora", "fedavg_lora-2"):
        assert wavetune("run", "fedavg_lora", *quick).code == 0
        assert (tmp_path / "runs" / expected / "summary.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_stopped_by_a_signal_says_how_to_go_on_and_continues_to_the_identical_end(
    number, sflllm, tmp_path, monkeypatch
):
    step, out = Cohort.step, tmp_path / "run"
    steps = iter(range(100))

    def interrupted(*arguments):
        if next(steps) == 3:  # in the second round
            os.kill(os.getpid(), number)
        return step(*arguments)

    monkeypatch.setattr(Cohort, "step", interrupted)
    answer = wavetune("run", "sflllm", *settings(), "--out", out)
    assert answer.code == 130
    assert "Traceback" not in answer.err
    assert f"stopped; continue with: wavetune run --resume --out {out}" in answer.err
    monkeypatch.undo()
    resumed = wavetune("run", "--resume", "--out", out)
    assert resumed.code == 0
    assert "after 1 round" in resumed.err
    assert_same_run(out, sflllm)


def test_stopping_before_anything_is_saved_promises_nothing(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("wavetune.runtimes.inprocess.build", stop)
    answer = wavetune("run", "sflllm", *settings(), "--out", tmp_path / "run")
    assert answer.code == 130
    assert answer.err.splitlines()[-1] == "stopped"


def test_plan_of_an_instance_and_of_its_recipe_agree_where_the_way_back_costs_nothing(tmp_path):
    free = settings("world.scenario.price_downlink=false", "run.rounds=1")
    assert wavetune("run", "sflllm", *free, "--out", tmp_path / "run").code == 0
    of_instance, of_recipe = (
        json.loads(wavetune("plan", tmp_path / "run" / name, "--json", "-").out)
        for name in ("instance.json", "recipe.json")
    )
    assert of_instance["delay_s"] == pytest.approx(of_recipe["delay_s"])
    assert (of_instance["cut"], of_instance["rank"]) == (of_recipe["cut"], of_recipe["rank"])


def test_the_plan_of_a_runs_recipe_is_the_runs(sflllm):
    answer = wavetune("plan", sflllm / "recipe.json", "--json", "-")
    assert json.loads(answer.out) == read_json(sflllm / "plan.json")


def impossible(instance):
    """No device can hold a single block."""
    for client in instance["clients"]:
        client["memory_bytes"] = 1.0
    instance["costs"]["memory_bytes"] = [1e9] * len(instance["costs"]["forward_flop"])
    return instance


def test_world_without_a_plan_is_a_sentence_and_exit_code_3_and_nothing_is_written(sflllm, tmp_path):
    tight = ("world.scenario.population.memory_bytes=1000",)
    for command in ("plan", "run"):
        extra = ["--out", tmp_path / "run"] if command == "run" else []
        answer = wavetune(command, "sflllm", *settings(*tight), *extra)
        assert answer.code == 3
        assert "wavetune: no plan exists: " in answer.err
        assert "memory" in answer.err
        assert "Traceback" not in answer.err
    assert not (tmp_path / "run").exists()
    instance = tmp_path / "instance.json"
    instance.write_text(json.dumps(impossible(read_json(sflllm / "instance.json"))))
    answer = wavetune("plan", instance, "--json", "-")
    assert answer.code == 3
    assert json.loads(answer.out)["status"] == "infeasible"


def test_instance_of_a_run_is_the_problem_it_planned(sflllm):
    session = build(small())
    assert read_json(sflllm / "instance.json") == json.loads(json.dumps(problem_to_json(session.planner.problem(0))))


def test_report_of_one_run_and_of_several_side_by_side(finished, sflllm, tmp_path):
    _, folder, _ = finished
    page = tmp_path / "deep" / "page.html"
    assert str(page) in wavetune("report", folder, "--out", page).out.replace("\n", "")
    assert "<html" in page.read_text()
    both = wavetune("report", folder, sflllm, "--out", tmp_path / "both.html")
    assert both.code == 0
    assert "side by side" in (tmp_path / "both.html").read_text()


def test_report_of_an_unfinished_run_shows_what_there_is(sflllm, tmp_path):
    copy = Path(shutil.copytree(sflllm, tmp_path / "run"))
    for name in ("summary.json", "samples.json", "report.html"):
        (copy / name).unlink()
    assert wavetune("report", copy).code == 0
    assert (copy / "report.html").exists()


def test_generate_answers_with_global_client_or_untouched_model(sflllm):
    prompt = read_json(sflllm / "samples.json")[0]
    options = ["--prompt", prompt["prompt"], "--max-new-tokens", "4"]
    assert wavetune("generate", sflllm, *options).out.strip() == prompt["after"].strip()
    assert wavetune("generate", sflllm, *options, "--base").out.strip() == prompt["before"].strip()
    assert wavetune("generate", sflllm, *options, "--client", "1").code == 0
    sampled = [wavetune("generate", sflllm, *options, "--temperature", "2", "--seed", s).out for s in (1, 1, 2)]
    assert sampled[0] == sampled[1]


def test_measured_ranks_are_a_table_that_plan_and_run_read(tmp_path):
    table = tmp_path / "ranks.json"
    job = settings("method.optimiser.learning_rate=0.02", "method.optimiser.warmup_steps=1")
    answer = wavetune("measure-ranks", "sflllm", *job, "--ranks", "1,4", "--seeds", 1, "--out", table)
    assert answer.code == 0, answer.err
    values = read_json(table)
    assert values["rounds_to_target"].keys() == values["validation_loss_by_round"].keys() == {"1", "4"}
    for rank, (curve,) in values["validation_loss_by_round"].items():
        assert len(curve) == 3  # before, and after each round
        assert [min(curve)] <= values["target_loss_by_seed"]
        assert 0 < values["rounds_to_target"][rank] <= 2
    least = max(min(curve) for (curve,) in values["validation_loss_by_round"].values())
    assert values["target_loss_by_seed"] == [least]
    assert str(table) in answer.out.replace("\n", "")
    kept = tmp_path / "ranks.json.runs.jsonl"
    first, last = kept.read_text().splitlines()
    kept.write_text(f"{first}\n{last[:99]}")  # the measurement was killed in the second run
    again = wavetune("measure-ranks", "sflllm", *job, "--ranks", "1,4", "--seeds", 1, "--out", table)
    assert again.err.count("made before") == 1
    assert kept.read_text().splitlines() == [first, last]
    assert read_json(table) == values
    plan = json.loads(wavetune("plan", "sflllm", *job, "--rank-table", table, "--json", "-").out)
    assert plan["rank"] in (1, 4)
    missed = wavetune("measure-ranks", "sflllm", *job, "--ranks", "1", "--target-loss", "0.01", "--out", tmp_path / "x")
    assert missed.code == 2
    assert "was not reached" in missed.err
    assert not (tmp_path / "x").exists()


def test_own_data_from_a_folder_of_json_lines(tmp_path):
    rows = [{"prompt": f"say {i}", "completion": f"{i}" * 3, "domain": f"d{i % 2}"} for i in range(40)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows[:30]))
    (tmp_path / "data" / "valid.jsonl").write_text("\n".join(json.dumps(row) for row in rows[30:]))
    out = tmp_path / "run"
    answer = wavetune("run", "sflllm", *settings(), "--set", "world.data.train_samples=null", "--set",
                      "world.data.partition.kind=by_domain", "--set", "world.scenario.population.num_clients=2",
                      "--data", tmp_path / "data", "--out", out)  # fmt: skip
    assert answer.code == 0, answer.err
    summary, world = read_json(out / "summary.json"), read_json(out / "world.json")
    assert world["preset"] == "cell"
    assert "World: preset cell." in (out / "report.html").read_text()
    expected = {"name": "data", "train_samples": 30, "validation_samples": 4, "partition": "by_domain", "dropped": 0}
    assert summary["data"].items() >= expected.items()
    assert [device["domains"] for device in world["devices"]] == [{"d0": 15}, {"d1": 15}]
    assert {sample["prompt"] for sample in read_json(out / "samples.json")} <= {row["prompt"] for row in rows[30:]}


def test_output_in_an_encoding_without_a_letter_spells_it_out(tmp_path):
    (tmp_path / "späce 数").mkdir()
    said = subprocess.run(
        [sys.executable, "-m", "wavetune", "runs", tmp_path / "späce 数"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (said.returncode, "sp\\xe4ce \\u6570" in said.stdout, said.stderr) == (0, True, "")


def test_output_can_be_cut_off_by_a_pipe():
    command = [sys.executable, "-m", "wavetune", "recipes"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()


def test_totals_of_the_summary_are_those_that_the_rounds_were_charged(sflllm, tmp_path):
    """Where rounds differ, and what was charged is not what was planned."""
    folder = tmp_path / "run"
    shutil.copytree(sflllm, folder)
    records = read_rounds(folder)
    for factor, record in zip((3.0, 0.25), records, strict=True):
        charged = record["charged"]
        for name in ("delay_s", "energy_j"):
            charged[name] *= factor
        for name in ("phases", "energy"):
            charged[name] = {
                key: [factor * x for x in own] if isinstance(own, list) else factor * own
                for key, own in charged[name].items()
            }
        record["metered_bits"] = {kind: round(4 * factor) * bits for kind, bits in record["metered_bits"].items()}
        record["samples"] *= round(4 * factor)
        record["tokens"] *= round(4 * factor)
        record["wall_s"] = 8 * factor
    (folder / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    train(small("sflllm", "run.samples=2"), folder, resume=True)
    summary, first, last = read_json(folder / "summary.json"), *records
    for name in ("delay_s", "energy_j"):
        assert summary[name] == pytest.approx(first["charged"][name] + last["charged"][name])
    for name in ("phases", "energy"):
        assert summary[name].keys() == first["charged"][name].keys()
        for key, total in summary[name].items():
            assert total == pytest.approx(np.add(first["charged"][name][key], last["charged"][name][key]))
    for kind, total in summary["bits"].items():
        assert total == first["metered_bits"][kind] + last["metered_bits"][kind]
    for name in ("samples", "tokens", "wall_s"):
        assert summary[name] == first[name] + last[name]
    assert summary["tokens_per_s"] == pytest.approx(summary["tokens"] / 26)
