"""One cut and rank for all: how near each band is planned, beside the other."""

import numpy as np

from helpers.problems import cell_problem
from wavetune.allocation import given_cuts
from wavetune.allocation.planner import plan


def test_the_main_band_may_leave_open_what_the_fed_band_does_not(monkeypatch):
    problem = cell_problem(6, 24, seed=2)
    known, asked, solve = plan(problem), [], given_cuts.solve

    def noted(band, incumbent, gap_s, *others):
        found = solve(band, incumbent, gap_s, *others)
        asked.append((bool(np.any(band.ready_K > 0)), gap_s, found.gap_s))
        return found

    monkeypatch.setattr(given_cuts, "solve", noted)
    found = plan(problem, warm_start=known)
    rounds = problem.rounds_to_target[int(found.rank_K[0])]
    fed_bits = problem.costs.before["lora_bits_per_rank_L"][int(found.cut_K[0])] * float(found.rank_K[0])
    fed_open_s = min([gap_s for main, _, gap_s in asked if not main], default=0.0) * rounds * fed_bits
    allowed_s = [gap_s * rounds * problem.local_steps for main, gap_s, _ in asked if main]
    assert max(allowed_s) > 0.6e-3 * found.delay_s  # half of what both may leave open, and more
    assert max(allowed_s) + fed_open_s < 1.01e-3 * found.delay_s
    assert found.gap <= 1e-3
