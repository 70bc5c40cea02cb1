from __future__ import annotations

import json
from decimal import Decimal

import pytest

from helpers.rows import example_of
from wavetune.data.examples import Example, Turn
from wavetune.data.rows import renamed, slots
from wavetune.errors import DataError

SAY = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
HI, HELLO = Turn("user", "Hi"), Turn("assistant", "Hello")
CHAT = Example("Hi", "Hello", turns=(HI,), reply=HELLO)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"input": "name[A], eatType[pub], food[Thai]", "output": "A is a pub."},
            Example("name[A], eatType[pub], food[Thai]", "A is a pub.", "Thai"),
        ),
        ({"input": "name[A], eatType[pub]", "output": "A."}, Example("name[A], eatType[pub]", "A.", "pub")),
        ({"input": "name[A]", "output": "A."}, Example("name[A]", "A.", "all")),
        ({"input": "Translate food[Thai] to French", "output": "x"}, Example("Translate food[Thai] to French", "x")),
        (
            {"instruction": "Sum up.", "input": "Long text.", "output": "Short.", "category": "summarization"},
            Example("Sum up.\n\nLong text.", "Short.", "summarization"),
        ),
        ({"instruction": "Why?", "input": "", "output": "So.", "category": None}, Example("Why?", "So.", "all")),
        ({"instruction": "Why?", "output": "So.", "text": "all of it"}, Example("Why?", "So.")),
        (
            {"instruction": "Why?", "context": "Here.", "response": "So.", "category": "open_qa"},
            Example("Why?\n\nHere.", "So.", "open_qa"),
        ),
        (
            {"question": "Which?", "options": ["one", "two"], "answer": 1, "difficulty": "easy"},
            Example("Which?\nA. one\nB. two", "B. two", "easy"),
        ),
        ({"question": "Which?", "choices": ["one", "two"], "answer": "A"}, Example("Which?\nA. one\nB. two", "A. one")),
        (
            {"question": "Which?", "options": ["one", "two"], "answer": "two"},
            Example("Which?\nA. one\nB. two", "B. two"),
        ),
        (
            {"question": "Which?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
            Example("Which?\nA. x\nB. y", "B. y"),
        ),
        (
            {"context": "Ann ran.", "question": "Who?", "answers": {"text": ["Ann", "ann"], "answer_start": [0, 0]}},
            Example("Ann ran.\n\nWho?", "Ann"),
        ),
        ({"context": "Ann ran.", "question": "When?", "answers": {"text": []}}, Example("Ann ran.\n\nWhen?", "")),
        ({"question": "Which?", "answer": "This."}, Example("Which?", "This.")),
        ({"passage": "Ann ran.", "question": "Did she?", "answer": True}, Example("Ann ran.\n\nDid she?", "true")),
        (
            {"question": "Which?", "options": {"A": "one", "B": "two"}, "answer": "B"},
            Example("Which?\nA. one\nB. two", "B. two"),
        ),
        (
            {"question": "Which?", "A": "one", "B": "two", "C": None, "answer": "1", "article": "Some."},
            Example("Some.\n\nWhich?\nA. one\nB. two", "B. two"),
        ),
        ({"prompt": "p", "response": "r", "domain": 2.0}, Example("p", "r", "2")),
        ({"prompt": "p", "response": "r", "domain": float("nan")}, Example("p", "r")),
        ({"inputs": "p", "targets": "r"}, Example("p", "r")),
        ({"query": "p", "response": "r"}, Example("p", "r")),
        ({"problem": "p", "solution": "r"}, Example("p", "r")),
        ({"prompt": "p", "response": "r"}, Example("p", "r")),
        ({"prompt": "p", "response": None, "completion": "c"}, Example("p", "c", verbatim=True)),
        ({"prompt": "2+2", "response": 4}, Example("2+2", "4")),
        ({"prompt": "pi", "response": 3.14}, Example("pi", "3.14")),
        ({"prompt": "pi", "response": Decimal("3.140")}, Example("pi", "3.140")),
        ({"prompt": "p", "completion": "c", "domain": "law"}, Example("p", "c", "law", verbatim=True)),
        ({"prompt": "def f():\n", "completion": "    pass\n"}, Example("def f():\n", "    pass\n", verbatim=True)),
        ({"text": " Once upon a time\n"}, Example("", " Once upon a time\n", verbatim=True)),
        ({"text": "News.", "label": 3}, Example("News.", "3", "3")),
        ({"text": "News.", "label": 3.0}, Example("News.", "3", "3")),
        ({"sentence": "News.", "labels": " pos "}, Example("News.", "pos", "pos")),
        ({"premise": "a", "hypothesis": "b", "label": 0}, Example("a", "0", "0", second="b")),
        ({"sentence1": "a", "sentence2": "b", "label": 0}, Example("a", "0", "0", second="b")),
        ({"text": "a", "text_pair": "b", "label": 0}, Example("a", "0", "0", second="b")),
        (
            {"system_prompt": "Be brief.", "question": "Hi", "response": "Hello"},
            Example("System: Be brief.\nUser: Hi", "Hello", turns=(Turn("system", "Be brief."), HI), reply=HELLO),
        ),
    ],
)
def test_every_row_form_gives_prompt_answer_and_domain(row, expected):
    assert example_of(row, "here") == expected


