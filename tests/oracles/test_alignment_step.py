"""One step of alignment against a plain one written here: a padded batch of one client through a stock PEFT model."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

from helpers.alignment import CHARACTERS, SETTINGS, TARGETS, alignment, prompts_of, random_bank, with_objective
from helpers.training import TOLERANCE, folder_of, lora_parameters, torch_adamw
from wavetune.data.examples import PreferencePair
from wavetune.federation.alignment import ClientPairs
from wavetune.federation.alignment.answers import answers_of, measured
from wavetune.federation.objectives import Dpo, Grpo, KlControl, Ppo
from wavetune.models.backbone import load_stock_model
from wavetune.models.double import compute_in_double

WEIGHT, TEMPERATURE = 0.7, 0.8
KL = KlControl(start=0.1, target=None)
ADAMW = replace(SETTINGS.optimiser, max_grad_norm=None)


@pytest.fixture
def stock():
    """A stock PEFT model with the factors that `random_bank` gives client 3."""
    bank = random_bank([3])
    config = LoraConfig(r=4, lora_alpha=4 * bank.scale, target_modules=list(TARGETS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(load_stock_model(folder_of("tiny"), torch.float64), config)
    compute_in_double(model)
    with torch.no_grad():
        for (name, factor), parameter in lora_parameters(model).items():
            parameter.copy_((bank.local[name]["A"] if factor == "A" else bank.local[name]["B"])[0].T)
    return model


def logits_of(model, samples, temperature=TEMPERATURE):
    """Logits before each answer token, one sample at a time."""
    for sample in samples:
        ids = torch.tensor([[*sample.prompt, *sample.answer]])
        yield model(input_ids=ids, use_cache=False).logits[0, len(sample.prompt) - 1 : -1] / temperature


def log_probs(model, samples, temperature=TEMPERATURE):
    return [
        F.log_softmax(logits, -1).gather(1, torch.tensor(sample.answer)[:, None])[:, 0]
        for logits, sample in zip(logits_of(model, samples, temperature), samples, strict=True)
    ]


def reference_log_probs(model, samples, temperature=TEMPERATURE):
    with model.disable_adapter(), torch.no_grad():
        return log_probs(model, samples, temperature)


def scores(values):
    return (values - np.mean(values)) / np.std(values)


def mixture(examples, texts):
    helpful, safe = (np.array(reward(examples, texts)) for reward in (CHARACTERS.helpful, CHARACTERS.safe))
    return WEIGHT * scores(helpful) + (1 - WEIGHT) * scores(safe)


def apply(model, losses):
    """One step of AdamW on the mean over all tokens (or pairs)."""
    optimiser = torch_adamw(lora_parameters(model), ADAMW)
    torch.cat(losses).mean().backward()
    optimiser.step()


def assert_equal_factors(stage, model):
    state = stage.state()
    for (name, factor), parameter in lora_parameters(model).items():
        torch.testing.assert_close(state[f"lora.{name}.{factor}"][0], parameter.detach().T, rtol=0, atol=TOLERANCE)


def stage_of(objective, count=6, **options):
    settings = with_objective(objective, optimiser=ADAMW, prompts_per_step=count, temperature=TEMPERATURE)
    return alignment(random_bank([3]), [WEIGHT], settings, CHARACTERS, [3], **options)


def drawn(stage, copies=1):
    """What the stage is about to answer, and how."""
    own = prompts_of([3])[0]
    rows = stage.learner.drawn(len(own), 0, stage.learner.settings.prompts_per_step, 0)
    return answers_of(stage.learner, [[own[row] for row in rows for _ in range(copies)]], "alignment answers", 0)


def test_a_ppo_step_is_the_policy_gradient_of_whitened_rewards_to_come(stock):
    """The first update: the old policy is the policy, the values are zero and lambda is one."""
    stage = stage_of(Ppo(epochs=1, gae_lambda=1.0, entropy_coefficient=0.02, kl=KL))
    answered = drawn(stage, copies=4)
    stage.step()
    policy, reference = log_probs(stock, answered.samples), reference_log_probs(stock, answered.samples)
    to_come = []
    for reward, now, ref in zip(mixture(answered.examples, answered.texts), policy, reference, strict=True):
        own = -0.1 * (now.detach() - ref).double().numpy()
        own[-1] += reward
        to_come.append(own[::-1].cumsum()[::-1])
    mean, spread = np.concatenate(to_come).mean(), np.concatenate(to_come).std()
    losses = []
    for own, now, logits in zip(to_come, policy, logits_of(stock, answered.samples), strict=True):
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        losses.append(-now * torch.tensor((own - mean) / spread) - 0.02 * entropy)
    apply(stock, losses)
    assert_equal_factors(stage, stock)


def test_values_are_drawn_towards_discounted_rewards_and_the_values_that_follow(stock):
    """Where value heads have learned something: the target is the value and its advantage, summed out here."""
    gamma, gae_lambda = 0.9, 0.6
    stage = stage_of(Ppo(epochs=1, gamma=gamma, gae_lambda=gae_lambda, kl=KL))
    with torch.no_grad():
        for parameter in stage.learner.values.parameters(local=True):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    answered = drawn(stage, copies=4)
    room = stage.learner.tokens_per_pass
    backbone, heads = stage.learner.backbone, stage.learner.values
    _, _, values = measured(backbone, stage.learner.policy, answered.samples, room, heads, TEMPERATURE)
    values = np.split(values, np.cumsum([len(sample.answer) for sample in answered.samples])[:-1])
    with torch.no_grad():
        policy = log_probs(stock, answered.samples)
    rewards, errors = mixture(answered.examples, answered.texts), []
    for reward, value, now, ref in zip(
        rewards, values, policy, reference_log_probs(stock, answered.samples), strict=True
    ):
        earned = -0.1 * (now - ref).double().numpy()
        earned[-1] += reward
        surprise = earned + gamma * np.append(value[1:], 0.0) - value
        for t in range(len(value)):
            later = sum((gamma * gae_lambda) ** i * d for i, d in enumerate(surprise[t:]))
            errors.append((value[t] - (value[t] + later)) ** 2)
    assert stage.step()["value_loss"].tolist() == pytest.approx([np.mean(errors)])


def test_a_grpo_step_is_the_policy_gradient_of_scores_within_the_group(stock):
    stage = stage_of(Grpo(group_size=3, kl=KL), count=4)
    answered = drawn(stage, copies=3)
    stage.step()
    rewards = mixture(answered.examples, answered.texts).reshape(4, 3)
    advantages = np.concatenate([scores(own) if np.std(own) > 1e-8 else 0 * own for own in rewards])
    reference = reference_log_probs(stock, answered.samples)
    losses = []
    for advantage, now, ref in zip(advantages, log_probs(stock, answered.samples), reference, strict=True):
        losses.append(-now * float(advantage) + 0.1 * (torch.exp(ref - now) - 1 - (ref - now)))
    apply(stock, losses)
    assert_equal_factors(stage, stock)


def test_a_dpo_step_is_the_loss_of_the_paper_on_each_pair(stock):
    pairs = tuple(PreferencePair(f"ask {i}", "yes" * (i + 1), "no") for i in range(3))
    given = [ClientPairs(pairs, pairs[::-1])]
    stage = stage_of(Dpo(beta=0.3), count=3, pairs_by_client=given)
    drawn_pairs = stage.learning._drawn(0)
    samples = stage.learning._samples([(0, pair) for pair in drawn_pairs])
    stage.step()
    policy, reference = log_probs(stock, samples, 1.0), reference_log_probs(stock, samples, 1.0)
    gains = [now.sum() - ref.sum() for now, ref in zip(policy, reference, strict=True)]
    apply(stock, [-F.logsigmoid(0.3 * (gains[i] - gains[i + 1]))[None] for i in range(0, len(gains), 2)])
    assert_equal_factors(stage, stock)
    decoded = [stage.learner.tokenizer.decode(s.answer[:-1]) for s in samples]
    assert decoded == [text for pair in drawn_pairs for text in (pair.chosen, pair.rejected)][: len(decoded)] or any(
        len(s.answer) == stage.learner.settings.max_new_tokens for s in samples
    )
