"""How good each client's answers to held-out prompts are, by every score.

Legend: K clients, S samples.
"""

from collections.abc import Mapping, Sequence

from wavetune.data.examples import Example
from wavetune.errors import ConfigError
from wavetune.federation.alignment.answers import answers_of
from wavetune.federation.alignment.learner import Learner
from wavetune.federation.alignment.rewards import Rewards
from wavetune.records.alignment import Answers, HeldOut
from wavetune.seeds import stream


def evaluation_of(
    learner: Learner, rewards: Rewards, parts: Mapping[str, Sequence[Sequence[Example]]], temperature: float | None
) -> HeldOut:
    """All clients' answers to their lists of prompts, `own` and possibly `foreign`, scored."""
    found: dict[str, tuple[Answers, ...]] = {}
    for part, examples_by_client in parts.items():
        if len(examples_by_client) != learner.num_clients or not all(examples_by_client):
            raise ConfigError(f"evaluation on {part} domains needs prompts for each of {learner.num_clients} clients")
        answered = answers_of(learner, examples_by_client, f"evaluation {part}", 0, temperature)
        scores, scored, start = rewards.score(answered), list[Answers](), 0
        for own in examples_by_client:
            span = slice(start, start + len(own))
            prompts = tuple(example.prompt for example in own)
            own_scores = {name: tuple(values_S[span].tolist()) for name, values_S in scores.items()}
            scored.append(Answers(prompts, tuple(answered.texts[span]), own_scores))
            start = span.stop
        found[part] = tuple(scored)
    return HeldOut(**found)


def foreign_prompts(
    held_out_by_client: Sequence[Sequence[Example]], count: int, seed: int
) -> tuple[tuple[Example, ...], ...]:
    """For each client up to `count` held-out prompts of domains that it has none of; of the other clients where they
    all have the same domains.
    """
    everything = {example.prompt: example for own in held_out_by_client for example in own}
    chosen: list[tuple[Example, ...]] = []
    for client, own in enumerate(held_out_by_client):
        prompts, domains = {example.prompt for example in own}, {example.domain for example in own}
        others = [everything[prompt] for prompt in sorted(everything) if prompt not in prompts]
        foreign = [example for example in others if example.domain not in domains] or others
        order: list[int] = stream(seed, "foreign prompts", 0, client).permutation(len(foreign)).tolist()
        chosen.append(tuple(foreign[i] for i in order[:count]))
    return tuple(chosen)
