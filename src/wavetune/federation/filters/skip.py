"""Missing updates are left out."""

from __future__ import annotations

from dataclasses import dataclass

from wavetune.federation.filters.filter import Fill


@dataclass(frozen=True)
class Skip(Fill):
    """A missing update is left out and the others count for more."""
