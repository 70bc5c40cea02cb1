"""Clients that sit rounds out, keep parts of their own and differ in rank: drawn recipes on devices, in one process."""

import random

import numpy as np
import pytest
import torch

from helpers.deployment import deployed, nothing, play
from helpers.runs import EXACT, small, told
from wavetune.errors import ConfigError
from wavetune.recipe import with_settings
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import build

ROUNDS = 3
SEEDS = (3, 9, 13, 14, 17)  # which draw most of these together
TWO = ("method.selection.kind=at_random", "method.selection.count=2", "method.planner.kind=uniform_power")
BASE = (*EXACT, *TWO, f"run.rounds={ROUNDS}", "method.lora.rank=2")
DRAWN = (
    ("", "topology.steps=[1,2,2]"),
    ("", "bottleneck.width=4"),
    ("", "sharing.factors=A", "sharing.factors=B", "sharing.shared_layers=2", 'sharing.shared=["bottleneck"]'),
    ("", "lora.rank=[2,4,1]", "lora.rank=[1,1,3]"),
    ("", 'adapter_codec=["random_sparse","fp64"]', "adapter_codec=top_k", "adapter_codec=bf16"),
    ("", 'link={"kind":"outage","loss_probability":0.5,"lost":"reuse"}'),
    ("", "filters=scores", "filters=blend", 'screening={"max_norm_ratio":1.2}'),
    ("", "mixing=frozen_a", "mixing=server_adam", "mixing=median"),
    ("", 'exchange={"kind":"hierarchical","edges":2}', 'exchange={"kind":"module_wise","full_rounds":1}'),
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn") / "certificates"


def drawn(seed):
    """A recipe with those of the drawn settings that fit what was drawn before."""
    draw, recipe = random.Random(seed), small("fedavg_lora", *BASE)
    for setting in filter(None, map(draw.choice, DRAWN)):
        try:
            more = with_settings(recipe, [f"method.{setting}"])
            more.method.check(3, 4, 32)
        except ConfigError:
            continue
        recipe = more
    return recipe


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drawn_recipe_ends_on_devices_as_in_one_process(seed, certificates):
    recipe = drawn(seed)
    session = build(recipe)
    wanted = list[object]()
    for index in range(ROUNDS):
        wanted.append(train_round(session, index, nothing))
        session.settle(wanted[-1].record())
    with deployed(recipe, certificates) as servers:
        found = play(servers, ROUNDS)
    for mine, theirs in zip(map(told, found), map(told, wanted), strict=True):
        losses = (np.array(record["train_loss_K"], float) for record in (mine, theirs))  # none of who sits out
        np.testing.assert_allclose(*losses, rtol=1e-7)
        for name in ("planned", "charged", "metered_bits", "lost", "active_K"):
            assert mine[name] == theirs[name], name
    for site, pair in wanted[-1].mixed.factors.items():
        for name, values in pair.items():
            torch.testing.assert_close(found[-1].mixed.factors[site][name], values, rtol=0, atol=1e-7)
