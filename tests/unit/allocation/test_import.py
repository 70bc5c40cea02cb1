"""Importing the planner is quick and needs neither torch nor the compiler; planning needs no torch."""

import subprocess
import sys

PROGRAM = """
import sys
for name in ("torch", "transformers", "pydantic"):
    sys.modules[name] = None
from dataclasses import replace
import numpy as np
import wavetune.allocation.baselines, wavetune.allocation.describe, wavetune.allocation.instance
import wavetune.allocation.planner, wavetune.allocation.world
assert "numba" not in sys.modules, "importing the planner imported numba"
from wavetune.allocation.planner import plan
from wavetune.allocation.problem import Problem, RadioBand
from wavetune.costs.layer_costs import LayerCosts
band = RadioBand(np.full((2, 2), 3e-15), 1e6, 1e-21, 2.0)
one = np.full(2, 1e9)
costs = LayerCosts(one, one, 0 * one, 0 * one, np.full(2, 4e6), np.full(2, 2e6), 0 * one, 0 * one)
inf = np.full(2, np.inf)
problem = Problem(2, 1, {1: 10.0, 2: 8.0}, (1, 2), costs, 4e9, np.full(2, 1e9), np.ones(2), np.ones(2), inf, band, band)
wide = replace(band, gain_KM=np.full((2, 4), 3e-15), downlink_gain_KM=np.full((2, 4), 3e-15), downlink_power_w=1.0)
plan(replace(problem, main=wide, fed=wide, price_downlink=True))
assert "scipy.optimize" not in sys.modules, "what most plans need not takes a sixth of the command's time to import"
print(round(plan(problem).delay_s, 6))
"""


def test_planning_works_where_torch_cannot_be_imported():
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "96.0"
