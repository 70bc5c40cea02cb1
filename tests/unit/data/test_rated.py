from __future__ import annotations

import csv
import json
from collections import Counter

import pytest

from wavetune.data.corpora import load_corpus
from wavetune.data.preferences import load_preferences
from wavetune.data.rated import unfolded
from wavetune.errors import DataError

RATED = [  # the same three answers, as UltraFeedback, Nectar and distilabel write them
    {
        "instruction": "Why?",
        "source": "flan",
        "completions": [
            {"response": "poor", "annotations": {"a": {"Rating": "1"}, "b": {"Rating": "2"}}, "overall_score": 10.0}
            | {"fine-grained_score": 1.5},
            {"response": "best", "annotations": {"a": {"Rating": "5"}, "b": {"Rating": "N/A"}}},
            {"response": "fair", "annotations": {"a": {"Rating": "2"}, "b": {"Rating": "4"}}},
        ],
    },
    {
        "question": "Why?",
        "answers": [{"answer": a, "rank": r} for a, r in (("fair", 2.0), ("best", 1.0), ("poor", 3.0), ("", 0.0))],
    },
    {"prompt": "Why?", "generations": ["poor", "fair", "best"], "ratings": [1, 2, 5], "response": "of another"},
]


@pytest.mark.parametrize("row", RATED)
def test_the_best_rated_answer_is_learned_and_preferred_to_each_that_is_worse(row):
    told: Counter[str] = Counter()
    ((_, one),) = unfolded([("here", row)], told)
    assert one["response"] == "best"
    assert told == {"rows with several answers, of which the best rated is learned": 1}
    pairs = [made for _, made in unfolded([("here", row)], told, pairs=True)]
    assert {(pair["chosen"], pair["rejected"]) for pair in pairs} == {("best", "fair"), ("best", "poor")}


@pytest.mark.parametrize("field", ["answer", "answers", "output"])
def test_of_answers_without_a_rating_the_first_is_learned(tmp_path, field):
    asked = "instruction" if field == "output" else "question"
    rows = [{asked: f"Why {i}?", field: ["one", "two"]} for i in range(10)]
    (tmp_path / "nq.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = load_corpus(str(tmp_path / "nq.jsonl"), hold_out=0)
    assert {e.answer for e in corpus.train} == {"one"}
    assert corpus.notes[0] == "10 rows with several answers, of which the first is learned"


LISTED = [
    ({"question": "Why?", "options": ["x", "y"], "answer": "1"}, "Why?\nA. x\nB. y", "B. y"),
    (
        {"context": "C", "question": "Why?", "answers": {"text": ["one", "two"], "answer_start": [0, 3]}},
        "C\n\nWhy?",
        "one",
    ),
    ({"question": "Why?", "answers": ["one", "two"]}, "Why?", "one"),
    ({"prompt": "Why?", "responses": ["poor", "best"], "ratings": [1, 5]}, "Why?", "best"),
    (
        {"prompt": "Why?", "completions": [{"response": "poor", "score": 1}, {"response": "best", "score": 2}]},
        "Why?",
        "best",
    ),
    (
        {"prompt": "Why?", "response": "so", "history": [["Hi", "Hello"]]},
        "User: Hi\nAssistant: Hello\nUser: Why?",
        "so",
    ),
    ({"prompt": "Why?", "response": "so", "history": []}, "Why?", "so"),
    ({"prompt": "Why?", "response": "['so']"}, "Why?", "['so']"),  # a text that may look like anything
]


@pytest.mark.parametrize("written", [json.dumps, str])
@pytest.mark.parametrize(("row", "prompt", "answer"), LISTED)
def test_lists_and_objects_in_cells_of_csv_are_read(tmp_path, row, prompt, answer, written):
    cells = {key: value if isinstance(value, str) else written(value) for key, value in row.items()}
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*cells], [*cells.values()]])
    corpus = load_corpus(str(tmp_path / "a.csv"), hold_out=0)
    assert [(e.prompt, e.answer) for e in corpus.train] == [(prompt, answer)]
    assert not any("not used" in note for note in corpus.notes)


@pytest.mark.parametrize("answers", ["{'text': array(['a'], dtype=object)}", "['a' 'b']"])
def test_answers_as_numpy_prints_them_are_refused(tmp_path, answers):
    (tmp_path / "a.csv").write_text(f'context,question,answers\nC,Why?,"{answers}"\n')
    with pytest.raises(DataError, match=r"a.csv:2: 'answers' must be texts, found a list or object that is not"):
        load_corpus(str(tmp_path / "a.csv"))


def message(key, parent, role, text, **more):
    return {"message_id": key, "parent_id": parent, "role": role, "text": text, "lang": "en", **more}


