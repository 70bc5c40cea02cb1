import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from helpers.runs import small
from helpers.training import folder_of
from wavetune.data.examples import Example, Turn
from wavetune.data.templates import ChatTemplate, InstructionTemplate, PlainTemplate, TokenSet, tokenise
from wavetune.errors import ConfigError, ModelError
from wavetune.models.resolve import local_folder
from wavetune.recipe import with_settings
from wavetune.runtimes.world import PlainTokenizer, planner_of, statistics_of, workload_of

CHAT = (
    "{{ bos_token }}{% for message in messages %}\n"
    "    {% if message['role'] == 'user' %}\n"
    "<|{{ message['role'] }}|>{{ message['content'] | trim }}\n"
    "    {% else %}{{ message['content'] }}{{ eos_token }}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
EXAMPLES = [
    Example("name[Aromi], food[Thai]", "Aromi serves Thai food.", "pub"),
    Example("naïve — £12.50", " 日本 😀\nend ", "x", turns=(Turn("system", "be brief"), Turn("user", "hello"))),
]


@pytest.fixture
def with_chat_template(tmp_path):
    folder = Path(shutil.copytree(folder_of("tiny"), tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("template", [PlainTemplate(), InstructionTemplate(), ChatTemplate()], ids=lambda t: t.kind)
def test_plain_tokenizer_gives_the_tokens_of_the_stock_one(template, with_chat_template):
    plain, stock = PlainTokenizer(with_chat_template), AutoTokenizer.from_pretrained(with_chat_template)
    one, other = (tokenise(EXAMPLES, tokenizer, template, 200) for tokenizer in (plain, stock))
    assert one.ids.tolist() == other.ids.tolist()
    assert one.label_start.tolist() == other.label_start.tolist()
    assert plain("a b")["input_ids"] == stock("a b")["input_ids"]


@pytest.mark.skipif(local_folder("smollm2-135m") is None, reason="the default model is not in the cache")
def test_plain_tokenizer_gives_the_default_models_tokens():
    folder = local_folder("smollm2-135m")
    plain, stock = PlainTokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for template in (PlainTemplate(), ChatTemplate()):
        one, other = (tokenise(EXAMPLES, tokenizer, template, 200) for tokenizer in (plain, stock))
        assert one.ids.tolist() == other.ids.tolist()


def test_a_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        PlainTokenizer(tmp_path)


def token_set(lengths, labelled):
    sizes = np.array(lengths) + 1
    return TokenSet(np.zeros(sizes.sum(), np.int32), np.cumsum([0, *sizes]), sizes - np.array(labelled),
                    ("",) * len(lengths), np.arange(len(lengths)))  # fmt: skip


def test_workload_sums_each_clients_batch_at_each_step():
    tokens = token_set([3, 5, 7], [1, 2, 4])
    work = workload_of(tokens, [[np.array([0, 1]), np.array([2])], [np.array([2, 2]), np.array([0])]])
    assert work.samples.tolist() == [[2, 1], [2, 1]]
    assert work.tokens.tolist() == [[8, 7], [14, 3]]
    assert work.token_pairs.tolist() == [[34, 49], [98, 9]]
    assert work.labelled.tolist() == [[3, 4], [8, 1]]


def test_statistics_are_means_over_the_rows():
    statistics = statistics_of(token_set([3, 5, 7], [1, 2, 4]))
    assert (statistics.tokens, statistics.token_pairs, statistics.labelled) == (5, 83 / 3, 7 / 3)


def test_a_preset_that_is_not_on_this_disk_is_planned_from_an_estimate_that_says_so():
    recipe = with_settings(small(), ["world.model=gpt2-medium"])
    planner, how = planner_of(recipe)
    assert "estimated at 4 characters a token" in how
    assert planner.table.num_layers == 24
    assert 5 < planner.statistics.tokens < 100
    assert planner.first_plan().status == "ok"


def test_the_estimate_obeys_the_minimum_of_rows_a_client():
    settings = ["world.model=gpt2", "world.data.partition.kind=quantity_skew", "world.data.partition.alpha=0.05"]
    planner, _ = planner_of(with_settings(small(), [*settings, "world.data.minimum_samples=15"]))
    assert min(planner.num_samples_K) >= 15


def test_a_model_that_is_neither_here_nor_a_preset_is_refused():
    with pytest.raises(ConfigError, match=r"'gpt3' is not on this disk and no preset; did you mean"):
        planner_of(with_settings(small(), ["world.model=gpt3"]))


def test_a_config_that_cannot_be_read_is_named(tmp_path):
    folder = Path(shutil.copytree(folder_of("tiny"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "t5"}))
    with pytest.raises(ModelError, match="t5"):
        planner_of(with_settings(small(), [f"world.model={folder}"]))
