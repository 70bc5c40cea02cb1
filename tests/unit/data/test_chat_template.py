from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from helpers.chat_models import CHATML, TEMPLATES, chat_tokenizer
from helpers.rows import example_of
from wavetune.data import chat_template, templates
from wavetune.data.chat_template import ChatWriter
from wavetune.data.plain_tokenizer import PlainTokenizer
from wavetune.data.settings import DataSettings, prepare
from wavetune.data.templates import AutoTemplate, ChatTemplate, PlainTemplate, ends_of, prompt_ids, tokenise
from wavetune.errors import ConfigError, DataError, ModelError

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED, SAID = {"role": "user", "content": "q0"}, {"role": "assistant", "content": "ok"}
AGAIN, LAST = {"role": "user", "content": "assistant"}, {"role": "assistant", "content": "user  fine"}
END = {"llama2": "</s>", "r1": "</s>", "no_end": "</s>", "gemma": "<end_of_turn>", "phi3": "<|end|>"}


def dialogue(*messages, **fields):
    return example_of({"messages": list(messages), **fields}, "here:1")


def labels(tokenizer, tokens, row=0):
    """Every run of labels of a row, as text."""
    marked, ids, runs = tokens.labels_of(row), tokens.row(row), []
    for i in range(len(ids)):
        if marked[i]:
            runs = [*runs, []] if not i or not marked[i - 1] else runs
            runs[-1].append(ids[i])
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_dialogue_is_trained_as_its_template_writes_it_with_labels_on_all_answers_and_their_ends(name, tmp_path):
    tokenizer, messages = chat_tokenizer(TEMPLATES[name]), [ASKED, SAID, AGAIN, LAST]
    example, end = dialogue(*messages), END.get(name, "<|im_end|>")
    template = AutoTemplate().resolved([example], tokenizer)
    tokens = tokenise([example], tokenizer, template, 400)
    written = tokenizer.apply_chat_template(messages, tokenize=False)
    whole = tokenizer.decode(tokens.row(0))
    assert whole.removesuffix("</s>") + written[len(whole.removesuffix("</s>")) :] == written
    found = labels(tokenizer, tokens)
    if name == "llama2":
        assert found == [" ok </s>", " user  fine </s>"]
    elif name == "no_end":  # the template writes none, so EOS ends the last answer
        assert found == ["ok", "user  fine</s>"]
    else:
        assert found == [f"ok{end}", f"user  fine{end}"]
    assert tokenizer.decode(template.end_ids(tokenizer)) == end
    start = int(np.flatnonzero(tokens.labels_of(0))[len(tokenizer(found[0]).input_ids)])
    assert prompt_ids([example], tokenizer, template) == [tokens.row(0)[:start].tolist()]
    tokenizer.save_pretrained(tmp_path)
    plain = PlainTokenizer(tmp_path)
    assert (
        tokenise([example], plain, AutoTemplate().resolved([example], plain), 400).ids.tolist() == tokens.ids.tolist()
    )


def test_only_the_last_answer_is_learned_if_told_so_and_none_that_the_data_excludes():
    tokenizer = chat_tokenizer(CHATML)
    example = dialogue(ASKED, SAID, AGAIN, LAST)
    assert labels(tokenizer, tokenise([example], tokenizer, ChatTemplate(learn="last"), 400)) == [
        "user  fine<|im_end|>"
    ]
    partly = dialogue(ASKED, SAID, AGAIN, {**LAST, "weight": 0})
    tokens = tokenise([partly, example], tokenizer, ChatTemplate(), 400)
    assert labels(tokenizer, tokens) == ["ok<|im_end|>"]
    assert labels(tokenizer, tokens, 1) == ["ok<|im_end|>", "user  fine<|im_end|>"]


