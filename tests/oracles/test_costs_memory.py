"""Training memory against what automatic differentiation saves, and against the peak of live tensors."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from wavetune.costs.architecture import Architecture
from wavetune.costs.memory import Storage, client_memory_bytes
from wavetune.costs.table import CostTable, Workload
from wavetune.models import products
from wavetune.models.backbone import prepare_backbone
from wavetune.models.lora import new_bank
from wavetune.models.ragged import ATTENTION, ragged_layout

# PEFT asks transformers by a deprecated name, and remarks on GPT-2's Conv1D.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning", "ignore:fan_in_fan_out:UserWarning"
)

WIDTH, VOCABULARY, LENGTH, RANK = 96, 211, 64, 4
LLAMA = {
    "hidden_size": WIDTH,
    "intermediate_size": 200,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA | {"head_dim": 20},
    "gemma3_text": LLAMA | {"head_dim": 12},
    "gpt2": {"n_embd": WIDTH, "n_head": 6, "vocab_size": VOCABULARY, "n_positions": LENGTH}
    | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2},
}
LLAMA_TARGETS = [("q_proj", "v_proj"), ("k_proj",), ("o_proj",), ("down_proj",), ("gate_proj", "up_proj")]
ALL_LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GPT2_TARGETS = [("c_attn",), ("attn.c_proj",), ("mlp.c_proj",), ("c_fc",), ("c_attn", "c_proj", "c_fc")]


def stock_model(family: str, targets: tuple[str, ...]) -> tuple[PreTrainedModel, CostTable]:
    """A stock model of three blocks with PEFT's LoRA and fused attention, and its cost table."""
    depth = {"n_layer" if family == "gpt2" else "num_hidden_layers": 3}
    config = AutoConfig.for_model(family, **CONFIGS[family], **depth)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    model = get_peft_model(model, LoraConfig(r=RANK, target_modules=list(targets))).get_base_model()
    return model, CostTable(Architecture.from_config(config.to_dict()), targets)


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    decoder = model.get_decoder()
    return decoder.h if hasattr(decoder, "h") else decoder.layers


