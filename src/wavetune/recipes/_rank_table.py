"""Rounds to the target loss at each rank, measured with `wavetune measure-ranks` (docs/recipes.md names the run).

One seed, 5 rounds, alpha 16 at every rank: the ranks differ by less than the noise of a seed, and as updates are scaled
by alpha / rank, a rank is an effective learning rate here as well.
"""

ROUNDS_TO_TARGET: dict[int, float] = {1: 4.83, 2: 4.87, 4: 5.00, 8: 4.75}
TARGET_LOSS = 2.0518  # validation loss
