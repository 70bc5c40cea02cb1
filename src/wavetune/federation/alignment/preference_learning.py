"""Learning from preference pairs (DPO): no rewards, no generation.

Legend: K clients, S samples, B pairs, P positions of all answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavetune.data.examples import Example, PreferencePair
from wavetune.data.pieces import encode_after
from wavetune.data.preferences import turns_of_prompt
from wavetune.federation.alignment.answers import Sample, answer_tokens, measured, passes
from wavetune.federation.alignment.learner import Learner
from wavetune.federation.objectives import AlignmentObjective
from wavetune.federation.objectives.dpo import preference_margin
from wavetune.units import Array


@dataclass(frozen=True)
class ClientPairs:
    """One client's preference pairs of both kinds."""

    helpful: tuple[PreferencePair, ...] = ()
    harmless: tuple[PreferencePair, ...] = ()


class PreferenceLearning:
    """DPO of all clients in stacked passes."""

    def __init__(
        self, learner: Learner, objective: AlignmentObjective, pairs: Sequence[ClientPairs], lambda_K: Array
    ) -> None:
        self.learner, self.objective, self.pairs, self.lambda_K = learner, objective, pairs, lambda_K

    def step(self) -> dict[str, Array]:
        """One step of every client; what it was like, by name, `[K]` each."""
        learner = self.learner
        drawn = [(client, pair) for client in range(learner.num_clients) for pair in self._drawn(client)]
        client_B, samples = np.array([client for client, _ in drawn]), self._samples(drawn)
        sizes = [len(sample.answer) for sample in samples]
        reference_P, _, _ = measured(learner.backbone, learner.reference, samples, learner.tokens_per_pass)
        reference_S = np.add.reduceat(reference_P, np.cumsum([0, *sizes[:-1]]))
        weight_B = 1 / np.bincount(client_B, minlength=learner.num_clients)[client_B]
        found: list[Tensor] = []
        for part in passes(samples, learner.tokens_per_pass, together=2):
            weights = weight_B[part.start // 2 : part.stop // 2]
            found.append(self._backward(samples[part], reference_S[part], learner.tensor(weights)))
        learner.advance()
        loss_B, margin_B = torch.cat(found, 1).double().cpu().numpy()
        return learner.checked(
            {
                "preference_loss": learner.means(loss_B, client_B),
                "margin": learner.means(margin_B, client_B),
                "preferred": learner.means(margin_B > 0, client_B),
            }
        )

    def _backward(self, samples: Sequence[Sample], reference_S: Array, weight_B: Tensor) -> Tensor:
        """Forward and backward of one pass; loss and margin of each pair, `[2, B]`."""
        learner = self.learner
        now = answer_tokens(learner.backbone, learner.policy, samples)
        answers: Sequence[Tensor] = torch.split(now.log_prob_P, [len(sample.answer) for sample in samples])
        policy_S, kept_S = torch.stack([answer.sum() for answer in answers]), learner.tensor(reference_S)
        margin_B = preference_margin(policy_S[::2], policy_S[1::2], kept_S[::2], kept_S[1::2])
        loss_B = self.objective.pair_loss(margin_B)
        (loss_B * weight_B).sum().backward()  # pyright: ignore[reportUnknownMemberType]
        return torch.stack([loss_B, margin_B]).detach()

    def _drawn(self, client: int) -> list[PreferencePair]:
        """A client's pairs of this step: of all so far, the share lambda has been helpful ones."""
        learner, own, count = self.learner, self.pairs[client], self.learner.settings.prompts_per_step
        done = learner.steps_done * count
        before, after = (int(np.floor(n * self.lambda_K[client] + 1e-9)) for n in (done, done + count))
        return [
            pairs[learner.drawn(len(pairs), client, 1, place)[0]]
            for pairs, start, stop in (
                (own.helpful, before, after),
                (own.harmless, done - before, done + count - after),
            )
            for place in range(start, stop)
        ]

    def _samples(self, drawn: Sequence[tuple[int, PreferencePair]]) -> list[Sample]:
        """Chosen and rejected answers, by turns."""
        learner = self.learner
        prompts = learner.prompt_ids([Example(p.prompt, "", p.domain, turns_of_prompt(p)) for _, p in drawn])
        answers = encode_after(learner.tokenizer, [text for _, pair in drawn for text in (pair.chosen, pair.rejected)])
        end, room = learner.template.end_ids(learner.tokenizer), learner.settings.max_new_tokens
        return [
            Sample(drawn[i // 2][0], tuple(prompts[i // 2]), tuple([*answer, *end][:room]))
            for i, answer in enumerate(answers)
        ]

    def state(self) -> dict[str, Tensor]:
        """Nothing beside the learner."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore beside the learner."""
