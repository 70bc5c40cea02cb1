from __future__ import annotations

import gzip
import json

import pytest

from wavetune.data.concierge import concierge_preferences
from wavetune.data.examples import PreferencePair, Turn
from wavetune.data.partition import Dirichlet
from wavetune.data.preference_rows import dialogue, pair_of
from wavetune.data.preferences import (
    chosen_answers,
    first_human_turn,
    holds_preferences,
    load_preferences,
    prompt_examples,
    turns_of_prompt,
)
from wavetune.data.settings import DataSettings, load_samples
from wavetune.errors import ConfigError, DataError


def row(prompt, chosen="good", rejected="bad", **more):
    return {"prompt": f"Human: {prompt}\n\nAssistant:", "chosen": chosen, "rejected": rejected, **more}


def write(path, rows):
    text = "\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.write(text)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "helpful-train.jsonl.gz", [row(f"h{i}", source="one") for i in range(10)])
    write(tmp_path / "helpful-test.jsonl.gz", [row("t", source="one")])
    write(tmp_path / "harmless-train.jsonl", [row(f"s{i}", source="two") for i in range(10)])
    write(tmp_path / "harmless-pku-train.jsonl.gz", [row(f"p{i}", source="pku") for i in range(10)])
    write(tmp_path / "harmless-pku-test.jsonl.gz", [row("u", source="pku")])
    return tmp_path


def test_a_kind_reads_its_own_files_and_states_them(folder):
    helpful, harmless = load_preferences(folder, "helpful"), load_preferences(folder, "harmless")
    assert (helpful.kind, len(helpful.train) + len(helpful.validation), len(helpful.test)) == ("helpful", 10, 1)
    assert {pair.source for pair in helpful.train} == {"one"}
    assert {pair.source for pair in harmless.train} == {"two", "pku"}
    assert [pair.source for pair in harmless.test] == ["pku"]
    assert harmless.notes[0] == "read harmless-pku-train.jsonl.gz, harmless-train.jsonl, harmless-pku-test.jsonl.gz"


def test_plain_files_serve_any_kind(tmp_path):
    write(tmp_path / "train.jsonl", [row("a"), row("b")])
    write(tmp_path / "valid.jsonl", [row("c")])
    corpus = load_preferences(tmp_path, "harmless")
    assert ([p.prompt for p in corpus.validation], len(corpus.train)) == (["Human: c\n\nAssistant:"], 2)
    assert len(load_preferences(tmp_path / "train.jsonl", "helpful").validation) == 1


def test_the_hold_out_keeps_all_pairs_of_a_first_human_turn_together(tmp_path):
    rows = [row(f"q{i % 40}\n\nAssistant: a{i}\n\nHuman: more {i}") for i in range(200)]
    write(tmp_path / "train.jsonl", rows)
    corpus = load_preferences(tmp_path, "helpful", seed=3)
    held = {first_human_turn(pair) for pair in corpus.validation}
    assert len(held) == 4
    assert (len(corpus.validation), len(corpus.train)) == (20, 180)
    assert not held & {first_human_turn(pair) for pair in corpus.train}
    assert "20 pairs (4 of 40 first human turns) of train held out, seed 3" in corpus.notes[-1]
    assert load_preferences(tmp_path, "helpful", seed=3) == corpus
    assert {first_human_turn(pair) for pair in load_preferences(tmp_path, "helpful", 4).validation} != held


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "not JSON"),
        ('{"prompt": "a", "response": "b"}', "needs 'chosen' as text or a list of messages; found the columns prompt"),
        ('{"instruction": "a", "completions": ["b"]}', "needs 'chosen' .* choose .* two as 'chosen' and 'rejected'"),
        (row("a", rejected=None), "needs 'rejected'"),
        (row("a", rejected=3), "'rejected' must be a list of messages"),
    ],
)
def test_a_malformed_pair_is_named_by_file_and_line(tmp_path, line, reason):
    write(tmp_path / "train.jsonl", [row("a"), "", line])
    with pytest.raises(DataError, match=rf"train.jsonl:3: .*{reason}"):
        load_preferences(tmp_path, "helpful")


