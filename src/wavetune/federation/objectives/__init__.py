"""What a client is aligned by: reinforcement learning from rewards (PPO, GRPO), or preference pairs (DPO).

Settings are small frozen parts that need no torch. The formulas are functions: advantages and controllers on NumPy
arrays, losses on torch tensors.
"""

from wavetune.federation.objectives.dpo import Dpo
from wavetune.federation.objectives.grpo import Grpo
from wavetune.federation.objectives.kl import KlControl
from wavetune.federation.objectives.objective import Objective
from wavetune.federation.objectives.ppo import Ppo
from wavetune.federation.objectives.settings import AlignmentSettings

__all__ = ["AlignmentSettings", "Dpo", "Grpo", "KlControl", "Objective", "Ppo"]
