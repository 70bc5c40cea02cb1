"""What the alignment of a cohort consists of, besides its data and rewards."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Le

from wavetune.errors import ConfigError
from wavetune.federation.objectives.alignment import AlignmentObjective
from wavetune.federation.objectives.ppo import Ppo
from wavetune.federation.optimise import AdamW, Optimiser

RATE = AdamW(learning_rate=3e-3, weight_decay=0.0, schedule="linear", warmup_steps=0)


@dataclass(frozen=True)
class AlignmentSettings:
    """Steps of alignment: in each, every client learns from `prompts_per_step` of its own prompts, or pairs for DPO.

    A longer prompt loses its beginning, a longer answer its end. Answers are drawn at `temperature`, and the policy at
    that temperature is what learns from rewards; DPO takes pairs as they are. `distance_coefficient` weighs the squared
    distance of a client's weights from those without its LoRA, a term of the loss beside the divergence of the answers.
    """

    objective: AlignmentObjective = field(default_factory=Ppo)
    steps: Annotated[int, Ge(0), Le(1_000_000)] = 8
    prompts_per_step: Annotated[int, Ge(1)] = 4
    max_prompt_tokens: Annotated[int, Ge(4)] = 256
    max_new_tokens: Annotated[int, Ge(1)] = 40
    temperature: Annotated[float, Ge(1e-6), Le(1e6)] = 0.7
    optimiser: Optimiser = RATE
    distance_coefficient: Annotated[float, Ge(0), Le(1e6)] = 0.0

    def __post_init__(self) -> None:
        parts = self.objective.minibatches
        if parts > self.answers_per_step:
            raise ConfigError(
                f"objective.minibatches is {parts}, but a step has {self.answers_per_step} answers of each client; "
                "ask for fewer parts or more prompts_per_step"
            )

    @property
    def answers_per_step(self) -> int:
        """Answers that each client learns from in a step."""
        return self.prompts_per_step * self.answers_per_prompt

    @property
    def answers_per_prompt(self) -> int:
        """Answers to the same prompt in a step; of a pair for DPO, two."""
        return self.objective.answers_to_each_prompt
