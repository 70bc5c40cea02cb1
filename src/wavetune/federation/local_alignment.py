"""The second stage of a personalised system: what each client is aligned to, on its own device. Needs no torch."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Le, MinLen

from wavetune.federation.facts import PRIVATE_LORA, SERVERS_MODEL, WHOLE_MODEL
from wavetune.federation.objectives import AlignmentSettings
from wavetune.federation.rewards import EmbeddedReward, RewardPart
from wavetune.parts import Fact, Part

HELPFUL, SAFE = EmbeddedReward(preference="helpful"), EmbeddedReward(preference="harmless")


@dataclass(frozen=True)
class LocalAlignment(Part):
    """Every client aligns its private LoRA to its own mixture of two rewards; nothing of it leaves the client.

    Args:
        lambdas: weight of the helpful reward, the safe one has the rest; client k has the entry k, counted round.
        helpful, safe: what scores answers.
        learning: objective, steps and rates; with 0 steps the clients are only evaluated.
        evaluate_every: steps from one evaluation on held-out prompts to the next.
        held_out_prompts: prompts of an evaluation for each client, of its own domains; of foreign ones a third.
    """

    lambdas: Annotated[tuple[Annotated[float, Ge(0), Le(1)], ...], MinLen(1)] = (0.0, 0.25, 0.5, 0.75, 1.0)
    helpful: RewardPart = HELPFUL
    safe: RewardPart = SAFE
    learning: AlignmentSettings = field(default_factory=AlignmentSettings)
    evaluate_every: Annotated[int, Ge(1)] = 10
    held_out_prompts: Annotated[int, Ge(2)] = 40

    def needed(self) -> tuple[Fact, ...]:
        """The whole model of the servers on each client, and LoRA of its own where that is trained."""
        return WHOLE_MODEL, SERVERS_MODEL, *((PRIVATE_LORA,) if self.learning.steps else ())

    def lambda_of(self, client: int) -> float:
        """Weight of the helpful reward for a client.

        >>> [LocalAlignment(lambdas=(0.2, 0.9)).lambda_of(k) for k in range(3)]
        [0.2, 0.9, 0.2]
        """
        return self.lambdas[client % len(self.lambdas)]
