"""Encoders, bottlenecks and heads on pooled samples: FLOPs against PyTorch's counter on stock models with adapters of
plain torch, saved activations and memory against the training engine. Comparisons of FLOPs and of saved values are
exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from oracles.test_costs_memory import peak_of_two_steps
from wavetune.costs.architecture import ENCODERS, Architecture
from wavetune.costs.memory import client_memory_bytes
from wavetune.costs.table import CostTable, Workload
from wavetune.federation.adapters.bottleneck import Bottleneck
from wavetune.models.backbone import prepare_backbone
from wavetune.models.behind import ModuleMaps
from wavetune.models.classifier import stacked_head
from wavetune.models.lora import new_bank
from wavetune.models.ragged import ATTENTION, ragged_layout

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning", "ignore:fan_in_fan_out:UserWarning"
)

WIDTH, VOCABULARY, LENGTH = 48, 61, 24
SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": SIZES | {"num_key_value_heads": 2, "num_hidden_layers": 2},
    "gemma3_text": SIZES | {"num_key_value_heads": 2, "num_hidden_layers": 2, "head_dim": 12},
    "gpt2": {"n_embd": WIDTH, "n_head": 4, "n_inner": 100, "vocab_size": VOCABULARY, "n_positions": 64, "n_layer": 2}
    | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2},
    "bert": SIZES | {"num_hidden_layers": 2, "max_position_embeddings": 64},
    "roberta": SIZES | {"num_hidden_layers": 2, "max_position_embeddings": 64},
}
TARGETS = {
    "llama": [("q_proj", "v_proj"), ("o_proj",), ("down_proj",), ("up_proj", "gate_proj", "down_proj")],
    "gemma3_text": [("v_proj",), ("down_proj",)],
    "gpt2": [("c_attn",), ("c_proj",)],
    "bert": [("query", "value"), ("query",), ("dense",), ("query", "key", "value", "dense")],
    "roberta": [("query", "value")],
}
PLACES = {
    "attention": Bottleneck(8, ("attention",)),
    "feed_forward": Bottleneck(8),
    "both": Bottleneck(8, ("attention", "feed_forward")),
}
BOTTLENECKS = {"none": (None, False)} | {
    f"{name}-{'frozen' if frozen else 'trained'}": (bottleneck, frozen)
    for name, bottleneck in PLACES.items()
    for frozen in (False, True)
}
PAIRS = [  # every family with every bottleneck, and with each of its sets of targets
    pytest.param(family, sets[i % len(sets)], *BOTTLENECKS[name], id=f"{family}-{'+'.join(sets[i % len(sets)])}-{name}")
    for family, sets in TARGETS.items()
    for i, name in enumerate(BOTTLENECKS)
]


def others(bottleneck):
    return () if bottleneck is None else (bottleneck,)


def config_of(family: str) -> Any:
    return AutoConfig.for_model(family, **CONFIGS[family])


def stock(family: str, attention: str) -> PreTrainedModel:
    if family in ENCODERS:
        return AutoModel.from_config(config_of(family), attn_implementation=attention, add_pooling_layer=False).eval()
    return AutoModelForCausalLM.from_config(config_of(family), attn_implementation=attention)


def blocks_of(model: PreTrainedModel) -> Any:
    trunk = model.get_decoder()
    return trunk.encoder.layer if hasattr(trunk, "encoder") else trunk.h if hasattr(trunk, "h") else trunk.layers


def table_of(family: str, targets: tuple[str, ...], **options: Any) -> CostTable:
    return CostTable(Architecture.from_config(config_of(family).to_dict()), targets, **options)


def add_bottlenecks(model: PreTrainedModel, bottleneck: Bottleneck, frozen: bool) -> None:
    for block in blocks_of(model):
        for one in bottleneck.behind(ModuleMaps(block, (), model.config.hidden_size), WIDTH):
            A, B = (torch.randn(shape) for shape in ((WIDTH, bottleneck.width), (bottleneck.width, WIDTH)))
            A.requires_grad_(not frozen), B.requires_grad_(not frozen)
            block.get_submodule(one.map).register_forward_hook(lambda _m, _x, y, A=A, B=B: y + F.gelu(y @ A) @ B)


@pytest.mark.parametrize(("family", "targets", "bottleneck", "frozen"), PAIRS)
def test_flop_of_a_training_step_equal_the_executed_products(
    family: str, targets: tuple[str, ...], bottleneck: Bottleneck | None, frozen: bool
):
    outputs, rank, work = 5, 3, Workload.from_lengths([LENGTH, LENGTH], labelled=0)
    model = stock(family, "eager")
    get_peft_model(model, LoraConfig(r=rank, target_modules=list(targets)))  # in place
    if bottleneck is not None:
        add_bottlenecks(model, bottleneck, frozen)
    head = nn.Linear(WIDTH, outputs)
    ids = torch.randint(3, VOCABULARY, (2, LENGTH))
    with FlopCounterMode(display=False) as forward:
        total = head(model.get_decoder()(ids, use_cache=False).last_hidden_state[:, -1]).sum()
    with FlopCounterMode(display=False) as backward:
        total.backward()
    table = table_of(family, targets, adapters=others(bottleneck), frozen_adapters=frozen, outputs=outputs)
    assert forward.get_total_flops() == sum(
        np.sum(flop)
        for flop in (
            table.forward_flop(work),
            rank * table.lora_forward_flop_per_rank(work),
            table.fixed_forward_flop(work),
            table.head_forward_flop(work),
        )
    )
    assert backward.get_total_flops() == sum(
        np.sum(flop)
        for flop in (
            table.backward_flop(work),
            rank * table.lora_backward_flop_per_rank(work),
            table.fixed_backward_flop(work),
            table.head_backward_flop(work),
        )
    )


@pytest.mark.parametrize(("family", "targets", "bottleneck", "frozen"), PAIRS)
def test_the_engine_saves_exactly_what_is_counted(
    family: str, targets: tuple[str, ...], bottleneck: Bottleneck | None, frozen: bool
):
    rank = 3
    backbone = prepare_backbone(stock(family, ATTENTION), targets, adapters=others(bottleneck))
    bank = new_bank(backbone.sites, np.ones((2, 1), bool), [rank], rank, 1.0, 0)
    for site in bank.sites:
        for p in bank.local[site.name].values():
            p.requires_grad_(not (frozen and site.kind == "bottleneck"))
    layout = ragged_layout([LENGTH, LENGTH])
    known = {t.untyped_storage().data_ptr() for t in (*backbone.model.parameters(), *bank.parameters(True))}
    kept, sizes = [], [0, 0]

    def pack(index: int, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and tensor.dim() > 1:
            known.add(storage.data_ptr())
            kept.append(tensor)
            sizes[index] += storage.nbytes()
        return tensor

    for index, block in enumerate(backbone.blocks):
        hooks = saved_tensors_hooks(lambda t, index=index: pack(index, t), lambda t: t)

        def enter(_module: nn.Module, _args: object, kwargs: dict[str, Any], hooks: Any = hooks) -> None:
            known.update(t.untyped_storage().data_ptr() for t in kwargs.get("position_embeddings") or ())
            hooks.__enter__()

        block.register_forward_pre_hook(enter, with_kwargs=True)
        block.register_forward_hook(lambda *_, hooks=hooks: hooks.__exit__())
    kept.append(backbone.forward(torch.randint(3, VOCABULARY, (2 * LENGTH,)), layout, bank, [0], [2 * LENGTH]))
    table = table_of(family, targets, adapters=others(bottleneck), frozen_adapters=frozen)
    values = table.saved_values_per_token_L + rank * table.saved_lora_values_per_token_L
    assert sizes == [4 * 2 * LENGTH * v for v in values]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "roberta"])
def test_memory_of_the_whole_model_is_the_peak_of_the_training_engine(family: str, frozen: bool):
    bottleneck, rank = Bottleneck(16, ("attention", "feed_forward")), 4
    stock_model = stock(family, ATTENTION)
    backbone = prepare_backbone(stock_model, None, adapters=others(bottleneck), outputs=3)
    bank = new_bank(backbone.sites, np.ones((2, 1), bool), [rank], rank, 8.0, 0)
    for site in bank.sites:
        for p in bank.local[site.name].values():
            p.requires_grad_(not (frozen and site.kind == "bottleneck"))
    adapters = nn.ParameterList(bank.parameters(local=True))
    lengths = [13, 60, 30, 58]
    ids, layout = torch.randint(3, VOCABULARY, (sum(lengths),)), ragged_layout(lengths)

    def step() -> None:
        hidden = backbone.forward(ids, layout, bank, [0], [len(ids)])
        logits = stacked_head(backbone.pooled(hidden, lengths), bank, bank.segments(1, [0], [4]))
        F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()

    measured = peak_of_two_steps([stock_model, adapters], step)
    table = table_of(family, backbone_targets(family), adapters=others(bottleneck), frozen_adapters=frozen, outputs=3)
    predicted = client_memory_bytes(table, 2, rank, Workload.from_lengths(lengths, labelled=0))
    assert 0.98 * measured <= predicted <= 1.1 * measured


def backbone_targets(family: str) -> tuple[str, ...]:
    return Architecture.from_config(config_of(family).to_dict()).default_lora_targets
