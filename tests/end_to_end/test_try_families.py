"""The script that tries model families, at its smallest, and what it says of a run that is wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers and PEFT, as a user of the script has them


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("try_families", Path(__file__).parents[2] / "tools/try_families.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_decoders_and_encoders_export_what_the_run_recorded(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path / "cache"))
    results = list(script.try_families([*script.SMALLEST, "no_such_family"], tmp_path / "tried"))
    told = [(r.family, r.recipe, r.outcome) for r in results]
    right = [(family, recipe, "right") for family in script.SMALLEST for recipe in script.RECIPES]
    assert told == [*right, ("no_such_family", "-", "not built")]
    assert "4 right, 0 refused, 1 not built, 0 WRONG, 0 traceback" in script.table(results)


def test_another_loss_is_wrong_and_an_exception_is_no_refusal(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(script, "RECIPES", ("fedavg_lora",))
    monkeypatch.setattr(script, "stock_losses", lambda *_: (6.0, 5.0))
    (wrong,) = script.try_families(["llama"], tmp_path / "wrong")
    monkeypatch.setattr(script, "stock_losses", lambda *_: 1 / 0)
    (raised,) = script.try_families(["llama"], tmp_path / "raised")
    assert (wrong.outcome, raised.outcome) == ("WRONG", "traceback")
    assert wrong.failed
    assert raised.failed
    assert "ZeroDivisionError" in raised.detail


def test_a_model_whose_blocks_cannot_be_counted_trains_and_its_summary_says_so(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(script, "RECIPES", ("fedavg_lora",))
    monkeypatch.setattr("wavetune.models.counting._counted", lambda _model: 1 / 0)
    (result,) = script.try_families(["phi3"], tmp_path / "tried")
    assert result.outcome == "right"
    summary = json.loads((tmp_path / "tried/phi3-fedavg_lora/summary.json").read_text())
    assert "their compute is estimated from their parameters" in summary["model"]["note"]


def test_a_model_whose_upper_blocks_read_more_than_crosses_a_cut_trains_uncut(script: ModuleType, tmp_path: Path):
    split, uncut = script.try_families(["gemma4_text"], tmp_path / "tried")
    assert (split.outcome, uncut.outcome) == ("refused", "right")
    assert "cannot be split" in split.detail
