"""LoRA, bottlenecks and heads of K clients, trained in one stacked model, become those of K separate models.

Each separate model is a stock one with PEFT's LoRA, bottlenecks and head of a few lines of plain torch, and torch's
own AdamW.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

from helpers.training import (
    PLAIN_ADAMW,
    TOLERANCE,
    folder_of,
    random_batches,
    random_rows,
    stock_loss,
    tokens_of,
    torch_adamw,
    update,
)
from wavetune.data.classes import class_rows
from wavetune.federation.adapters.bottleneck import Bottleneck
from wavetune.federation.codecs import Fp64
from wavetune.federation.cohort import Cohort
from wavetune.federation.cut import CutLink
from wavetune.federation.door import Door
from wavetune.federation.optimise import StackedOptimiser
from wavetune.federation.placement import Placement
from wavetune.models.backbone import load_backbone, load_stock_model
from wavetune.models.double import compute_in_double
from wavetune.models.lora import new_bank
from wavetune.runtimes.session import client_factors

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning", "ignore:fan_in_fan_out:UserWarning"
)

BOTH = Bottleneck(width=5, places=("attention", "feed_forward"))
TARGETS = {"tiny": ("q_proj", "down_proj"), "tiny-gpt2": ("c_proj",), "tiny-bert": ("query", "dense")}
CLASSES = 3
ADAMW = replace(PLAIN_ADAMW, max_grad_norm=0.2)


def data_of(model):
    rows = random_rows()
    if model != "tiny-bert":
        return tokens_of(rows)
    texts = [[*prompt, *answer] for prompt, answer in rows]
    return class_rows(texts, np.arange(len(texts)) % CLASSES, [""] * len(texts), range(len(texts)))


def cohort_of(model, cut_K, adamw=ADAMW, split=False):
    num_clients = len(cut_K)
    outputs = CLASSES if model == "tiny-bert" else None
    backbone = load_backbone(folder_of(model), TARGETS[model], adapters=[BOTH], outputs=outputs, dtype=torch.float64)
    placement = Placement(4, cut_K, (None,) * num_clients, (1 / num_clients,) * num_clients, split)
    bank = new_bank(backbone.sites, placement.local_LK(), (3,) * num_clients, 3, alpha=6.0, seed=0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for site in bank.sites:  # alike for everyone
            for stacks in zip(
                *(side[site.name].values() for side in (bank.local, bank.shared) if site.name in side), strict=True
            ):
                value = torch.randn(stacks[0].shape[1:], generator=generator) * 0.1
                for stack in stacks:
                    stack.copy_(value.expand_as(stack))
    link = CutLink(Door(), Fp64(), Fp64())
    return Cohort(backbone, bank, placement, link, StackedOptimiser(bank, adamw), tokens_per_pass=60)


def separate(model, bank):
    """A stock model with all adapters as they start, and its leaves by (site, factor), turned as the bank has them."""
    base = load_stock_model(folder_of(model), torch.float64, attn_implementation="eager")
    config = LoraConfig(r=3, lora_alpha=6.0, target_modules=list(TARGETS[model]), fan_in_fan_out="gpt2" in model)
    get_peft_model(base, config)  # in place
    compute_in_double(base)
    leaves = {}
    for site in bank.sites:
        A, B = (p[0].detach().clone() for p in bank.local[site.name].values())
        if site.kind == "lora":
            module = base.get_submodule(site.name)
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            with torch.no_grad():
                a.copy_(A.T), b.copy_(B.T)
            leaves[site.name] = (a, b, torch.t)
            continue
        leaves[site.name] = (A.requires_grad_(), B.requires_grad_(), lambda value: value)
        if site.kind == "bottleneck":
            module = base.get_submodule(site.name.partition(":")[0])
            module.register_forward_hook(lambda _m, _x, y, A=A, B=B: y + F.gelu(y @ A) @ B)
    return base, leaves


def separate_loss(model, leaves, tokens, rows):
    if tokens.classes is None:
        return stock_loss(model, tokens, rows)
    weight, bias, _ = leaves["classifier"]
    means = [model(torch.tensor(tokens.row(i).astype(np.int64))[None]).last_hidden_state[0].mean(0) for i in rows]
    return F.cross_entropy(torch.stack(means) @ weight + bias, torch.tensor(tokens.classes[rows]))


@pytest.mark.parametrize("model", TARGETS)
def test_clients_get_what_separate_models_get(model):
    tokens, batches, cohort = data_of(model), random_batches(3, steps=4), cohort_of(model, (4, 4, 4))
    references = [separate(model, cohort.bank) for _ in range(3)]
    optimisers = [
        torch_adamw(
            {(name, factor): p for name, pair in leaves.items() for factor, p in zip("AB", pair[:2], strict=True)},
            ADAMW,
        )
        for _, leaves in references
    ]
    for rows_K in batches:
        result = cohort.step(tokens, rows_K, 1.0)
        for client, ((stock, leaves), optimiser) in enumerate(zip(references, optimisers, strict=True)):
            loss = separate_loss(stock, leaves, tokens, rows_K[client])
            assert result.loss_K[client] == pytest.approx(loss.item(), abs=TOLERANCE)
            loss.backward()
            update(optimiser, ADAMW)
    for client, (_, leaves) in enumerate(references):
        for name, (a, b, turned) in leaves.items():
            for mine, theirs in zip(client_factors(cohort.bank, client)[name].values(), (a, b), strict=True):
                torch.testing.assert_close(
                    mine, turned(theirs.detach()), rtol=0, atol=TOLERANCE, msg=f"{client} {name}"
                )


@pytest.mark.parametrize("model", TARGETS)
def test_a_cut_changes_nothing_where_bottlenecks_and_head_stand_on_both_sides(model):
    batches, tokens = random_batches(1, steps=4), data_of(model)
    cut, whole = cohort_of(model, (2,), split=True), cohort_of(model, (4,))
    for rows in batches:
        found, wanted = cut.step(tokens, rows, 1.0), whole.step(tokens, rows, 1.0)
        np.testing.assert_allclose(found.loss_K, wanted.loss_K, rtol=0, atol=TOLERANCE)
    assert {site.kind for site in cut.bank.sites if site.name in cut.bank.shared} >= {"lora", "bottleneck"}
    theirs = client_factors(whole.bank, 0)
    for name, pair in client_factors(cut.bank, 0).items():
        for mine, other in zip(pair.values(), theirs[name].values(), strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE, msg=name)
