"""What the untouched model does, which runs on the same rows need not find again."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from wavetune.data.templates import TokenSet
from wavetune.federation.cohort import Evaluation
from wavetune.runtimes import untouched_cache

ROWS = TokenSet(np.arange(5, dtype=np.int32), np.array([0, 2, 5]), np.array([1, 3]), ("a", "b"), np.arange(2))


class Judge:
    """Counts how often it is asked."""

    def __init__(self, loss=1 / 3):
        self.asked, self.loss = 0, loss

    def evaluate(self, rows, bank):
        assert bank is None
        self.asked += 1
        return Evaluation(np.full(len(rows), self.loss), np.ones(len(rows)), np.zeros(len(rows)))


@pytest.fixture
def losses(tmp_path, monkeypatch):
    """Of a model in a folder, as a run asks for them."""
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("1")

    def asked(judge, rows=ROWS, precision="fp32", tokens=64):
        serving = SimpleNamespace(prefix=None, backbone=SimpleNamespace(device="cpu"), tokens_per_pass=tokens)
        return untouched_cache.recalled_losses(serving, tmp_path / "model", precision, rows, judge)

    return asked


def test_the_same_rows_are_evaluated_once_to_the_last_bit(losses):
    judge = Judge()
    first, second = losses(judge), losses(judge)
    assert judge.asked == 1
    for name, values in vars(first).items():
        np.testing.assert_array_equal(values, vars(second)[name])


def test_another_model_precision_pass_or_row_is_evaluated(losses, tmp_path):
    judge = Judge()
    losses(judge)
    losses(judge, precision="fp64")
    losses(judge, tokens=65)
    losses(judge, replace(ROWS, label_start=np.array([1, 4])))
    losses(judge, replace(ROWS, labels=np.ones(5, np.bool_)))
    (tmp_path / "model" / "weights").write_text("12")
    losses(judge)
    assert judge.asked == 6


def test_what_is_damaged_or_not_finite_is_evaluated_again(losses, tmp_path):
    judge = Judge()
    losses(judge)
    (kept,) = (tmp_path / "cache").rglob("*.json")
    for text in ("{", "[1]", '{"nll_R": [1], "positions_R": [1], "correct_R": [1]}'):
        kept.write_text(text)
        losses(judge)
    assert judge.asked == 4
    wrong = Judge(np.nan)
    kept.unlink()
    assert np.isnan(losses(wrong).nll_R).all()
    assert losses(judge).nll_R[0] == 1 / 3


def test_sample_answers_are_given_once(losses, tmp_path):
    serving, said = SimpleNamespace(backbone=SimpleNamespace(device="cpu")), []

    def answers(prompts, tokens=4, ends=frozenset({(2,)})):
        def answer():
            said.append(prompts)
            return ["yes"] * len(prompts)

        return untouched_cache.recalled_answers(serving, tmp_path / "model", "fp32", prompts, tokens, ends, answer)

    assert answers([(1, 2), (3,)]) == answers([(1, 2), (3,)]) == ["yes", "yes"]
    assert len(said) == 1
    answers([(1, 2), (4,)])
    answers([(1, 2), (3,)], tokens=5)
    answers([(1, 2), (3,)], ends=frozenset({(2,), (1, 2)}))
    assert len(said) == 4
    for kept in (tmp_path / "cache").rglob("*.json"):
        kept.write_text('["yes"]')
    answers([(1, 2), (3,)])
    assert len(said) == 5