@pytest.mark.parametrize(
    "row",
    [
        {"messages": SAY},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"conversation": SAY},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                SAY[1],
            ]
        },
        {"messages": json.dumps(SAY)},
        {"messages": str(SAY)},
        {"conversation": [{"speaker": "human", "text": "Hi"}, {"speaker": "bot", "text": "Hello"}]},
        {"conversations": [{"role": "user", "value": "Hi"}, {"from": "gpt", "content": "Hello"}]},
        {"conversation": [{"human": "Hi", "assistant": "Hello"}]},
        {"conversation": [{"input": "Hi", "output": "Hello"}]},
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Hello"}]}]},
        {"prompt": json.dumps(SAY[:1]), "completion": json.dumps(SAY[1:])},
        {"prompt": SAY[:1], "completion": SAY[1:]},
        {"prompt": SAY[:1], "completion": "Hello"},
        {"prompt": "Hi", "response": SAY[1:]},
    ],
)
def test_every_form_of_a_dialogue_gives_its_turns(row):
    assert example_of(row, "here") == CHAT


def test_chat_answers_are_the_last_assistant_turn_after_all_turns_before_it():
    turns = [
        Turn("system", "Be brief."),
        Turn("user", "Hi"),
        Turn("assistant", "Hello"),
        Turn("user", "Bye"),
        Turn("assistant", "Ciao"),
    ]
    example = example_of({"messages": [turn.message for turn in turns] + [{"role": "user", "content": "?"}]}, "here")
    assert example.answer == "Ciao"
    assert example.turns == tuple(turns[:-1])
    assert example.dialogue == tuple(turns)
    assert example.prompt == "System: Be brief.\nUser: Hi\nAssistant: Hello\nUser: Bye"


@pytest.mark.parametrize(
    "system",
    [
        {"system": "Be brief."},
        {"system": [{"text": "Be brief."}]},
        {"systemInstruction": {"parts": [{"text": "Be brief."}]}},
    ],
)
def test_a_system_prompt_beside_a_dialogue_is_its_first_turn(system):
    example = example_of({"conversations": SAY, **system}, "here")
    assert example.dialogue == (Turn("system", "Be brief."), HI, HELLO)


@pytest.mark.parametrize("history", [[["Hi", "Hello"]], SAY])
def test_a_history_stands_before_the_prompt(history):
    example = example_of({"instruction": "And?", "output": "So.", "history": history, "system": "Be brief."}, "here")
    assert example.dialogue == (
        Turn("system", "Be brief."), HI, HELLO, Turn("user", "And?"), Turn("assistant", "So.")
    )  # fmt: skip


def test_a_function_call_and_a_refusal_are_answers():
    call = {"name": "add", "arguments": '{"a": 1}'}
    called = example_of({"messages": [SAY[0], {"role": "assistant", "content": None, "function_call": call}]}, "here")
    assert called.answer == '{"name": "add", "arguments": {"a": 1}}'
    assert example_of({"messages": [SAY[0], {"role": "assistant", "refusal": "No."}]}, "here").answer == "No."


def test_tool_turns_keep_their_calls_with_arguments_as_an_object():
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "tools": [{"type": "function", "function": {"name": "add"}}],
        "messages": [
            SAY[0],
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "2", "name": "add"},
            {"role": "assistant", "content": "Two."},
        ],
    }
    example = example_of(row, "here")
    called, answered = example.turns[1:]
    assert called.message == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
    }
    assert answered.message == {"role": "tool", "content": "2", "name": "add"}
    assert called.text == '{"name": "add", "arguments": {"a": 1}}'
    assert (example.answer, example.tools) == ("Two.", '[{"type": "function", "function": {"name": "add"}}]')
    assert example_of({"messages": row["messages"][:2]}, "here").answer == called.text


@pytest.mark.parametrize("flag", [{"weight": 0}, {"weight": "0.0"}, {"train": False}, {"loss": "False"}])
def test_a_turn_that_is_not_to_be_learned_is_not(flag):
    said = {**SAY[1], **dict.fromkeys(flag, 1)}
    dialogue = example_of({"messages": [SAY[0], {**SAY[1], **flag}, SAY[0], said]}, "here").dialogue
    assert [turn.learned for turn in dialogue] == [True, False, True, True]


