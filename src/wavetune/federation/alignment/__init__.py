"""Local alignment of all clients in stacked passes: each client's private LoRA learns what its owner prefers."""

from wavetune.federation.alignment.preference_learning import ClientPairs
from wavetune.federation.alignment.rewards import Rewards, Score
from wavetune.federation.alignment.stage import Alignment

__all__ = ["Alignment", "ClientPairs", "Rewards", "Score"]
