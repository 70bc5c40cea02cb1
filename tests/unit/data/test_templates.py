from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.data.dialogues import trimmed
from wavetune.data.examples import Example, Turn
from wavetune.data.settings import DataSettings
from wavetune.data.templates import (
    ChatTemplate,
    InstructionTemplate,
    PlainTemplate,
    prompt_ids,
    tokenise,
)
from wavetune.errors import ConfigError, DataError, ModelError

EOS = 1
EXAMPLE = Example("ab", "xyz", "d")


def codes(text):
    return [ord(c) for c in text]


def test_labels_are_the_answer_and_its_end_alone(tokenizer):
    tokens = tokenise([EXAMPLE, Example("c", "w", "e")], tokenizer, PlainTemplate(), max_tokens=50)
    assert tokens.row(0).tolist() == [*codes("ab\nxyz"), EOS]
    assert tokens.row(1).tolist() == [*codes("c\nw"), EOS]
    assert tokens.label_start.tolist() == [3, 2]
    assert tokens.labelled.tolist() == [4, 2]
    assert tokens.lengths.tolist() == [6, 3]
    assert tokens.domains == ("d", "e")
    assert tokens.ids.dtype == np.int32


def test_the_instruction_template_heads_prompt_and_answer(tokenizer):
    tokens = tokenise(
        [EXAMPLE], tokenizer, InstructionTemplate(prompt_heading="Q ", answer_heading=" A "), max_tokens=50
    )
    assert tokens.row(0).tolist() == [*codes("Q ab A xyz"), EOS]


def test_bos_stands_first_where_the_tokenizer_puts_it(tokenizer_class):
    for adds_bos, begin in ((True, [2]), (False, [])):
        tokens = tokenise([EXAMPLE], tokenizer_class(bos_token_id=2, adds_bos=adds_bos), PlainTemplate(), 50)
        assert tokens.row(0).tolist() == [*begin, *codes("ab\nxyz"), EOS]


def test_a_long_prompt_loses_its_beginning_after_bos_and_is_counted(bos_tokenizer):
    tokens = tokenise([Example("abcdef", "xyz"), Example("a", "x")], bos_tokenizer, PlainTemplate(), max_tokens=8)
    assert tokens.row(0).tolist() == [2, *codes("ef\nxyz"), EOS]
    assert (tokens.truncated_prompts, tokens.truncated_answers, tokens.dropped) == (1, 0, 0)


def test_rows_that_are_too_long_are_tokenised_together(tokenizer_class):
    calls = []

    class Counting(tokenizer_class):
        def __call__(self, *args, **kwargs):
            calls.extend(a for a in args if isinstance(a, list))
            return super().__call__(*args, **kwargs)

    def calls_for(rows):
        calls.clear()
        tokens = tokenise([Example(f"abcdef{i}", "xyz") for i in range(rows)], Counting(), PlainTemplate(), 8)
        assert tokens.truncated_prompts == rows
        return len(calls)

    assert calls_for(40) == calls_for(2)


def test_a_long_answer_loses_its_end_and_eos_and_keeps_one_prompt_token(tokenizer):
    tokens = tokenise([Example("ab", "uvwxyz")], tokenizer, PlainTemplate(), max_tokens=5)
    assert tokens.row(0).tolist() == codes("\nuvwx")
    assert (tokens.truncated_prompts, tokens.truncated_answers) == (1, 1)


def test_without_a_prompt_the_first_answer_token_is_not_labelled(tokenizer):
    tokens = tokenise([Example("", "xyz"), EXAMPLE], tokenizer, PlainTemplate(separator=""), 50)
    assert tokens.row(0).tolist() == [*codes("xyz"), EOS]
    assert tokens.label_start.tolist() == [1, 2]


def test_answers_of_which_the_tokenizer_makes_nothing_are_dropped_and_told(latin_tokenizer):
    examples = [Example("q", "да"), Example("q", "yes"), Example("q", "no да")]
    tokens = tokenise(examples, latin_tokenizer, PlainTemplate(), 32)
    assert (tokens.example_index.tolist(), tokens.dropped, tokens.domains) == ([1, 2], 1, ("all", "all"))
    assert (
        "1 training rows without an answer, or with one of which nothing is written or tokenised, dropped"
        in tokens.told("training")
    )
    with pytest.raises(DataError, match="makes no tokens of any of the 1 answers"):
        tokenise(examples[:1], latin_tokenizer, PlainTemplate(), 32)


def test_examples_without_an_answer_are_dropped_and_counted(tokenizer):
    tokens = tokenise([Example("a", " "), EXAMPLE, Example("b", "")], tokenizer, PlainTemplate(), 50)
    assert (len(tokens), tokens.dropped, tokens.example_index.tolist()) == (1, 2, [1])
    with pytest.raises(DataError, match="none of the 1 examples has an answer"):
        tokenise([Example("a", "")], tokenizer, PlainTemplate(), 50)


def test_generation_starts_from_the_tokens_that_training_saw(bos_tokenizer):
    for template in (PlainTemplate(), InstructionTemplate()):
        tokens = tokenise([EXAMPLE], bos_tokenizer, template, 100)
        assert prompt_ids([EXAMPLE], bos_tokenizer, template) == [tokens.row(0)[: tokens.label_start[0]].tolist()]


