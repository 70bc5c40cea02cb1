"""Recipes ranked, and a recipe beside others, through the command line."""

import json
from pathlib import Path

import pytest

import wavetune as wt
from helpers.command_line import assert_refused, settings, wavetune
from helpers.runs import SMALL, small, without_clock
from wavetune.ranking.contest import claimed
from wavetune.ranking.entrants import beside_baselines
from wavetune.recipe import save

TASK = settings('world.model="tiny-bert"', "world.data.source=CORPUS", "run.rounds=1", "run.local_steps=1")
RANKED = ("stfl", "centralised_lora")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviews")
    for name, count in (("train", 80), ("validation", 16)):
        rows = [{"text": f"{'good' if n % 2 else 'dull'} film number {n}", "label": n % 2} for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def compare(corpus, out, *more, methods="fedavg_lora"):
    words = [word.replace("CORPUS", str(corpus)) for word in TASK]
    options = ("--seeds", 2, "--methods", methods, "--jobs", 1, "--out", out)
    return wavetune("compare", "pwff_task", *words, *options, *more)


def test_a_comparison_is_laid_side_by_side_and_goes_on_where_it_was(corpus, tmp_path):
    first = compare(corpus, tmp_path)
    assert first.code == 0, first.err
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/summary.json")}
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == ["fedavg_lora-seed0", "fedavg_lora-seed1", "proposed-seed0", "proposed-seed1"]
    table = json.loads((tmp_path / "comparison.json").read_text())
    sent = [json.loads((tmp_path / f / "summary.json").read_text())["bits"]["adapters_up"] for f in folders]
    uplink = {name: row["uplink bits"] for name, row in table["methods"].items()}
    assert uplink["fedavg_lora"]["values"] == sent[:2]
    assert uplink["proposed"]["values"] == sent[2:]
    assert uplink["fedavg_lora"]["proposed_minus_this"]["mean"] == sent[2] - sent[0]
    assert uplink["full model, accounted"]["mean"] > max(sent)
    page = (tmp_path / "comparison.md").read_text()
    for words in ("Seeds: 0, 1", "tiny random weights", "| own accuracy ↑ |", "| proposed minus |"):
        assert words in page
    assert "own accuracy" in first.out
    assert "full model" in first.out

    (tmp_path / "fedavg_lora-seed1" / "summary.json").unlink()  # as if stopped in its last moments
    second = compare(corpus, tmp_path)
    assert second.code == 0, second.err
    assert json.loads((tmp_path / "comparison.json").read_text())["methods"] == table["methods"]
    changed = [path.parent.name for path in written if path.stat().st_mtime_ns != written[path]]
    assert changed == ["fedavg_lora-seed1"]


def test_comparisons_of_other_settings_lie_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []

    def held(contest, folder, *_):
        ran.append(folder)
        claimed(folder, contest.entrants)
        raise KeyboardInterrupt

    monkeypatch.setattr("wavetune.ranking.contest.hold", held)
    save(small("sflllm", "run.rounds=7"), tmp_path / "recipe.json")
    for recipe in ("sflllm", "recipe.json", "sflllm", "recipe.json"):
        assert wavetune("compare", recipe).code == 130
    first, second = (Path("runs") / name for name in ("sflllm-comparison", "sflllm-comparison-2"))
    assert ran == [first, second, first, second]


def test_what_cannot_be_compared_is_refused_in_a_sentence(corpus, tmp_path):
    assert_refused(compare(corpus, tmp_path, methods="fedavg"), "--methods has 'fedavg'", "fedavg_lora")
    (tmp_path / "recipe.json").write_text("{}\n")
    assert_refused(compare(corpus, tmp_path), "other settings", "--out")
    assert_refused(wavetune("compare", "sflllm", "gossip", "--methods", "fedavg_lora"), "does not go with another")
    assert_refused(wavetune("compare", "sflllm", "--under", "rain"), "--under has 'rain'")


def test_a_recipe_without_baselines_is_set_beside_plain_averaging():
    assert {*beside_baselines(small("fedsllm"))} == {"proposed", "fedavg_lora"}
    assert {*beside_baselines(small("fedavg_lora"))} == {"proposed", "centralised_lora"}
    other = beside_baselines(small("fedsllm"))["fedavg_lora"]
    assert other.run.local_steps == 2 or other.run.local_steps == small("fedsllm").run.local_steps


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """A ranking of two recipes with two seeds, one of its runs killed on the way and gone on with."""
    out = tmp_path_factory.mktemp("ranking") / "ranking"
    words = ("rank", *RANKED, *settings("run.samples=0"), "--seeds", 2, "--jobs", 1, "--out", out)
    answer = wavetune(*words, "--json")
    return answer, out, words


def test_a_ranking_says_costs_qualities_and_what_disturbances_change(ranked):
    answer, out, _ = ranked
    assert answer.code == 0, answer.err
    table = json.loads(answer.out)
    assert table == json.loads((out / "ranking.json").read_text())
    assert table["seeds"] == [0, 1]
    own = table["methods"]["stfl"]
    disturbed = [json.loads((out / f"stfl-outage-seed{seed}" / "summary.json").read_text()) for seed in (0, 1)]
    plain = [json.loads((out / f"stfl-seed{seed}" / "summary.json").read_text()) for seed in (0, 1)]
    changes = [
        a["validation_loss"]["after"] - b["validation_loss"]["after"] for a, b in zip(disturbed, plain, strict=True)
    ]
    assert own["change of validation loss under outage"]["values"] == pytest.approx(changes)
    assert own["delay_s"]["values"] == [one["delay_s"] for one in plain]
    assert own["final validation loss"]["values"] == [one["validation_loss"]["after"] for one in plain]
    assert "in one place" in table["not_disturbed"]["centralised_lora under outage"]
    page = (out / "ranking.md").read_text()
    for words in ("Seeds: 0, 1", "tiny random weights", "restaurants", "wavetune rank stfl", "| stfl |", "figure.svg"):
        assert words in page
    figure = (out / "figure.svg").read_text()
    assert "<svg" in figure
    assert (out / "report.html").read_text().count("centralised_lora") > 1


def test_a_ranking_goes_on_to_the_same_end_in_processes_too(ranked):
    _, out, words = ranked
    before = json.loads((out / "ranking.json").read_text())
    for name in ("stfl-seed1", "centralised_lora-seed0"):  # as if stopped in their last moments
        (out / name / "summary.json").unlink()
    words = [2 if word == 1 and words[i - 1] == "--jobs" else word for i, word in enumerate(words)]
    again = wavetune(*words)
    assert again.code == 0, again.err
    after = json.loads((out / "ranking.json").read_text())
    assert without_clock(after) == without_clock(before)
    assert "run 2 of 2 is done" in again.err


def test_a_ranking_of_other_settings_is_refused_in_its_folder(ranked):
    words = ranked[2]
    assert_refused(wavetune(*words, "--rounds", 3), "other settings", "--out")
    assert_refused(wavetune("rank", "sflllm", "--under", "rain"), "--under has 'rain'", "outage")
    assert_refused(wavetune("rank", "sflllm", "nobody"), "no recipe is called 'nobody'")


def test_all_recipes_that_fit_the_data_are_ranked_by_default(tmp_path, monkeypatch):
    seen = []

    def held(contest, folder, *_):
        seen.append(contest)
        raise KeyboardInterrupt

    monkeypatch.setattr("wavetune.ranking.contest.hold", held)
    answer = wavetune("rank", *settings(), "--out", tmp_path / "out")
    assert answer.code == 130, answer.err
    assert next(iter(seen[0].entrants)) == "sflllm"
    assert {"gossip", "stfl", "centralised_lora", "cre"} <= {*seen[0].entrants}
    assert not {"pwff", "pwff_task"} & {*seen[0].entrants}
    assert "pwff is left out: its second stage" in answer.err


def test_runs_of_a_ranking_are_followed_from_python(tmp_path):
    told = []

    class Heard(wt.Callback):
        def started(self, folder, recipe, rounds_done):
            told.append(folder.name)

        def round(self, record):
            told.append(record.round)

    chosen = [wt.recipe(name).with_settings(*SMALL, "run.rounds=1") for name in ("sflllm", "gossip")]
    found = wt.rank(chosen, seeds=1, under="nothing", out=tmp_path, callbacks=[Heard()])
    assert told == ["sflllm-seed0", 0, "gossip-seed0", 0]
    assert found.run("gossip").status == "finished"
    assert found.rows()[0][0] == ""
    with pytest.raises(wt.WavetuneError, match="in this process alone"):
        wt.rank(chosen, out=tmp_path / "other", callbacks=[Heard()], jobs=2)
