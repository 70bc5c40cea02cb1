"""Encoders and heads on pooled samples against stock models on padded batches with a plain torch head."""

import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    LlamaConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from helpers.training import folder_of
from wavetune.errors import ModelError
from wavetune.federation.adapters.bottleneck import Bottleneck
from wavetune.models.backbone import load_backbone, load_stock_model, prepare_backbone
from wavetune.models.classifier import classification_loss, head_site, stacked_head
from wavetune.models.lora import new_bank
from wavetune.models.ragged import ATTENTION, ragged_layout

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "initializer_range": 0.1,
}
ENCODERS = {
    "bert": BertConfig(**SMALL, pad_token_id=0),
    "roberta": RobertaConfig(**SMALL, pad_token_id=1, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**SMALL, pad_token_id=1, type_vocab_size=1),
}
LENGTHS_K = ((7, 30), (5,), (1, 9, 40))
LENGTHS = [n for lengths in LENGTHS_K for n in lengths]
TOKENS, SAMPLES = tuple(map(sum, LENGTHS_K)), tuple(map(len, LENGTHS_K))
CLASSES = 4


def stock_encoder(family, attention):
    torch.manual_seed(0)
    return AutoModel.from_config(deepcopy(ENCODERS[family]), attn_implementation=attention).eval()


