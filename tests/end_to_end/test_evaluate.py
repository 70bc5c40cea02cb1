"""A finished run's model is scored: answers against references, perplexity, classes."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import sacrebleu
from safetensors.torch import load_file, save_file

from helpers.command_line import assert_refused, settings, wavetune

SHORT = ("--max-new-tokens", "6", "--metrics", "bleu,exact_match,perplexity")


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder of rows, a file of rows with two references a prompt, and a run of one round on the folder."""
    folder = tmp_path_factory.mktemp("rows")
    for part, n in (("train", 40), ("validation", 6)):
        write(folder / f"{part}.jsonl", [{"prompt": f"{part} {i}", "completion": f"it is {i}"} for i in range(n)])
    other = tmp_path_factory.mktemp("other") / "other.jsonl"
    write(other, [{"prompt": f"say {i % 5}", "completion": f"it is {i}"} for i in range(10)])
    out = tmp_path_factory.mktemp("runs") / "run"
    words = settings("run.rounds=1", "world.data.train_samples=40", "world.data.validation_samples=6")
    answer = wavetune("run", "sflllm", *words, "--data", folder, "--out", out)
    assert answer.code == 0, answer.err
    return out, other


@pytest.fixture(scope="module")
def scored(own):
    run, other = own
    answer = wavetune("evaluate", run, "--data", other, *SHORT)
    return answer, run / "evaluations" / "other-global"


