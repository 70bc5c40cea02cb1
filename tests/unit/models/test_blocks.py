"""Blocks of bf16 weights that run as one node compute what transformers' blocks do, as near to fp64, and only there."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from wavetune.costs.adapter import Behind, Matrix
from wavetune.federation.adapters.bottleneck import Bottleneck
from wavetune.models import blocks, ragged
from wavetune.models.adapter import ModelAdapter
from wavetune.models.backbone import Backbone, prepare_backbone
from wavetune.models.lora import AdapterBank, new_bank
from wavetune.models.ragged import ragged_layout

SIZES = {"vocab_size": 80, "hidden_size": 256, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.1}
OLD = {"vocab_size": 80, "n_embd": 256, "n_layer": 4, "n_head": 4}
OTHERS = {
    "granite": SIZES | HEADS | {"residual_multiplier": 0.3, "attention_multiplier": 0.2, "embedding_multiplier": 3.0},
    "gpt2": OLD,
    "gptj": OLD | {"rotary_dim": 16},
    "distilbert": {"vocab_size": 80, "dim": 256, "n_layers": 4, "n_heads": 4, "hidden_dim": 96},
    "electra": SIZES | HEADS | {"embedding_size": 256},
}
SERVED = {
    "llama": 4,
    "mistral": 4,
    "qwen2": 4,  # with biases
    "smollm3": 4,  # heads of every fourth block are not turned
    "qwen3": 4,  # queries and keys have norms
    "gemma": 4,
    "gemma2": 4,  # norms behind both halves, and scores that are bent
    "gemma3_text": 4,  # all of these norms
    "olmo2": 4,  # norms behind both halves alone, and of all queries and keys of a token
    "phi3": 4,  # one map yields queries, keys and values, and one gate and up
    "granite": 4,  # what the halves add is scaled
    "starcoder2": 4,  # norms that take the mean away, biases, and no gate
    "gpt2": 4,  # the same without turned heads, and with one map for attention
    "bert": 4,  # norms of both sums, attention both ways
    "distilbert": 4,
    "electra": 4,
    "modernbert": 4,  # windows both ways
    "stablelm": 4,  # a part of each head is turned
    "glm4": 4,  # neighbours of a part are turned together
    "cohere": 4,  # neighbours, by other angles, and both halves side by side behind one norm
    "phi": 4,  # the same of parts of heads, with biases and no gate
    "gpt_neox": 4,  # a norm for each of both halves, and one map yields all heads in turn
    "gptj": 0,
}
ENCODERS = {"bert", "distilbert", "electra", "modernbert"}
LENGTHS, TOKENS = [9, 4, 7], [9, 11]  # the second client has two samples


@pytest.fixture(autouse=True)
def _products(monkeypatch):
    """As on a processor that multiplies bf16 matrices, whether or not this one does."""
    monkeypatch.setattr(blocks, "has_bf16_products", lambda: True)


def stock(kind: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return deepcopy(made(kind)).to(dtype)


@cache
def made(kind: str) -> PreTrainedModel:
    """A model that no test changes."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **OTHERS.get(kind, SIZES | HEADS))
    model = (AutoModel if kind in ENCODERS else AutoModelForCausalLM).from_config(config)
    with torch.no_grad():  # norms and biases as after some training
        for vector in (p for p in model.parameters() if p.dim() == 1):
            vector += 0.2 * torch.randn(vector.shape)
    return model


@dataclass
class Served:
    """How often blocks ran as one node."""

    count: int = 0


@pytest.fixture
def served(monkeypatch) -> Served:
    found, apply = Served(), blocks._Block.apply

    def counted(*args):
        found.count += 1
        return apply(*args)

    monkeypatch.setattr(blocks._Block, "apply", counted)
    return found


def step(backbone: Backbone, dtype: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Tensor], AdapterBank]:
    """Hidden states of a pass over two clients, and gradients of all adapters, which are no longer zero."""
    own_LK = np.array([[True, True]] * 2 + [[False, False]] * 2)
    bank = new_bank(backbone.sites, own_LK, [3, 2], 4, 8.0, 0, dtype=dtype)
    for number, leaf in enumerate(leaf for side in (True, False) for leaf in bank.parameters(side)):
        noise = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(number))
        leaf.data += (0.05 * noise).to(dtype)
    ids = torch.randint(80, (sum(LENGTHS),), generator=torch.Generator().manual_seed(7))
    hidden = backbone.forward(ids, ragged_layout(LENGTHS), bank, [0, 1], TOKENS)
    towards = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(8)).to(dtype)
    (hidden * towards).sum().backward()
    return hidden.detach(), {str(i): p.grad for i, p in enumerate(leaves(bank)) if p.grad is not None}, bank


def leaves(bank: AdapterBank) -> list[Tensor]:
    return [p for side in (True, False) for p in bank.parameters(side)]


