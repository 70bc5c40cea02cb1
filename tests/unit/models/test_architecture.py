"""The architecture of a model folder: read from its config, or counted once and kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wavetune.errors import ModelError
from wavetune.models import counting
from wavetune.models.architecture import architecture_of

PHI3 = {
    "model_type": "phi3",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 61,
    "pad_token_id": 0,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(PHI3))
    return tmp_path / "model"


def test_a_model_without_a_formula_is_counted_once_and_said_so(folder: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    found = architecture_of(folder, said.append)
    assert said == [f"counting the costs of the model in {folder}, once"]
    assert found.default_lora_targets == ("qkv_proj",)
    monkeypatch.setattr(counting, "count_folder", lambda _folder: pytest.fail("counted again"))
    assert architecture_of(folder, said.append) == found
    assert len(said) == 1


def test_a_counted_model_is_read_again_without_torch(folder: Path):
    architecture_of(folder)
    code = (
        "import sys, pathlib; from wavetune.models.architecture import architecture_of; "
        f"architecture_of(pathlib.Path({str(folder)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_config_and_a_damaged_file_are_counted_again(folder: Path):
    first = architecture_of(folder)
    (kept,) = (folder.parent / "cache/costs/v3").iterdir()
    kept.write_text('{"kinds": [')
    assert architecture_of(folder) == first
    (folder / "config.json").write_text(json.dumps(PHI3 | {"num_hidden_layers": 3}))
    assert architecture_of(folder).num_layers == 3


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder.parent / "file").write_text("")
    monkeypatch.setenv("WAVETUNE_CACHE", str(folder.parent / "file"))
    assert architecture_of(folder).num_layers == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "t5"}, "has an encoder and a decoder"),
        ({"model_type": "no_such_model"}, "model code that this transformers does not have"),
        ({"hidden_size": 4}, "'model_type'"),
        ([], "not a JSON object"),
    ],
)
def test_a_config_of_no_such_model_is_refused_in_a_sentence(folder: Path, config: object, message: str):
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message) as refusal:
        architecture_of(folder)
    assert "\n" not in str(refusal.value)
    assert "did you mean" not in str(refusal.value)