def test_white_space_of_an_answer_is_learned_as_given():
    tokenizer = chat_tokenizer(CHATML)
    code = {"role": "assistant", "content": "    return x\n"}
    assert labels(tokenizer, tokenise([dialogue(ASKED, code)], tokenizer, ChatTemplate(), 400)) == [
        "    return x\n<|im_end|>"
    ]


def test_answers_with_reasoning_are_learned_from_their_heading_and_prompts_end_there():
    tokenizer = chat_tokenizer(TEMPLATES["qwen3"])
    thought = dialogue(ASKED, {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nok"})
    field = dialogue(ASKED, {**SAID, "reasoning_content": "why"})
    for example in (thought, field):
        template = AutoTemplate().resolved([example], tokenizer)
        assert labels(tokenizer, tokenise([example], tokenizer, template, 400)) == [
            "<think>\nwhy\n</think>\n\nok<|im_end|>"
        ]
        assert tokenizer.decode(prompt_ids([example], tokenizer, template)[0]).endswith("<|im_start|>assistant\n")
    without = ChatTemplate(variables={"enable_thinking": False})
    assert labels(tokenizer, tokenise([dialogue(ASKED, SAID)], tokenizer, without, 400)) == ["ok<|im_end|>"]


def test_tool_calls_are_learned_and_tools_reach_the_template():
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {}}}]
    source = (
        "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.tool_calls %}{% for c in m.tool_calls %}<call>{{ c.function | tojson }}</call>{% endfor %}{% else %}"
        "{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = chat_tokenizer(source)
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "clock", "arguments": {"a": 1}}}],
    }
    example = dialogue(
        ASKED, call, {"role": "tool", "content": "noon"}, {"role": "assistant", "content": "12"}, tools=tools
    )
    tokens = tokenise([example], tokenizer, ChatTemplate(), 600)
    assert labels(tokenizer, tokens) == [
        '<call>{"name": "clock", "arguments": {"a": 1}}</call><|im_end|>',
        "12<|im_end|>",
    ]
    assert tokenizer.decode(tokens.row(0)).startswith('Tools: [{"type": "function", "function": {"name": "clock"')


@pytest.mark.parametrize("template", ["chatml", "plain"])
def test_a_long_dialogue_loses_whole_exchanges_and_keeps_its_system_turn(template):
    tokenizer = chat_tokenizer(CHATML)
    kind = ChatTemplate() if template == "chatml" else PlainTemplate()
    long = {"role": "user", "content": "x" * 60}
    tokens = tokenise(
        [dialogue(SYSTEM, long, SAID, long, SAID, ASKED, LAST), dialogue(ASKED, SAID)], tokenizer, kind, 100
    )
    wanted = tokenise([dialogue(SYSTEM, ASKED, LAST)], tokenizer, kind, 100)
    assert tokens.row(0).tolist() == wanted.row(0).tolist()
    assert (tokens.shortened_dialogues, tokens.dropped_turns, tokens.truncated_prompts) == (1, 4, 0)
    assert any("1 training dialogues without their oldest turns (4 in all)" in note for note in tokens.told("training"))
    prompt = prompt_ids([dialogue(SYSTEM, long, SAID, ASKED, LAST)], tokenizer, kind, 80)[0]
    assert prompt == wanted.row(0)[: len(prompt)].tolist()


def test_an_exchange_that_is_too_long_keeps_its_headings_and_the_longest_text_is_cut():
    tokenizer = chat_tokenizer(CHATML)
    system = {"role": "system", "content": "Answer in JSON. " * 10}
    tokens = tokenise([dialogue(system, ASKED, SAID)], tokenizer, ChatTemplate(), 80)
    assert len(tokens.row(0)) == 80
    text = tokenizer.decode(tokens.row(0))
    assert re.fullmatch(
        r"<\|im_start\|>system\nAnswer in JSON\. Ans.*<\|im_end\|>\n<\|im_start\|>user\nq0<\|im_end\|>\n"
        r"<\|im_start\|>assistant\nok<\|im_end\|>", text
    )  # fmt: skip
    assert (tokens.truncated_prompts, tokens.truncated_answers) == (1, 0)
    both = tokenise(
        [dialogue({**ASKED, "content": "y" * 90}, {**SAID, "content": "z" * 90})], tokenizer, ChatTemplate(), 80
    )
    assert tokenizer.decode(both.row(0)).count("y") == pytest.approx(tokenizer.decode(both.row(0)).count("z"), abs=2)
    assert (both.truncated_prompts, both.truncated_answers) == (1, 1)


