"""Rounds to the target loss at each rank, measured with `wavetune measure-ranks` (docs/recipes.md names the run)."""

ROUNDS_TO_TARGET: dict[int, float] = {1: 4.83, 2: 4.87, 4: 5.00, 8: 4.75}
