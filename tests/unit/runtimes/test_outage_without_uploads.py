"""An outage touches nothing of a run in which no adapters cross the air: nobody is lost, and all train the same."""

from dataclasses import replace

import pytest

from helpers.runs import small, told, without_clock
from wavetune.federation.exchanges.exchange import Exchange
from wavetune.federation.links import Outage
from wavetune.parts import kinds
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import build

NOTHING_CROSSES = {
    "central": ("centralised_lora",),
    **{
        f"nothing_shared_{kind}": ("fedavg_lora", f"method.exchange={kind}", "method.sharing.shared=[]")
        for kind in kinds(Exchange)
    },
    "nothing_shared_of_the_clients_blocks": ("sflllm", "method.topology.cut=2", "method.sharing.shared_layers=2"),
}
DEAD = Outage(min_rate_bit_per_s=1e12, loss_probability=0.95)


@pytest.mark.parametrize("name", NOTHING_CROSSES)
def test_a_dead_link_changes_nothing_where_no_adapters_cross(name):
    session = build(small(*NOTHING_CROSSES[name], "run.local_steps=1"))
    reliable = records(session)
    session = build(session.recipe)
    session.recipe = replace(session.recipe, method=replace(session.recipe.method, link=DEAD))
    assert records(session) == reliable


def records(session):
    """Two rounds as they are recorded."""
    found = [told(train_round(session, index, lambda *_: None)) for index in range(2)]
    assert not any(record["lost"] for record in found)
    return [without_clock(record) for record in found]


def test_clients_whom_the_channel_does_not_reach_are_nothing_to_one_trainer():
    lost = 'world.scenario.channel={"kind": "lost_devices", "share": 0.5}'
    found, wanted = (
        [r["train_loss"] for r in records(build(small("centralised_lora", *own)))] for own in ((lost,), ())
    )
    assert found == wanted