SAY = [{"role": "user", "content": "Hi"}]
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("good", "bad"))
HH = "\n\nHuman: Hi\n\nAssistant:"


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Human: Hi\n\nAssistant:", "chosen": "good", "rejected": "bad"},
        {"chosen": f"{HH} good", "rejected": f"{HH} bad"},
        {"prompt": SAY, "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [*SAY, GOOD], "rejected": [*SAY, BAD]},
        {"prompt": "Hi", "chosen": [*SAY, GOOD], "rejected": [*SAY, BAD]},
        {"prompt": "Hi", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": SAY, "chosen": "good", "rejected": "bad"},
        {"chosen": json.dumps([*SAY, GOOD]), "rejected": json.dumps([*SAY, BAD])},
        {"input": {"messages": SAY}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        {"prompt": SAY, "response_0": "bad", "response_1": "good", "better_response_id": 1, "safer_response_id": 0},
        {"prompt": SAY, "output_1": "bad", "output_2": "good", "preference": 2.0},
        {"history": HH, "human_ref_A": "good", "human_ref_B": "bad", "labels": 1},
        {"conversation_a": [*SAY, BAD], "conversation_b": [*SAY, GOOD], "winner": "model_b"},
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
    ],
)
def test_every_form_of_a_preference_gives_prompt_and_answers(fields):
    pair = pair_of(fields, "here")
    assert (pair.prompt.strip(), pair.chosen, pair.rejected) == ("Human: Hi\n\nAssistant:", "good", "bad")
    assert turns_of_prompt(pair) == (Turn("user", "Hi"),)


def test_a_prompt_of_plain_text_stays_one_and_is_what_both_answers_begin_with():
    assert pair_of({"question": "Two?", "chosen": "2", "rejected": "3"}, "here") == PreferencePair("Two?", "2", "3")
    assert pair_of({"chosen": "Two? Four", "rejected": "Two? Five"}, "here") == PreferencePair("Two?", "Four", "Five")
    with pytest.raises(DataError, match=r"here: there is no prompt: no column 'prompt'.*do not begin alike"):
        pair_of({"chosen": "Yes", "rejected": "No"}, "here")


def test_the_system_prompt_of_a_preference_is_its_first_turn():
    pair = pair_of({"system": "Be kind.", "question": "Hi", "chosen": "good", "rejected": "bad"}, "here")
    assert pair.turns == (Turn("system", "Be kind."), Turn("user", "Hi"))
    assert pair.prompt == "System: Be kind.\n\nHuman: Hi\n\nAssistant:"


def test_where_a_pair_comes_from_is_read_as_domains_of_rows_are():
    pair = {"prompt": "Hi", "chosen": "good", "rejected": "bad"}
    found = [pair_of({**pair, "source": source}, "here").domain for source in (float("nan"), None, 1.0, 0, "web")]
    assert found == ["all", "all", "1", "0", "web"]


def test_of_two_answers_the_field_of_the_kind_says_which_is_chosen():
    two = {"prompt": "Hi", "response_0": "zero", "response_1": "one", "better_response_id": 0, "safer_response_id": 1}
    assert pair_of(two, "here", "safer_response_id").chosen == pair_of(two, "here").rejected == "one"
    row = {"prompt": "Hi", "response_a": "x", "response_b": "y"}
    assert pair_of({**row, "winner": "tie"}, "here") is None
    with pytest.raises(DataError, match="'winner' must say which of 'response_a' and 'response_b' is better, found 3"):
        pair_of({**row, "winner": 3}, "here")


def test_pairs_that_prefer_nothing_are_dropped_and_counted(tmp_path):
    useless = [
        row("a", chosen="x", rejected=" x "),
        row("a", chosen=" "),
        {"chosen": [*SAY, GOOD], "rejected": [*SAY, GOOD]},
        {"chosen": [*SAY, GOOD, *SAY, GOOD], "rejected": [*SAY, BAD, *SAY, GOOD]},
        {"chosen": f"{HH} good\n\nHuman: More?\n\nAssistant: yes", "rejected": f"{HH} bad"},
    ]
    write(tmp_path / "train.jsonl", [*useless, *(row(f"q{i}", score=i) for i in range(4))])
    corpus = load_preferences(tmp_path, "helpful")
    assert len(corpus.train) + len(corpus.validation) == 4
    assert corpus.notes[1:3] == (
        "5 pairs dropped whose answers are equal or empty, or equally good, or come after different dialogues",
        "columns not used: score",
    )
    write(tmp_path / "train.jsonl", useless)
    with pytest.raises(DataError, match="no rows of which one answer is preferred: 5 pairs dropped"):
        load_preferences(tmp_path, "helpful")


def test_pairs_of_one_first_turn_are_held_out_one_by_one(tmp_path):
    write(tmp_path / "train.jsonl", [row("the same", chosen=f"good {i}") for i in range(20)])
    corpus = load_preferences(tmp_path, "helpful")
    assert (len(corpus.train), len(corpus.validation)) == (18, 2)


def test_pairs_are_read_from_any_file_and_columns(tmp_path):
    (tmp_path / "helpful-train.csv").write_text("ask,better,worse\nq1,a,b\nq2,a,b\n")
    columns = {"prompt": "ask", "chosen": "better", "rejected": "worse"}
    corpus = load_preferences(tmp_path, "helpful", columns=columns)
    assert {pair.prompt for pair in corpus.train + corpus.validation} == {"q1", "q2"}
    (tmp_path / "helpful-train.jsonl").write_text("")
    with pytest.raises(DataError, match=r"helpful-train.csv and helpful-train.jsonl could each be the train part"):
        load_preferences(tmp_path, "helpful")


def test_missing_sources_kinds_and_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'harmless'"):
        load_preferences(tmp_path, "harmles")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="neither 'concierge' nor an existing"):
        load_preferences(tmp_path / "absent", "helpful")
    write(tmp_path / "harmless-train.jsonl", [row("a")])
    with pytest.raises(DataError, match=r"looked for helpful-train.* found harmless-train.jsonl"):
        load_preferences(tmp_path, "helpful")
    with pytest.raises(DataError, match="train has one distinct pair"):
        load_preferences(tmp_path, "harmless")
    write(tmp_path / "harmless-train.jsonl", [])
    with pytest.raises(DataError, match="no rows"):
        load_preferences(tmp_path, "harmless")


