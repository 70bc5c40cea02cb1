"""With a perfect link, training cut anywhere gives the losses and adapters of training that is not cut.

The reference never cuts: every client runs a whole stock PEFT model. Blocks behind a client's cut carry the server's
adapter, which learns from the weighted sum of all clients' losses.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.training import (
    PLAIN_ADAMW,
    TOLERANCE,
    Job,
    assert_same,
    cohort_of,
    folder_of,
    random_batches,
    random_factors,
    random_rows,
    separate,
    stacked,
    tokens_of,
)
from wavetune.federation.codecs import Fp32, Fp64
from wavetune.federation.door import Door
from wavetune.federation.mixing import AverageFactors
from wavetune.federation.nodes import Nodes
from wavetune.federation.optimise import AdamW
from wavetune.models.backbone import load_backbone
from wavetune.models.double import StaysDouble

CUTS = {"llama": [(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4), (1, 2, 3), (4, 1, 2)], "gpt2": [(2, 2, 2), (1, 4, 3)]}
CASES = [("tiny" if family == "llama" else "tiny-gpt2", cuts) for family, all_cuts in CUTS.items() for cuts in all_cuts]
CLIPPED = replace(PLAIN_ADAMW, max_grad_norm=0.1)
AT_SERVER, AT_CLIENT = (None, None, None), (0, 0, 0)


@pytest.fixture(scope="module")
def tokens():
    return tokens_of(random_rows())


@pytest.mark.parametrize(("model", "cuts"), CASES)
def test_any_cut_with_labels_on_either_side_trains_as_if_uncut(tokens, model, cuts):
    job, batches = Job(model, cuts), random_batches(3)
    uncut = separate(job, tokens, batches)
    assert_same(stacked(job, tokens, batches), uncut, job.rank_K)
    assert_same(stacked(replace(job, tail_K=AT_CLIENT), tokens, batches), uncut, job.rank_K)


@pytest.mark.parametrize(
    "job",
    [
        Job(cut_K=(1, 2, 2), tail_K=(1, 2, 1)),
        Job(cut_K=(1, 2, 3), tail_K=(None, 2, 0)),
        Job("tiny-gpt2", (1, 1, 3), (2, 0, 1)),
    ],
    ids=["all_own_last_blocks", "labels_on_both_sides", "gpt2"],
)
def test_clients_that_hold_the_last_blocks_too_train_as_if_uncut(tokens, job):
    batches = random_batches(3)
    assert_same(stacked(job, tokens, batches), separate(job, tokens, batches), job.rank_K)


@pytest.mark.parametrize(
    "job",
    [
        Job(cut_K=(2, 2, 2)),
        Job(cut_K=(1, 3, 2), rank_K=(1, 4, 2)),
        Job(cut_K=(1, 2, 3), tail_K=AT_CLIENT),
        Job(cut_K=(1, 1, 2), tail_K=(1, 2, 1)),
        Job("tiny-gpt2", (1, 2, 3)),
        Job(cut_K=(1, 2, 3), sequential=True),
    ],
    ids=["one_cut", "cuts_and_ranks", "labels_at_clients", "all_own_last_blocks", "gpt2", "sequential"],
)
def test_clipped_clients_train_as_if_uncut(tokens, job):
    job, batches = replace(job, adamw=CLIPPED), random_batches(3)
    found = stacked(job, tokens, batches)
    assert_same(found, separate(job, tokens, batches), job.rank_K)
    unclipped = stacked(replace(job, adamw=PLAIN_ADAMW), tokens, batches)
    assert np.abs(found.loss_IK - unclipped.loss_IK).max() > 1e-3  # the limit was felt


def test_where_one_clients_model_is_cut_changes_nothing_where_its_gradients_are_clipped(tokens):
    batches = random_batches(1, steps=5)
    one = Job(cut_K=(4,), tail_K=(None,), rank_K=(4,), weight_K=(1.0,), split=False, adamw=CLIPPED)
    uncut = stacked(one, tokens, batches)
    for cut, tail in ((1, None), (2, None), (3, 0), (1, 1), (1, 3)):
        cut_job = replace(one, cut_K=(cut,), tail_K=(tail,), split=True)
        assert_same(stacked(cut_job, tokens, batches), uncut, one.rank_K)
    unclipped = stacked(replace(one, adamw=PLAIN_ADAMW), tokens, batches)
    assert np.abs(uncut.loss_IK - unclipped.loss_IK).max() > 1e-3


@pytest.mark.parametrize("tail", [AT_SERVER, AT_CLIENT])
def test_sequential_server_steps_after_each_client_on_that_client_alone(tokens, tail):
    job, batches = Job(cut_K=(1, 2, 3), tail_K=tail, sequential=True), random_batches(3)
    assert_same(stacked(job, tokens, batches), separate(job, tokens, batches), job.rank_K)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT asks by the old name
def test_cohort_and_flat_example_give_the_same_losses_and_global_adapter_over_rounds(monkeypatch):
    monkeypatch.setattr(flat := flat_example(), "PRECISION", torch.float64)
    rows, num_samples, rank, alpha, rate = random_rows(), (10, 20, 30), 4, 8.0, 1e-2
    batches, cuts = random_batches(3, steps=4), (1, 2, 3)
    job = Job(
        cut_K=cuts,
        weight_K=tuple(n / sum(num_samples) for n in num_samples),
        adamw=AdamW(learning_rate=rate, schedule="constant", warmup_steps=0, max_grad_norm=None),
        alpha=alpha,
    )
    initial = random_factors(load_backbone(folder_of("tiny"), dtype=torch.float64), rank, seed=3)
    rounds = [[[[rows[i] for i in own] for own in step] for step in batches[:2]]]
    rounds.append([[[rows[i] for i in own] for own in step] for step in batches[2:]])
    with StaysDouble():
        found = flat.train(str(folder_of("tiny")), rounds, cuts, num_samples, initial, rank, alpha, rate)
    flat_losses, flat_global = found

    cohort, tokens, losses, mixed = cohort_of(job, initial), tokens_of(rows), [], None
    for of_round in (batches[:2], batches[2:]):
        losses += [cohort.step(tokens, step, 1.0).loss_K for step in of_round]
        mixed = Nodes(cohort.bank, job.rank_K, AverageFactors(), (Fp64(),)).exchange(job.weight_K, Door())
    np.testing.assert_allclose(losses, flat_losses, rtol=0, atol=TOLERANCE)
    assert mixed.factors.keys() == flat_global.keys()
    for name, (A, B) in flat_global.items():
        torch.testing.assert_close(mixed.factors[name]["A"], A, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(mixed.factors[name]["B"], B, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("tail", [None, 0])
@pytest.mark.parametrize("cut", [1, 2, 4])
def test_an_fp32_link_is_no_link_to_the_bit(tokens, cut, tail):
    """With one client the weights are 1, so nothing at all is left of the cut."""
    one = Job(cut_K=(cut,), tail_K=(tail,), rank_K=(4,), weight_K=(1.0,), adamw=CLIPPED)
    one = replace(one, codec=Fp32(), dtype=torch.float32)
    batches = random_batches(1, steps=5)
    uncut = stacked(replace(one, cut_K=(4,), tail_K=(None,), split=False), tokens, batches)
    assert_same(stacked(one, tokens, batches), uncut, one.rank_K, tolerance=0.0)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_flat_example_runs_as_a_script_and_learns(capsys):
    flat_example().main(str(folder_of("tiny")))
    lines = capsys.readouterr().out.strip().splitlines()
    first, last = ([float(word) for word in line.split() if "." in word] for line in (lines[0], lines[-1]))
    assert len(lines) == 10
    assert all(after < before - 0.2 for before, after in zip(first, last, strict=True))


def flat_example():
    path = Path(__file__).resolve().parents[2] / "examples" / "flat_split_lora.py"
    spec = importlib.util.spec_from_file_location("flat_split_lora", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