def saved_bytes(model: PreTrainedModel, run: Callable[[], Tensor]) -> list[int]:
    """Bytes of distinct activations that each block saves for the backward pass."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: list[Tensor] = []  # keeps storages alive, so that addresses stay distinct
    sizes = [0] * len(blocks_of(model))

    def pack(index: int, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and tensor.dim() > 1:  # Gemma's 1 + weight is no activation
            known.add(storage.data_ptr())
            kept.append(tensor)
            sizes[index] += storage.nbytes()
        return tensor

    def watch(index: int, block: nn.Module) -> None:
        hooks = saved_tensors_hooks(lambda t: pack(index, t), lambda t: t)

        def enter(_module: nn.Module, _args: object, kwargs: dict[str, Any]) -> None:
            tables = kwargs.get("position_embeddings") or ()
            known.update(t.untyped_storage().data_ptr() for t in tables)  # shared by all blocks
            hooks.__enter__()

        block.register_forward_pre_hook(enter, with_kwargs=True)
        block.register_forward_hook(lambda *_: hooks.__exit__())

    for index, block in enumerate(blocks_of(model)):
        watch(index, block)
    kept.append(run())
    return sizes


@pytest.mark.parametrize(
    ("family", "targets"),
    [("llama", t) for t in [*LLAMA_TARGETS, ALL_LLAMA_TARGETS]]
    + [(family, t) for family in ("qwen2", "qwen3", "gemma3_text") for t in LLAMA_TARGETS[:3]]
    + [("gpt2", t) for t in GPT2_TARGETS],
)
def test_saved_activations_are_exact_for_stock_blocks(family: str, targets: tuple[str, ...]):
    model, table = stock_model(family, targets)
    measured = saved_bytes(model, lambda: model(torch.randint(VOCABULARY, (2, LENGTH)), use_cache=False).logits)
    values = table.saved_values_per_token_L + RANK * table.saved_lora_values_per_token_L
    assert measured == [4 * 2 * LENGTH * v for v in values]


class PeakBytes(TorchDispatchMode):
    """The most bytes of tensors alive at once, those given at the start included."""

    def __init__(self, alive: list[Tensor]):
        super().__init__()
        self.peak = self.now = 0
        self.alive: dict[int, object] = {}
        for tensor in alive:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if size and key not in self.alive:
            self.alive[key] = weakref.ref(storage, lambda _: self.remove(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def remove(self, key: int, size: int) -> None:
        del self.alive[key]
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return output


def peak_of_two_steps(parts: list[nn.Module], step: Callable[[], None]) -> int:
    """Peak bytes of two optimiser steps; in the second one all moments exist."""
    parameters = {p for part in parts for p in part.parameters()}
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], foreach=False)
    tensors = [t for part in parts for t in (*part.parameters(), *part.buffers())]
    with PeakBytes(tensors) as peak:
        for _ in range(2):
            step()
            optimizer.step()
            optimizer.zero_grad()
    return peak.peak


@pytest.mark.parametrize("family", CONFIGS)
def test_client_memory_is_the_peak_of_training_the_lower_blocks(family: str):
    model, table = stock_model(family, ("c_attn",) if family == "gpt2" else ("q_proj", "v_proj"))
    lower = model.get_decoder()
    keep_blocks(lower, slice(0, 2))
    batch = torch.randint(VOCABULARY, (1, LENGTH))

    def step() -> None:
        hidden = lower(batch, use_cache=False).last_hidden_state
        hidden.backward(torch.ones_like(hidden))

    measured = peak_of_two_steps([lower], step)
    predicted = client_memory_bytes(table, 2, RANK, Workload.from_lengths([LENGTH], labelled=LENGTH))
    assert measured == pytest.approx(float(predicted), rel=0.02)


def keep_blocks(decoder: nn.Module, kept: slice) -> nn.Module:
    """Keep some blocks of a decoder and return its final norm, taken out."""
    blocks, norm = ("h", "ln_f") if hasattr(decoder, "h") else ("layers", "norm")
    final_norm = getattr(decoder, norm)
    setattr(decoder, blocks, getattr(decoder, blocks)[kept])
    setattr(decoder, norm, nn.Identity())
    return final_norm


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_memory_of_the_whole_model_is_the_peak_of_the_training_engine(
    family: str, bf16: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(products, "has_bf16_products", lambda: True)  # copies of weights for want of them do not count
    depth = {"n_layer" if family == "gpt2" else "num_hidden_layers": 3}
    config = AutoConfig.for_model(family, **CONFIGS[family], **depth)
    stock = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)
    backbone = prepare_backbone(stock, None, bf16)
    bank = new_bank(backbone.sites, np.ones((3, 1), dtype=bool), [RANK], RANK, alpha=8.0, seed=0)
    adapters = nn.ParameterList(bank.parameters(local=True))
    lengths = [13, 64, 30, 58]
    ids, layout = torch.randint(VOCABULARY, (sum(lengths),)), ragged_layout(lengths)
    labelled = torch.arange(0, sum(lengths), 3)

    def step() -> None:
        hidden = backbone.forward(ids, layout, bank, [0], [len(ids)])
        backbone.labelled_loss(hidden, labelled, ids[labelled], torch.ones(len(labelled)))[0].backward()

    measured = peak_of_two_steps([stock, adapters], step)
    architecture = Architecture.from_config(config.to_dict())
    table = CostTable(architecture, architecture.default_lora_targets)
    work = Workload.from_lengths(lengths, len(labelled))
    predicted = client_memory_bytes(table, 3, RANK, work, Storage(weight_bytes=2 if bf16 else 4))
    assert measured <= predicted <= 1.1 * measured
