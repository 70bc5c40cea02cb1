"""What planning counts of a data set is counted once, and again after a change of whatever it depends on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from helpers.runs import small
from wavetune.models.resolve import resolve_model
from wavetune.runtimes import world
from wavetune.runtimes.world import SampleCount, count_samples


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that were read to be counted, with an empty cache and data and model in files of the test."""
    model = resolve_model("tiny").folder
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "rows").mkdir()
    write(tmp_path, "it is {}")
    read: list[str] = []
    prepare = world.prepare
    monkeypatch.setattr(world, "prepare", lambda data, *rest: read.append(data.source) or prepare(data, *rest))
    return read


def write(folder: Path, answer: str) -> None:
    for part in ("train", "validation"):
        rows = [json.dumps({"prompt": f"{part} {i}", "completion": answer.format(i)}) for i in range(60)]
        (folder / "rows" / f"{part}.jsonl").write_text("\n".join(rows))


def count(folder: Path, *settings: str) -> SampleCount:
    data, model = (json.dumps(str(folder / name)) for name in ("rows", "model"))
    return count_samples(small("sflllm", f"world.data.source={data}", f"world.model={model}", *settings))


def test_the_same_data_is_counted_once(counted: list[str], tmp_path: Path) -> None:
    assert count(tmp_path) == count(tmp_path)
    assert len(counted) == 1


def test_an_estimate_without_the_model_reads_the_data_once(
    counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_samples = world.load_samples
    monkeypatch.setattr(
        world, "load_samples", lambda data, seed: counted.append(data.source) or load_samples(data, seed)
    )
    assert count(tmp_path, "world.model=gpt2") == count(tmp_path, "world.model=gpt2")
    assert len(counted) == 1
    write(tmp_path, "it is not {}")
    count(tmp_path, "world.model=gpt2")
    assert len(counted) == 2


@pytest.mark.parametrize(
    "setting", ["run.seed=3", "world.scenario.population.num_clients=2", "world.data.max_tokens=20"]
)
def test_another_setting_of_the_data_is_counted_anew(counted: list[str], tmp_path: Path, setting: str) -> None:
    count(tmp_path)
    count(tmp_path, setting)
    assert len(counted) == 2


def test_other_rows_are_counted_anew(counted: list[str], tmp_path: Path) -> None:
    before = count(tmp_path)
    write(tmp_path, "it is not {}")
    assert count(tmp_path).statistics.tokens == pytest.approx(before.statistics.tokens + 4)  # its tokens are bytes
    assert len(counted) == 2


def test_another_tokenizer_is_counted_anew(counted: list[str], tmp_path: Path) -> None:
    count(tmp_path)
    file = tmp_path / "model" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"added": "here"}))
    count(tmp_path)
    assert len(counted) == 2


def test_a_damaged_count_is_counted_anew(counted: list[str], tmp_path: Path) -> None:
    before = count(tmp_path)
    for file in (tmp_path / "cache" / "counted").iterdir():
        file.write_text('[{"tokens": 1}')
    assert count(tmp_path) == before
    assert len(counted) == 2