@given(
    st.lists(st.tuples(st.text(max_size=12), st.text("xyz", min_size=1, max_size=12)), min_size=1, max_size=5),
    st.integers(4, 20),
)
def test_rows_fit_and_keep_the_answer_before_the_prompt(tokenizer_class, texts, max_tokens):
    examples = [Example(prompt, answer) for prompt, answer in texts]
    tokens = tokenise(examples, tokenizer_class(bos_token_id=2), PlainTemplate(), max_tokens)
    for i, example in enumerate(examples):
        row, start = tokens.row(i).tolist(), int(tokens.label_start[i])
        whole = [*codes(example.answer), EOS]
        assert len(row) <= max_tokens
        assert row[start:] == whole[: max_tokens - 2]
        assert row[0] == 2
        said = codes(example.prompt.removeprefix("\2") + "\n")  # no second BOS before a text that begins with one
        assert row[1:start] == said[-(start - 1) :]
        assert len(row) == max_tokens or row[1:start] == said


def test_a_text_that_begins_with_bos_begins_with_it_once_however_short_it_is_cut(bos_tokenizer):
    with_bos, without = (Example(f"{bos}a long question", "an answer") for bos in ("\2", ""))
    for max_tokens in range(4, 40):
        one, other = (
            tokenise([example], bos_tokenizer, PlainTemplate(), max_tokens) for example in (with_bos, without)
        )
        assert one.row(0).tolist() == other.row(0).tolist()
        assert one.row(0)[0] == 2
        assert one.label_start.tolist() == other.label_start.tolist()


def test_misuse_is_named(tokenizer):
    with pytest.raises(ConfigError, match="max_tokens is 3"):
        tokenise([EXAMPLE], tokenizer, PlainTemplate(), 3)
    with pytest.raises(ConfigError, match="template 'chat' needs a tokenizer with a chat template"):
        tokenise([EXAMPLE], tokenizer, ChatTemplate(), 50)
    tokenizer.eos_token_id = None
    tokenizer.chat_template = 5
    with pytest.raises(ModelError, match=r"chat template is no text but a int; correct tokenizer_config\.json"):
        ChatTemplate().writer(tokenizer)
    with pytest.raises(ModelError, match=r"no end-of-sequence token.*eos_token in its tokenizer_config"):
        tokenise([EXAMPLE], tokenizer, PlainTemplate(), 50)


@pytest.fixture(scope="module")
def chat_tokenizer():
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>", "<turn>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["user assistant hello there"], trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
    fast.chat_template = (
        "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
    )
    return fast


def test_the_chat_template_writes_the_turns_and_labels_the_answer_and_its_end(chat_tokenizer):
    dialogue = (Turn("system", "Be kind."), Turn("user", "Hi"), Turn("assistant", "Yes?"), Turn("user", "Bye"))
    examples = [Example("Hello", "There you are."), Example("flat", "Ciao", turns=dialogue)]
    tokens = tokenise(examples, chat_tokenizer, ChatTemplate(), 200)
    texts = [chat_tokenizer.decode(tokens.row(i)) for i in range(2)]
    assert texts[0] == "<turn>user\nHello<end>\n<turn>assistant\nThere you are.<end>"
    assert texts[1] == (
        "<turn>system\nBe kind.<end>\n<turn>user\nHi<end>\n<turn>assistant\nYes?<end>\n<turn>user\nBye<end>\n"
        "<turn>assistant\nCiao<end>"
    )
    labelled = [chat_tokenizer.decode(tokens.row(i)[tokens.label_start[i] :]) for i in range(2)]
    assert labelled == ["There you are.<end>", "Ciao<end>"]
    assert tokens.row(0)[-1] == chat_tokenizer.eos_token_id


def test_a_stock_tokenizer_gives_the_plain_row(chat_tokenizer):
    tokens = tokenise([EXAMPLE], chat_tokenizer, PlainTemplate(), 50)
    assert chat_tokenizer.decode(tokens.row(0)) == "ab\nxyz<end>"


def test_white_space_and_text_are_kept_where_a_tokenizer_puts_a_space_before_first_words():
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    core = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    core.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always", split=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=80, special_tokens=["<unk>", "<end>"], initial_alphabet=[*"\n▁def():rtunxab"], show_progress=False
    )
    core.train_from_iterator(["def f(x):\n    return x", "a b ab"], trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", unk_token="<unk>")
    for example in (Example("def f(x):\n", "    return x\n", verbatim=True), Example("a b", "ab")):
        tokens = tokenise([example], fast, PlainTemplate(), 60)
        between = "" if example.verbatim else "\n"
        said = fast.convert_ids_to_tokens(tokens.row(0)[tokens.label_start[0] : -1].tolist())
        assert "".join(said) == example.answer.replace(" ", "▁")
        asked = fast.convert_ids_to_tokens(tokens.row(0)[: tokens.label_start[0]].tolist())
        assert "".join(asked) == f"▁{example.prompt}{between}".replace(" ", "▁")


def test_texts_are_trimmed_only_if_told_so():
    turns = (Turn("user", " q "),)
    example = Example(" q ", "\n a ", turns=turns, reply=Turn("assistant", "\n a "))
    cut = trimmed(example)
    assert (cut.prompt, cut.answer, cut.dialogue) == ("q", "a", (Turn("user", "q"), Turn("assistant", "a")))
    assert trimmed(Example(" p ", " r\t")) == Example("p", "r")
    assert not DataSettings().trim
