"""Compiled kernels compute what transformers' modules do, and are put only where they do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from wavetune.models import fused
from wavetune.models.backbone import prepare_backbone
from wavetune.models.kernels import chosen, gated_product, read_kept, rms_norm
from wavetune.models.ragged import ragged_layout

SIZES = {"vocab_size": 80, "hidden_size": 256, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.1}
GPT2 = {"vocab_size": 80, "n_embd": 256, "n_layer": 2, "n_head": 4}
FUSED = {  # norms and gated MLPs in two blocks, and the final norm
    "llama": (5, 2),
    "mistral": (5, 2),
    "qwen2": (5, 2),
    "qwen3": (9, 2),  # queries and keys have norms too
    "smollm3": (5, 2),
    "gemma": (5, 2),  # weights are one and what is learned
    "gemma2": (9, 2),
    "olmo2": (9, 2),
    "phi3": (5, 0),  # one map yields gate and up
    "gpt2": (0, 0),
    "starcoder2": (0, 0),
}


def exact(make, *inputs):
    """Value and gradients in fp64."""
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    value = make(*leaves)
    return value.detach(), torch.autograd.grad(value.square().sum(), leaves)


def close(found, wanted, tolerance):
    return float((found.detach().double() - wanted).norm() / wanted.norm()) < tolerance


@pytest.mark.parametrize("shape", [(1, 7), (300, 256), (3, 40_000)])
def test_a_norm_and_its_gradient_are_those_of_the_formula(shape):
    torch.manual_seed(0)
    x, weight = torch.randn(shape).requires_grad_(), torch.rand(shape[1]) + 0.5
    wanted, (gradient,) = exact(lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double(), x)
    y = rms_norm(x, weight, 1e-5)
    y.square().sum().backward()
    assert close(y, wanted, 1e-6)
    assert x.grad is not None
    assert close(x.grad, gradient, 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("SiLU", F.silu),
        ("GELU by tanh", lambda x: F.gelu(x, approximate="tanh")),
        ("quick GELU", lambda x: x * torch.sigmoid(1.702 * x)),
    ],
)
def test_a_gated_product_and_its_gradients_are_those_of_the_activation(name, function, dtype, tolerance):
    torch.manual_seed(0)
    gate, up = ((5 * torch.randn(70, 1000)).to(dtype).requires_grad_() for _ in range(2))
    wanted, gradients = exact(lambda g, u: function(g) * u, gate, up)
    out = gated_product(gate, up, *fused.ACTIVATIONS[name])
    found = torch.autograd.grad(out.double().square().sum(), (gate, up))
    assert close(out, wanted, tolerance)
    assert all(close(mine, exact, tolerance) for mine, exact in zip(found, gradients, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_a_number_stays_none_and_touches_no_other_row(dtype):
    gate = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0], [200.0, -200.0]], dtype=dtype)
    out = gated_product(gate, torch.ones_like(gate), 1.0, 0.0)
    assert torch.isfinite(out).tolist() == [[False, True], [False, True], [True, True]]
    assert out[2].tolist() == pytest.approx([200, 0])
    normed = rms_norm(gate.float(), torch.ones(2), 1e-6)
    assert not torch.isfinite(normed[0]).any()
    assert torch.isfinite(normed[2]).all()


def test_a_row_is_the_same_alone_and_among_others_on_any_number_of_threads(monkeypatch):
    x, weight = torch.randn(900, 576), torch.rand(576)
    alone = torch.cat([rms_norm(row, weight, 1e-5) for row in x.split(1)])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(rms_norm(x, weight, 1e-5), alone)
    assert torch.equal(gated_product(x, x, 1.0, 0.0)[7:8], gated_product(x[7:8], x[7:8], 1.0, 0.0))


def model_of(kind):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(GPT2 if kind == "gpt2" else SIZES | HEADS))
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def kernels_of(backbone):
    served = [
        getattr(m.forward, "func", None) for m in nn.ModuleList([*backbone.blocks, backbone.final_norm]).modules()
    ]
    return tuple(sum(getattr(f, "__name__", "") == name for f in served) for name in ("_norm", "_mlp"))


@pytest.mark.parametrize("kind", FUSED)
def test_a_family_is_served_by_what_its_modules_compute_and_gives_the_stock_models_numbers(kind):
    model, ids = model_of(kind), torch.arange(3, 60)
    with torch.no_grad():
        wanted = [model(ids[part][None]).logits[0] for part in (slice(0, 40), slice(40, 57))]
    backbone = prepare_backbone(model, "all-linear")
    assert kernels_of(backbone) == FUSED[kind]
    hidden = backbone.forward(ids, ragged_layout([40, 17]))
    assert backbone.head is not None
    torch.testing.assert_close(
        backbone.head.logits(backbone.final_norm(hidden))[0], torch.cat(wanted), rtol=1e-4, atol=1e-4
    )


def test_bf16_products_are_rounded_once_as_without_kernels(monkeypatch):
    ids, layout = torch.arange(3, 60), ragged_layout([40, 17])
    found = prepare_backbone(model_of("llama"), ["q_proj"], bf16=True).forward(ids, layout)
    monkeypatch.setattr(fused, "LEAST_WIDTH", 10_000)
    plain = prepare_backbone(model_of("llama"), ["q_proj"], bf16=True)
    assert kernels_of(plain) == (0, 0)
    assert float((found - plain.forward(ids, layout)).norm() / found.norm()) < 2e-3


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("sinks", [None, torch.linspace(-2.0, 3.0, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_token_reads_of_what_is_kept_what_attention_in_fp64_does(dtype, sinks, softcap):
    torch.manual_seed(0)
    keys, values = torch.randn(7, 2, 90, 40).to(dtype), torch.randn(7, 2, 90, 24).to(dtype)  # rows, heads, places
    query, key, value = 3 * torch.randn(5, 6, 40), torch.randn(5, 2, 40), torch.randn(5, 2, 24)
    row, first, last = torch.tensor([6, 2, 0, 5, 3]), torch.tensor([0, 0, 80, 3, 89]), torch.tensor([0, 41, 88, 30, 89])
    found = read_kept(query, key, value, row, first, last, keys, values, 0.3, softcap, sinks)
    assert torch.equal(keys[row, :, last], key.to(dtype))
    assert torch.equal(values[row, :, last], value.to(dtype))
    grouped = query.view(5, 2, 3, 40).double()
    scores = 0.3 * grouped @ keys[row].double().mT
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    place = torch.arange(90)
    seen = (place >= first[:, None]) & (place <= last[:, None])
    scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, 2, 3, 1).double().expand(5, 2, 3, 1)], -1)
    wanted = torch.softmax(scores, -1)[..., :90] @ values[row].double()
    assert close(found, wanted.reshape(5, 6, 24), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tokens_are_chosen_by_the_inverse_of_the_distribution_in_fp64(dtype, temperature):
    torch.manual_seed(0)
    logits, draws = (3 * torch.randn(60, 5_003)).to(dtype), torch.rand(60, dtype=torch.float64)
    draws[:2] = torch.tensor([0.0, 1 - 1e-16])
    log_probs = torch.log_softmax(logits.double() / temperature, -1)
    reached = log_probs.exp().cumsum(-1)
    drawn = torch.searchsorted(reached, draws[:, None] * reached[:, -1:], right=True)[:, 0].clamp(max=5_002)
    for given, wanted in ((draws, drawn), (None, log_probs.argmax(-1))):
        token, log_prob, entropy = chosen(logits, given, temperature)
        assert torch.equal(token, wanted)
        assert close(log_prob, log_probs.gather(1, wanted[:, None])[:, 0], 1e-6)
        assert close(entropy, torch.special.entr(log_probs.exp()).sum(-1), 1e-5)
