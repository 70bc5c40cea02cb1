"""Rows that no file holds: sums, and who does them by the number of their digits."""

from __future__ import annotations

import random


def sums() -> dict[str, list[dict[str, str]]]:
    """200 sums to learn and 20 others; `domain` is what clients are told apart by."""
    draw = random.Random(0)

    def row() -> dict[str, str]:
        digits = draw.randint(1, 3)
        a, b = (draw.randrange(10 ** (digits - 1), 10**digits) for _ in range(2))
        return {"prompt": f"{a} + {b} =", "completion": str(a + b), "domain": f"{digits} digits"}

    return {part: [row() for _ in range(count)] for part, count in (("train", 200), ("validation", 20))}
