"""FLOPs of the cost table against PyTorch's own counter on small real models. Every comparison is exact."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from wavetune.costs.architecture import Architecture
from wavetune.costs.table import CostTable, Workload
from wavetune.costs.workload import split_work

# PEFT asks transformers by a deprecated name, and remarks on GPT-2's Conv1D.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning", "ignore:fan_in_fan_out:UserWarning"
)

LLAMA = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 61,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA | {"head_dim": 20},
    "smollm3": LLAMA,
    "gemma3_text": LLAMA | {"head_dim": 12},
    "gpt2": {"n_embd": 48, "n_head": 4, "n_inner": 100, "vocab_size": 61, "n_positions": 64}
    | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2},
}
LLAMA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GPT2_MODULES = ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj")


def stock_model(family: str, targets: tuple[str, ...], rank: int, layers: int) -> tuple[PreTrainedModel, CostTable]:
    """A small stock model with PEFT's LoRA and eager attention, and its cost table."""
    depth = {"n_layer" if family == "gpt2" else "num_hidden_layers": layers}
    config = AutoConfig.for_model(family, **CONFIGS[family], **depth)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model = get_peft_model(model, LoraConfig(r=rank, target_modules=list(targets))).get_base_model()
    return model, CostTable(Architecture.from_config(config.to_dict()), targets)


