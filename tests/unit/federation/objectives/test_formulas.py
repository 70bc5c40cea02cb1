"""Formulas of alignment against plain loops and torch's own functions, written here on their own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from helpers.adapters import pair_of
from helpers.training import random_factors
from wavetune.federation.objectives.distance import weight_distance
from wavetune.federation.objectives.dpo import dpo_loss, preference_margin
from wavetune.federation.objectives.grpo import group_advantages
from wavetune.federation.objectives.kl import KlControl, kl_estimate
from wavetune.federation.objectives.ppo import clipped_surrogate, generalised_advantages, value_loss, whitened
from wavetune.federation.objectives.standardise import Moments
from wavetune.models.backbone import load_backbone
from wavetune.models.lora import AdapterBank
from wavetune.models.resolve import resolve_model

finite = st.floats(-5, 5)


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    gamma=st.floats(0.1, 1), lam=st.floats(0, 1), seed=st.integers(0, 999),
)  # fmt: skip
def test_advantages_are_the_discounted_sums_of_surprises(lengths, gamma, lam, seed):
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, len(lengths), max(lengths)))
    found = generalised_advantages(rewards, values, np.array(lengths), gamma, lam)
    for s, length in enumerate(lengths):
        r, v = rewards[s, :length], np.append(values[s, :length], 0.0)
        surprise = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        wanted = [sum((gamma * lam) ** (u - t) * surprise[u] for u in range(t, length)) for t in range(length)]
        np.testing.assert_allclose(found[s, :length], wanted, atol=1e-9)
        assert not found[s, length:].any()


def test_with_lambda_and_gamma_one_an_advantage_is_the_reward_to_come_less_the_value():
    rewards, values = np.random.default_rng(0).normal(size=(2, 3, 6))
    found = generalised_advantages(rewards, values, np.full(3, 6), 1.0, 1.0)
    np.testing.assert_allclose(found, rewards[:, ::-1].cumsum(1)[:, ::-1] - values)


@given(
    st.lists(st.tuples(finite, finite, st.floats(0.01, 5) | st.floats(-5, -0.01)), min_size=1, max_size=20),
    st.floats(0.05, 0.5),
)
def test_clipped_surrogate_and_its_gradient_are_the_four_cases_of_the_paper(rows, clip):
    log_prob, old, advantage = torch.tensor(rows, dtype=torch.float64).unbind(1)
    log_prob = log_prob.clone().requires_grad_()
    loss, clipped = clipped_surrogate(log_prob, old, advantage, clip)
    loss.sum().backward()
    for i, (new, before, a) in enumerate(rows):
        ratio = np.exp(new - before)
        outside = (a > 0 and ratio > 1 + clip) or (a < 0 and ratio < 1 - clip)
        bound = 1 + clip if a > 0 else 1 - clip
        assert float(loss.detach()[i]) == pytest.approx(-(bound if outside else ratio) * a, rel=1e-9, abs=1e-12)
        assert float(log_prob.grad[i]) == pytest.approx(0.0 if outside else -ratio * a, rel=1e-9, abs=1e-12)
        assert bool(clipped[i]) == outside


def test_value_loss_is_the_squared_error():
    torch.testing.assert_close(
        value_loss(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0])), torch.tensor([0.25, 9.0])
    )


def test_mean_of_the_kl_estimate_over_samples_is_the_divergence():
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.log_softmax(torch.randn(2, 12, generator=generator, dtype=torch.float64), -1)
    estimate = kl_estimate(policy, reference)
    assert (estimate >= 0).all()
    expected = (policy.exp() * estimate).sum()
    torch.testing.assert_close(expected, F.kl_div(reference, policy, reduction="sum", log_target=True))
    assert not kl_estimate(policy, policy).any()


@given(st.floats(1e-3, 10), st.floats(0, 5), st.floats(1e-3, 1), st.floats(0.1, 2))
def test_controller_raises_the_coefficient_above_the_target_and_lowers_it_below(coefficient, kl, target, gain):
    error = min(0.2, max(-0.2, (kl - target) / target))
    (found,) = KlControl(target=target, gain=gain).next(np.array([coefficient]), np.array([kl]))
    assert found == pytest.approx(coefficient * (1 + gain * error))
    (kept,) = KlControl(target=None).next(np.array([coefficient]), np.array([kl]))
    assert kept == coefficient


@given(arrays.arrays(np.float64, (3, 4), elements=finite))
def test_group_advantages_are_each_groups_standard_scores(rewards):
    found = group_advantages(rewards)
    for own, scores in zip(rewards, found, strict=True):
        spread = np.sqrt(np.mean((own - np.mean(own)) ** 2))
        if spread > 1e-6:
            np.testing.assert_allclose(scores, (own - np.mean(own)) / spread, atol=1e-6)
        if len(set(own)) == 1:
            assert not scores.any()


@given(st.lists(finite, min_size=2, max_size=30))
def test_whitened_values_have_mean_zero_and_unit_spread_unless_all_are_equal(values):
    found = whitened(np.array(values))
    assert found.mean() == pytest.approx(0, abs=1e-6)
    if np.ptp(values) > 1e-6:
        assert found.std() == pytest.approx(1)
        np.testing.assert_allclose(np.mean(values) + found * np.std(values), values, atol=1e-9)
    if len(set(values)) == 1:
        assert not found.any()


@given(st.lists(st.lists(finite, max_size=8), min_size=1, max_size=6))
def test_running_moments_are_those_of_all_values_at_once(parts):
    moments = Moments()
    for part in parts:
        moments = moments.including(np.array(part))
    everything = np.array([value for part in parts for value in part])
    if len(everything):
        assert moments.mean == pytest.approx(everything.mean(), abs=1e-9)
        assert moments.deviation == pytest.approx(everything.std(), abs=1e-6)
        if everything.std() > 1e-3:
            scores = moments.standardise(everything)
            np.testing.assert_allclose(scores, (everything - everything.mean()) / everything.std(), atol=1e-5)


def test_standard_scores_of_equal_or_of_no_values_are_zero():
    assert not Moments().including(np.full(5, 0.7)).standardise(np.full(3, 0.7)).any()
    assert not Moments().standardise(np.array([3.0, 4.0])).any()


@given(st.lists(st.tuples(finite, finite, finite, finite), min_size=1, max_size=10), st.floats(0.01, 2))
def test_dpo_loss_is_the_log_sigmoid_of_the_implicit_rewards_difference(rows, beta):
    chosen, rejected, ref_chosen, ref_rejected = torch.tensor(rows, dtype=torch.float64).unbind(1)
    rewards = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    found = dpo_loss(preference_margin(chosen, rejected, ref_chosen, ref_rejected), beta)
    torch.testing.assert_close(found, -F.logsigmoid(rewards[0] - rewards[1]))


def test_weight_distance_is_the_norm_of_the_update_and_differentiates_like_it():
    backbone = load_backbone(resolve_model("tiny").folder)
    factors = [random_factors(backbone, 3, seed) for seed in range(2)]
    local = {
        s.name: pair_of(*(torch.stack([own[s.name][i] for own in factors]).requires_grad_() for i in (0, 1)))
        for s in backbone.sites
    }
    bank = AdapterBank(backbone.sites, np.ones((backbone.num_layers, 2), bool), 0.7, local, {})
    found = weight_distance(bank)
    wanted = torch.stack(
        [sum((0.7 * pair["A"][k] @ pair["B"][k]).square().sum() for pair in local.values()) for k in range(2)]
    )
    torch.testing.assert_close(found, wanted)
    leaves = list(bank.parameters(local=True))
    weights = torch.tensor([1.0, 3.0])
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), leaves), torch.autograd.grad((wanted * weights).sum(), leaves),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
