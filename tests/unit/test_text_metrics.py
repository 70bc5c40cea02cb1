"""Scores of texts: what perfect and useless answers get, several references, and what cannot be computed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

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


NO_OTHER_LANGUAGE = SimpleNamespace(fileids=list)


def wordnet_of(folder, synsets):
    """The files of a WordNet that knows nouns alone, each synset a list of words."""
    folder.mkdir(parents=True)
    for name in ("cntlist.rev", "index.sense", *(f"{kind}.exc" for kind in ("adj", "adv", "noun", "verb"))):
        (folder / name).write_text("")
    for kind in ("adj", "adv", "verb"):
        for part in ("index", "data"):
            (folder / f"{part}.{kind}").write_text("")
    (folder / "lexnames").write_text("00\tnoun.all\t1\n")
    data, index = "", ""
    for words in synsets:
        offset, listed = f"{len(data):08d}", " ".join(f"{word} 0" for word in words)
        data += f"{offset} 00 n {len(words):02x} {listed} 000 | a gloss  \n"
        index += "".join(f"{word} n 1 0 1 0 {offset}  \n" for word in words)
    (folder / "data.noun").write_text(data)
    (folder / "index.noun").write_text("".join(sorted(index.splitlines(keepends=True))))


def test_meteor_counts_stems_and_the_synonyms_of_a_wordnet(tmp_path, monkeypatch):
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    wordnet_of(tmp_path / "corpora" / "wordnet", [["pub", "tavern"], ["river", "stream"]])
    reader = WordNetCorpusReader(
        nltk.data.FileSystemPathPointer(str(tmp_path / "corpora" / "wordnet")), NO_OTHER_LANGUAGE
    )
    monkeypatch.setattr("nltk.translate.meteor_score.meteor_score", with_wordnet(reader))
    # all m words match in one chunk: 1 - 0.5 (1/m)^3 (Banerjee and Lavie, 2005)
    assert score("meteor", ["a tavern by a stream"], [["a pub by a river"]]) == pytest.approx(100 * (1 - 0.5 / 5**3))
    assert score("meteor", ["two pubs"], [["two pub"]]) == pytest.approx(100 * (1 - 0.5 / 2**3))
    assert score("meteor", ["a tavern"], [["a mill"]]) == pytest.approx(100 * 0.5 * 0.5)  # one of two
    for file in reader._data_file_map.values():  # which nltk leaves open
        file.close()


def with_wordnet(reader):
    from nltk.translate.meteor_score import meteor_score

    return lambda references, answer: meteor_score(references, answer, wordnet=reader)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ConfigError, match="'rouge_l' needs rouge_score"):
        text_metrics.require("rouge_l")


def test_what_a_metric_of_ones_own_returns_is_a_number(tmp_path):
    (tmp_path / "odd.py").write_text("def words(answers, references):\n    return 'many'\nnan = float('nan')\n")
    with pytest.raises(ConfigError, match="gives no number"):
        score(f"{tmp_path / 'odd.py'}:words", ["a"], [["b"]])
    for raised in ("KeyError('cat')", "ZeroDivisionError()", "SystemExit(4)"):
        (tmp_path / "bad.py").write_text(f"def words(answers, references):\n    raise {raised}\n")
        with pytest.raises(ConfigError, match=f"of 1 answers gives no number: {raised.partition('(')[0]}"):
            score(f"{tmp_path / 'bad.py'}:words", ["a"], [["b"]])
    assert text_metrics.library_of("theirs.metrics:words") == "theirs.metrics"
    with pytest.raises(ConfigError, match="no function"):
        score(f"{tmp_path / 'odd.py'}:nan", ["a"], [["b"]])
