"""OSAFL: an update counts by how well it points where all together point.

Source: arXiv 2408.05886. Scores are our reconstruction (docs/exchange.md); samples do not arrive as a stream here.
"""

from __future__ import annotations

from dataclasses import replace

from wavetune.federation.filters.scores import Scores
from wavetune.recipe import Recipe
from wavetune.recipes import fedavg_lora


def recipe() -> Recipe:
    """The job of `fedavg_lora`, whose updates are scored by the server."""
    plain = fedavg_lora.recipe()
    return replace(
        plain,
        name="osafl",
        method=replace(plain.method, title="OSAFL: updates weighed by their scores", filters=(Scores(),)),
    )
