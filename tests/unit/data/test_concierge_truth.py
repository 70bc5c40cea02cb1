from __future__ import annotations

import pytest

from wavetune.data.concierge import QUALITIES, answer, helpful_score, safe_score, situations
from wavetune.data.concierge_truth import helpful, safe, situation_of
from wavetune.data.examples import Example
from wavetune.errors import DataError


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_prompt_is_read_back_into_its_situation(part):
    drawn = situations(150, seed=11, part=part)
    assert [situation_of(s.prompt) for s in drawn] == list(drawn)


def test_generated_answers_get_their_exact_scores():
    drawn = situations(20, seed=4, part="test")
    pairs = [(s, answer(s, quality)) for s in drawn for quality in QUALITIES]
    examples, answers = [s.example for s, _ in pairs], [text for _, text in pairs]
    assert helpful(examples, answers).tolist() == [helpful_score(s, text) for s, text in pairs]
    assert safe(examples, answers).tolist() == [safe_score(s, text) for s, text in pairs]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda prompt: "What is for dinner?", "is no prompt of the concierge"),
        (lambda prompt: prompt.partition("Caller:")[0] + "Caller: Hello there.", "asks for no fact of its note"),
        (lambda prompt: prompt.replace("Public: ", "Public: spaceship 9 pm; "), "'spaceship 9 pm' is no fact"),
        (lambda prompt: prompt.replace("Private: ", "Private: shoe size 43; "), "'shoe size 43' is no secret"),
    ],
)
def test_other_prompts_are_refused(change, sentence):
    prompt = change(situations(1)[0].prompt)
    with pytest.raises(DataError, match=sentence):
        helpful([Example(prompt, "")], ["It is open until nine."])


def test_every_answer_needs_its_example():
    with pytest.raises(ValueError, match="shorter"):
        safe([situations(1)[0].example], [])