def test_perplexity_of_the_held_out_rows_is_that_of_the_runs_own_evaluation(own):
    run, _ = own
    answer = wavetune("evaluate", run, "--metrics", "perplexity", "--max-new-tokens", 2, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert (found["part"], found["prompts"]) == ("validation", 6)
    loss = json.loads((run / "summary.json").read_text())["validation_loss"]["after"]
    assert math.isclose(found["scores"]["perplexity"], math.exp(loss), rel_tol=1e-4)


def test_a_model_of_plain_text_goes_on_with_the_first_words_of_each(tmp_path):
    texts = [f"Once upon a time there lived {i} kings in one far land" for i in range(40)]
    data, run = tmp_path / "tales.txt", tmp_path / "run"
    data.write_text("\n".join(texts))
    answer = wavetune(
        "run", "sflllm", *settings("run.rounds=1", "world.data.train_samples=30"), "--data", data, "--out", run
    )
    assert answer.code == 0, answer.err
    samples = json.loads((run / "samples.json").read_text())
    assert {len(sample["prompt"].split()) for sample in samples} == {6}
    assert {sample["prompt"] + sample["reference"] for sample in samples} <= {*texts}
    scored = wavetune("evaluate", run, *SHORT, "--json")
    assert scored.code == 0, scored.err
    found = json.loads(scored.out)
    loss = json.loads((run / "summary.json").read_text())["validation_loss"]["after"]
    assert math.isclose(found["scores"]["perplexity"], math.exp(loss), rel_tol=1e-4)  # of whole texts
    assert_refused(wavetune("generate", run, "--prompt", ""), "a prompt is empty", "give at least a word")


def test_rows_of_one_prompt_are_references_of_one_answer(scored):
    answer, folder = scored
    assert answer.code == 0, answer.err
    assert "5 prompts of other.jsonl (all rows), 10 references" in answer.out
    found = json.loads((folder / "evaluation.json").read_text())
    lines = sorted(map(json.loads, (folder / "answers.jsonl").read_text().splitlines()), key=lambda x: x["prompt"])
    references = [[f"it is {i}" for i in range(5)], [f"it is {i}" for i in range(5, 10)]]
    wanted = sacrebleu.corpus_bleu([line["answer"] for line in lines], references).score
    assert math.isclose(found["scores"]["bleu"], wanted, rel_tol=1e-12)
    assert found["libraries"]["bleu"].startswith("sacrebleu ")
    assert found["decoding"] == {"max_new_tokens": 6, "temperature": 0.0, "beams": 1, "seed": 0, "batch_size": 16}


def test_an_interrupted_evaluation_answers_only_what_is_left_and_scores_are_added(own, scored):
    (run, other), (_, folder) = own, scored
    path = folder / "answers.jsonl"
    lines = [json.loads(line) | {"answer": "kept"} for line in path.read_text().splitlines()]
    path.write_text("\n".join([*map(json.dumps, lines), '{"prompt_index": 0, "pro']))  # killed while it wrote
    answer = wavetune("evaluate", run, "--data", other, "--max-new-tokens", 6, "--metrics", "rouge_l")
    assert answer.code == 0, answer.err
    scores = json.loads((folder / "evaluation.json").read_text())["scores"]
    assert {*scores} == {"bleu", "exact_match", "perplexity", "rouge_l"}
    assert scores["rouge_l"] == 0  # of the answers that were there


def test_other_settings_are_another_evaluation(own, scored):
    run, other = own
    assert wavetune("evaluate", run, "--data", other, "--max-new-tokens", 3, "--metrics", "chrf").code == 0
    assert (run / "evaluations" / "other-global-2" / "evaluation.json").exists()
    assert wavetune("evaluate", run, "--data", other, "--base", "--max-new-tokens", 3, "--metrics", "chrf").code == 0
    assert (run / "evaluations" / "other-base" / "evaluation.json").exists()
    page = (run / "report.html").read_text()
    assert "Scores of wavetune evaluate" in page
    assert "untouched" in page.partition("Scores of wavetune evaluate")[2]


def test_answers_of_another_adapter_or_to_other_rows_are_not_taken_for_those_of_this_one(own, tmp_path):
    run, other = shutil.copytree(own[0], tmp_path / "run"), shutil.copy(own[1], tmp_path / "other.jsonl")
    shutil.rmtree(run / "evaluations", ignore_errors=True)

    def score():
        answer = wavetune("evaluate", run, "--data", other, "--max-new-tokens", 2, "--metrics", "chrf")
        assert answer.code == 0, answer.err
        return sorted(path.name for path in (run / "evaluations").iterdir())

    assert score() == score() == ["other-global"]
    weights = run / "adapters" / "global" / "adapter_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights)  # as if trained further
    assert score() == ["other-global", "other-global-2"]
    write(tmp_path / "other.jsonl", [{"prompt": f"tell {i % 5}", "completion": f"it is {i}"} for i in range(10)])
    assert score() == ["other-global", "other-global-2", "other-global-3"]


def test_a_line_that_is_no_answer_is_refused(own, tmp_path):
    run = shutil.copytree(own[0], tmp_path / "run")
    words = ("evaluate", run, "--data", own[1], "--max-new-tokens", 2, "--metrics", "chrf")
    assert wavetune(*words).code == 0
    newest = max((run / "evaluations").glob("*/answers.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    newest.write_text("3\n")
    assert_refused(wavetune(*words), "answers.jsonl", "no answers")


def test_a_metric_of_ones_own_is_a_function_of_answers_and_references(own, tmp_path):
    run, other = own
    (tmp_path / "mine.py").write_text("def count(answers, references):\n    return len(references[0]) + len(answers)\n")
    answer = wavetune("evaluate", run, "--data", other, *SHORT[:2], "--metrics", f"{tmp_path / 'mine.py'}:count")
    assert answer.code == 0, answer.err
    assert "7" in answer.out


def test_a_classifier_is_scored_by_its_classes(tmp_path):
    rows = [{"text": f"film {i} was {'good' if i % 2 else 'bad'}", "label": i % 2} for i in range(40)]
    data = write(tmp_path / "films.jsonl", rows)
    words = settings("run.rounds=1", "world.data.template.kind=class", "world.data.train_samples=30")
    assert wavetune("run", "fedavg_lora", *words, "--data", data, "--out", tmp_path / "run").code == 0
    answer = wavetune("evaluate", tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    accuracy = json.loads((tmp_path / "run" / "rounds.jsonl").read_text())["evaluation"]["accuracy"]
    assert math.isclose(found["scores"]["accuracy"], 100 * accuracy, rel_tol=1e-9)
    assert_refused(wavetune("evaluate", tmp_path / "run", "--metrics", "bleu"), "'bleu'", "accuracy, macro_f1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metrics", "blue"), ("'blue'", "bleu, nist")),
        (("--metrics", "accuracy"), ("'accuracy'", "writes text")),
        (("--metrics", "theirs:nothing"), ("theirs",)),
        (("--data", "nowhere.jsonl"), ("nowhere.jsonl",)),
        (("--client", "7"), ("client-07",)),
        (("--client", "0", "--base"), ("--client", "--base")),
        (("--beams", "2", "--temperature", "1"), ("--beams", "--temperature")),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(own, options, words):
    run, _ = own
    before = {path.name for path in run.rglob("*")}
    assert_refused(wavetune("evaluate", run, *options), *words)
    assert {path.name for path in run.rglob("*")} == before
