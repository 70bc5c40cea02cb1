"""Stacked generation against stock `generate`, one client at a time."""

import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.adapters import pair_of
from helpers.decoders import decoder
from helpers.training import random_factors
from wavetune.errors import ConfigError
from wavetune.models import blocks, kernels
from wavetune.models import decode as decoding
from wavetune.models.backbone import prepare_backbone
from wavetune.models.decode import Sampling, decode, keyed_draws
from wavetune.models.lora import AdapterBank
from wavetune.models.ragged import ATTENTION, ragged_layout

FAMILIES = ("llama", "qwen3", "mistral_window_of_4", "gemma3_window_of_5", "gpt2")
NEW, STOP, CLIENTS = 12, 2, 3
OWNERS = [0, 0, 1, 2, 2, 2]


def stock_model(family, attention="eager"):
    return decoder(family, attention, initializer_range=0.3)


def backbone_of(family, **options):
    return prepare_backbone(stock_model(family, ATTENTION), None, **options)


def bank_of(backbone, scale=0.5):
    """Every client with random factors of its own."""
    factors = [random_factors(backbone, 4, seed) for seed in range(CLIENTS)]
    local = {
        s.name: pair_of(*(torch.stack([own[s.name][i] for own in factors]) * 2 for i in (0, 1))) for s in backbone.sites
    }
    local_LK = np.ones((backbone.num_layers, CLIENTS), bool)
    return AdapterBank(backbone.sites, local_LK, scale, local, {})


def peft_of(family, bank, client):
    """A stock PEFT model with one client's factors."""
    config = LoraConfig(
        r=4, lora_alpha=4 * bank.scale, target_modules=[s.name for s in bank.sites], fan_in_fan_out="gpt2" in family
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(stock_model(family), config).eval()
    with torch.no_grad():
        for name, module in model.named_modules():
            pair = bank.local.get(name.removeprefix("base_model.model."))
            if pair is not None and hasattr(module, "lora_A"):
                module.lora_A["default"].weight.copy_(pair["A"][client].T)
                module.lora_B["default"].weight.copy_(pair["B"][client].T)
    return model


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(3, 64, n).tolist() for n in (5, 1, 23, 4, 17, 9)]


def draws_for(owners, tokens=NEW, seed=0):
    counted = [(owner, owners[:i].count(owner)) for i, owner in enumerate(owners)]
    return keyed_draws(seed, "generation", 0, counted, tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_decoding_is_stock_generate_with_each_clients_peft_adapter(family, prompts):
    backbone = backbone_of(family)
    bank = bank_of(backbone)
    answers = decode(backbone, prompts, NEW, {STOP}, bank, OWNERS)
    for client in range(CLIENTS):
        stock = peft_of(family, bank, client)
        for prompt, owner, answer in zip(prompts, OWNERS, answers, strict=True):
            if owner == client:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    row = stock.generate(
                        input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                        max_new_tokens=NEW, do_sample=False, eos_token_id=STOP, pad_token_id=0,
                    )[0]  # fmt: skip
                assert answer.ids == tuple(row[len(prompt) :].tolist())
                assert answer.ended == (answer.ids[-1] == STOP)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_of_sampled_tokens_are_those_of_a_full_forward_pass(family, prompts):
    backbone = backbone_of(family)
    bank = bank_of(backbone)
    answers = decode(backbone, prompts, NEW, range(2, 12), bank, OWNERS, Sampling(draws_for(OWNERS)))
    assert len({len(answer.ids) for answer in answers}) > 1  # some ended early, and left the batch
    for prompt, owner, answer in zip(prompts, OWNERS, answers, strict=True):
        with torch.no_grad():
            logits = peft_of(family, bank, owner)(torch.tensor([[*prompt, *answer.ids]])).logits[0]
        wanted = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1].gather(1, torch.tensor(answer.ids)[:, None])
        torch.testing.assert_close(torch.tensor(answer.log_probs), wanted[:, 0], rtol=1e-4, atol=1e-4)


def test_answers_depend_neither_on_the_batch_nor_on_the_order_of_the_clients(prompts):
    backbone = backbone_of("llama")
    bank, draws = bank_of(backbone), draws_for(OWNERS)
    wanted = decode(backbone, prompts, NEW, {STOP}, bank, OWNERS, Sampling(draws))
    for order, at_once in (([5, 0, 3, 2, 4, 1], 6), (list(range(6)), 4), ([3, 4, 5, 2, 0, 1], 1)):
        found = decode(
            backbone, [prompts[i] for i in order], NEW, {STOP}, bank, [OWNERS[i] for i in order],
            Sampling(draws[order]), at_once,
        )  # fmt: skip
        for i, answer in zip(order, found, strict=True):
            assert answer.ids == wanted[i].ids
            np.testing.assert_allclose(answer.log_probs, wanted[i].log_probs, atol=1e-4)


