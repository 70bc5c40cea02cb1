"""What is minimised: in federated rounds a loss of labels, in local alignment reinforcement learning from rewards (PPO,
GRPO), or preference pairs (DPO).

Parts are small frozen values that need no torch. The formulas are functions: advantages and controllers on NumPy
arrays, losses on torch tensors.
"""

from wavetune.federation.objectives.alignment import AlignmentObjective
from wavetune.federation.objectives.dpo import Dpo
from wavetune.federation.objectives.focal import Focal
from wavetune.federation.objectives.grpo import Grpo
from wavetune.federation.objectives.kl import KlControl
from wavetune.federation.objectives.likelihood import Likelihood
from wavetune.federation.objectives.objective import Objective
from wavetune.federation.objectives.ppo import Ppo
from wavetune.federation.objectives.self_distillation import SelfDistillation
from wavetune.federation.objectives.settings import AlignmentSettings
from wavetune.federation.objectives.supervised import Supervised

__all__ = [
    "AlignmentObjective",
    "AlignmentSettings",
    "Dpo",
    "Focal",
    "Grpo",
    "KlControl",
    "Likelihood",
    "Objective",
    "Ppo",
    "SelfDistillation",
    "Supervised",
]
