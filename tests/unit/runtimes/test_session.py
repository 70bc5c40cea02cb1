import numpy as np
import pytest
import torch

from helpers.adapters import pair_of, widths_of
from helpers.runs import small
from wavetune.runtimes.session import Infeasible, build, client_factors, one_bank


def test_weights_are_the_clients_shares_of_the_samples():
    session = build(small("sflllm", "world.data.partition.kind=quantity_skew"))
    counts = [len(rows) for rows in session.rows_by_client]
    assert len(set(counts)) > 1
    np.testing.assert_allclose(session.cohort.placement.weight_K, np.array(counts) / sum(counts))
    assert session.planner.num_samples_K == tuple(counts)


def test_central_trainer_holds_all_rows_and_takes_the_clients_batches_as_one():
    session = build(small("centralised_lora"))
    assert session.central
    (rows,) = session.rows_by_client
    assert sorted(rows) == list(range(len(session.data.train)))
    assert [len(r) for r in session.step_rows(0)] == [3 * 2]
    assert session.rank_K == (8,)
    assert not session.cohort.placement.split
    assert not session.cohort.bank.shared


def test_federated_clients_hold_the_whole_model_and_nothing_is_cut():
    session = build(small("fedavg_lora"))
    assert session.cohort.placement.cut_K == (4, 4, 4)
    assert not session.cohort.placement.split
    assert not session.cohort.bank.shared


def test_labels_at_the_clients_bring_the_head_back_and_no_block():
    session = build(small("sflllm", "method.topology.labels=client", "method.topology.cut=2"))
    placement = session.cohort.placement
    assert (placement.cut_K, placement.tail_K) == ((2, 2, 2), (0, 0, 0))
    assert placement.local_LK().all(1).tolist() == [True, True, False, False]


def test_frozen_a_is_common_to_all_and_not_trained():
    session = build(
        small("sflllm", "method.mixing.kind=frozen_a", "method.lora.rank=[1,4,2]", "method.topology.cut=[1,2,3]")
    )
    bank = session.cohort.bank
    assert not any(pair["A"].requires_grad for stacks in (bank.local, bank.shared) for pair in stacks.values())
    assert all(pair["B"].requires_grad for stacks in (bank.local, bank.shared) for pair in stacks.values())


@pytest.mark.parametrize(
    ("precision", "words"), [("fp32", "fp32"), ("bf16", "bf16 weights"), ("int8", "int8 weights (0.")]
)
def test_precision_is_what_was_asked_for(precision, words):
    session = build(small("sflllm", f"run.precision={precision}"))
    assert session.precision.startswith(words)
    weight = session.cohort.backbone.blocks[0].mlp.up_proj.weight
    assert weight.dtype == {"bf16": torch.bfloat16, "int8": torch.int8}.get(precision, torch.float32)
    assert session.planner.storage.weight_bytes == weight.element_size()
    head = session.cohort.backbone.head.weight
    assert session.planner.storage.outer_weight_bytes == head.element_size()


def test_tokens_per_pass_is_what_was_asked_for_or_chosen():
    assert build(small("sflllm", "run.tokens_per_pass=77")).cohort.tokens_per_pass == 77
    assert build(small()).cohort.tokens_per_pass >= 256


def test_a_clients_factors_are_its_own_where_it_holds_the_block_and_the_servers_elsewhere():
    bank = build(small("sflllm", "method.topology.cut=[1,3,2]", "method.lora.rank=[2,2,2]")).cohort.bank
    with torch.no_grad():
        for stacks, base in ((bank.local, 10), (bank.shared, 0)):
            for pair in stacks.values():
                for slot in range(len(pair["B"])):
                    pair["B"][slot] = base + slot
    found = {site.layer: client_factors(bank, 1)[site.name]["B"][0, 0].item() for site in bank.sites}
    assert found == {0: 11, 1: 10, 2: 10, 3: 0}


def test_a_bank_of_one_acts_with_the_given_factors_in_every_block():
    session = build(small())
    bank = session.cohort.bank
    factors = {s.name: pair_of(torch.ones(widths_of(s)[0], 2), torch.ones(2, widths_of(s)[1])) for s in bank.sites}
    whole = one_bank(session.serving, factors)
    assert whole.scale == bank.scale
    assert not whole.local
    assert whole.segments(0, [0], [9]) == ((False, 0, 0, 9),)


def test_a_world_without_a_plan_is_a_value_with_a_reason():
    outcome = build(small("sflllm", "world.scenario.population.memory_bytes=1000"))
    assert isinstance(outcome, Infeasible)
    assert "memory" in outcome.reason