def test_a_day_that_a_template_asks_for_is_pinned(monkeypatch):
    tokenizer, example = chat_tokenizer(TEMPLATES["dated"]), dialogue(ASKED, SAID)
    pinned = AutoTemplate().resolved([example], tokenizer)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", pinned.date)
    assert pinned.resolved([example], tokenizer) == pinned
    tokens = tokenise([example], tokenizer, ChatTemplate(date="2024-02-29"), 200)
    assert tokenizer.decode(tokens.row(0)).startswith("29 February 2024")
    assert AutoTemplate().resolved([example], chat_tokenizer(CHATML)).date is None
    with pytest.raises(ConfigError, match="date is 'tomorrow'"):
        ChatTemplate(date="tomorrow")


def test_the_chat_template_is_the_default_for_dialogues_alone():
    tokenizer, text = chat_tokenizer(CHATML), example_of({"instruction": "a", "output": "b"}, "here:1")
    assert AutoTemplate().resolved([text, dialogue(ASKED, SAID)], tokenizer).kind == "chat"
    assert AutoTemplate().resolved([text], tokenizer) == PlainTemplate("\n")
    tokenizer.chat_template = None
    assert AutoTemplate(learn="last").resolved([dialogue(ASKED, SAID)], tokenizer) == PlainTemplate("\n", "last")
    completion = example_of({"prompt": "a", "completion": "b"}, "here:1")
    assert AutoTemplate().resolved([completion], tokenizer) == PlainTemplate("")


def test_templates_by_name_are_found_wherever_a_folder_keeps_them(tmp_path):
    tokenizer = chat_tokenizer({"default": CHATML, "short": "{% for m in messages %}{{ m.content }}|{% endfor %}"})
    example = dialogue(ASKED, SAID)
    for legacy in (False, True):
        folder = tmp_path / str(legacy)
        tokenizer.save_pretrained(folder, save_jinja_files=not legacy)
        plain = PlainTokenizer(folder)
        assert bool(list(folder.glob("additional_chat_templates/*"))) is not legacy
        assert tokenizer.decode(tokenise([example], plain, ChatTemplate(), 99).row(0)).startswith(
            "<|im_start|>user\nq0"
        )
        assert tokenizer.decode(tokenise([example], plain, ChatTemplate(name="short"), 99).row(0)) == "q0|ok|"
        with pytest.raises(ConfigError, match=r"no chat template 'shrot'; did you mean 'short'\?"):
            tokenise([example], plain, ChatTemplate(name="shrot"), 99)


@pytest.mark.parametrize(
    ("name", "messages", "sentence"),
    [
        ("gemma", [SYSTEM, ASKED, SAID], r"no system turn \(says 'System role not supported'\); set .*first_user"),
        ("llama2", [ASKED, ASKED, SAID], r"refuses a dialogue of the turns user, user, assistant \(Conversation roles"),
        ("{% for m in messages %}", [ASKED, SAID], r"cannot be read \("),
        ("{{ messages[9].content.x }}", [ASKED, SAID], "refuses a dialogue of the turns user, assistant"),
        ("{{ messages[0].content }}", [ASKED, SAID], "turn 2 is not to be found"),
        ("{{ 'a' * 1100000 }}{{ messages[0].content }}", [ASKED, SAID], r"makes more than 10\d{5} letters of a"),
        ("{% for m in messages %}{% if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}",
         [SYSTEM, ASKED, SAID], r"takes no system turn \(leaves it out\)"),
    ],
)  # fmt: skip
def test_what_a_template_refuses_is_said_in_a_sentence_that_names_the_row(name, messages, sentence):
    tokenizer = chat_tokenizer(TEMPLATES.get(name, name))
    with pytest.raises((DataError, ModelError), match=sentence) as refused:
        tokenise([dialogue(*messages)], tokenizer, ChatTemplate(), 200)
    assert "here:1" in str(refused.value) or isinstance(refused.value, ModelError)


