"""Local alignment of all clients in stacked passes: each client's private LoRA learns what its owner prefers."""

from wavetune.federation.alignment.learner import Model
from wavetune.federation.alignment.preference_learning import ClientPairs
from wavetune.federation.alignment.rewards import Rewards, Score
from wavetune.federation.alignment.stage import Alignment, Client

__all__ = ["Alignment", "Client", "ClientPairs", "Model", "Rewards", "Score"]
