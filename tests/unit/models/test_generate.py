import pytest
import torch

from helpers.adapters import pair_of
from helpers.training import folder_of, random_factors
from wavetune.models.backbone import load_backbone, load_tokenizer
from wavetune.models.export import save_peft_adapter
from wavetune.models.generate import generate, load_for_generation

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(folder_of("tiny"))


@pytest.fixture(scope="module")
def base():
    return load_for_generation(folder_of("tiny"), None)


def test_answers_of_a_batch_are_those_of_each_prompt_alone(tokenizer, base):
    together = generate(base, tokenizer, PROMPTS, 6)
    assert together == [generate(base, tokenizer, [prompt], 6)[0] for prompt in PROMPTS]


def test_greedy_answer_takes_the_likeliest_token_each_time(tokenizer, base):
    ids = list(PROMPTS[2])
    for _ in range(6):
        ids.append(int(base(torch.tensor([ids])).logits[0, -1].argmax()))
    assert generate(base, tokenizer, [PROMPTS[2]], 6) == [tokenizer.decode(ids[5:], skip_special_tokens=True).strip()]


def test_sampling_repeats_with_its_seed_and_differs_with_another(tokenizer, base):
    one, again, other = (generate(base, tokenizer, PROMPTS[:1], 12, temperature=1.5, seed=s) for s in (1, 1, 2))
    assert one == again != other


def test_adapter_changes_the_answer(tokenizer, base, tmp_path):
    backbone = load_backbone(folder_of("tiny"))
    factors = {name: pair_of(10 * A, B) for name, (A, B) in random_factors(backbone, 3, seed=5).items()}
    save_peft_adapter(tmp_path / "a", factors, backbone.sites, 1.7, str(folder_of("tiny")), backbone)
    adapted = load_for_generation(folder_of("tiny"), tmp_path / "a")
    assert generate(adapted, tokenizer, PROMPTS, 8) != generate(base, tokenizer, PROMPTS, 8)