def count(step: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """FLOPs of a function's forward pass, and of the backward pass from the sum of what it returns."""
    with FlopCounterMode(display=False) as forward:
        total = step().sum()
    with FlopCounterMode(display=False) as backward:
        total.backward()
    return forward.get_total_flops(), backward.get_total_flops()


def executed(model: PreTrainedModel, samples: int, length: int, labelled: int) -> tuple[int, int]:
    """FLOPs of a training step on equally long samples with labels at the last positions."""
    ids = torch.randint(61, (samples, length))
    return count(lambda: model(ids, logits_to_keep=labelled).logits)


def predicted(table: CostTable, work: Workload, rank: int) -> tuple[int, int]:
    forward = table.forward_flop(work).sum() + rank * table.lora_forward_flop_per_rank(work).sum()
    backward = table.backward_flop(work).sum() + rank * table.lora_backward_flop_per_rank(work).sum()
    return forward + table.head_forward_flop(work), backward + table.head_backward_flop(work)


@pytest.mark.parametrize("rank", [1, 8])
@pytest.mark.parametrize("family", CONFIGS)
def test_flop_of_a_training_step_equal_the_executed_products(family: str, rank: int):
    targets = ("c_attn",) if family == "gpt2" else ("q_proj", "v_proj")
    model, table = stock_model(family, targets, rank, layers=2)
    for length, labelled in ((1, 1), (40, 5)):
        work = Workload.from_lengths([length, length], 2 * labelled)
        assert executed(model, 2, length, labelled) == predicted(table, work, rank)


@pytest.mark.parametrize(
    ("family", "targets"),
    [("llama", t) for n in (1, 2, 7) for t in combinations(LLAMA_MODULES, n)]
    + [("gpt2", t) for n in (1, 2, 3, 4) for t in combinations(GPT2_MODULES, n)]
    + [("gpt2", ("c_proj",)), ("llama", ("self_attn.q_proj", "q_proj"))],
)
def test_first_block_spares_exactly_what_no_adapter_needs(family: str, targets: tuple[str, ...]):
    model, table = stock_model(family, targets, rank=3, layers=1)
    assert executed(model, 1, 9, labelled=9) == predicted(table, Workload.from_lengths([9], labelled=9), rank=3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_trained_input_makes_every_block_alike(family: str):
    model, table = stock_model(family, ("c_attn",) if family == "gpt2" else ("v_proj",), rank=2, layers=2)
    table = CostTable(table.architecture, table.lora_targets, input_needs_grad=True)
    prompt = torch.randn(1, 9, 48, requires_grad=True)
    work = Workload.from_lengths([9], labelled=9)
    assert count(lambda: model(inputs_embeds=prompt).logits) == predicted(table, work, rank=2)
    assert table.backward_flop(work)[0] == table.backward_flop(work)[1]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("blocks", [(0,), (1,), (2,), (0, 2)])
def test_only_trained_blocks_and_those_above_them_have_a_backward_pass(family: str, blocks: tuple[int, ...]):
    targets = ("c_attn", "mlp.c_proj") if family == "gpt2" else ("q_proj", "down_proj")
    model, table = stock_model(family, targets, rank=2, layers=3)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            parameter.requires_grad_(any(f".{layer}." in name for layer in blocks))
    table = CostTable(table.architecture, table.lora_targets, trained_blocks=blocks)
    assert executed(model, 1, 9, labelled=4) == predicted(table, Workload.from_lengths([9], labelled=4), rank=2)
    assert not table.backward_flop(Workload.from_lengths([9], labelled=4))[: min(blocks)].any()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_where_a_prompt_alone_trains_every_block_passes_gradients_on(family: str):
    config = AutoConfig.for_model(
        family, **CONFIGS[family], **{"n_layer" if family == "gpt2" else "num_hidden_layers": 2}
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").requires_grad_(False)
    targets = ("c_attn",) if family == "gpt2" else ("v_proj",)
    architecture = Architecture.from_config(config.to_dict())
    table = CostTable(architecture, targets, input_needs_grad=True, trained_blocks=())
    prompt = torch.randn(1, 9, 48, requires_grad=True)
    work = Workload.from_lengths([9], labelled=9)
    assert count(lambda: model(inputs_embeds=prompt).logits) == predicted(table, work, rank=0)


def test_ragged_batches_are_exact():
    model, table = stock_model("llama", ("q_proj", "v_proj"), rank=4, layers=2)
    lengths, labelled = (3, 11, 30), (1, 4, 30)
    counts = [executed(model, 1, n, p) for n, p in zip(lengths, labelled, strict=True)]
    expected = predicted(table, Workload.from_lengths(lengths, sum(labelled)), rank=4)
    assert tuple(np.sum(counts, axis=0)) == expected


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_both_sides_of_a_cut_do_the_predicted_work(family: str, cut: int):
    targets = ("c_attn",) if family == "gpt2" else ("q_proj", "v_proj")
    model, table = stock_model(family, targets, rank=4, layers=4)
    work = Workload.from_lengths([21], labelled=6)
    split = split_work(table, cut, rank_K=4, server_rank=4, workload=work)
    lower, upper = cut_in_two(model, cut)
    ids, boundary = torch.randint(61, (1, 21)), torch.randn(1, 21, 48, requires_grad=True)
    client = count(lambda: lower(input_ids=ids).last_hidden_state)
    server = count(lambda: model.lm_head(upper(inputs_embeds=boundary).last_hidden_state[:, -6:]))
    assert client == (split.client_forward_flop_K, split.client_backward_flop_K)
    assert server == (split.server_forward_flop_K, split.server_backward_flop_K)


def cut_in_two(model: PreTrainedModel, cut: int) -> tuple[nn.Module, nn.Module]:
    """The decoder's first `cut` blocks, and the others; norms have no matrix product and stay on both sides."""
    decoder = model.get_decoder()
    parts = []
    for blocks in (slice(0, cut), slice(cut, None)):
        part = type(decoder)(decoder.config)
        part.load_state_dict(decoder.state_dict(), strict=False)
        name = "h" if hasattr(decoder, "h") else "layers"
        part.requires_grad_(False)
        setattr(part, name, getattr(decoder, name)[blocks])
        parts.append(part)
    return parts[0], parts[1]


def test_a_fused_kernel_recomputes_one_product_of_attention():
    # The counter's formulas for fused kernels: 2 products forward, 5 backward, against 4 of unfused attention.
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    _, table = stock_model("gpt2", ("c_attn",), rank=1, layers=2)
    shape = (1, 4, 30, 12)
    block = table.blocks[1]
    assert sdpa_flop_count(shape, shape, shape) == 30**2 * block.forward_flop_per_pair
    fused = sdpa_backward_flop_count(shape, shape, shape, shape)
    assert fused == pytest.approx(1.25 * 30**2 * block.backward_flop_per_pair)