@pytest.mark.parametrize("double", [False, True])
def test_answers_tell_what_the_output_layer_saw_and_how_sure_it_was(prompts, double):
    backbone = prepare_backbone(stock_model("llama", ATTENTION).to(torch.float64 if double else torch.float32), None)
    sampling = Sampling(draws_for(OWNERS), temperature=0.8)
    answers = decode(backbone, prompts, NEW, range(2, 12), None, OWNERS, sampling, keep_states=True)
    assert len({len(answer.ids) for answer in answers}) > 1  # some ended early, and left the batch
    for answer in answers:
        distribution = torch.distributions.Categorical(logits=backbone.head.logits(answer.states_TD)[0] / 0.8)
        for told, wanted in (
            (answer.log_probs, distribution.log_prob(torch.tensor(answer.ids))),
            (answer.entropies, distribution.entropy()),
        ):
            torch.testing.assert_close(torch.tensor(told, dtype=wanted.dtype), wanted, rtol=1e-5, atol=1e-5)


def test_several_answers_to_a_prompt_are_those_to_copies_of_it(prompts):
    backbone = backbone_of("llama")
    bank, rows, owners = bank_of(backbone), [0, 2, 0, 0, 1, 2, 2], [0, 1, 0, 1, 1, 1, 0]
    draws = np.random.default_rng(3).random((len(rows), NEW))
    asked = [prompts[row] for row in rows]
    found = decode(backbone, asked, NEW, {STOP}, bank, owners, Sampling(draws))
    apart = decode(backbone, asked, NEW, {STOP}, bank, owners, Sampling(draws), 1)
    assert len({answer.ids for answer in found}) == len(rows)
    assert [answer.ids for answer in found] == [answer.ids for answer in apart]


def test_samples_that_end_leave_their_place_to_those_that_wait(prompts):
    backbone = backbone_of("llama")
    asked, owners = [prompts[i] for i in (0, 2, 3)], [0, 1, 2]
    given = (backbone, asked, NEW, range(2, 12), bank_of(backbone), owners, Sampling(draws_for(owners)))
    apart = decode(*given, 1)
    forward, together = backbone.forward, list[int]()

    def counted(ids_N, layout, *others):
        together.append(len(layout.lengths) if set(layout.lengths) == {1} else 0)
        return forward(ids_N, layout, *others)

    backbone.forward = counted
    answers = decode(*given, 2)
    assert [answer.ids for answer in answers] == [answer.ids for answer in apart]
    steps = [len(answer.ids) - 1 for answer in answers]
    assert steps[0] != steps[1]
    assert max(together) == 2
    assert sum(together) == sum(steps)
    assert len([n for n in together if n]) < max(steps[:2]) + steps[2]


def test_the_cache_of_samples_that_are_decoded_together_stays_within_its_bytes(prompts, monkeypatch):
    backbone, sizes = backbone_of("llama"), list[int]()
    wanted = decode(backbone, prompts, NEW, {STOP})
    room, cache = 2 * decoding._samples_bytes(backbone, 1, max(map(len, prompts)) + NEW), decoding._Cache

    def noted(samples, length, dtype):
        sizes.append(decoding._samples_bytes(backbone, samples, length))
        return cache(samples, length, dtype)

    monkeypatch.setattr(decoding, "_CACHE_BYTES", room)
    monkeypatch.setattr(decoding, "_Cache", noted)
    assert [a.ids for a in decode(backbone, prompts, NEW, {STOP})] == [a.ids for a in wanted]
    assert sizes == [room]
    kept = cache(1, 5, backbone.dtype)
    layout = ragged_layout([5])
    rows, layer = torch.zeros(5, dtype=torch.long), backbone.model.config
    heads = (layer.num_key_value_heads, layer.hidden_size // layer.num_attention_heads)
    kept.write("a layer", rows, layout.positions_N, torch.zeros(5, *heads), torch.zeros(5, *heads))
    held = sum(t.nbytes for t in kept.layers["a layer"]) * backbone.num_layers
    assert held == decoding._samples_bytes(backbone, 1, 5)


def test_sampling_follows_the_probabilities_of_the_tempered_nucleus():
    """Frequencies of 4,000 first tokens, against probabilities computed here from the logits of a full pass."""
    backbone, prompt, count = backbone_of("llama"), [5, 9, 7], 4000
    draws = np.random.default_rng(0).random((count, 1))
    with torch.no_grad():
        logits = stock_model("llama")(torch.tensor([prompt])).logits[0, -1]
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.6), (2.0, 0.9)):
        probs = torch.softmax(logits / temperature, -1).numpy().astype(np.float64)
        likeliest = np.argsort(-probs, kind="stable")
        kept = likeliest[: int(np.searchsorted(np.cumsum(probs[likeliest]), top_p)) + 1]
        wanted = np.zeros_like(probs)
        wanted[kept] = probs[kept] / probs[kept].sum()
        answers = decode(
            backbone, [prompt] * count, 1, (), sampling=Sampling(draws, temperature, top_p), samples_at_once=count
        )
        found = np.bincount([answer.ids[0] for answer in answers], minlength=64) / count
        assert np.abs(found - wanted).max() < 4 * 0.5 / np.sqrt(count)
        assert not found[wanted == 0].any()
        for answer in answers[:50]:
            assert answer.log_probs[0] == pytest.approx(np.log(wanted[answer.ids[0]]), abs=1e-4)


