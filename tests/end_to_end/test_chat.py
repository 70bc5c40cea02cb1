"""A chat model on its own dialogues, from the plan to the answer."""

import json
from datetime import date as calendar
from unittest import mock

import pytest

from helpers.chat_models import TEMPLATES, chat_model
from helpers.command_line import flatten, wavetune
from helpers.runs import SMALL, Silent, read_json, small, train
from wavetune.data import templates
from wavetune.recipe import load
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.world import count_samples, statistics_of


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """Dialogues of two exchanges, with and without a system turn."""
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    turns = [
        [*([{"role": "system", "content": "Be brief."}] if i % 2 else []), {"role": "user", "content": f"q{i}"},
         {"role": "assistant", "content": "ok"}, {"role": "user", "content": "and?"},
         {"role": "assistant", "content": "no"}]
        for i in range(24)
    ]  # fmt: skip
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))
    return path


@pytest.fixture(scope="module")
def recipe(chats, tmp_path_factory):
    model = chat_model(tmp_path_factory.mktemp("models") / "dated", TEMPLATES["dated"])
    settings = (f'world.model="{model}"', f'world.data.source="{chats}"', "world.data.train_samples=null")
    return small("sflllm", *settings)


def on(day):
    """Whatever the clock says, it is the 1st or 2nd of January."""

    class Day(calendar):
        @classmethod
        def today(cls):
            return cls(2031, 1, day)

    return mock.patch.object(templates, "date", Day)


def test_a_run_continued_on_another_day_trains_on_the_texts_of_the_first(recipe, tmp_path):
    with on(1):
        train(recipe, tmp_path / "whole")
    kept = load(tmp_path / "whole" / "recipe.json").world.data.template
    assert kept.kind == "chat"
    assert kept.date == "2031-01-01"

    class Stopped(Silent):
        def round(self, record):
            raise KeyboardInterrupt

    with on(1), pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "parts", Stopped())
    with on(2):
        train(recipe, tmp_path / "parts", resume=True)
    adapters = [tmp_path / name / "adapters" / "global" / "adapter_model.safetensors" for name in ("whole", "parts")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    notes = read_json(tmp_path / "whole" / "summary.json")["data"]["notes"]
    assert "dialogues written by the model's own chat template, all answers are learned" in notes
    ends = read_json(tmp_path / "whole" / "adapters" / "global" / "generation_config.json")["eos_token_id"]
    assert len(ends) == 2
    answered = wavetune("generate", tmp_path / "whole", "--prompt", "q1", "--max-new-tokens", "3")
    assert answered.code == 0


def test_a_plan_counts_the_tokens_that_the_run_trains_on(recipe, tmp_path):
    observer = Silent()
    run(recipe, tmp_path / "run", observer)
    counted = count_samples(recipe)
    assert counted.statistics == statistics_of(observer.session.data.train)
    assert counted.how == "counted exactly"


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_template_without_a_system_turn_is_named_with_the_row_and_the_setting(command, chats, tmp_path):
    model = chat_model(tmp_path / "gemma", TEMPLATES["gemma"])
    given = ["sflllm", "--model", model, "--data", chats, *(["--out", tmp_path / "out"] if command == "run" else [])]
    options = list(flatten(("--set", s) for s in SMALL if "world.model" not in s and "train_samples" not in s))
    refused = wavetune(command, *given, *options)
    assert refused.code == 2, refused
    assert "chats.jsonl:" in refused.err
    assert "set world.data.template.system=first_user" in refused.err
    assert "Traceback" not in refused.err
