"""A client's batch that does not fit a pass is divided, and no number depends on it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from helpers.deployment import deployed, nothing, play
from helpers.runs import EXACT, small, told
from helpers.training import Job, cohort_of, random_rows, tokens_of
from wavetune.data.batching import collate
from wavetune.federation import memory
from wavetune.federation.codecs import Int8
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import build

TOKENS = tokens_of(random_rows())
ROWS = [np.array([3, 1, 4, 15]), np.array([9, 2, 6]), np.array([5, 8])]
JOBS = {
    "cut": Job(cut_K=(1, 2, 3), rank_K=(4, 2, 1), codec=Int8()),  # whose scale is one for each message
    "in_turn": Job(sequential=True),
    "u_shape": Job(cut_K=(1, 2, 1), tail_K=(1, 1, 3)),
    "uncut": Job(cut_K=(4, 4, 4), split=False),
    "stock_attention": Job(model="tiny-gpt2", cut_K=(4, 4, 4), split=False),
}
RUNS = {
    "cut": ("sflllm", "method.topology.cut=[1,4,2]"),
    "u_shape": ("sflllm", "method.topology.labels=client", "method.topology.cut=[1,2,3]"),
    "only_the_last_block_trained": ("sflllm", "method.sharing.trained_layers=1", "run.prefix_mb=0"),
    "kept_prefix": ("sflllm", "method.sharing.trained_layers=2", "method.topology.cut=[1,2,3]"),
    "teacher_of_everything": ("fedavg_lora", "method.objective.kind=self_distillation", "method.proximal=0.1"),
    "soft_prompt": ("prompts", "method.topology.kind=split", "method.topology.cut=2"),
    "blocks_computed_again": ("sflllm", "run.recompute_blocks=true"),
}


def whole_and_divided(job):
    """Losses, factors and metered bits of two steps."""
    for most in (100_000, 1):
        cohort = cohort_of(replace(job, tokens_per_pass=most))
        cohort.tokens_that_fit = most
        losses = [cohort.step(TOKENS, ROWS, 1.0).loss_K for _ in range(2)]
        factors = [
            t
            for stacks in (cohort.bank.local, cohort.bank.shared)
            for matrices in stacks.values()
            for t in matrices.values()
        ]
        yield np.array(losses), factors, cohort.link.door.take()


@pytest.mark.parametrize("name", JOBS)
def test_a_divided_batch_trains_the_same_adapters_and_sends_the_same_messages(name):
    (losses, factors, bits), (losses_2, factors_2, bits_2) = whole_and_divided(JOBS[name])
    assert bits == bits_2
    np.testing.assert_allclose(losses_2, losses, rtol=1e-9)
    for found, wanted in zip(factors_2, factors, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_divided_batches_ends_with_the_same_adapters(name, monkeypatch):
    monkeypatch.setattr(memory, "LEAST_PIECE", 1)
    recipe, *settings = RUNS[name]
    ends = []
    for most in (100_000, 1):
        session: Any = build(small(recipe, *EXACT, "method.lora.rank=2", *settings, f"run.tokens_per_pass={most}"))
        outcome = train_round(session, 0, nothing)
        ends.append(
            (
                told(outcome)["metered_bits"],
                [t for matrices in outcome.mixed.factors.values() for t in matrices.values()],
            )
        )
    assert ends[0][0] == ends[1][0]
    for found, wanted in zip(ends[1][1], ends[0][1], strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("labels", ["server", "client"])
def test_both_halves_of_a_deployed_run_may_divide(labels, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "LEAST_PIECE", 1)
    recipe = small("sflllm", *EXACT, f"method.topology.labels={labels}", "run.tokens_per_pass=1")
    with deployed(recipe, tmp_path / "certificates") as servers:
        found = play(servers, 1)[-1].mixed.factors
    whole: Any = build(recipe.with_settings("run.tokens_per_pass=100000"))
    wanted = train_round(whole, 0, nothing).mixed.factors
    for name, matrices in wanted.items():
        torch.testing.assert_close(found[name], matrices, rtol=0, atol=1e-9)


class Held:
    """A tensor that waits for the backward pass."""

    now = most = 0

    def __init__(self, tensor):
        self.tensor = tensor
        Held.now += tensor.numel()
        Held.most = max(Held.most, Held.now)

    def __del__(self):
        Held.now -= self.tensor.numel()


def test_what_waits_for_the_backward_pass_is_that_of_one_piece(monkeypatch):
    most = []
    for tokens in (100_000, 20):
        cohort = cohort_of(JOBS["cut"])
        cohort.tokens_that_fit = tokens
        monkeypatch.setattr(Held, "most", Held.now)
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            cohort.step(TOKENS, [np.tile(ROWS[0], 6), *ROWS[1:]], 1.0, [True, False, False])
        most.append(Held.most)
    assert most[1] < most[0] / 3


def test_pieces_are_the_batch_in_order():
    batch = collate(TOKENS, ROWS)
    pieces = batch.pieces(20)
    assert len(pieces) > 2
    assert all(len(piece.input_ids) <= 20 or len(piece.lengths) == 1 for piece in pieces)
    for name in ("input_ids", "lengths", "client_of_sample", "label_ids"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in pieces]), getattr(batch, name))
    tokens, samples = 0, 0
    for piece in pieces:
        part = slice(*np.searchsorted(batch.sample_of_label, [samples, samples + len(piece.lengths)]))
        np.testing.assert_array_equal(piece.label_index + tokens, batch.label_index[part])
        np.testing.assert_array_equal(piece.sample_of_label + samples, batch.sample_of_label[part])
        tokens, samples = tokens + len(piece.input_ids), samples + len(piece.lengths)
