"""Parameter counts against transformers and PEFT on the meta device. Every comparison is exact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from wavetune.costs.architecture import ENCODERS, PRESET_CONFIGS, PRESETS, Architecture
from wavetune.costs.table import CostTable
from wavetune.federation.adapters.bottleneck import Bottleneck

# PEFT asks transformers by a deprecated name, and remarks on GPT-2's Conv1D.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning", "ignore:fan_in_fan_out:UserWarning"
)

LLAMA_TARGET_SETS = [
    ("q_proj", "v_proj"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("down_proj",),
    ("gate_proj", "k_proj"),
]
GPT2_TARGET_SETS = [("c_attn",), ("c_proj",), ("c_attn", "c_proj", "c_fc"), ("mlp.c_proj",)]
BERT_TARGET_SETS = [("query", "value"), ("dense",), ("key", "dense"), ("intermediate.dense",)]
SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": 61,
}


def meta_model(config: dict[str, object]) -> PreTrainedModel:
    with torch.device("meta"):
        if config["model_type"] in ENCODERS:
            return AutoModel.from_config(AutoConfig.for_model(**config), add_pooling_layer=False)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def target_sets(family: str) -> list[tuple[str, ...]]:
    return {"gpt2": GPT2_TARGET_SETS, **dict.fromkeys(ENCODERS, BERT_TARGET_SETS)}.get(family, LLAMA_TARGET_SETS)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_has_the_parameters_of_the_stock_model(name: str):
    assert PRESETS[name].num_parameters == meta_model(PRESET_CONFIGS[name]).num_parameters()


@pytest.mark.parametrize("name", PRESETS)
def test_adapters_have_the_parameters_of_peft(name: str):
    for rank, targets in enumerate(target_sets(PRESETS[name].family), start=3):
        model = get_peft_model(meta_model(PRESET_CONFIGS[name]), LoraConfig(r=rank, target_modules=list(targets)))
        trainable, _ = model.get_nb_trainable_parameters()
        assert rank * CostTable(PRESETS[name], targets).lora_values_per_rank_L.sum() == trainable


@pytest.mark.parametrize("name", PRESETS)
def test_default_targets_are_those_of_peft(name: str):
    model = get_peft_model(meta_model(PRESET_CONFIGS[name]), LoraConfig())
    assert set(PRESETS[name].default_lora_targets) == set(model.peft_config["default"].target_modules)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        SMALL | {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
        SMALL | {"model_type": "mistral"},
        {k: v for k, v in SMALL.items() if k != "head_dim"} | {"model_type": "qwen2"},
        SMALL | {"model_type": "qwen3", "attention_bias": True},
        SMALL | {"model_type": "smollm3", "mlp_bias": True, "pad_token_id": 0},
        SMALL | {"model_type": "gemma3_text", "pad_token_id": 0},
        {"model_type": "gpt2", "n_layer": 2, "n_embd": 48, "n_head": 4, "n_positions": 32, "vocab_size": 61},
        SMALL | {"model_type": "bert", "type_vocab_size": 3},
        SMALL | {"model_type": "roberta", "max_position_embeddings": 40},
        SMALL | {"model_type": "xlm-roberta"},
    ],
    ids=lambda config: config["model_type"],
)
def test_any_supported_config_has_the_parameters_of_the_stock_model(
    config: dict[str, object], tied: bool, tmp_path: Path
):
    config = config | {"tie_word_embeddings": tied, "bos_token_id": 1, "eos_token_id": 2}
    model = meta_model(config)
    assert Architecture.from_config(model.config.to_dict()).num_parameters == model.num_parameters()
    model.config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert Architecture.from_config(saved).num_parameters == model.num_parameters()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma3_text", "gpt2", *ENCODERS])
def test_absent_optional_keys_mean_what_transformers_takes_them_for(family: str):
    required = {"num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"}
    config = {"model_type": family, "vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if family == "gpt2":
        config |= {"n_layer": 2, "n_embd": 48, "n_head": 4, "n_positions": 32}
    else:
        config |= {k: v for k, v in SMALL.items() if k in required}
        config |= {"head_dim": 12} if family in ("qwen3", "gemma3_text") else {}
    assert Architecture.from_config(config).num_parameters == meta_model(config).num_parameters()


def test_bottlenecks_have_the_parameters_of_two_maps_without_bias_a_place():
    down, up = torch.nn.Linear(768, 24, bias=False), torch.nn.Linear(24, 768, bias=False)
    values = sum(p.numel() for m in (down, up) for p in m.parameters())
    for places in (("attention",), ("feed_forward",), ("attention", "feed_forward")):
        table = CostTable(PRESETS["roberta-base"], ("query",), adapters=[Bottleneck(24, places)])
        assert table.fixed_values_L.tolist() == [values * len(places)] * 12
