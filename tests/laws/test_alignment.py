"""Alignment keeps to each client's own data and wishes: what a client learns depends on nobody else."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from helpers.alignment import (
    CHARACTERS,
    FAST,
    FREE,
    alignment,
    constant,
    fresh_bank,
    lora_of,
    prompts_of,
    random_bank,
    share,
    with_objective,
)
from helpers.training import TOLERANCE
from wavetune.data.examples import PreferencePair
from wavetune.federation.alignment import ClientPairs, Rewards
from wavetune.federation.objectives import AlignmentObjective, Dpo, Grpo, KlControl, Ppo
from wavetune.parts import kinds

IDENTITIES, LAMBDAS = (4, 0, 7), (0.8, 0.3, 0.5)
CONTROLLED = KlControl(start=0.1, target=0.05)


def pairs_of(identities):
    """The chosen answers of helpful pairs are of other letters than those of harmless ones."""

    def pairs(client, kind, chosen, rejected):
        return tuple(
            PreferencePair(f"{kind} {client} {i}", chosen * (2 + i % 3), rejected * (1 + i % 2)) for i in range(5)
        )

    return [ClientPairs(pairs(k, "helpful", "ab", "yz"), pairs(k, "harmless", "no", "uv")) for k in identities]


TUNED = {
    "ppo": Ppo(minibatches=2, entropy_coefficient=0.01, kl=CONTROLLED),
    "grpo": Grpo(group_size=2, kl=CONTROLLED),
    "dpo": Dpo(beta=0.5),
}
OBJECTIVES = {kind: TUNED.get(kind, part()) for kind, part in sorted(kinds(AlignmentObjective).items())}


def stage(name, identities=IDENTITIES, lambdas=LAMBDAS, bank=None, **changes):
    return alignment(
        bank or random_bank(identities), lambdas, with_objective(OBJECTIVES[name], **changes), CHARACTERS, identities,
        pairs_by_client=pairs_of(identities) if OBJECTIVES[name].learns_from == "pairs" else (),
    )  # fmt: skip


def run(found, steps=2):
    return [found.step() for _ in range(steps)]


@cache
def played(name):
    """The stage of all clients after two steps, with which several tests compare, and what these told."""
    found = stage(name)
    return found, run(found)


def assert_same_client(one, place, other, other_place, tolerance=TOLERANCE):
    mine, theirs = lora_of(one, place), lora_of(other, other_place)
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_records(records, place, others, other_place):
    for mine, theirs in zip(records, others, strict=True):
        for name, values in mine.items():
            assert values[place] == pytest.approx(theirs[name][other_place], rel=1e-8, abs=1e-8), name


@pytest.mark.parametrize("objective", [Ppo(epochs=3, kl=KlControl(0.05)), Grpo(kl=KlControl(0.05), epochs=2)])
def test_without_a_difference_in_reward_everyone_stays_at_the_reference(objective):
    bank = fresh_bank(2)
    before = [p.detach().clone() for p in bank.parameters(local=True)]
    found = alignment(bank, [0.5, 1.0], with_objective(objective), Rewards(constant(0.0), constant(0.7)))
    for record in run(found):
        assert not record["kl"].any()
        assert not record["distance"].any()
    for now, then in zip(bank.parameters(local=True), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_results_do_not_depend_on_the_order_of_the_clients(name):
    order = [2, 0, 1]
    (one, records), other = played(name), stage(name, [IDENTITIES[i] for i in order], [LAMBDAS[i] for i in order])
    others = run(other)
    for place, i in enumerate(order):
        assert_same_client(other, place, one, i)
        assert_same_records(others, place, records, i)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_client_alone_learns_what_it_learns_in_the_stack(name):
    together, records = played(name)
    for place, (identity, weight) in enumerate(zip(IDENTITIES, LAMBDAS, strict=True)):
        alone = stage(name, [identity], [weight])
        own = run(alone)
        assert_same_client(together, place, alone, 0)
        assert_same_records(records, place, own, 0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_pass_over_few_tokens_at_a_time_changes_nothing(name):
    (whole, _), parted = played(name), stage(name)
    parted.learner.tokens_per_pass = 40
    run(parted)
    for place in range(len(IDENTITIES)):
        assert_same_client(parted, place, whole, place)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_stage_restored_from_its_state_goes_on_as_if_never_interrupted(name):
    uninterrupted, (first, _) = stage(name), played(name)
    run(uninterrupted, 3)
    saved = save(first.state())
    resumed = stage(name, bank=random_bank((1, 2, 3)))
    resumed.load_state(load(saved))
    assert resumed.steps_done == 2
    run(resumed, 1)
    final = resumed.state()
    for tensor_name, tensor in uninterrupted.state().items():
        assert torch.equal(final[tensor_name], tensor), tensor_name


@pytest.mark.parametrize("objective", [Ppo(kl=FREE, epochs=4), Grpo(kl=FREE, group_size=8, epochs=4)])
def test_lambda_one_raises_the_helpful_reward_and_lambda_zero_the_safe_one(objective):
    """On held-out prompts: capital letters are helpful and small ones safe, and one token is an answer."""
    prompts, fast = 16 if isinstance(objective, Ppo) else 4, replace(FAST, learning_rate=2e-2)
    settings = with_objective(objective, prompts_per_step=prompts, max_new_tokens=1, optimiser=fast)
    found = alignment(fresh_bank(2), [1.0, 0.0], settings, Rewards(share("@", "_"), share("`", "\x7f")))
    held_out = prompts_of((0, 1), 60, "held out")
    before = found.evaluate(held_out)
    run(found, 6)
    after = found.evaluate(held_out)
    for client, name in enumerate(("helpful", "safe")):
        was, now = before.own[client].mean(name), after.own[client].mean(name)
        assert now.mean > 2 * was.mean, (name, was, now)
    assert all(gain.mean - gain.half_width_95 > 0 for gain in after.mixed_gain(before, [1.0, 0.0]))


def test_dpo_learns_to_prefer_what_each_client_wishes():
    found = stage("dpo", bank=random_bank(IDENTITIES), lambdas=(1.0, 0.0, 0.5))
    records = run(found, 10)
    assert (records[0]["margin"] < records[-1]["margin"]).all()
    assert (records[-1]["preferred"] == 1).all()


def test_the_penalty_and_the_distance_keep_the_policy_near_its_reference():
    def divergence(kl, coefficient=0.0):
        settings = with_objective(Ppo(kl=kl, epochs=4), distance_coefficient=coefficient)
        found = alignment(fresh_bank(1), [1.0], settings)
        last = run(found, 5)[-1]
        return last["kl"][0], last["distance"][0]

    free, held, near = divergence(FREE), divergence(KlControl(start=2.0, target=None)), divergence(FREE, 1e-2)
    assert held[0] < 0.7 * free[0]
    assert near[1] < 0.7 * free[1]


def test_every_client_has_a_kl_coefficient_of_its_own():
    settings = with_objective(Ppo(kl=KlControl(start=0.1, target=0.02)))
    found = alignment(random_bank((1, 2)), [0.5, 0.5], settings)
    with torch.no_grad():
        for pair in found.learner.lora.local.values():
            pair["B"][1] = 0  # the second client acts as the reference does
    records = run(found, 3)
    assert (np.diff([r["kl_coefficient"][0] for r in records]) > 0).all()
    assert records[1]["kl_coefficient"][1] == pytest.approx(0.08)
