"""Families of transformers that nobody listed in the engine: each runs as the stock model does, or is refused."""

from __future__ import annotations

import warnings
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from helpers.adapters import pair_of, widths_of
from wavetune.errors import ModelError
from wavetune.federation.adapters.prefix import Prefix
from wavetune.models.adapter_folder import save_adapter_folder
from wavetune.models.backbone import load_backbone, prepare_backbone
from wavetune.models.decode import decode
from wavetune.models.lora import AdapterBank
from wavetune.models.part import load_part
from wavetune.models.ragged import ATTENTION, branched_layout, ragged_layout
from wavetune.models.structure import is_encoder

WIDTHS = {
    "vocab_size": 80,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "initializer_range": 0.2,
}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {**WIDTHS, **HEADS, **IDS, "max_position_embeddings": 64}
GPT = {"vocab_size": 80, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, "initializer_range": 0.2, **IDS}
BERT = {**WIDTHS, "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GRANITE = {"logits_scaling": 8.0, "residual_multiplier": 0.3, "embedding_multiplier": 12.0, "attention_multiplier": 0.1}

PACKED = {
    "gemma": LLAMA,
    "gemma2": LLAMA | {"sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "phi3": LLAMA,
    "diffllama": LLAMA,  # each layer attends twice
    "olmo2": LLAMA,
    "glm4": LLAMA,
    "starcoder2": LLAMA | {"sliding_window": 5},
    "granite": LLAMA | GRANITE,
    "stablelm": LLAMA | {"use_parallel_residual": True},
    "cohere": LLAMA | {"logit_scale": 0.0625},
    "cohere2": LLAMA | {"sliding_window": 5, "logit_scale": 0.25},
    "gpt_neox": LLAMA,
    "opt": {**WIDTHS, **IDS, "num_attention_heads": 4, "ffn_dim": 48, "word_embed_proj_dim": 32,
            "max_position_embeddings": 64},
    "phi": LLAMA,
    "mixtral": LLAMA | {"num_local_experts": 4, "sliding_window": 5},
    "qwen3_moe": LLAMA | MOE,
    "modernbert-decoder": {**WIDTHS, **IDS, "num_attention_heads": 4, "local_attention": 6,
                           "global_attn_every_n_layers": 2, "max_position_embeddings": 64},
    "nanochat": LLAMA | {"final_logit_softcapping": 3.0},  # one norm stands before and behind the blocks
    "gpt_oss": LLAMA | {"num_local_experts": 4, "sliding_window": 5},
    "llama4_text": LLAMA | {"attention_chunk_size": 4, "num_local_experts": 2, "intermediate_size_mlp": 48},
}  # fmt: skip
PADDED = {
    "bloom": {"vocab_size": 80, "hidden_size": 64, "n_layer": 3, "n_head": 4, "initializer_range": 0.2, **IDS},
    "falcon": {**WIDTHS, **IDS, "num_attention_heads": 4, "max_position_embeddings": 64},
    "gptj": GPT | {"rotary_dim": 8},
    "gpt_neo": {**WIDTHS, **IDS, "num_layers": 3, "num_heads": 4, "window_size": 5, "max_position_embeddings": 64,
                "attention_types": [[["global", "local", "global"], 1]]},
    "mamba": {**WIDTHS, **IDS, "state_size": 8},
}  # fmt: skip
ENCODERS = {
    "distilbert": {"vocab_size": 80, "dim": 64, "hidden_dim": 48, "n_layers": 3, "n_heads": 4, "pad_token_id": 0,
                   "max_position_embeddings": 64, "initializer_range": 0.2},
    "modernbert": BERT | {"local_attention": 6, "global_attn_every_n_layers": 2},
    "deberta-v2": BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "electra": BERT | {"embedding_size": 32},
    "camembert": BERT | {"pad_token_id": 1},
    "bert": BERT,
}  # fmt: skip
ALL = PACKED | PADDED | ENCODERS
LENGTHS = [20, 4, 13]


@cache
def reference(kind, attention="eager"):
    """A stock model that no test changes."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **ALL[kind])
    model = (AutoModel if is_encoder(config) else AutoModelForCausalLM).from_config(
        config, attn_implementation=attention
    )
    with torch.no_grad():
        for module in model.modules():  # biases and norms that start at zero or one would hide mistakes
            if getattr(module, "bias", None) is not None and isinstance(module.bias, torch.nn.Parameter):
                module.bias.normal_(std=0.1)
    return model.eval()


def stock(kind, attention="eager"):
    """One of the test's own."""
    return deepcopy(reference(kind, attention))


def samples(lengths=LENGTHS):
    return [torch.randint(3, 80, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]


@torch.no_grad()
def stock_states(model, ids):
    if is_encoder(model.config):
        return model(input_ids=ids[None]).last_hidden_state[0]
    return model(input_ids=ids[None], use_cache=False).logits[0]


def top(backbone, hidden):
    normed = backbone.final_norm(hidden)
    return normed if backbone.head is None else backbone.head.logits(normed)[0]


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_a_ragged_batch_gives_what_the_stock_model_gives_row_by_row(kind):
    backbone = prepare_backbone(stock(kind), None)
    assert backbone.way.packed == (kind not in PADDED and kind != "deberta-v2")
    found = top(backbone, backbone.forward(torch.cat(samples()), ragged_layout(LENGTHS)))
    for mine, ids in zip(found.split(LENGTHS), samples(), strict=True):
        close(mine, stock_states(reference(kind), ids))


@torch.no_grad()
def test_samples_are_as_long_as_rotations_do_not_depend_on_what_is_beside_them():
    factors = {"short_factor": [1.0] * 8, "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 12, **factors}
    config = AutoConfig.for_model("phi3", **LLAMA, rope_parameters=rope, original_max_position_embeddings=12)
    backbone = prepare_backbone(AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION).eval(), None)
    assert backbone.max_tokens == 12

    def of_five(beside):
        ids = torch.cat([samples([5])[0], samples([beside])[0]])
        return top(backbone, backbone.forward(ids, ragged_layout([5, beside])))[:5]

    close(of_five(12), of_five(3))
    assert (of_five(13) - of_five(3)).abs().max() > 1e-3  # for which the limit is there


def random_bank(backbone, num_clients=2):
    generator = torch.Generator().manual_seed(1)
    local = {
        site.name: pair_of(
            torch.randn(num_clients, widths_of(site)[0], 4, generator=generator) * 0.1,
            torch.randn(num_clients, 4, widths_of(site)[1], generator=generator) * 0.1,
        )
        for site in backbone.sites
    }
    return AdapterBank(backbone.sites, np.ones((backbone.num_layers, num_clients), bool), 2.0, local, {})


@pytest.mark.parametrize("kind", ALL)
def test_exported_adapters_do_in_stock_peft_what_they_do_in_the_engine(kind, tmp_path):
    backbone = prepare_backbone(stock(kind), "all-linear")
    bank = random_bank(backbone)
    found = top(backbone, backbone.forward(torch.cat(samples()), ragged_layout(LENGTHS), bank, (0, 1), (24, 13)))
    for client, rows in ((0, samples()[:2]), (1, samples()[2:])):
        own = {name: pair_of(pair["A"][client], pair["B"][client]) for name, pair in bank.local.items()}
        save_adapter_folder(tmp_path / str(client), own, backbone, 2.0, "base")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that is being replaced
            peft = PeftModel.from_pretrained(stock(kind), str(tmp_path / str(client)))
        start = sum(LENGTHS[:2]) if client else 0
        for ids in rows:
            close(found[start : start + len(ids)], stock_states(peft, ids))
            start += len(ids)
    assert not torch.allclose(found, top(backbone, backbone.forward(torch.cat(samples()), ragged_layout(LENGTHS))))


@pytest.mark.parametrize("kind", [k for k in ALL if k not in ENCODERS])
def test_what_is_decoded_is_what_the_stock_model_generates(kind):
    prompts = [ids.tolist() for ids in samples([9, 4, 9])]
    answers = decode(prepare_backbone(stock(kind), None), prompts, 6, ())
    for prompt, answer in zip(prompts, answers, strict=True):
        states = stock_states(reference(kind), torch.tensor([*prompt, *answer.ids[:-1]]))
        assert len(answer.ids) == 6
        assert answer.ids == tuple(
            states[len(prompt) - 1 :].argmax(-1).tolist()
        )  # after each prefix, the likeliest token


def test_prefixes_are_refused_where_a_layer_attends_several_times():
    with pytest.raises(ModelError, match="DiffLlamaAttention attends several times"):
        prepare_backbone(stock("diffllama", ATTENTION), (), adapters=[Prefix(3)])


@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss", "llama4_text", "opt", "bloom", "gpt_neo", "mamba"])
@torch.no_grad()
def test_branches_do_not_see_each_other(kind):
    backbone = prepare_backbone(stock(kind), None)
    trunk, left, right = samples([5, 4, 7])
    found = backbone.forward(torch.cat([trunk, left, right]), branched_layout([5], [[4, 7]]))
    for branch, mine in ((left, found[5:9]), (right, found[9:])):
        alone = backbone.forward(torch.cat([trunk, branch]), ragged_layout([5 + len(branch)]))
        close(mine, alone[5:])


@pytest.mark.parametrize("kind", [k for k in ALL if k not in ENCODERS])
@torch.no_grad()
def test_deployed_halves_are_the_whole_model(kind, tmp_path):
    stock(kind).save_pretrained(tmp_path)
    ids, layout = torch.cat(samples()), ragged_layout(LENGTHS)
    whole = load_backbone(tmp_path, "all-linear")
    crossing = load_part(tmp_path, range(1), head=False).forward(ids, layout)
    upper = load_part(tmp_path, range(1, 3), head=True)
    found = upper.forward(torch.zeros_like(ids), layout, between=lambda done, h: crossing if done == 1 else h)
    close(top(upper, found), top(whole, whole.forward(ids, layout)))