def test_prompts_for_alignment_are_distinct_in_order_without_answers_and_with_their_turns():
    pairs = [PreferencePair(**row(p)) for p in ("a", "b\n\nAssistant: c\n\nHuman: d", "a")]
    examples = prompt_examples(pairs)
    assert [(e.prompt, e.answer) for e in examples] == [(pairs[0].prompt, ""), (pairs[1].prompt, "")]
    assert examples[1].turns == (Turn("user", "b"), Turn("assistant", "c"), Turn("user", "d"))


def test_a_prompt_without_marked_turns_is_its_own_first_turn():
    assert dialogue("Say A.\n\nHuman: x") == ()
    assert first_human_turn(PreferencePair("Say A.", "A", "B")) == "Say A."


def test_the_reference_pairs_are_read_and_split_over_clients_by_source(shared):
    helpful = load_preferences(shared / "data/preference", "helpful")
    harmless = load_preferences(shared / "data/preference", "harmless")
    assert (len(helpful.train) + len(helpful.validation), len(helpful.test)) == (3614, 700)
    assert (len(harmless.train) + len(harmless.validation), len(harmless.test)) == (4213, 900)
    assert all(e.turns[-1].role == "user" for e in prompt_examples(harmless.test))
    turns = [{first_human_turn(pair) for pair in part} for part in (harmless.train, harmless.validation)]
    assert not turns[0] & turns[1]
    rows = Dirichlet(alpha=0.3).split(tuple(pair.domain for pair in helpful.train), 4, 0, 1)
    assert sum(map(len, rows)) == len(helpful.train)


def test_the_embedded_concierge_is_a_source():
    corpus = load_preferences("concierge", "harmless", seed=1)
    assert corpus == concierge_preferences("harmless", seed=1)
    assert not {pair.prompt for pair in corpus.train} & {pair.prompt for pair in corpus.test}


def test_a_folder_of_preferences_is_a_corpus_of_their_chosen_answers(folder):
    assert holds_preferences(folder)
    corpus = load_samples(DataSettings(source=str(folder)), 0)
    assert {e.answer for e in (*corpus.train, *corpus.validation, *corpus.test)} == {"good"}
    assert {e.domain for e in corpus.train} == {"helpful", "harmless"}
    assert len(corpus.train) + len(corpus.validation) == 30
    assert not {e.prompt for e in corpus.train} & {e.prompt for e in corpus.validation}
    assert corpus == chosen_answers(folder, 0)
    assert corpus.train[0].turns[0].role == "user"


def test_a_prompt_held_out_of_one_kind_is_not_judged_on_if_the_other_kind_trains_on_it(tmp_path):
    for kind in ("helpful", "harmless"):
        write(tmp_path / f"{kind}-train.jsonl", [row(f"{kind} {i}") for i in range(3)])
        write(tmp_path / f"{kind}-valid.jsonl", [row(f"{kind} held out"), row("helpful 1")])
    corpus = chosen_answers(tmp_path)
    assert sorted(e.turns[0].content for e in corpus.validation) == ["harmless held out", "helpful held out"]


def test_a_folder_with_a_plain_train_file_is_read_as_it_is(folder):
    (folder / "train.jsonl").write_text('{"prompt": "p", "completion": "c"}\n' * 3)
    assert not holds_preferences(folder)


def test_a_folder_of_one_kind_is_no_corpus_of_preferences(tmp_path):
    write(tmp_path / "helpful-train.jsonl", [row("a")])
    assert not holds_preferences(tmp_path)
    assert not holds_preferences(tmp_path / "nowhere")