def test_a_system_turn_can_be_written_before_the_first_user_turn():
    tokenizer = chat_tokenizer(TEMPLATES["gemma"])
    tokens = tokenise([dialogue(SYSTEM, ASKED, SAID)], tokenizer, ChatTemplate(system="first_user"), 200)
    assert tokenizer.decode(tokens.row(0)) == (
        "<s><start_of_turn>user\nBe brief.\n\nq0<end_of_turn>\n<start_of_turn>model\nok<end_of_turn>"
    )


def test_ends_are_the_templates_the_tokenizers_and_the_models():
    tokenizer = chat_tokenizer(CHATML)
    end, eos = tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id
    assert ends_of(ChatTemplate(), tokenizer, [(7,)]) == ((eos,), (7,), (end,))
    assert ends_of(PlainTemplate(), tokenizer) == ((eos,),)
    spelled = chat_tokenizer(CHATML, special=False)
    assert tuple(spelled("<|im_end|>").input_ids) in ends_of(ChatTemplate(), spelled)


def test_plain_dialogues_have_all_their_answers_learned():
    tokenizer = chat_tokenizer(CHATML)
    tokens = tokenise([dialogue(SYSTEM, ASKED, SAID, AGAIN, LAST)], tokenizer, PlainTemplate(), 200)
    assert tokenizer.decode(tokens.row(0)) == "System: Be brief.\nUser: q0\nok</s>\nassistant\nuser  fine</s>"
    assert labels(tokenizer, tokens) == ["ok</s>", "user  fine</s>"]
    headed = tokenise([dialogue(ASKED, SAID, AGAIN, LAST)], tokenizer, templates.InstructionTemplate(), 200)
    assert tokenizer.decode(headed.row(0)).count("### Instruction:\n") == 2


def test_a_dialogue_whose_answer_has_no_tokens_is_dropped_though_its_turn_has_an_end():
    from tokenizers.normalizers import Replace

    tokenizer = chat_tokenizer(CHATML)
    tokenizer.backend_tokenizer.normalizer = Replace("да", "")
    nothing = dialogue(ASKED, {"role": "assistant", "content": "да"})
    tokens = tokenise([nothing, dialogue(ASKED, SAID)], tokenizer, ChatTemplate(), 200)
    assert (tokens.example_index.tolist(), tokens.dropped) == ([1], 1)


CALL = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
CALLS = {"role": "assistant", "content": None, "tool_calls": CALL}


@pytest.mark.parametrize("template", [ChatTemplate(), PlainTemplate()])
def test_an_answer_of_which_nothing_is_written_is_not_learned_as_an_end_alone(template):
    tokenizer, silent = chat_tokenizer(CHATML), {"role": "assistant", "content": ""}
    tokens = tokenise([dialogue(ASKED, silent, AGAIN, LAST)], tokenizer, template, 200)
    (learned,) = labels(tokenizer, tokens)
    assert learned.startswith("user  fine")
    calls = [dialogue(ASKED, CALLS), dialogue(ASKED, CALLS, {"role": "tool", "content": "42"}, LAST)]
    found = tokenise(calls, tokenizer, template, 400)
    if template.kind == "chat":  # which knows no calls
        assert (found.example_index.tolist(), found.dropped) == ([1], 1)
        assert len(labels(tokenizer, found)) == 1
        with pytest.raises(DataError, match="has an answer that the model's own chat template writes"):
            tokenise(calls[:1], tokenizer, template, 400)
    else:
        assert labels(tokenizer, found)[0] == '{"name": "f", "arguments": {}}</s>'


