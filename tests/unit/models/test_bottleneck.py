"""Stacked bottlenecks against the same adapters in plain torch on stock models, one model a client."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

from helpers.training import folder_of
from wavetune.costs.adapter import AdapterSite
from wavetune.costs.architecture import PRESETS
from wavetune.errors import ConfigError, ModelError
from wavetune.federation.adapters.bottleneck import Bottleneck
from wavetune.models.backbone import load_backbone, load_stock_model
from wavetune.models.behind import ModuleMaps, StackedAdapter
from wavetune.models.lora import ActiveAdapters, new_bank
from wavetune.models.ragged import ragged_layout

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning", "ignore:fan_in_fan_out:UserWarning"
)

BOTH = Bottleneck(width=6, places=("attention", "feed_forward"))
LAST_MAPS = {"tiny": ("o_proj", "down_proj"), "tiny-gpt2": ("c_proj",)}
LENGTHS_K = ((7, 3), (5,), (4, 9))
TOKENS = tuple(map(sum, LENGTHS_K))


def job(model, bf16=False, bottleneck=BOTH, local_LK=None):
    """LoRA and bottlenecks on the very same linear maps, all factors alive."""
    backbone = load_backbone(folder_of(model), LAST_MAPS[model], bf16, adapters=[bottleneck])
    local_LK = np.ones((4, 3), bool) if local_LK is None else local_LK
    bank = new_bank(backbone.sites, local_LK, (3,) * 3, 3, alpha=6.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for local in (True, False):
            for p in bank.parameters(local):
                p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    return backbone, bank


def samples():
    generator = torch.Generator().manual_seed(1)
    return [[torch.randint(3, 250, (n,), generator=generator) for n in lengths] for lengths in LENGTHS_K]


def stacked_hidden(backbone, bank):
    ids_K = samples()
    layout = ragged_layout([len(s) for ids in ids_K for s in ids])
    flat = torch.cat([s for ids in ids_K for s in ids])
    return backbone.final_norm(backbone.forward(flat, layout, bank, (0, 1, 2), TOKENS)).split(TOKENS)


def loss_of(hidden):
    """A sum with unlike weights, since all rows of a normed state have one length."""
    return (hidden * torch.cos(torch.arange(hidden.numel())).view_as(hidden)).sum()


def separate_hidden(model, bank, client):
    """Client k's own stock model: PEFT's LoRA, bottlenecks as forward hooks of a few lines of torch."""
    base = load_stock_model(folder_of(model))
    config = LoraConfig(
        r=3,
        lora_alpha=6.0,
        target_modules=list(LAST_MAPS[model]),
        fan_in_fan_out="gpt2" in model,
        task_type="CAUSAL_LM",
    )
    peft = get_peft_model(base, config)
    leaves = {}
    for site in bank.sites:
        name, _, kind = site.name.partition(":")
        module, pair = peft.base_model.model.get_submodule(name), bank.local[site.name]
        A, B = (p[client].detach().clone() for p in pair.values())
        if kind:
            A.requires_grad_(), B.requires_grad_()
            module.register_forward_hook(lambda _m, _x, y, A=A, B=B: y + F.gelu(y @ A) @ B)
            leaves[site.name] = (A, B, lambda g: g)
        else:
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            with torch.no_grad():
                a.copy_(A.T), b.copy_(B.T)
            leaves[site.name] = (a, b, torch.t)
    found = [base(input_ids=s[None], output_hidden_states=True).hidden_states[-1][0] for s in samples()[client]]
    return torch.cat(found), leaves


@pytest.mark.parametrize("model", LAST_MAPS)
def test_clients_with_lora_and_bottlenecks_on_one_map_get_what_separate_models_get(model):
    backbone, bank = job(model)
    hidden_K = stacked_hidden(backbone, bank)
    sum(map(loss_of, hidden_K)).backward()
    for client, hidden in enumerate(hidden_K):
        wanted, leaves = separate_hidden(model, bank, client)
        torch.testing.assert_close(hidden, wanted, rtol=1e-4, atol=1e-4)
        loss_of(wanted).backward()
        for name, (a, b, turn) in leaves.items():
            for mine, theirs in zip(bank.local[name].values(), (a, b), strict=True):
                torch.testing.assert_close(mine.grad[client], turn(theirs.grad), rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("model", LAST_MAPS)
def test_fresh_adapters_change_nothing_but_get_a_gradient(model):
    backbone, _ = job(model)
    bank = new_bank(backbone.sites, np.ones((4, 3), bool), (3,) * 3, 3, alpha=6.0, seed=0)
    plain = load_backbone(folder_of(model), ())
    for fresh, base in zip(stacked_hidden(backbone, bank), stacked_hidden(plain, None), strict=True):
        torch.testing.assert_close(fresh, base, rtol=0, atol=1e-5)
    sum(map(loss_of, stacked_hidden(backbone, bank))).backward()
    pairs = [bank.local[site.name] for site in bank.sites if site.kind == "bottleneck"]
    assert len(pairs) == 8
    assert all(pair["B"].grad.abs().sum() > 0 and not pair["A"].grad.any() for pair in pairs)


def test_a_bank_without_one_kind_acts_as_if_it_were_not_there():
    backbone, bank = job("tiny")
    without_lora = stacked_hidden(backbone, bank.only(("bottleneck",)))
    lora_alone = stacked_hidden(backbone, bank.only(("lora",)))
    whole = stacked_hidden(backbone, bank)
    with torch.no_grad():
        for site in bank.sites:
            bank.local[site.name]["B"].mul_(site.kind == "bottleneck")
    for off, zeroed, lora, both in zip(without_lora, stacked_hidden(backbone, bank), lora_alone, whole, strict=True):
        torch.testing.assert_close(off, zeroed)
        assert not torch.allclose(lora, both, atol=1e-2)
        assert not torch.allclose(off, both, atol=1e-2)


def test_shared_and_local_slots_and_frozen_factors_get_the_gradients_of_plain_torch():
    place = Bottleneck(3).behind(PRESETS["gpt2"].blocks[0], 5)[0]
    site = AdapterSite("m:bottleneck", 0, "bottleneck", place.matrices, place.switch)
    local_LK = np.array([[True, False, True]])
    bank = new_bank([site], local_LK, (1,) * 3, 1, 1.0, 0)
    pairs = {False: bank.shared[site.name], True: bank.local[site.name]}
    with torch.no_grad():
        for pair in pairs.values():
            for p in pair.values():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    pairs[False]["A"].requires_grad_(False)
    active, tokens = ActiveAdapters(), (4, 2, 3)
    active.use(bank, (1, 2, 0), tokens)
    y = torch.randn(sum(tokens), 5, generator=torch.Generator().manual_seed(4), requires_grad=True)
    found = StackedAdapter(Bottleneck(3), site, active)(torch.nn.Identity(), (y,), y)
    parts = zip(y.split(tokens), [(False, 0), (True, 1), (True, 0)], strict=True)
    wanted = torch.cat([h + F.gelu(h @ pairs[own]["A"][s]) @ pairs[own]["B"][s] for h, (own, s) in parts])
    torch.testing.assert_close(found, wanted)
    leaves, upstream = [y, pairs[False]["B"], *pairs[True].values()], torch.randn(wanted.shape)
    for mine, theirs in zip(
        torch.autograd.grad(found, leaves, upstream), torch.autograd.grad(wanted, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_over_bf16_weights_adapters_stay_fp32_and_come_close():
    outcomes = []
    for bf16 in (False, True):
        backbone, bank = job("tiny", bf16)
        hidden = torch.cat(stacked_hidden(backbone, bank))
        loss_of(hidden).backward()
        gradients = torch.cat([p.grad.flatten() for p in bank.parameters(local=True)])
        assert hidden.dtype == gradients.dtype == torch.float32
        outcomes.append((hidden.detach(), gradients))
    for low, exact in zip(outcomes[1], outcomes[0], strict=True):
        assert 1e-6 < (low - exact).norm() / exact.norm() < 0.1


def test_sites_are_named_after_the_map_they_follow():
    feed_forward = [s for s in job("tiny", bottleneck=Bottleneck(4))[0].sites if s.kind == "bottleneck"]
    assert (feed_forward[1].name, feed_forward[1].layer) == ("model.layers.1.mlp.down_proj:bottleneck", 1)
    assert [(matrix.width, matrix.components) for matrix in feed_forward[1].matrices] == [(64, 4), (64, 4)]
    names = [s.name for s in load_backbone(folder_of("tiny-gpt2"), (), adapters=[BOTH]).sites[:2]]
    assert names == ["transformer.h.0.attn.c_proj:bottleneck", "transformer.h.0.mlp.c_proj:bottleneck"]


def test_bad_settings_and_strange_blocks_are_refused_in_a_sentence():
    with pytest.raises(ConfigError, match="width is 0"):
        Bottleneck(width=0)
    for places in ((), ("attention", "attention"), ("head",)):
        with pytest.raises(ConfigError, match="name one or both of attention, feed_forward"):
            Bottleneck(places=places)
    block = deepcopy(load_stock_model(folder_of("tiny")).model.layers[0])
    block.mlp.down_proj = torch.nn.Identity()
    with pytest.raises(ModelError, match="bottleneck after feed-forward"):
        Bottleneck().behind(ModuleMaps(block, (), 64), 64)