@pytest.mark.parametrize("messages", [[], SAY[:1], SAY[1:]])
def test_a_dialogue_without_an_answer_to_anything_has_none(messages):
    assert example_of({"messages": messages}, "here").answer == ""


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "preference pairs, which train reward models"),
        (
            {"story": "x", "title": "y"},
            r"found the columns story, title; known are .*\{input, output\}.*world.data.columns",
        ),
        (
            {"instruction": "i", "completions": []},
            "Several answers .* have a score, rating or rank; choose one as 'response', or two as 'chosen'",
        ),
        ({"prompt": "p", "response": [3]}, r"response\[0\] must be a message \{role, content\}, found int"),
        ({"prompt": "p", "response": {}}, "'response' must be text, found dict"),
        ({"prompt": "p", "response": float("nan")}, "'response' must be text, found nan"),
        ({"question": "q", "options": ["a", "b"], "answer": 2}, "index of an option, 0 to 1, its letter .* found 2"),
        ({"question": "q", "options": ["a", "b"], "answer": True}, "index of an option, 0 to 1.* found True"),
        ({"question": "q", "options": ["a", "b"], "answer": "c"}, "index of an option, 0 to 1.* found 'c'"),
        ({"question": "q", "options": "ab", "answer": 0}, "'options' must be a list"),
        ({"messages": "Hi"}, "'messages' must be a list of messages"),
        ({"messages": [{"role": "user", "said": "Hi"}]}, r"messages\[0\] says nothing: it has none of content, value"),
        ({"role": "user", "content": "Hi"}, "a row with 'role' is a turn of a dialogue; write a row for each dialogue"),
        ({"prompt": "p", "completion": "c", "label": False}, "the 'label' False says whether the answer is wanted"),
        ({"prompt": "p", "completion": "c", "label": "True"}, "the 'label' 'True' says whether the answer is wanted"),
        (
            {"messages": [{"author": "user", "content": "Hi"}]},
            r"messages\[0\] does not say who speaks: it has none of 'from', 'role', 'speaker', but author, content",
        ),
        ({"messages": ["Hi"]}, r"messages\[0\] must be a message"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\].content must be text, found int"),
        (
            {"messages": [{"role": "critic", "content": "Hi"}]},
            r"messages\[0\] has the role 'critic'; known are assistant",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            r"messages\[0\].content\[0\] is of type 'image_url'; text alone",
        ),
        ({"text": "x", "label": 0.5}, "'label' must be a class, as text or a whole number, found 0.5"),
        ({"text": "x", "label": [1]}, r"'label' must be a class.* found \[1\]"),
        ({"text": "x", "label": " "}, "'label' must be a class"),
        ({"text": "x", "label": None}, "'label' must be a class"),
    ],
)
def test_a_bad_row_is_refused_with_its_place_and_a_reason(row, sentence):
    with pytest.raises(DataError, match=f"^file:7: .*{sentence}"):
        example_of(row, "file:7")


def test_a_mapping_names_the_columns_of_a_form():
    row = {"ask": "Hi", "reply": "Hello", "text": "unused", "kind": "law"}
    columns = {"prompt": "ask", "response": "reply", "domain": "kind"}
    assert example_of(renamed(row, columns, "here"), "here") == Example("Hi", "Hello", "law")
    assert renamed(row, {}, "here") is row
    with pytest.raises(DataError, match=r"world.data.columns has no field 'prompted'; did you mean 'prompt'"):
        renamed(row, {"prompted": "ask"}, "here")
    with pytest.raises(
        DataError, match=r"^here: there is no column 'rply'.*columns.response names; did you mean 'reply'"
    ):
        renamed(row, {"response": "rply"}, "here")


def test_a_mapping_that_makes_no_row_by_itself_leaves_the_other_columns_their_names():
    row = {"Instruction": "Hi", "output": "Hello", "client": 3, "frage": "Who?"}
    assert example_of(renamed(row, {"domain": "client"}, "here"), "here") == Example("Hi", "Hello", "3")
    assert example_of(renamed(row, {"input": "frage"}, "here"), "here").prompt == "Hi\n\nWho?"


def test_columns_are_known_whatever_the_case_of_their_names():
    row = {"Prompt": "a", "COMPLETION": "b", "Category": "c", "Mine": 1}
    named = renamed(row, {}, "here")
    assert named == {"prompt": "a", "completion": "b", "category": "c", "Mine": 1}
    assert renamed({"Text": "a", "text": "b", "TEXT": "c"}, {}, "here") == {"Text": "a", "text": "b", "TEXT": "c"}


def test_null_is_as_empty_as_a_cell_of_csv():
    assert example_of({"input": "x", "output": None}, "here").answer == ""
    assert example_of({"prompt": None, "completion": "y"}, "here") == Example("", "y", verbatim=True)


def test_slots_of_a_long_broken_meaning_are_found_missing_at_once():
    assert slots("name[x], " * 60 + "broken") == {}
