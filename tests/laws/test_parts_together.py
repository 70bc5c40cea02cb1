"""Parts that no law walks together: drawn recipes train a round that is planned, charged and metered alike."""

import random

import pytest

from helpers.every_part import ANY_CELL, BASE, choices
from helpers.runs import small, told
from wavetune.errors import ConfigError
from wavetune.recipe import with_settings
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import Infeasible, build

BEGUN = ("fedavg_lora", "fedsp", "module_wise", "sflllm", "centralised_lora", "hierarchical", "gossip", "prompts")
QUICK = ("run.local_steps=1", "run.rounds=1", "run.precision=fp32", "method.planner.kind=uniform_power")
BESIDE = tuple(
    f"method.{setting}"
    for setting in (
        "sharing.shared=[]",
        'sharing.shared=["bottleneck"]',
        "sharing.shared_layers=1",
        "sharing.trained_layers=2",
        "lora.rank=[1,2,4]",
        "lora.rank=0",
        "topology.cut=[1,3,2]",
        "topology.labels=client",
        "topology.schedule=sequential",
    )
)
"""Settings that are no parts, and change which adapters there are and who sends them."""


@pytest.mark.parametrize("seed", range(24))
def test_a_drawn_recipe_trains_a_round_as_it_is_planned_or_is_refused(seed):
    draw = random.Random(seed)
    name, settings = draw.choice(BEGUN), [setting for _, _, setting in choices()]
    recipe = small(name, *BASE, ANY_CELL, *QUICK)
    for setting in draw.sample([*settings, *3 * BESIDE], 12):
        try:
            more = with_settings(recipe, [setting])
            more.method.check(3, 4, 32)
        except ConfigError:
            continue
        recipe = more
    try:
        session = build(recipe)
    except ConfigError:
        return  # what data and model refuse
    if isinstance(session, Infeasible):
        return
    record = told(train_round(session, 0, lambda *_: None))
    assert record["charged"]["bits"] == record["planned"]["bits"] == record["metered_bits"]
    if recipe.world.scenario.knowledge.perfect:
        assert record["planned"] == record["charged"]
