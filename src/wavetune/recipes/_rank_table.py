"""Rounds to the target loss at each rank, measured with `wavetune measure-ranks` (docs/recipes.md names the run).

They were measured in rounds of one step and are counted here in the recipes' rounds of four. A rank has the rounds of
each seed.
"""

from wavetune.federation.rank_choice import Rounds

STEPS: dict[int, tuple[float, ...]] = {1: (25.0,), 2: (16.92,), 4: (13.56,), 8: (11.80,), 16: (10.65,)}
ROUNDS_TO_TARGET: dict[int, Rounds] = {rank: tuple(steps / 4 for steps in seeds) for rank, seeds in STEPS.items()}
TARGET_LOSS = 1.824  # validation loss