FLAT = [  # replies may stand before what they reply to
    message("worse", "root", "assistant", "Go away", rank=1.0),
    message("root", None, "prompter", "Hi"),
    message("gone", "root", "assistant", "Boo", rank=0.0, deleted=True),
    message("better", "root", "assistant", "Hello", rank=0.0),
    message("unranked", "root", "assistant", "Hm", rank=None),
    message("and", "better", "prompter", "And?", rank=None),
    message("yes", "and", "assistant", "Yes", rank=1),
    message("no", "and", "assistant", "No", rank=0),
    message("lost", "elsewhere", "assistant", "What?"),
    message("root", "yes", "prompter", "Hi"),
]


def nested(key="root"):
    first = {row["message_id"]: row for row in reversed(FLAT)}
    return {**first[key], "parent_id": None, "replies": [nested(k) for k, r in first.items() if r["parent_id"] == key]}


NESTED = {"message_tree_id": "root", "prompt": nested()}


def said(messages):
    return [(turn["role"], turn["content"]) for turn in messages]


AS_CELLS = [{key: "" if value is None else str(value) for key, value in {"deleted": False, **r}.items()} for r in FLAT]


@pytest.mark.parametrize("rows", [FLAT, AS_CELLS, [NESTED]])  # as rows of JSON and of CSV, and in one object
def test_a_tree_is_a_dialogue_along_its_best_replies_and_pairs_of_replies_by_rank(rows):
    placed, told = [(str(i), row) for i, row in enumerate(rows)], Counter[str]()
    ((_, dialogue),) = unfolded(placed, told)
    way = [("prompter", "Hi"), ("assistant", "Hello"), ("prompter", "And?"), ("assistant", "No")]
    assert (said(dialogue["messages"]), dialogue["domain"]) == (way, "en")
    assert told["messages left out, as what they reply to is not there"] == (len(rows) > 1)
    pairs = [pair for _, pair in unfolded(placed, told, pairs=True)]
    assert [(said(pair["prompt"]), pair["chosen"], pair["rejected"]) for pair in pairs] == [
        (way[:1], "Hello", "Go away"),
        (way[:3], "No", "Yes"),
    ]


def test_a_tree_whose_replies_are_no_list_has_none(tmp_path):
    (tmp_path / "odd.jsonl").write_text(json.dumps({"prompt": {"role": "prompter", "text": "Hi", "replies": 1.5}}))
    with pytest.raises(DataError, match="none of the 1 rows has an answer"):
        load_corpus(str(tmp_path / "odd.jsonl"))


def test_raw_ultrafeedback_and_openassistant_files_are_read_and_what_was_chosen_is_told(tmp_path):
    trees = [json.dumps({**NESTED, "prompt": {**NESTED["prompt"], "text": f"Hi {i}"}}) for i in range(10)]
    rated = [json.dumps({**RATED[0], "instruction": f"Why {i}?"}) for i in range(10)]
    (tmp_path / "oasst.jsonl").write_text("\n".join(trees))
    (tmp_path / "ultra.jsonl").write_text("\n".join(rated))
    chats, answers = load_corpus(str(tmp_path / "oasst.jsonl")), load_corpus(str(tmp_path / "ultra.jsonl"))
    assert {(e.answer, e.domain) for e in chats.train} == {("No", "en")}
    assert chats.notes[0] == "10 trees of messages, each read along its best replies"
    assert {e.answer for e in answers.train} == {"best"}
    ranked = load_preferences(tmp_path / "oasst.jsonl", "helpful")
    assert ranked.notes[0] == "20 pairs of the best ranked of several replies and a worse one"
    scored = load_preferences(tmp_path / "ultra.jsonl", "helpful")
    assert {(p.chosen, p.domain) for p in scored.train} == {("best", "flan")}


def test_rows_without_a_rated_answer_are_dropped_and_counted(tmp_path):
    unrated = [{"response": "a", "overall_score": "N/A"}, {"response": "b", "rank": None}]
    rows = [{**RATED[0], "instruction": f"Why {i}?"} for i in range(4)]
    rows += [{"instruction": "What?", "completions": []}, {"instruction": "Who?", "completions": unrated}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load_corpus(str(tmp_path / "rows.jsonl")).dropped == 2
    pairs = load_preferences(tmp_path / "rows.jsonl", "helpful")
    assert len(pairs.train) + len(pairs.validation) == 8
    assert pairs.notes[1].startswith("2 pairs dropped")


def test_several_answers_of_one_rating_prefer_nothing_and_without_any_are_refused(tmp_path):
    equal = {"instruction": "Why?", "completions": [{"response": text, "score": 1} for text in "ab"]}
    (tmp_path / "equal.jsonl").write_text(json.dumps(equal))
    with pytest.raises(DataError, match="no rows of which one answer is preferred: 1 pairs dropped"):
        load_preferences(tmp_path / "equal.jsonl", "helpful")
    (tmp_path / "unrated.jsonl").write_text(json.dumps({"instruction": "Why?", "completions": [{"response": "a"}]}))
    with pytest.raises(DataError, match="are read where they have a score, rating or rank"):
        load_corpus(str(tmp_path / "unrated.jsonl"))