def test_bf16_weights_answer_as_their_own_full_pass_says(prompts):
    backbone = backbone_of("llama", bf16=True)
    bank = bank_of(backbone)
    (answer,) = decode(backbone, prompts[2:3], NEW, (), bank, [1])
    ids = [*prompts[2], *answer.ids]
    with torch.no_grad():
        hidden = backbone.forward(torch.tensor(ids), ragged_layout([len(ids)]), bank, [1], [len(ids)])
        logits = (backbone.final_norm(hidden).bfloat16() @ backbone.head.weight.t()).float()
    wanted = torch.log_softmax(logits, -1)[len(prompts[2]) - 1 : -1].gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(answer.log_probs), wanted, rtol=0, atol=0.15)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss"])  # with windows, a soft cap, sinks
def test_wide_models_answer_as_their_own_full_pass_says(family, bf16, prompts, monkeypatch):
    monkeypatch.setattr(blocks, "has_bf16_products", lambda: True)
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 256, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 6, "initializer_range": 0.1}
    heads |= {"attn_logit_softcapping": 0.5}
    config = AutoConfig.for_model(family, **sizes, **heads, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)
    backbone = prepare_backbone(model, None, bf16=bf16)
    read, kept = list[torch.dtype](), kernels.read_kept

    def noted(*given):
        read.append(given[6].dtype)
        return kept(*given)

    monkeypatch.setattr(kernels, "read_kept", noted)
    bank = bank_of(backbone)
    answers = decode(backbone, prompts, NEW, (), bank, OWNERS)
    assert read == [torch.bfloat16 if bf16 else torch.float32] * 2 * (NEW - 1)
    for prompt, owner, answer in zip(prompts, OWNERS, answers, strict=True):
        ids = [*prompt, *answer.ids]
        with torch.no_grad():
            hidden = backbone.forward(torch.tensor(ids), ragged_layout([len(ids)]), bank, [owner], [len(ids)])
            logits = backbone.head.logits(backbone.final_norm(hidden))[0]
        wanted = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1].gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        away = (torch.tensor(answer.log_probs) - wanted).abs()
        assert away.mean() < 0.05 if bf16 else away.max() < 1e-4


def test_fewer_draws_are_the_beginning_of_more_and_other_keys_give_others():
    draws = keyed_draws(1, "generation", 2, [(7, 0), (7, 1), (3, 0)], 8)
    np.testing.assert_array_equal(keyed_draws(1, "generation", 2, [(7, 1)], 5)[0], draws[1, :5])
    others = [
        keyed_draws(*key, 8)[0]
        for key in ((2, "generation", 2, [(7, 0)]), (1, "evaluation", 2, [(7, 0)]), (1, "generation", 3, [(7, 0)]))
    ]
    for other in (*others, draws[1], draws[2]):
        assert not np.isclose(draws[0], other).any()


def test_a_config_that_tells_heads_of_single_blocks_alone_keeps_nobody_from_decoding(prompts, monkeypatch):
    def ambiguous(_):
        raise RuntimeError("a per-layer attribute")

    backbone = backbone_of("llama")
    wanted = decode(backbone, prompts, 3, ())
    for name in ("num_attention_heads", "num_key_value_heads", "head_dim"):
        monkeypatch.setattr(type(backbone.model.config), name, property(ambiguous))
    assert decode(backbone, prompts, 3, ()) == wanted


def test_too_long_or_empty_prompts_and_impossible_policies_are_refused(prompts):
    backbone = backbone_of("gpt2")
    with pytest.raises(ConfigError, match="23 tokens and 42 new ones are more than the 64"):
        decode(backbone, prompts, 42, {STOP})
    with pytest.raises(ConfigError, match="prompt 1 is empty"):
        decode(backbone, [[3], []], 4, {STOP})
    for wrong in ({"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ConfigError, match="the first must be above 0"):
            Sampling(np.zeros((1, 1)), **wrong)
    assert decode(backbone, [], 4, {STOP}) == []
