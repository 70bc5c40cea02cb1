"""Answers end at every end they are given, of one token or several, in stock generation and in the stacked one."""

import json
from types import SimpleNamespace

import pytest
import torch

from helpers.adapters import pair_of
from helpers.chat_models import CHATML, chat_model
from helpers.training import folder_of, random_factors
from wavetune.models.adapter_folder import GENERATION, save_adapter_folder
from wavetune.models.backbone import load_backbone, load_tokenizer
from wavetune.models.decode import decode
from wavetune.models.generate import generate, load_for_generation
from wavetune.models.restore import load_adapted
from wavetune.models.stopping import own_ends, up_to_end

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13]]
NEW = 8


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(folder_of("tiny"))


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(folder_of("tiny"))


@pytest.fixture(scope="module")
def free(backbone):
    """What is said to each prompt where nothing ends it."""
    return [list(answer.ids) for answer in decode(backbone, PROMPTS, NEW, ())]


def ends_in(free):
    return ([(free[0][3],)], [tuple(free[0][2:5])], [tuple(free[1][1:3]), (free[0][4],)])


@pytest.mark.parametrize("which", range(3))
def test_both_ways_to_generate_stop_at_the_first_of_the_ends(which, free, backbone, tokenizer):
    ends = ends_in(free)[which]
    model = load_for_generation(folder_of("tiny"), None)
    wanted = [up_to_end(ids, [*ends, *own_ends(model)]) for ids in free]
    assert any(len(said) < NEW for said in wanted)
    texts = [tokenizer.decode(said, skip_special_tokens=True) for said in wanted]
    assert generate(model, tokenizer, PROMPTS, NEW, ends=ends) == texts
    for ids, answer in zip(free, decode(backbone, PROMPTS, NEW, ends), strict=True):
        said = up_to_end(ids, ends)
        assert up_to_end(answer.ids, ends) == said
        assert answer.ended == (len(said) < NEW)
        assert len(answer.ids) == NEW or answer.ended


def test_the_ends_of_a_generation_config_end_answers_unasked(free, tokenizer):
    model = load_for_generation(folder_of("tiny"), None)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, free[0][3]]
    assert generate(model, tokenizer, PROMPTS[:1], NEW) == [
        tokenizer.decode(up_to_end(free[0], [(free[0][3],)]), skip_special_tokens=True)
    ]


def test_exported_adapters_bring_the_ends_that_they_were_taught(tmp_path):
    base = chat_model(tmp_path / "model", CHATML, eos=[2, 261])
    backbone = load_backbone(base)
    factors = {name: pair_of(A, B) for name, (A, B) in random_factors(backbone, 2, seed=0).items()}
    save_adapter_folder(tmp_path / "adapter", factors, backbone, 1.0, str(base), ends=[(260,), (2,), (7, 8)])
    assert json.loads((tmp_path / "adapter" / GENERATION).read_text()) == {"eos_token_id": [2, 260, 261]}
    model = load_adapted(base, tmp_path / "adapter")
    assert model.generation_config.eos_token_id == [2, 260, 261]
    model.generate(
        input_ids=torch.tensor([[5, 6]]), attention_mask=torch.ones(1, 2, dtype=torch.long), max_new_tokens=2
    )


def test_an_end_that_is_no_token_is_none():
    config = SimpleNamespace(eos_token_id=[2, "</s>", None, 7])
    assert own_ends(SimpleNamespace(generation_config=config)) == {(2,), (7,)}
