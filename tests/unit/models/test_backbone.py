import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from helpers.adapters import pair_of, widths_of
from helpers.training import folder_of, random_factors
from wavetune.errors import ModelError
from wavetune.models.backbone import load_backbone, load_stock_model, load_tokenizer
from wavetune.models.lora import AdapterBank
from wavetune.models.ragged import ragged_layout

MODELS = ["tiny", "tiny-gpt2"]


def sample(length=12, seed=0):
    return torch.randint(3, 250, (length,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("model", MODELS)
def test_loss_at_labelled_positions_is_that_of_the_stock_model(model):
    backbone, stock, ids = load_backbone(folder_of(model)), load_stock_model(folder_of(model)), sample()
    at = torch.tensor([2, 5, 10])
    hidden = backbone.forward(ids, ragged_layout([12]))
    total, each = backbone.labelled_loss(hidden, at, ids[at + 1], torch.tensor([1.0, 2.0, 3.0]))
    wanted = torch.nn.functional.cross_entropy(stock(ids[None]).logits[0, at], ids[at + 1], reduction="none")
    torch.testing.assert_close(each, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total, (wanted * torch.tensor([1.0, 2.0, 3.0])).sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_between_is_called_after_every_block_and_its_value_goes_on(model):
    backbone, ids, seen = load_backbone(folder_of(model)), sample(), []

    def double_after_two(done, hidden):
        seen.append(done)
        return 2 * hidden if done == 2 else hidden

    changed = backbone.forward(ids, ragged_layout([12]), between=double_after_two)
    assert seen == [1, 2, 3, 4]
    kept = {}
    backbone.forward(ids, ragged_layout([12]), between=lambda done, h: kept.setdefault(done, h))
    again = backbone.forward(ids, ragged_layout([12]), between=lambda d, h: 2 * kept[2] if d == 2 else h)
    torch.testing.assert_close(changed, again)
    plain = backbone.forward(ids, ragged_layout([12]))
    torch.testing.assert_close(plain, kept[4])
    assert not torch.allclose(changed, plain)


@pytest.mark.parametrize("model", MODELS)
def test_nothing_of_the_base_is_trainable(model):
    assert not any(p.requires_grad for p in load_backbone(folder_of(model)).model.parameters())


def test_sites_default_to_those_of_peft_and_can_be_named():
    assert {s.name.rsplit(".", 1)[-1] for s in load_backbone(folder_of("tiny")).sites} == {"q_proj", "v_proj"}
    gpt2 = load_backbone(folder_of("tiny-gpt2"))
    assert [(s.name, s.layer, *widths_of(s)) for s in gpt2.sites[:1]] == [("transformer.h.0.attn.c_attn", 0, 64, 192)]
    down = load_backbone(folder_of("tiny"), ["down_proj"]).sites[3]
    assert (down.name, down.layer, *widths_of(down)) == ("model.layers.3.mlp.down_proj", 3, 128, 64)


def test_unknown_target_is_refused_with_what_there_is():
    with pytest.raises(ModelError, match=r"'qkv'.*choose from \[.*'q_proj'"):
        load_backbone(folder_of("tiny"), ["q_proj", "qkv"])


@pytest.mark.parametrize("model", MODELS)
def test_bf16_weights_come_close_to_fp32_and_activations_stay_fp32(model):
    ids, layout = sample(40), ragged_layout([40])
    exact = load_backbone(folder_of(model)).forward(ids, layout)
    low = load_backbone(folder_of(model), bf16=True)
    hidden = low.forward(ids, layout)
    assert hidden.dtype == torch.float32
    assert low.head.weight.dtype == torch.bfloat16
    assert 1e-5 < (hidden - exact).norm() / exact.norm() < 0.03


def test_bf16_gradients_of_adapters_come_close_to_fp32():
    ids, layout, at = sample(40), ragged_layout([40]), torch.arange(20, 39)
    gradients = []
    for bf16 in (False, True):
        backbone = load_backbone(folder_of("tiny"), bf16=bf16)
        own = {
            name: pair_of(A[None].clone().requires_grad_(), B[None].clone().requires_grad_())
            for name, (A, B) in random_factors(backbone, 4, seed=0).items()
        }
        bank = AdapterBank(backbone.sites, np.ones((4, 1), bool), 2.0, own, {})
        hidden = backbone.forward(ids, layout, bank, [0], [40])
        loss, _ = backbone.labelled_loss(hidden, at, ids[at + 1], torch.ones(19))
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in bank.parameters(local=True)]))
    assert all(g.dtype == torch.float32 for g in gradients)
    assert (gradients[1] - gradients[0]).norm() / gradients[0].norm() < 0.1


def test_damaged_weights_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text((folder_of("tiny") / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    with pytest.raises(ModelError, match="missing or damaged"):
        load_backbone(tmp_path)


def test_tokenizer_is_the_stock_one():
    text = "name[Aromi], food[Thai]"
    assert load_tokenizer(folder_of("tiny"))(text) == AutoTokenizer.from_pretrained(folder_of("tiny"))(text)


def test_tokenizer_does_not_warn_of_texts_that_are_cut_later(caplog):
    assert len(load_tokenizer(folder_of("tiny"))("a" * 600).input_ids) == 600
    assert not caplog.records


def test_attention_refuses_a_call_without_a_layout():
    with pytest.raises(NotImplementedError, match="layout"):
        load_backbone(folder_of("tiny")).model(sample()[None])
