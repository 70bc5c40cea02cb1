"""Who sat out of the plan that a round starts from is planned for as anyone else."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.runs import small
from wavetune.runtimes.session import build

PLANNERS = {
    "one cut for all": (),
    "a cut per client": ("method.planner.cut_per_client=true",),
    "energy counts": ("method.planner.energy_weight_s_per_j=0.1",),
    "given cuts": ("method.topology.cut=[1,2,3]", "method.lora.rank=4"),
    "the greedy": ("method.planner.kind=paper_greedy",),
    "adapters alone": ("method.topology.kind=federated",),
    "no way back priced": ("world.scenario.preset=paper", "world.data.max_tokens=96"),
}


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("count", [1, 2])
def test_clients_drawn_at_random_all_take_part_as_often_as_they_are_drawn(planner, count):
    session = build(small("sflllm", f'method.selection={{"kind":"at_random","count":{count}}}', *PLANNERS[planner]))
    drawn = session.planner.method.selection
    for index in range(8):
        order = session.planner._draw(index).permutation(3)
        active_K = session.planned(index)[1].active_K
        assert sorted(order[: drawn.count]) == np.flatnonzero(active_K).tolist(), index
