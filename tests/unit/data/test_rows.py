from __future__ import annotations

import pytest

from wavetune.data.examples import Example
from wavetune.data.rows import example_of, slots
from wavetune.errors import DataError


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"input": "name[A], eatType[pub], food[Thai]", "output": " A is a pub. "},
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
        ({"instruction": "Why?", "output": "So."}, Example("Why?", "So.")),
        (
            {"question": "Which?", "options": ["one", "two"], "answer": 1, "difficulty": "easy"},
            Example("Which?\nA. one\nB. two", "B. two", "easy"),
        ),
        ({"question": "Which?", "answer": "This."}, Example("Which?", "This.")),
        ({"text": "News.", "label": 3}, Example("News.", "3", "3")),
        ({"prompt": "p", "response": "r"}, Example("p", "r")),
        ({"prompt": "p", "completion": "c", "domain": "law"}, Example("p", "c", "law")),
    ],
)
def test_every_row_form_gives_prompt_answer_and_domain(row, expected):
    assert example_of(row, "here") == expected


def test_chat_answers_are_the_last_assistant_turn_after_all_turns_before_it():
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Ciao")]
    row = {
        "messages": [{"role": role, "content": content} for role, content in turns] + [{"role": "user", "content": "?"}]
    }
    example = example_of(row, "here")
    assert example.answer == "Ciao"
    assert example.turns == tuple(turns[:-1])
    assert example.prompt == "System: Be brief.\nUser: Hi\nAssistant: Hello\nUser: Bye"


def test_a_single_user_turn_is_the_prompt_itself():
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    assert example_of(row, "here").prompt == "Hi"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "preference pairs, which train reward models"),
        ({"story": "x", "title": "y"}, r"found keys \{story, title\}; known row forms are .*\{input, output\}"),
        ({"prompt": "p", "response": 3}, "'response' must be text, found int"),
        ({"input": "x", "output": None}, "'output' must be text, found NoneType"),
        ({"question": "q", "options": ["a", "b"], "answer": 2}, "index of an option, 0 to 1, found 2"),
        ({"question": "q", "options": ["a", "b"], "answer": True}, "index of an option, 0 to 1, found True"),
        ({"question": "q", "options": "ab", "answer": 0}, "'options' must be a list"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "needs a turn with role 'assistant'"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "needs a turn with role 'assistant' after another"),
        ({"messages": "Hi"}, "'messages' must be a list"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "'messages' must be a list"),
    ],
)
def test_a_bad_row_is_refused_with_its_place_and_a_reason(row, sentence):
    with pytest.raises(DataError, match=f"^file:7: .*{sentence}"):
        example_of(row, "file:7")


def test_slots_of_a_long_broken_meaning_are_found_missing_at_once():
    assert slots("name[x], " * 60 + "broken") == {}