def off(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    assert found.keys() == wanted.keys()
    squares = sum(float((found[k].double() - wanted[k]).square().sum()) for k in wanted)
    return (squares / sum(float(w.square().sum()) for w in wanted.values())) ** 0.5


@pytest.mark.parametrize("kind", SERVED)
def test_blocks_that_compute_what_one_node_does_are_found_and_others_left(kind, served):
    backbone = prepare_backbone(stock(kind), "all-linear", bf16=True)
    step(backbone)
    assert served.count == SERVED[kind]


@pytest.mark.parametrize(("kind", "names"), [("qwen3", ["q_norm"]), ("olmo2", ["post_attention_layernorm"])])
def test_blocks_whose_norms_in_other_places_take_the_mean_away_are_left(kind, names, served):
    model = stock(kind)
    for path, module in list(model.named_modules()):
        if path.rpartition(".")[2] in names:
            model.set_submodule(path, torch.nn.LayerNorm(len(next(module.parameters()))))
    ids = torch.arange(3, 12)
    with torch.no_grad():
        wanted = model.model(ids[None], use_cache=False).last_hidden_state[0]
        backbone = prepare_backbone(model, None, bf16=True)
        hidden = backbone.final_norm(backbone.forward(ids, ragged_layout([9])))
    assert served.count == 0
    assert off({"": hidden}, {"": wanted.double()}) < 0.05


@pytest.mark.parametrize("targets", [None, "all-linear", ["o_proj", "up_proj"], ["down_proj"]])
@pytest.mark.parametrize(
    ("kind", "longest"),
    [
        ("llama", 256),
        ("llama", 4),
        ("qwen2", 256),
        ("gemma", 256),
        ("qwen3", 256),
        ("gemma2", 256),
        ("gemma3_text", 256),
        ("gemma3_text", 4),
    ],
)
def test_gradients_are_as_near_to_those_of_fp64_as_transformers_own_blocks(kind, longest, targets, served, monkeypatch):
    as_near(kind, longest, targets, served, monkeypatch)


@pytest.mark.parametrize("targets", [None, "all-linear"])
@pytest.mark.parametrize(
    ("kind", "longest"),
    [
        ("olmo2", 256),
        ("phi3", 256),
        ("phi3", 4),
        ("granite", 256),
        ("starcoder2", 256),
        ("gpt2", 256),
        ("bert", 256),
        ("bert", 4),
        ("distilbert", 256),
        ("modernbert", 256),
        ("stablelm", 256),
        ("glm4", 256),
        ("cohere", 256),
        ("cohere", 4),
        ("phi", 256),
        ("gpt_neox", 256),
        ("gpt_neox", 4),
    ],
)
def test_so_they_are_in_blocks_of_other_shapes(kind, longest, targets, served, monkeypatch):
    as_near(kind, longest, "all-linear" if kind == "modernbert" else targets, served, monkeypatch)


def as_near(kind, longest, targets, served, monkeypatch):
    monkeypatch.setattr(ragged, "LONGEST", longest)  # beyond which samples' attention is PyTorch's
    exact_hidden, exact, _ = step(prepare_backbone(stock(kind, torch.float64), targets), torch.float64)
    hidden, found, _ = step(prepare_backbone(stock(kind), targets, bf16=True))
    assert served.count == 4
    monkeypatch.setattr(blocks, "has_bf16_products", lambda: False)
    own_hidden, own, _ = step(prepare_backbone(stock(kind), targets, bf16=True))
    assert served.count == 4
    assert off(found, exact) < 1.15 * off(own, exact) < 0.1
    assert off({"": hidden}, {"": exact_hidden}) < 1.15 * off({"": own_hidden}, {"": exact_hidden}) < 0.1


class Mixes(ModelAdapter):
    """Adds a part of what a map reads to what it yields."""

    name = "mixes"

    def behind(self, block, hidden_size):
        return [
            Behind(block.feed_forward_end, (Matrix("A", SIZES["intermediate_size"], hidden_size, True, "uniform"),))
        ]

    def forward(self, x, y, matrices):
        return y + torch.tanh(x @ matrices["A"])


@pytest.mark.parametrize(
    "adapters",
    [
        [Bottleneck(8)],
        [Bottleneck(8, ("attention", "feed_forward"))],
        [Bottleneck(8, ("attention", "feed_forward")), Mixes()],
    ],
    ids=["mlp", "both", "two that read input and output"],
)
@pytest.mark.parametrize("targets", [["q_proj"], "all-linear"])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_adapters_behind_the_maps_that_end_a_half_act_within_the_node(kind, targets, adapters, served, monkeypatch):
    _, exact, _ = step(prepare_backbone(stock(kind, torch.float64), targets, adapters=adapters), torch.float64)
    _, found, _ = step(prepare_backbone(stock(kind), targets, bf16=True, adapters=adapters))
    assert served.count == 4
    monkeypatch.setattr(blocks, "has_bf16_products", lambda: False)
    _, own, _ = step(prepare_backbone(stock(kind), targets, bf16=True, adapters=adapters))
    assert served.count == 4
    assert off(found, exact) < 1.15 * off(own, exact) < 0.1


def test_a_pass_without_adapters_or_gradients_is_served_too(served):
    backbone = prepare_backbone(stock("llama"), None, bf16=True)
    ids = torch.randint(80, (20,), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        hidden = backbone.forward(ids, ragged_layout(LENGTHS))
    assert served.count == 4
    with torch.no_grad():
        wanted = prepare_backbone(stock("llama", torch.float64), None).forward(ids, ragged_layout(LENGTHS))
    assert off({"": hidden}, {"": wanted}) < 0.02


def test_blocks_that_are_computed_again_or_hooked_run_as_transformers_wrote_them(served):
    backbone = prepare_backbone(stock("llama"), None, bf16=True)
    backbone.recompute = True
    step(backbone)
    assert served.count == 0
    backbone.recompute = False
    hook = backbone.blocks[0].get_submodule("mlp").register_forward_hook(lambda *_: None)
    step(backbone)
    assert served.count == 3
    hook.remove()
    step(backbone)
    assert served.count == 7