def samples():
    return [torch.randint(3, 64, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]


def labels():
    return torch.arange(len(LENGTHS)) % CLASSES


def bank_of(backbone, local_LK):
    bank = new_bank(backbone.sites, local_LK, (3,) * 3, 3, alpha=6.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for local in (True, False):
            for p in bank.parameters(local):
                p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    return bank


def stacked_logits(backbone, bank, pooling=None):
    hidden = backbone.forward(torch.cat(samples()), ragged_layout(LENGTHS), bank, (0, 1, 2), TOKENS)
    segments = bank.segments(head_site(bank).layer, (0, 1, 2), SAMPLES)
    return stacked_head(backbone.pooled(hidden, LENGTHS, pooling), bank, segments)


def padded(rows, pad):
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    return ids, torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)


def client_rows(client):
    start = sum(SAMPLES[:client])
    return slice(start, start + SAMPLES[client])


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("family", ENCODERS)
def test_clients_of_an_encoder_get_the_logits_and_gradients_of_stock_peft_models_on_padded_batches(family, pooling):
    backbone = prepare_backbone(stock_encoder(family, ATTENTION), None, outputs=CLASSES)
    bank = bank_of(backbone, np.ones((3, 3), bool))
    logits = stacked_logits(backbone, bank, pooling)
    weight_S = torch.cat([torch.full((n,), 1 / n) for n in SAMPLES])
    loss, nll_S = classification_loss(logits, labels(), weight_S)
    loss.backward()
    for client in range(3):
        rows = client_rows(client)
        model, leaves = peft_encoder(family, bank, client)
        ids, mask = padded(samples()[rows], ENCODERS[family].pad_token_id)
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        if pooling == "mean":
            vectors = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        else:
            vectors = hidden[torch.arange(len(ids)), mask.sum(1) - 1] if pooling == "last" else hidden[:, 0]
        weight, bias, _ = leaves["classifier"]
        wanted = F.linear(vectors, weight, bias)
        torch.testing.assert_close(logits[rows], wanted, rtol=1e-4, atol=1e-4)
        mean = F.cross_entropy(wanted, labels()[rows])
        assert nll_S[rows].mean().item() == pytest.approx(mean.item(), rel=1e-4)
        mean.backward()
        for name, (a, b, turned) in leaves.items():
            for mine, theirs, turn in zip(bank.local[name].values(), (a, b), turned, strict=True):
                gradient = theirs.grad.T if turn else theirs.grad[None]
                torch.testing.assert_close(mine.grad[client], gradient, rtol=1e-3, atol=1e-5, msg=name)


def peft_encoder(family, bank, client):
    """Client k's own stock encoder with PEFT's LoRA, and its leaves by site; True where they stand transposed."""
    model = get_peft_model(stock_encoder(family, "eager"), LoraConfig(r=3, lora_alpha=6.0))
    leaves = {}
    for site in bank.sites:
        A, B = (p[client].detach().clone() for p in bank.local[site.name].values())
        if site.kind == "head":
            leaves[site.name] = (A.T.contiguous().requires_grad_(), B[0].requires_grad_(), (True, False))
            continue
        module = model.base_model.model.get_submodule(site.name)
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        with torch.no_grad():
            a.copy_(A.T), b.copy_(B.T)
        leaves[site.name] = (a, b, (True, True))
    return model, leaves


@pytest.mark.parametrize("family", ENCODERS)
def test_bottlenecks_stand_where_attention_and_feed_forward_of_an_encoder_end(family):
    both = Bottleneck(width=5, places=("attention", "feed_forward"))
    backbone = prepare_backbone(stock_encoder(family, ATTENTION), (), adapters=[both])
    bank = bank_of(backbone, np.ones((3, 3), bool))
    names = [site.name for site in bank.sites[:2]]
    assert names == ["encoder.layer.0.attention.output.dense:bottleneck", "encoder.layer.0.output.dense:bottleneck"]
    found = backbone.forward(torch.cat(samples()), ragged_layout(LENGTHS), bank, (0, 1, 2), TOKENS)
    stock = stock_encoder(family, "eager")
    for site in bank.sites:
        A, B = (p[1] for p in bank.local[site.name].values())
        module = stock.get_submodule(site.name.partition(":")[0])
        module.register_forward_hook(lambda _m, _x, y, A=A, B=B: y + F.gelu(y @ A) @ B)
    wanted = stock(input_ids=samples()[2][None]).last_hidden_state[0]
    torch.testing.assert_close(found.split(TOKENS)[1], wanted, rtol=1e-4, atol=1e-4)


def test_a_head_shared_by_some_clients_sees_the_samples_of_all_of_them():
    backbone = prepare_backbone(stock_encoder("bert", ATTENTION), None, outputs=CLASSES)
    local_LK = np.array([[True] * 3, [True] * 3, [False, True, False]])
    bank = bank_of(backbone, local_LK)
    pooled = torch.randn(len(LENGTHS), 32, generator=torch.Generator().manual_seed(5))
    found = stacked_head(pooled, bank, bank.segments(2, (0, 1, 2), SAMPLES))
    for client, (stack, slot) in enumerate([(bank.shared, 0), (bank.local, 0), (bank.shared, 0)]):
        weight, bias = (p[slot] for p in stack["classifier"].values())
        rows = client_rows(client)
        torch.testing.assert_close(found[rows], pooled[rows] @ weight + bias)
    only_the_first = bank.segments(2, (0,), (2,))
    stacked_head(pooled[:2], bank, only_the_first).sum().backward()
    assert bank.shared["classifier"]["B"].grad.tolist() == [[[2.0] * CLASSES]]
    assert bank.local["classifier"]["B"].grad is None


@pytest.mark.parametrize("model", ["tiny", "tiny-gpt2"])
def test_a_decoders_head_sees_the_normed_state_of_the_last_token(model):
    backbone = load_backbone(folder_of(model), outputs=1)
    bank = bank_of(backbone, np.ones((4, 3), bool))
    scores = stacked_logits(backbone, bank.only(("head",)))
    assert scores.shape == (len(LENGTHS), 1)
    stock = load_stock_model(folder_of(model))
    clients = np.repeat(range(3), SAMPLES)
    for score, ids, client in zip(scores, samples(), clients, strict=True):
        state = stock(input_ids=ids[None], output_hidden_states=True).hidden_states[-1][0, -1]
        weight, bias = (p[client] for p in bank.local["classifier"].values())
        torch.testing.assert_close(score, (state @ weight + bias)[0], rtol=1e-4, atol=1e-4)
    mean = backbone.pooled(backbone.forward(ids, ragged_layout([len(ids)])), [len(ids)], "mean")[0]
    states = stock(input_ids=ids[None], output_hidden_states=True).hidden_states[-1][0]
    torch.testing.assert_close(mean, states.mean(0), rtol=1e-4, atol=1e-4)


def test_encoders_are_recognised_in_folders_and_need_no_pooler(tmp_path):
    torch.manual_seed(0)
    saved = AutoModelForMaskedLM.from_config(deepcopy(ENCODERS["roberta"])).eval()
    saved.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    assert backbone.head is None
    assert (backbone.num_layers, backbone.max_tokens, backbone.way.first_position) == (3, 46, 2)
    ids = samples()[-1]
    wanted = saved.roberta(input_ids=ids[None]).last_hidden_state[0]
    torch.testing.assert_close(backbone.forward(ids, ragged_layout([40])), wanted, rtol=1e-4, atol=1e-4)
    longest = torch.randint(3, 64, (46,))
    wanted = saved.roberta(input_ids=longest[None]).last_hidden_state[0]
    torch.testing.assert_close(backbone.forward(longest, ragged_layout([46])), wanted, rtol=1e-4, atol=1e-4)


def test_bf16_encoder_comes_close_to_fp32_with_fp32_states():
    torch.manual_seed(0)
    exact = prepare_backbone(stock_encoder("bert", ATTENTION), None).forward(samples()[-1], ragged_layout([40]))
    low = prepare_backbone(stock_encoder("bert", ATTENTION), None, bf16=True).forward(
        samples()[-1], ragged_layout([40])
    )
    assert low.dtype == torch.float32
    assert 1e-5 < (low - exact).norm() / exact.norm() < 0.03


def test_example_of_the_documentation_runs():
    page = (Path(__file__).resolve().parents[3] / "docs" / "models.md").read_text()
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1), names)
    assert names["logits"].shape == (3, 4)
    assert {site.kind for site in names["without_lora"].sites} == {"bottleneck", "head"}


def test_what_a_model_lacks_is_a_sentence():
    backbone = prepare_backbone(stock_encoder("bert", ATTENTION), None)
    with pytest.raises(ModelError, match="BertModel is an encoder and predicts no next token"):
        backbone.labelled_loss(torch.zeros(3, 32), torch.tensor([0]), torch.tensor([1]), torch.ones(1))
    with pytest.raises(ModelError, match="no classifier head"):
        head_site(bank_of(backbone, np.ones((3, 3), bool)))
    other = AutoModel.from_config(LlamaConfig(**{**SMALL, "num_key_value_heads": 2}))
    with pytest.raises(ModelError, match="no plain output layer"):
        prepare_backbone(other, None)
