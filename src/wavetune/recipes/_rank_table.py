"""Rounds to the target loss at each rank, measured with `wavetune measure-ranks` (docs/recipes.md names the run).

They were measured in rounds of one step and are counted here in the recipes' rounds of four. A rank has the rounds of
each seed.
"""

from wavetune.federation.rank_choice import Rounds

STEPS: dict[int, tuple[float, ...]] = {
    1: (25.0, 25.0, 25.0),
    2: (16.92, 18.28, 17.13),
    4: (13.56, 15.10, 15.32),
    8: (11.80, 13.84, 13.39),
    16: (10.65, 11.90, 11.45),
}
ROUNDS_TO_TARGET: dict[int, Rounds] = {rank: tuple(steps / 4 for steps in seeds) for rank, seeds in STEPS.items()}
TARGET_LOSSES = 1.824, 1.922, 1.809  # validation loss of each seed
