"""K clients trained together in one stacked model get the adapters of K separate stock PEFT runs."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.training import TOLERANCE, Job, assert_same, random_batches, random_rows, separate, stacked, tokens_of
from wavetune.federation.optimise import AdamW

WHOLE = (4, 4, 4)
ADAMW = AdamW(
    learning_rate=1e-2, weight_decay=0.1, schedule="constant", warmup_steps=0, max_grad_norm=0.2, epsilon=1e-6
)
SEPARATE = Job(cut_K=WHOLE, split=False, adamw=ADAMW)


@pytest.fixture(scope="module")
def tokens():
    return tokens_of(random_rows())


@pytest.mark.parametrize("model", ["tiny", "tiny-gpt2"])
def test_clients_get_what_separate_peft_runs_with_decay_and_clipping_get(tokens, model):
    job, batches = replace(SEPARATE, model=model), random_batches(3, steps=6)
    assert_same(stacked(job, tokens, batches), separate(job, tokens, batches), job.rank_K)


def test_clipping_and_weight_decay_are_felt_in_that_comparison(tokens):
    batches = random_batches(3, steps=6)
    reference = separate(SEPARATE, tokens, batches)
    for change in ({"max_grad_norm": 0.4}, {"weight_decay": 0.3}):
        other = stacked(replace(SEPARATE, adamw=replace(ADAMW, **change)), tokens, batches)
        with pytest.raises(AssertionError):
            assert_same(other, reference, SEPARATE.rank_K)


def test_clients_of_unlike_ranks_get_what_peft_runs_of_those_ranks_get(tokens):
    job, batches = replace(SEPARATE, rank_K=(1, 4, 3)), random_batches(3, steps=5)
    assert_same(stacked(job, tokens, batches), separate(job, tokens, batches), job.rank_K)


def test_one_client_is_plain_peft_training(tokens):
    job = replace(SEPARATE, cut_K=(4,), tail_K=(None,), rank_K=(4,), weight_K=(1.0,))
    batches = random_batches(1, steps=8)
    assert_same(stacked(job, tokens, batches), separate(job, tokens, batches), job.rank_K)


def test_one_cut_client_is_plain_peft_training(tokens):
    """Client and server of one client are two optimisers on one loss, which together are one."""
    cut = Job(cut_K=(2,), tail_K=(None,), rank_K=(4,), weight_K=(1.0,), adamw=ADAMW)
    batches = random_batches(1, steps=8)
    whole = separate(replace(cut, cut_K=(4,), split=False), tokens, batches)
    assert_same(stacked(cut, tokens, batches), whole, cut.rank_K)


def test_a_client_learns_nothing_from_the_others(tokens):
    batches = random_batches(3, steps=4)
    alone = replace(SEPARATE, cut_K=(4,), tail_K=(None,), rank_K=(4,), weight_K=(1.0,))
    together = stacked(SEPARATE, tokens, batches)
    for client in range(3):
        own = stacked(alone, tokens, [[rows[client]] for rows in batches])
        np.testing.assert_allclose(own.loss_IK[:, 0], together.loss_IK[:, client], rtol=0, atol=TOLERANCE)