def test_what_a_template_leaves_out_of_dialogues_is_told(tmp_path):
    rows = [{"messages": [{**ASKED, "content": f"q{i}"}, {**SAID, "reasoning": "hm"}, AGAIN, CALLS]} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({**row, "tools": CALL}) for row in rows))
    settings = DataSettings(source=str(tmp_path / "rows.jsonl"), max_tokens=300, validation_fraction=0)
    notes = prepare(settings, chat_tokenizer(CHATML), 1, 0).notes
    for field in ("reasoning", "tool_calls", "tools"):
        assert f"the model's own chat template writes no {field}, which 8 training rows have" in notes
    told = " ".join(prepare(settings, chat_tokenizer(TEMPLATES["qwen3"]), 1, 0).notes)
    assert "writes no reasoning" not in told
    plain = " ".join(prepare(replace(settings, template=PlainTemplate()), chat_tokenizer(CHATML), 1, 0).notes)
    assert "writes no reasoning" in plain
    assert "writes no tool_calls" not in plain
    rows = [{"messages": [{**ASKED, "content": f"q{i}"}, {**SAID, "content": "<think>hm</think>ok"}]} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, written in (("chatml", True), ("qwen3", True), ("r1", False)):
        told = prepare(settings, chat_tokenizer(TEMPLATES[name]), 1, 0).notes
        note = "the model's own chat template writes no <think> tags, which 8 training rows have"
        assert (note in told) != written


@pytest.mark.parametrize("template", [ChatTemplate(), PlainTemplate(), templates.InstructionTemplate()])
def test_a_long_dialogue_keeps_the_exchange_whose_answer_is_learned(template):
    messages = [{"role": "user", "content": "q" * 200}, SAID, AGAIN, {**LAST, "weight": 0}]
    tokens = tokenise([dialogue(*messages)], chat_tokenizer(CHATML), template, 60)
    assert labels(chat_tokenizer(CHATML), tokens)[0].startswith("ok")
    assert (tokens.lengths.tolist(), tokens.truncated_prompts, tokens.dropped_turns) == ([59], 1, 0)


def test_a_dialogue_far_longer_than_its_room_is_not_written_whole(monkeypatch):
    words = [{**m, "content": f"{m['content']} {i} " + "words " * 50} for i in range(150) for m in (ASKED, SAID)]
    example, tokenizer = dialogue(SYSTEM, *words), chat_tokenizer(CHATML)
    short = tokenise([example], tokenizer, ChatTemplate(), 700)
    monkeypatch.setattr(templates, "_LONGEST_TOKEN", 10**9)
    whole = tokenise([example], tokenizer, ChatTemplate(), 700)
    assert short.ids.tolist() == whole.ids.tolist()
    assert short.told("training") == whole.told("training") != ()
    monkeypatch.undo()
    written = []
    write = templates.DialogueWriter.row
    monkeypatch.setattr(
        templates.DialogueWriter, "row", lambda *a: written.append(len(a[1].turns) - 2 * sum(a[2:])) or write(*a)
    )
    tokenise([example], tokenizer, ChatTemplate(), 700)
    assert max(written) < 150


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TIMES = "{%% set n = namespace(x=%s) %%}{%% for i in range(60) %%}{%% set n.x = n.x %s n.x %%}{%% endfor %%}"
MANY = "{% set many = range(99999) | list %}"
ENDLESS = {
    "loops": LOOPS,
    "loops that write": "{% for a in range(99999) %}{% for b in range(99999) %}more {% endfor %}{% endfor %}",
    "filtered loops": MANY + "{% for a in many %}{% for b in many if false %}{% endfor %}{% endfor %}",
    "filters": MANY + "{% for a in many %}{% set b = many | map('string') | list %}{% endfor %}",
    "macros": "{% macro m(n) %}{% for i in (1, 2) if n %}{% set a = m(n - 1) %}{% endfor %}{% endmacro %}{{ m(60) }}",
    "digits": "{% set x = 10 ** (10 ** 8) %}",
    "text of its own": "{{ lipsum(n=10 ** 9) }}",
    "a power that takes hours": "{% set x = 9 ** (9 ** 9) %}",
    "squares": TIMES % ("3", "*"),
    "a text repeated": "{% set x = 'long' * 10 ** 10 %}",
    "a list repeated": "{% set x = 10 ** 10 * [0] %}",
    "a text that doubles": TIMES % ("'a'", "~"),
    "a wide text": "{% set x = 'a' | center(10 ** 11) %}",
    "a wide format": "{% set x = '{:>99999999999}'.format(1) %}",
    "a list that doubles": TIMES % ("[0]", "+"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_computes_or_writes_without_an_end_is_ended(name, monkeypatch):
    monkeypatch.setattr(chat_template, "_MOST_CPU_S", 0.3)
    monkeypatch.setattr(chat_template, "_MOST_BYTES", 1 << 27)
    tokenizer = chat_tokenizer(CHATML + ENDLESS[name])
    with pytest.raises(
        ModelError,
        match=r"chat template (computes for more than 0.3 s|makes more than .* letters|takes more than 0.134 GB)",
    ):
        tokenise([dialogue(ASKED, SAID)], tokenizer, ChatTemplate(), 400)


def test_a_template_that_computes_without_an_end_for_headings_alone_is_ended_too(monkeypatch):
    monkeypatch.setattr(chat_template, "_MOST_CPU_S", 0.3)
    tokenizer = chat_tokenizer(
        CHATML.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt %}" + LOOPS)
    )
    with pytest.raises(ModelError, match="computes for more than"):
        tokenise([dialogue(ASKED, SAID)], tokenizer, ChatTemplate(), 400)


SAID_SO = ("ok", "user  fine", "  indented\n", "ok", "assistant\n", "<|im_end|>?", "a\n\nb")


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_that_are_found_together_stand_where_each_stands_by_itself(name, monkeypatch):
    writer = ChatWriter(chat_tokenizer(TEMPLATES[name]), date="2026-01-01")
    for said in (SAID_SO, SAID_SO[:3], ("yes", "no", "yes", "no", "yes"), ("x",) * 12, ("why</think>so", "b", "c")):
        turns = [{"role": "assistant", "content": one} for one in said]
        messages = [
            message for i, turn in enumerate(turns) for message in ({"role": "user", "content": f"q{i % 3}"}, turn)
        ]
        found = writer.located(messages)
        with monkeypatch.context() as here:
            here.setattr(chat_template, "_SEVERAL", 1000)
            assert writer.located(messages) == found
        assert len(found[1]) == len(said)


@pytest.mark.parametrize("name", ["chatml", "llama2", "qwen3"])
def test_a_dialogue_of_many_turns_is_written_a_few_times_and_not_once_a_turn(name, monkeypatch):
    written, blocks = list[int](), ChatWriter._blocks
    monkeypatch.setattr(ChatWriter, "_blocks", lambda *given, **named: written.append(1) or blocks(*given, **named))
    writer = ChatWriter(chat_tokenizer(TEMPLATES[name]))
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(200)]
    assert len(writer.located(messages)[1]) == 100
    assert len(written) <= 8


def test_answers_that_the_template_changes_are_found_one_by_one():
    closed = CHATML.replace("m['content']", "m['content'] | replace('  ', ' ')")
    writer = ChatWriter(chat_tokenizer(closed))
    messages = [ASKED, SAID, AGAIN, LAST, ASKED, SAID]
    text, spans = writer.located(messages)
    assert [text[span.start : span.stop] for span in spans.values()] == ["ok", "user fine", "ok"]
