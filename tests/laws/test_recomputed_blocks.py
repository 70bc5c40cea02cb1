"""Blocks that are computed again in the backward pass change no number, and keep their inputs alone."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from helpers.runs import EXACT, small
from wavetune.models.backbone import load_backbone
from wavetune.models.lora import new_bank
from wavetune.models.ragged import ragged_layout
from wavetune.models.resolve import resolve_model
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import build

JOBS = {
    "split": small("sflllm", *EXACT, "method.topology.cut=[1,2,3]", "method.lora.rank=2"),
    "teacher": small("fedavg_lora", *EXACT, "method.objective.kind=self_distillation"),
    "stock_attention": small("fedavg_lora", *EXACT, 'world.model="tiny-gpt2"', "method.bottleneck.width=4"),
    "theirs": small("fedavg_lora", *EXACT, "method.adapters=theirs.adapters:Scale"),
}


def nothing(*_):
    return None


@pytest.mark.parametrize("name", JOBS)
def test_a_run_ends_with_the_same_adapters(name):
    ends = []
    for again in ("false", "true"):
        session = build(JOBS[name].with_settings(f"run.recompute_blocks={again}"))
        assert session.cohort.backbone.recompute == (again == "true")
        outcome = train_round(session, 0, nothing)
        ends.append([t for pair in outcome.mixed.factors.values() for t in pair.values()])
    for found, wanted in zip(*ends, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_only_what_enters_a_block_is_kept():
    backbone = load_backbone(resolve_model("tiny").folder, ["q_proj"])
    L, kept = backbone.num_layers, []
    for backbone.recompute in (False, True):
        bank = new_bank(backbone.sites, torch.ones(L, 1, dtype=torch.bool).numpy(), [2], 2, 4.0, seed=0)
        sizes = []

        def keep(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = backbone.forward(torch.arange(40), ragged_layout([25, 15]), bank, [0], [40])
        hidden.sum().backward()
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4
