from dataclasses import replace

import numpy as np
import pytest

from helpers.runs import read_rounds, small, train
from wavetune.wireless.channel import draw_channel, draw_devices
from wavetune.wireless.channels.block import Block
from wavetune.wireless.channels.lost_devices import LostDevices
from wavetune.wireless.channels.moving import Moving
from wavetune.wireless.scenario import Population, Scenario

SCENARIO = Scenario(population=Population(num_clients=5))


def gains(channel, round_index):
    scenario = replace(SCENARIO, channel=channel)
    return draw_channel(scenario, draw_devices(scenario, 3), 3, round_index)


@pytest.mark.parametrize("around", [Block(), Moving()])
def test_the_lost_ones_have_no_gain_from_their_round_on_and_nothing_else_changes(around):
    lost = LostDevices(share=0.4, from_round=2, channel=around)
    for index in (0, 1, 2, 5):
        found, wanted = gains(lost, index), gains(around, index)
        there = np.ones(5, bool)
        there[list(lost.lost(5, 3))] = index < 2
        for band in ("main", "fed"):
            for way in ("uplink_gain_KM", "downlink_gain_KM"):
                mine, theirs = (getattr(getattr(channel, band), way) for channel in (found, wanted))
                assert np.array_equal(mine, theirs * there[:, None])
                assert (mine[there] > 0).all()


def test_some_are_lost_and_never_all():
    assert [len(LostDevices(share=share).lost(4, 0)) for share in (0.01, 0.5, 0.99)] == [1, 2, 3]
    assert LostDevices(share=0.9).lost(1, 0) == ()


def test_a_run_goes_on_without_those_that_are_lost(tmp_path):
    recipe = small("fedavg_lora", "run.rounds=3", 'world.scenario.channel={"kind": "lost_devices", "from_round": 1}')
    train(recipe, tmp_path / "run")
    active = [record["active_K"] for record in read_rounds(tmp_path / "run")]
    assert [sum(own) for own in active] == [3, 2, 2]
    assert active[1] == active[2]
