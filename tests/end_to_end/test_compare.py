"""A recipe against its baselines, through the command line."""

import json
from pathlib import Path

import pytest

from helpers.command_line import assert_refused, settings, wavetune
from helpers.runs import small
from wavetune.recipe import save
from wavetune.runtimes.continued import as_begun

TASK = settings('world.model="tiny-bert"', "world.data.source=CORPUS", "run.rounds=1", "run.local_steps=1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviews")
    for name, count in (("train", 80), ("validation", 16)):
        rows = [{"text": f"{'good' if n % 2 else 'dull'} film number {n}", "label": n % 2} for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def compare(corpus, out, *more):
    words = [word.replace("CORPUS", str(corpus)) for word in TASK]
    return wavetune("compare", "pwff_task", *words, "--seeds", 2, "--methods", "fedavg_lora", "--out", out, *more)


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

    def compared(recipe, _methods, _seeds, out, _say, _watch):
        ran.append(out)
        out.mkdir(parents=True, exist_ok=True)
        save(as_begun(recipe, out / "recipe.json"), out / "recipe.json")
        raise KeyboardInterrupt

    monkeypatch.setattr("wavetune.comparison.compare", compared)
    save(small("sflllm", "run.rounds=7"), tmp_path / "recipe.json")
    for recipe in ("sflllm", "recipe.json", "sflllm", "recipe.json"):
        assert wavetune("compare", recipe).code == 130
    first, second = (Path("runs") / name for name in ("sflllm-comparison", "sflllm-comparison-2"))
    assert ran == [first, second, first, second]


def test_what_cannot_be_compared_is_refused_in_a_sentence(corpus, tmp_path):
    assert_refused(compare(corpus, tmp_path, "--methods", "fedavg"), "--methods has 'fedavg'", "fedavg_lora")
    assert_refused(wavetune("compare", "fedsllm", "--out", tmp_path), "'fedsllm' has no baselines", "sflllm")
    (tmp_path / "recipe.json").write_text("{}\n")
    assert_refused(compare(corpus, tmp_path), "other settings", "--out")
