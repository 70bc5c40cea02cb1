"""The order of clients, and how many go through the model at once, change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.runs import small, told
from helpers.training import TOLERANCE, Job, cohort_of, random_batches, random_rows, tokens_of
from wavetune.data.batching import batch_indices
from wavetune.federation.codecs import Bf16, Fp64
from wavetune.federation.door import Door
from wavetune.federation.mixing import AverageFactors, AverageProduct
from wavetune.federation.nodes import Nodes
from wavetune.federation.optimise import AdamW
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import build, client_factors

ORDER = (2, 0, 3, 1)
ADAMW = AdamW(learning_rate=1e-2, schedule="constant", warmup_steps=0, max_grad_norm=0.3, epsilon=1e-6)
JOB = Job(
    cut_K=(1, 3, 2, 4),
    tail_K=(None, 1, 0, None),
    rank_K=(4, 1, 3, 2),
    weight_K=(0.1, 0.2, 0.3, 0.4),
    adamw=ADAMW,
    tokens_per_pass=1000,
)


def permuted(values):
    return tuple(values[k] for k in ORDER)


@pytest.fixture(scope="module")
def tokens():
    return tokens_of(random_rows())


@pytest.mark.parametrize("mixing", [AverageFactors(), AverageProduct()], ids=lambda m: m.kind)
def test_shuffled_clients_get_the_same_losses_bits_adapters_and_mixture(tokens, mixing):
    batches = random_batches(4)
    shuffled = replace(
        JOB,
        **{name: permuted(getattr(JOB, name)) for name in ("cut_K", "tail_K", "rank_K", "weight_K")},
    )
    results = []
    for job, rows in ((JOB, batches), (shuffled, [permuted(step) for step in batches])):
        cohort = cohort_of(job)
        losses = np.array([cohort.step(tokens, step, 1.0).loss_K for step in rows])
        bits, own = cohort.link.door.take(), [client_factors(cohort.bank, k) for k in range(4)]
        mixed = Nodes(cohort.bank, job.rank_K, mixing, (Fp64(),)).exchange(job.weight_K, Door())
        results.append((losses, bits, own, mixed))
    (losses, bits, own, mixed), (losses_2, bits_2, own_2, mixed_2) = results
    np.testing.assert_allclose(losses_2, losses[:, list(ORDER)], rtol=0, atol=TOLERANCE)
    assert {(kind, ORDER[client]): n for (kind, client), n in bits_2.items()} == dict(bits)
    for position, client in enumerate(ORDER):
        for name, pair in own[client].items():
            for mine, theirs in zip(own_2[position][name].values(), pair.values(), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=TOLERANCE)
    assert mixed_2.error == pytest.approx(mixed.error, abs=TOLERANCE)
    for name, pair in mixed.factors.items():
        torch.testing.assert_close(
            mixed_2.factors[name]["A"] @ mixed_2.factors[name]["B"], pair["A"] @ pair["B"], rtol=0, atol=TOLERANCE
        )


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("tokens_per_pass", [1, 30, 60])
def test_clients_per_pass_do_not_matter(tokens, tokens_per_pass, sequential):
    job, batches = replace(JOB, sequential=sequential, codec=Bf16()), random_batches(4)
    results = []
    for budget in (tokens_per_pass, 100_000):
        cohort = cohort_of(replace(job, tokens_per_pass=budget))
        losses = [cohort.step(tokens, step, 1.0).loss_K for step in batches]
        results.append((losses, [client_factors(cohort.bank, k) for k in range(4)], cohort.link.door.take()))
    (losses, factors, bits), (losses_2, factors_2, bits_2) = results
    assert bits == bits_2
    np.testing.assert_allclose(losses, losses_2, rtol=0, atol=TOLERANCE)
    for own, own_2 in zip(factors, factors_2, strict=True):
        for name, pair in own.items():
            torch.testing.assert_close(pair["B"], own_2[name]["B"], rtol=0, atol=TOLERANCE)


def test_validation_loss_does_not_depend_on_tokens_per_pass(tokens):
    found = [cohort_of(replace(JOB, tokens_per_pass=n)).evaluate(tokens, None) for n in (1, 37, 10_000)]
    for one in found:
        np.testing.assert_array_equal(one.positions_R, tokens.labelled)
        np.testing.assert_allclose(one.nll_R, found[0].nll_R, rtol=TOLERANCE)


def test_a_rounds_batches_do_not_depend_on_the_rounds_before():
    """Nor do channel and plan: round 3 alone asks what it asks after rounds 0, 1 and 2."""
    recipe = small("sflllm", "run.rounds=4")
    walked, jumped = build(recipe), build(recipe)
    for index in range(3):
        train_round(walked, index, lambda *_: None)
    one, other = (told(train_round(session, 3, lambda *_: None)) for session in (walked, jumped))
    for name in ("planned", "charged", "metered_bits", "allocation", "rate_bit_per_s", "learning_rate", "tokens"):
        assert one[name] == other[name]
    assert one["train_loss"] != other["train_loss"]


def test_a_clients_batches_do_not_depend_on_the_other_clients():
    session = build(small("sflllm"))
    for client, rows in enumerate(session.rows_by_client):
        own = rows[batch_indices(session.data.train.lengths[rows], session.batching, 0, client, 5)]
        assert session.step_rows(5)[client].tolist() == own.tolist()
        assert set(own) <= set(rows)


def test_another_seed_gives_another_world_and_start():
    one, other = (build(small("sflllm", f"run.seed={seed}")) for seed in (0, 1))
    assert one.planner.devices != other.planner.devices
    assert one.step_rows(0)[0].tolist() != other.step_rows(0)[0].tolist()
    name = one.cohort.bank.sites[0].name
    assert not torch.equal(one.cohort.bank.local[name]["A"][0], other.cohort.bank.local[name]["A"][0])
