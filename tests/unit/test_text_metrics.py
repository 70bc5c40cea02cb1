"""Scores of texts: what perfect and useless answers get, several references, and what cannot be computed."""

from __future__ import annotations

import sys

import pytest

from wavetune import text_metrics
from wavetune.errors import ConfigError
from wavetune.text_metrics import METRICS, score

TEXTS = ["the old mill serves cheap french food by the river", "there is a family friendly pub near the station"]
OTHERS = ["a mill with food", "a pub for families"]
OWN = [name for name in METRICS if name != "meteor"]
BEST = {"bleu": 100, "chrf": 100, "rouge_l": 100, "exact_match": 100}


@pytest.mark.parametrize("name", OWN)
def test_an_answer_that_is_one_of_its_references_scores_best(name):
    references = [[other, text] for text, other in zip(TEXTS, OTHERS, strict=True)]
    best = score(name, TEXTS, references)
    assert best == pytest.approx(BEST.get(name, best))
    worse = score(name, [text.replace("the", "some") for text in TEXTS], references)
    assert best is not None
    assert worse is not None
    assert best > worse


@pytest.mark.parametrize("name", OWN)
def test_answers_that_share_nothing_with_their_references_score_nothing(name):
    assert score(name, ["xq zw vv kk jj", "qq ww zz yy xx"], [[text] for text in TEXTS]) == pytest.approx(0, abs=3)


@pytest.mark.parametrize("name", OWN)
def test_texts_may_have_unequal_numbers_of_references_and_be_empty(name):
    assert score(name, ["", "a pub"], [["a mill"], ["a pub", "the pub", "a bar"]]) is None or name != "nist"


def test_nist_of_answers_of_four_tokens_is_undefined():
    assert score("nist", ["one two three four"], [["one two three four"]]) is None


def test_meteor_without_wordnet_says_how_to_get_it(monkeypatch):
    import nltk.translate.meteor_score as theirs

    def missing(*_):
        raise LookupError("Resource wordnet not found")

    monkeypatch.setattr(theirs, "meteor_score", missing)
    with pytest.raises(ConfigError, match=r"nltk\.downloader wordnet"):
        score("meteor", ["a"], [["b"]])


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ConfigError, match="'rouge_l' needs rouge_score"):
        text_metrics.require("rouge_l")


def test_what_a_metric_of_ones_own_returns_is_a_number(tmp_path):
    (tmp_path / "odd.py").write_text("def words(answers, references):\n    return 'many'\nnan = float('nan')\n")
    with pytest.raises(ConfigError, match="gives no number"):
        score(f"{tmp_path / 'odd.py'}:words", ["a"], [["b"]])
    with pytest.raises(ConfigError, match="no function"):
        score(f"{tmp_path / 'odd.py'}:nan", ["a"], [["b"]])
