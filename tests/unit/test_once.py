"""What is made once for all tests is known again by its values."""

from dataclasses import replace

from helpers.once import as_bytes
from helpers.problems import cell_problem
from wavetune.allocation.baselines import plan_baselines


def test_equal_problems_are_known_again_whatever_was_worked_out_of_them():
    one, other = cell_problem(3, 6), cell_problem(3, 6)
    plan_baselines(one, seed=1)
    assert as_bytes((one, one)) == as_bytes((one, other))
    assert as_bytes(replace(one, local_steps=one.local_steps + 1)) != as_bytes(other)
