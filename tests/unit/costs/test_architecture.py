from __future__ import annotations

import pytest

from wavetune.costs.architecture import PRESET_CONFIGS, PRESETS, Architecture
from wavetune.errors import ConfigError, ModelError

LLAMA = PRESET_CONFIGS["tiny"]
GPT2 = PRESET_CONFIGS["gpt2"]


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_a_missing_key_is_named(config: dict[str, object]):
    for key in config.keys() - {"tie_word_embeddings", "num_key_value_heads"}:
        with pytest.raises(ModelError, match=f"'{key}'"):
            Architecture.from_config({k: v for k, v in config.items() if k != key})


@pytest.mark.parametrize(
    ("family", "key"), [("mistral", "num_key_value_heads"), ("qwen3", "head_dim"), ("gemma3_text", "head_dim")]
)
def test_a_size_that_does_not_follow_from_the_others_is_needed(family: str, key: str):
    config = LLAMA | {"model_type": family, "head_dim": 16, key: None}
    with pytest.raises(ModelError, match=f"'{key}', which a {family} model needs"):
        Architecture.from_config(config)


@pytest.mark.parametrize("value", [0, -4, 2.5, True, "64", [64]])
def test_a_size_that_is_no_positive_whole_number_is_named(value: object):
    with pytest.raises(ModelError, match=r"'hidden_size'.*whole number >= 1"):
        Architecture.from_config(LLAMA | {"hidden_size": value})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (LLAMA | {"model_type": "mixtral", "num_local_experts": 8}, "'num_local_experts'"),
        (LLAMA | {"model_type": "qwen3_moe", "num_experts": 128}, "'num_experts'"),
        (LLAMA | {"model_type": "qwen_2"}, "is of type 'qwen_2'.*counted from the model itself"),
        (LLAMA | {"layer_types": ["full_attention", "linear_attention"]}, "has 'linear_attention' in 'layer_types'"),
        (LLAMA | {"layer_types": 4}, "'layer_types'"),
        (LLAMA | {"tie_word_embeddings": "yes"}, "'tie_word_embeddings'"),
        (LLAMA | {"num_key_value_heads": 3}, r"'num_attention_heads' \(4\) is no multiple of 'num_key_value_heads'"),
        (LLAMA | {"num_attention_heads": 6, "num_key_value_heads": 2}, r"'hidden_size' \(64\) is no multiple"),
        (GPT2 | {"add_cross_attention": True}, "'add_cross_attention'"),
        (GPT2 | {"n_head": 7}, r"'n_embd' \(768\) is no multiple of 'n_head'"),
    ],
)
def test_a_pattern_without_cost_model_is_refused_by_key(config: dict[str, object], named: str):
    with pytest.raises(ModelError, match=named):
        Architecture.from_config(config)


def test_sliding_window_layers_and_an_explicit_head_width_are_accepted():
    config = LLAMA | {"layer_types": ["sliding_attention", "full_attention"], "num_attention_heads": 6, "head_dim": 20}
    assert Architecture.from_config(config).blocks[0].projections[0].out_features == 120


def test_absent_key_value_heads_mean_one_for_each_query_head():
    config = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
    assert Architecture.from_config(config).blocks[0].projections[1].out_features == 64


@pytest.mark.parametrize(
    ("targets", "matched"),
    [
        (["q_proj"], ["self_attn.q_proj"]),
        (["self_attn.q_proj", "q_proj"], ["self_attn.q_proj"]),
        (["down_proj", "v_proj"], ["self_attn.v_proj", "mlp.down_proj"]),
    ],
)
def test_targets_match_whole_names_at_the_end_of_a_path(targets: list[str], matched: list[str]):
    assert [p.name for p in PRESETS["tiny"].lora_projections(targets)] == matched


@pytest.mark.parametrize(
    ("targets", "message"),
    [([], "empty"), (["q_prj"], "did you mean 'q_proj'"), (["proj"], "no linear module"), (["lm_head"], "no linear")],
)
def test_a_target_that_matches_nothing_is_refused(targets: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        PRESETS["tiny"].lora_projections(targets)
