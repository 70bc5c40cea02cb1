from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from wavetune.errors import ModelError
from wavetune.models.backbone import load_backbone
from wavetune.models.classifier import HEAD
from wavetune.models.resolve import resolve_model
from wavetune.models.reward import load_reward, preference_loss, read_about, reward_bank, rewards_of, save_reward

ROWS = [[5, 9, 14, 200, 7], [8, 8, 31], [40, 41, 42, 43, 44, 45, 46, 47], [17]]
TARGETS = {"tiny": ("q_proj", "v_proj"), "tiny-bert": ("query", "value"), "tiny-gpt2": ("c_attn",)}


@pytest.fixture(scope="module", params=["tiny", "tiny-bert", "tiny-gpt2"])
def trained(request, tmp_path_factory):
    """A backbone with adapters away from zero, saved."""
    folder = resolve_model(request.param, tmp_path_factory.mktemp("cache")).folder
    backbone = load_backbone(folder, TARGETS[request.param], outputs=1)
    bank = reward_bank(backbone, rank=4, alpha=8.0, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for pair in bank.local.values():
            for factor in pair.values():
                factor.normal_(0, 0.2, generator=generator)
    saved = tmp_path_factory.mktemp("reward")
    about = {"kind": "helpful", "rank": 4, "alpha": 8.0, "model": request.param}
    save_reward(saved, backbone, bank, str(folder), about)
    return folder, backbone, bank, saved


def rewards(backbone, bank):
    with torch.no_grad():
        ids = torch.tensor([token for row in ROWS for token in row])
        return rewards_of(backbone, bank, ids, [len(row) for row in ROWS])


def test_the_loss_is_that_of_bradley_and_terry_pair_by_pair():
    rewards_S = torch.tensor([1.5, -0.5, 0.2, 0.9, -30.0, 40.0], dtype=torch.float64, requires_grad=True)
    loss, margins = preference_loss(rewards_S)
    loss.backward()
    pairs = [(1.5, -0.5), (0.2, 0.9), (-30.0, 40.0)]
    assert loss.item() == pytest.approx(np.mean([math.log1p(math.exp(-(a - b))) for a, b in pairs]))
    assert margins.tolist() == pytest.approx([a - b for a, b in pairs])
    wrong = [1 / (1 + math.exp(a - b)) / 3 for a, b in pairs]  # d loss / d r = -+ (1 - sigma(margin)) / P
    assert rewards_S.grad is not None
    assert rewards_S.grad.tolist() == pytest.approx([s * w for w in wrong for s in (-1, 1)])


def test_pairs_do_not_train_the_offset_of_the_head(trained):
    _, backbone, _, _ = trained
    bank = reward_bank(backbone, 2, 4.0, 0)
    ids = torch.tensor(ROWS[0] + ROWS[1])
    loss, _ = preference_loss(rewards_of(backbone, bank, ids, [5, 3]))
    loss.backward()
    assert bank.local[HEAD]["B"].grad is None
    assert bank.local[HEAD]["A"].grad is not None


def test_a_saved_reward_model_gives_the_same_rewards(trained):
    folder, backbone, bank, saved = trained
    about = read_about(saved)
    again = load_backbone(folder, TARGETS[about["model"]], outputs=1)
    assert torch.equal(rewards(again, load_reward(saved, again, about)), rewards(backbone, bank))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*fan_in_fan_out")
def test_stock_peft_and_a_dot_product_give_the_same_rewards(trained):
    folder, backbone, bank, saved = trained
    encoder = read_about(saved)["model"] == "tiny-bert"
    stock = (
        AutoModel.from_pretrained(folder, add_pooling_layer=False)
        if encoder
        else AutoModelForCausalLM.from_pretrained(folder)
    )
    model = PeftModel.from_pretrained(stock, saved / "adapter").eval()
    head = load_file(saved / "head.safetensors")
    found = []
    for row in ROWS:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0]
        pooled = hidden.mean(0) if encoder else hidden[-1]
        found.append(float(pooled @ head["weight"] + head["bias"]))
    assert found == pytest.approx(rewards(backbone, bank).tolist(), abs=1e-4)


def test_a_folder_without_a_reward_model_says_how_to_get_one(tmp_path):
    with pytest.raises(ModelError, match=r"holds no reward model.*wavetune train-reward --out"):
        read_about(tmp_path)
    (tmp_path / "reward.json").write_text("{")
    with pytest.raises(ModelError, match="holds no reward model"):
        read_about(tmp_path)


def test_damaged_or_foreign_adapters_are_refused(trained, tmp_path):
    _, backbone, bank, _ = trained
    save_reward(tmp_path, backbone, bank, "base", {"rank": 4, "alpha": 8.0})
    with pytest.raises(ModelError, match="cannot load the reward model"):
        load_reward(tmp_path, backbone, {"rank": 3, "alpha": 8.0})
    with pytest.raises(ModelError, match=r"its rank is 1000000000000, and those of its adapters are \[4\]"):
        load_reward(tmp_path, backbone, {"rank": 10**12, "alpha": 8.0})  # no room is made for it first
    save_file({"weight": torch.zeros(1), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    with pytest.raises(ModelError, match=r"A of .* has shape \[1, 1\] and not"):
        load_reward(tmp_path, backbone, {"rank": 4, "alpha": 8.0})
    (tmp_path / "head.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="cannot load the reward model"):
        load_reward(tmp_path, backbone, json.loads((tmp_path / "reward.json").read_text()))
