"""wavetune from Python: the functions of the package, on the smallest runs."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy
import pandas
import pyarrow
import pytest

import wavetune as wt
from helpers.command_line import assert_refused, settings, wavetune
from helpers.decoders import decoder
from helpers.runs import ALIGNED, SMALL, assert_same_run
from wavetune.errors import ConfigError, DataError, InfeasibleError, RunFolderError
from wavetune.models.tiny import byte_tokenizer

ROWS = [{"prompt": f"say {n}", "completion": f"{n} is said", "domain": f"d{n % 3}"} for n in range(40)]
OWN = (*(s for s in SMALL if "train_samples" not in s and "model" not in s), "world.data.train_samples=24")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    records = []
    folder = tmp_path_factory.mktemp("python") / "run"
    run = wt.run(wt.recipe("sflllm").with_settings(*SMALL, "run.samples=1"), folder, [records.append])
    return run, records


def test_a_run_from_python_is_that_of_the_command_line(ran, tmp_path):
    run, records = ran
    assert wavetune("run", "sflllm", *settings("run.samples=1"), "--out", tmp_path / "run").code == 0
    assert_same_run(run.folder, tmp_path / "run")
    assert [record.round for record in records] == [0, 1]


def test_a_run_tells_its_records_adapters_answers_and_report(ran):
    run = wt.load_run(ran[0].folder)
    assert run.status == "finished"
    assert list(run.rounds["round"]) == [0, 1]
    assert (run.rounds["charged.delay_s"] > 0).all()
    assert run.summary["rounds"] == run.recipe.run.rounds == 2
    assert (run.adapter() / "adapter_model.safetensors").exists()
    assert (run.adapter(1) / "adapter_model.safetensors").exists()
    assert isinstance(run.generate("name[Aromi]", client=1, max_new_tokens=4), str)
    assert run.report().read_text().startswith("<!doctype html>")
    assert len(run.plan["cut"]) if isinstance(run.plan["cut"], list) else run.plan["cut"]


def test_a_run_is_scored_as_the_command_scores_it(ran):
    run = ran[0]
    found = run.evaluate(metrics="rouge_l, exact_match", prompts=2, max_new_tokens=3)
    words = ("--metrics", "rouge_l,exact_match", "--prompts", 2, "--max-new-tokens", 3, "--json")
    assert json.loads(wavetune("evaluate", run.folder, *words).out) == found
    assert found["scores"].keys() == {"rouge_l", "exact_match"}
    assert "rouge_l" in (run.folder / "report.html").read_text()
    with pytest.raises(ConfigError, match="beams are followed"):
        run.evaluate(beams=2, temperature=1.0)


def test_records_are_lists_where_pandas_is_not_installed(ran, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    assert [row["round"] for row in wt.load_run(ran[0].folder).rounds] == [0, 1]


def test_a_callback_that_fails_is_left_out_and_the_run_goes_on(tmp_path, caplog):
    class Broken(wt.Callback):
        def round(self, record):
            raise RuntimeError("cannot reach https://me:secret-word@host/")

    told = []

    class Heard(wt.Callback):
        def started(self, folder, recipe, rounds_done):
            told.append((recipe["name"], rounds_done, (folder / "plan.json").exists()))

        def finished(self, folder, summary):
            told.append((folder / "report.html").exists())

        def closed(self):
            told.append("closed")

    run = wt.run(wt.recipe("sflllm").with_settings(*SMALL), tmp_path / "run", [Broken(), Heard()])
    assert run.status == "finished"
    assert told == [("sflllm", 0, True), True, "closed"]
    lines = [line for line in caplog.messages if "Broken" in line]
    assert len(lines) == 1
    assert "https://***@host/" in lines[0]
    assert "secret-word" not in caplog.text


def test_data_a_model_and_its_tokenizer_as_objects_train_as_their_files_do(tmp_path):
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from wavetune.models.resolve import resolve_model

    folder = resolve_model("tiny").folder
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    files = wt.recipe("sflllm", *OWN, data=tmp_path / "rows", model=folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    objects = wt.recipe("sflllm", *OWN, data=datasets.Dataset.from_list(ROWS), model=model, tokenizer=tokenizer)
    as_lists = wt.recipe("sflllm", *OWN, data=ROWS, model=model, tokenizer=tokenizer)
    assert as_lists == objects
    planned = wt.plan(objects)
    assert planned.delay_s == wt.plan(files).delay_s
    here, there = wt.run(objects, tmp_path / "objects"), wt.run(files, tmp_path / "files")
    assert list(here.rounds["train_loss"]) == list(there.rounds["train_loss"])
    adapters = ((run.adapter() / "adapter_model.safetensors").read_bytes() for run in (here, there))
    assert next(adapters) == next(adapters)
    summary = here.summary
    assert "given as an object" in summary["data"]["name"]
    assert "given as an object" in summary["model"]["note"]
    assert objects.world.data.source.removeprefix("object:") in summary["data"]["name"]


def test_a_run_with_objects_is_continued_with_them_and_refused_without(tmp_path, monkeypatch):
    recipe = wt.recipe("sflllm", *OWN, data=ROWS, model="tiny")

    class Stopped(BaseException):
        pass

    def stop(record):
        raise Stopped

    with pytest.raises(Stopped):
        wt.run(recipe, tmp_path / "run", [stop])
    with monkeypatch.context() as other:
        other.setenv("WAVETUNE_OBJECTS", str(tmp_path / "of-another-process"))
        answer = wavetune("run", "--resume", "--out", tmp_path / "run")
        assert_refused(answer, "was given as a Python object", "wavetune.run(recipe, out=FOLDER, resume=True)")
    with pytest.raises(ConfigError, match="continues with what it began with"):
        wt.run(wt.recipe("sflllm", *OWN, data=ROWS[:30], model="tiny"), tmp_path / "run", resume=True)
    assert wt.run(recipe, tmp_path / "run", resume=True).status == "finished"
    wt.run(recipe, tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_rewards_are_given_as_functions():
    def vowels(examples, answers):
        return [sum(letter in "aeiou" for letter in answer) for answer in answers]

    recipe = wt.recipe("pwff", *SMALL, *ALIGNED, rewards={"helpful": vowels})
    reward = recipe.method.alignment.helpful
    assert reward.function.startswith("object:vowels-")
    assert list(reward.open().score([], ["aei", "xyz"])) == [3, 0]
    assert recipe.method.alignment.safe.function.endswith(":capitals")


FORMS = {
    "a table of Arrow": pyarrow.Table.from_pylist,
    "a frame": pandas.DataFrame,
    "a split's frame": lambda rows: {"train": pandas.DataFrame(rows)},
    "lists by column": lambda rows: {name: [row[name] for row in rows] for name in rows[0]},
    "a Dataset": datasets.Dataset.from_list,
    "numbers of NumPy": lambda rows: [{**row, "n": numpy.int64(row["n"])} for row in rows],
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_the_same_in_whatever_form_they_are_given(form):
    rows = [{"prompt": f"say {n}", "completion": None if n == 3 else "it", "n": n} for n in range(5)]
    assert wt.recipe("sflllm", data=FORMS[form](rows)).world.data == wt.recipe("sflllm", data=rows).world.data


MISTAKES = {
    "rows": ({"data": 3}, "give a datasets.Dataset"),
    "a row": ({"data": ["text"]}, "each row as a dict"),
    "a value": ({"data": [{"prompt": object()}]}, "leave the column out"),
    "no tokenizer": ({"model": type("M", (), {"save_pretrained": 0, "config": 0})()}, "needs its tokenizer"),
    "model": ({"model": 3}, "PreTrainedModel"),
    "a lone tokenizer": ({"model": "tiny", "tokenizer": 3}, "holds its own"),
    "rewards": ({"rewards": {"kind": len}}, "helpful, safe"),
    "no function": ({"rewards": {"safe": 3}}, "give a function"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_what_is_wrong_with_an_object_is_one_sentence(case):
    given, words = MISTAKES[case]
    with pytest.raises((ConfigError, DataError), match=words):
        wt.recipe("pwff", **given)


def test_a_model_without_weights_is_refused():
    model: Any = decoder("llama")
    with pytest.raises(ConfigError, match="load its weights first"):
        wt.recipe("sflllm", model=model.to("meta"), tokenizer=byte_tokenizer(False))


@pytest.mark.parametrize("name", ["object:../../etc", "object:", "object:none-0123"])
def test_a_name_of_an_object_that_is_not_here_opens_nothing(name, tmp_path):
    assert_refused(wavetune("run", "sflllm", "--data", name, "--out", tmp_path / "run"), "given as a Python object")
    assert_refused(wavetune("run", "sflllm", "--model", name, "--out", tmp_path / "run"), "given as a Python object")


def test_plans_and_sweeps_from_python_are_values(tmp_path):
    recipe = wt.recipe("sflllm").with_settings(*SMALL)
    planned = wt.plan(recipe)
    assert planned.status == "ok"
    assert planned.to_dict() == json.loads(wavetune("plan", "sflllm", *settings(), "--json", "-").out)
    assert any("holds the others up most" in sentence for sentence in planned.sentences())
    swept = wt.sweep(recipe, {"bandwidth_hz": [5e6, 1e7]}, seeds=2, methods=["proposed", "greedy"], out=tmp_path)
    assert list(swept.points["value"]) == [5e6, 1e7] * 2
    assert swept.reading
    assert (tmp_path / "figure.svg").exists()


def test_a_world_without_a_plan_is_told_by_an_exception(tmp_path):
    recipe = wt.recipe("sflllm").with_settings(*SMALL, "world.scenario.population.memory_bytes=1e3")
    assert wt.plan(recipe).status == "infeasible"
    with pytest.raises(InfeasibleError, match="no plan exists"):
        wt.run(recipe, tmp_path / "run")


def test_what_python_asks_wrongly_is_one_sentence(ran, tmp_path):
    with pytest.raises(RunFolderError, match="already holds a run"):
        wt.run("sflllm", ran[0].folder)
    with pytest.raises(ConfigError, match="no recipe is given"):
        wt.run(None)
    with pytest.raises(ConfigError, match="needs out"):
        wt.run(None, resume=True)
    with pytest.raises(ConfigError, match="module:function"):
        wt.deploy("sflllm", tmp_path / "deployed", [print])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="varies one field"):
        wt.sweep("sflllm", {})
    with pytest.raises(ConfigError, match="prompt is list; give one text"):
        ran[0].generate(["a", "b"])
    with pytest.raises(RunFolderError, match="resume"):
        wt.load_run(ran[0].folder)._file("none.json", "resume")


def test_a_finished_run_is_not_run_again_and_can_be_extended(ran, tmp_path):
    import shutil

    folder = Path(shutil.copytree(ran[0].folder, tmp_path / "run"))
    before = (folder / "summary.json").read_bytes()
    assert wt.run(None, folder, resume=True).status == "finished"
    assert (folder / "summary.json").read_bytes() == before
    assert len(wt.run(None, folder, resume=True, rounds=3).rounds) == 3


JSON = {
    "recipes": ("recipes", "--json"),
    "show": ("show", "sflllm", "--json"),
    "plan": ("plan", "sflllm", *settings(), "--json", "-"),
    "report": ("report", "RUN", "--json", "--out", "RUN/again.html"),
    "generate": ("generate", "RUN", "--prompt", "name[Aromi]", "--max-new-tokens", "2", "--json"),
    "resume": ("run", "--resume", "--out", "RUN", "--json"),
    "trade-off": ("trade-off", "sflllm", *settings(), "--points", "2", "--out", "RUN/curve", "--json"),
    "sweep": ("sweep", "sflllm", "--over", "bandwidth_hz=5e6,1e7", "--seeds", "1", "--jobs", "1", "--methods",
              "proposed", *settings(), "--out", "RUN/sweep", "--json"),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON)
def test_results_as_json_are_all_that_standard_output_holds(ran, case):
    answer = wavetune(*(str(word).replace("RUN", str(ran[0].folder)) for word in JSON[case]))
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)
