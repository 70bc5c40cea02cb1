"""PWFF through the command line: both recipes, killed and resumed, and what is refused."""

import json
import os
import signal
import time

import pytest

from helpers import forked, held
from helpers.command_line import assert_refused, settings, wavetune
from helpers.runs import ALIGNED, assert_same_run, read_json, read_rounds
from wavetune.reporting.farewell import last_lines
from wavetune.reporting.format import joules, seconds

WIDTH, HIDDEN, BLOCKS, CLIENTS = 4, 64, 4, 3
STEPS = 3
PWFF = settings(*ALIGNED, f"method.alignment.learning.steps={STEPS}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("pwff") / "run"
    answer = wavetune("run", "pwff", *PWFF, "--out", out)
    assert answer.code == 0, answer.err
    return out


def test_the_last_lines_tell_how_many_clients_gained(finished):
    summary = read_json(finished / "summary.json")
    told = "\n".join(last_lines(finished, summary, finished / "report.html"))
    gains, stage = [gain["mean"] for gain in summary["alignment"]["mixed_gain_K"]], summary["alignment"]
    assert f"mixed reward of {sum(gain > 0 for gain in gains)} of {CLIENTS} clients rose" in told
    assert f"{min(gains):+.2f} to {max(gains):+.2f} standard deviations" in told
    risen = sum(
        now > was for was, now in zip(stage["before"]["true_mixed_K"], stage["after"]["true_mixed_K"], strict=True)
    )
    assert f"scores behind the rewards rose for {risen}" in told


def test_a_run_leaves_everything_behind_and_sends_the_shared_adapters_alone(finished):
    files = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    expected = {"summary.json", "report.html", "alignment.jsonl", "alignment_before.json", "alignment_after.json"}
    assert expected <= files
    assert {f"adapters/client-{k:02d}" for k in range(CLIENTS)} <= {os.path.dirname(name) for name in files}
    bits = 32 * 2 * HIDDEN * WIDTH * BLOCKS
    summary, records = read_json(finished / "summary.json"), read_rounds(finished)
    assert [record["metered_bits"]["adapters_up"] for record in records] == [bits * CLIENTS] * 2
    assert summary["upload_bits_K"] == [bits] * CLIENTS
    assert all(every > bits for every in summary["all_adapters_bits_K"])
    steps = read_rounds(finished, "alignment.jsonl")
    assert len(steps) == STEPS
    assert "true_mixed_K" in steps[-1]["evaluation"]
    charged = {name: sum(step["charged"][name] for step in steps) for name in ("delay_s", "energy_j")}
    assert summary["alignment"]["charged"] == charged
    page = (finished / "report.html").read_text(encoding="utf-8")
    spent = f"They are charged {seconds(charged['delay_s'])} and {joules(charged['energy_j'])} beside the rounds."
    for words in ("Personal models", "Helpfulness and safety of each client", spent):
        assert words in page
    assert "Adapters sent up in each round" not in page  # the same in every round


def test_every_client_answers_with_its_own_model(finished):
    answers = [
        wavetune("generate", finished, "--client", k, "--prompt", "Which bus?", "--max-new-tokens", 4) for k in (0, 2)
    ]
    assert [answer.code for answer in answers] == [0, 0], answers
    assert_refused(wavetune("generate", finished, "--client", 3, "--prompt", "Which bus?"), "client")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_in_the_second_stage_it_goes_on_to_the_same_end(finished, tmp_path):
    out = tmp_path / "run"
    held.hold(out, STEPS - 1)
    process = forked.wavetune("run", "pwff", *PWFF, "--out", out, *held.OPTION)
    while process.poll() is None and not (out / "alignment.jsonl").exists():
        time.sleep(0.005)
    process.kill()
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, f"it ended before it could be killed: {errors}"
    assert not (out / "summary.json").exists()
    answer = wavetune("run", "--resume", "--out", out)
    assert answer.code == 0, answer.err
    assert_same_run(out, finished)


def test_task_tuning_gives_every_client_a_classifier(tmp_path):
    data = tmp_path / "reviews"
    data.mkdir()
    for name, count in (("train", 80), ("validation", 16)):
        rows = [{"text": f"{'good' if n % 2 else 'dull'} film number {n}", "label": n % 2} for n in range(count)]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "run"
    small = settings('world.model="tiny-bert"', "method.bottleneck.width=4")
    answer = wavetune("run", "pwff_task", *small, "--data", data, "--out", out)
    assert answer.code == 0, answer.err
    summary = read_json(out / "summary.json")
    assert summary["perplexity"] is None
    assert len(summary["evaluation"]["after"]["own_accuracy_K"]) == CLIENTS
    assert "Accuracy on the clients" in (out / "report.html").read_text(encoding="utf-8")
    asked = ["generate", out, "--client", 1, "--prompt", "good film"]
    told = wavetune(*asked)
    assert told.code == 0, told.err
    for option in ("--temperature", "--seed", "--max-new-tokens"):
        assert_refused(wavetune(*asked, option, 1), f"{option} has no effect", "a classifier, which writes no text")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("method.topology.kind=split", ("method.alignment", "method.topology.kind=federated")),
        ("method.alignment.lambdas=[0.5,1.5]", ("method.alignment.lambdas", "1.5")),
        ("method.alignment.helpful.kind=kind_words", ("kind_words", "python")),
        ("method.alignment.safe.function=no_such_module:score", ("no_such_module",)),
        ('method.sharing.shared=["lora","bottleneck"]', ("method.alignment", "lora")),
    ],
)
def test_what_cannot_be_aligned_is_refused_in_a_sentence(setting, words, tmp_path):
    out = tmp_path / "run"
    assert_refused(wavetune("run", "pwff", *PWFF, "--set", setting, "--out", out), *words)
    assert not out.exists()  # it was refused before anything was trained


def test_prompts_that_are_all_trained_on_leave_nothing_to_judge_by(tmp_path):
    rows = [{"question": f"Which bus goes to place {n}?", "answer": f"Bus {n}."} for n in range(70)]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [*PWFF, "--data", tmp_path, "--set", "world.data.train_samples=70", "--out", tmp_path / "run"]
    assert_refused(wavetune("run", "pwff", *words), "validation prompt")
    assert not (tmp_path / "run").exists()


def test_embedded_rewards_need_pairs_in_the_data(tmp_path):
    rows = [{"question": f"Which bus goes to place {n}?", "answer": f"Bus {n}."} for n in range(80)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [*PWFF, "--data", tmp_path, "--set", "method.alignment.helpful.kind=embedded", "--out", tmp_path / "run"]
    assert_refused(wavetune("run", "pwff", *words), str(tmp_path), "the helpful reward model", "method.alignment=null")
    assert not (tmp_path / "run").exists()
