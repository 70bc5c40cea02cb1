"""What is counted from a model itself, against the formulas that are written down and against PyTorch's counter."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from wavetune.costs.architecture import ENCODERS, WRITTEN_DOWN, Architecture
from wavetune.costs.block import block_costs
from wavetune.costs.table import CostTable, Workload
from wavetune.federation.adapters.bottleneck import Bottleneck
from wavetune.federation.adapters.prefix import Prefix
from wavetune.models.backbone import is_encoder
from wavetune.models.counting import count_model

# PEFT asks transformers by a deprecated name, and remarks on GPT-2's Conv1D.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning", "ignore:fan_in_fan_out:UserWarning"
)

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 61,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"n_layer": 3, "n_embd": 48, "n_head": 6, "n_inner": 100, "n_positions": 64, "vocab_size": 61}
EXPERTS = {"num_local_experts": 5, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 12, "sliding_window": 16},
    "phi3": {},
    "olmo2": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 100, "word_embed_proj_dim": 48, "dropout": 0.0},
    "cohere": {},
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS | {"head_dim": 12},
    "phi": {"num_key_value_heads": 6, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "bloom": {"n_head": 6, "attention_dropout": 0.0, "hidden_dropout": 0.0},
}


def counted(family: str, **settings: Any) -> Architecture:
    return count_model(AutoConfig.for_model(family, **SMALL | settings))


@pytest.mark.parametrize("family", WRITTEN_DOWN)
def test_counted_costs_equal_those_of_the_formula(family: str):
    own = {"head_dim": 12} if family in ("qwen3", "gemma3_text") else {}
    config = AutoConfig.for_model(family, **GPT2 if family == "gpt2" else SMALL | own)
    found, written = count_model(config), Architecture.from_config(config.to_dict())
    for field in set(vars(written)) - {"blocks", "default_lora_targets"}:
        assert getattr(found, field) == getattr(written, field), field
    projections = [block.projections for block in found.blocks]
    assert projections == [block.projections for block in written.blocks]
    assert not found.note
    names = [p.name for p in written.blocks[0].projections]
    for targets in (*combinations(names, 1), *combinations(names, 2), tuple(names)):
        for adapters in ((), (Bottleneck(8),), (Bottleneck(8, ("attention",)),), (Prefix(5),)):
            tables = (CostTable(a, targets, adapters=adapters) for a in (found, written))
            assert len({table.blocks for table in tables}) == 1, targets


@pytest.mark.parametrize("family", FAMILIES)
def test_counted_flop_equal_the_executed_products(family: str):
    config = AutoConfig.for_model(family, **SMALL | FAMILIES[family])
    architecture = count_model(config)
    assert not architecture.note
    config._experts_implementation = "eager"
    kind: Any = AutoModel if is_encoder(config) else AutoModelForCausalLM
    model = kind.from_config(config, attn_implementation="eager")
    assert architecture.num_parameters == model.num_parameters()
    targets, rank, length = architecture.default_lora_targets, 3, 20
    adapted = get_peft_model(model, LoraConfig(r=rank, target_modules=list(targets)))
    table = CostTable(architecture, targets)
    assert rank * table.lora_values_per_rank_L.sum() == adapted.get_nb_trainable_parameters()[0]
    with FlopCounterMode(display=False) as forward:
        total = model(torch.arange(length)[None] + 3).logits.sum()
    with FlopCounterMode(display=False) as backward:
        total.backward()
    work = Workload.from_lengths([length], labelled=length)
    lora = table.lora_forward_flop_per_rank(work).sum(), table.lora_backward_flop_per_rank(work).sum()
    assert (forward.get_total_flops(), backward.get_total_flops()) == (
        table.forward_flop(work).sum() + rank * lora[0] + table.head_forward_flop(work),
        table.backward_flop(work).sum() + rank * lora[1] + table.head_backward_flop(work),
    )


def test_what_a_trained_prefix_adds_are_the_executed_products():
    config = AutoConfig.for_model("llama", **SMALL)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").requires_grad_(False)
    length, tokens = 20, 7
    own = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens)
    adapted: Any = get_peft_model(model, own)
    table = CostTable(count_model(config), ("q_proj",), adapters=(Prefix(tokens),))
    assert table.fixed_values_L.sum() == adapted.get_nb_trainable_parameters()[0]
    with FlopCounterMode(display=False) as forward:
        total = adapted(torch.arange(length)[None] + 3).logits.sum()
    with FlopCounterMode(display=False) as backward:
        total.backward()
    work = Workload.from_lengths([length], labelled=length)
    blocks = [block_costs(b, (), i > 0, 48, (Prefix(tokens),)) for i, b in enumerate(table.architecture.blocks)]
    assert forward.get_total_flops() == (
        table.forward_flop(work).sum() + table.fixed_forward_flop(work).sum() + table.head_forward_flop(work)
    )
    assert backward.get_total_flops() == table.head_backward_flop(work) + sum(
        length * (one.backward_flop_per_token + one.fixed_backward_flop_per_token)
        + length**2 * one.backward_flop_per_pair
        for one in blocks
    )


def test_of_experts_those_count_that_a_token_is_sent_to():
    one, two = (counted("mixtral", **EXPERTS | {"num_experts_per_tok": n}) for n in (1, 2))
    flop = [sum(p.flop_per_token for p in a.blocks[0].products) for a in (one, two)]
    assert flop[1] - flop[0] == 2 * 3 * 48 * 80
    assert one.blocks[0].values == two.blocks[0].values
    assert "experts" not in str([p.name for p in one.blocks[0].projections])


def test_latent_attention_is_counted_with_the_widths_of_its_heads():
    widths = {"q_lora_rank": 20, "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 10}
    experts = {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    }
    found = counted("deepseek_v3", **widths, **experts, moe_intermediate_size=16, num_key_value_heads=6)
    assert not found.note
    assert [sum(p.flop_per_pair for p in block.products) for block in found.blocks] == [2 * 6 * (8 + 4 + 10)] * 3
    assert len(set(found.blocks)) == 2  # the first is dense


def test_blocks_that_do_not_run_without_weights_are_estimated_and_said_to_be():
    found = counted("mamba", state_size=4, conv_kernel=2)
    assert "estimated from their parameters" in found.note
    assert sum(p.flop_per_token for p in found.blocks[0].products) == 2 * found.blocks[0].values
    assert found.num_layers == 3


def test_encoders_are_those_without_a_head():
    for family in ENCODERS:
        assert counted(family).head_values == 0


def test_the_text_part_of_a_larger_model_is_counted():
    text = {**SMALL, "head_dim": 12, "model_type": "gemma3_text"}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    found = count_model(AutoConfig.for_model("gemma3", text_config=text, vision_config=vision))
    written = Architecture.from_config(AutoConfig.for_model("gemma3_text", **SMALL, head_dim=12).to_dict())
    assert found.blocks == counted("gemma3_text", head_dim=12).blocks
    assert [block.values for block in found.blocks] == [block.values for block in written.blocks]


def test_a_decoder_behind_another_head_is_found_and_blocks_that_differ_are_told_apart():
    found = counted("modernbert-decoder")
    assert not found.note
    assert found.num_layers == 3
    assert len(set(found.blocks)) == 2  # the first has no norm before attention
