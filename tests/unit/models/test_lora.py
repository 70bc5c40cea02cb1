import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.adapters import lora_site, pair_of
from helpers.training import Job, cohort_of, random_batches, random_rows, tokens_of
from wavetune.federation.optimise import AdamW, StackedOptimiser
from wavetune.models.lora import ActiveAdapters, FrozenLinear, StackedLoraLinear, new_bank

SITES = (lora_site("block.0.q", 0, 6, 5), lora_site("block.0.v", 0, 6, 3), lora_site("block.1.q", 1, 6, 5))
SOME = np.array([[True, False, True], [False, False, True]])


def filled_bank(local_LK=SOME, rank_K=(2, 1, 3), shared_rank=3, seed=0):
    bank = new_bank(SITES, local_LK, rank_K, shared_rank, alpha=6.0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for stacks in (bank.local, bank.shared):
            for pair in stacks.values():
                alive = pair["A"].abs().sum(1) > 0  # [S, R]
                pair["B"].copy_(torch.randn(pair["B"].shape, generator=generator) * alive[:, :, None])
    return bank


def test_fresh_adapters_start_as_peft_starts_them():
    bank = new_bank(SITES, SOME, (2, 1, 3), 3, alpha=6.0, seed=1)
    A = bank.shared["block.0.q"]["A"][0].detach()
    assert A.abs().max() <= 6**-0.5
    assert A.std() == pytest.approx(6**-0.5 / 3**0.5, rel=0.4)
    assert not any(pair["B"].any() for stacks in (bank.local, bank.shared) for pair in stacks.values())
    assert bank.scale == 2.0


def test_all_slots_start_alike_up_to_their_rank_and_are_zero_beyond():
    bank = new_bank(SITES, SOME, (2, 1, 3), 3, alpha=6.0, seed=1)
    shared, local = bank.shared["block.0.q"]["A"][0], bank.local["block.0.q"]["A"]
    assert torch.equal(local[0, :, :2], shared[:, :2])
    assert not local[0, :, 2:].any()
    assert torch.equal(local[1], shared)


def test_start_depends_on_seed_and_site_alone():
    one = new_bank(SITES, SOME, (2, 1, 3), 3, 6.0, seed=1)
    other = new_bank(SITES[::-1], np.ones((2, 5), bool), (3,) * 5, 3, 6.0, seed=1)
    assert torch.equal(other.local["block.0.q"]["A"][4], one.shared["block.0.q"]["A"][0])
    assert not torch.equal(one.shared["block.0.q"]["A"], one.shared["block.1.q"]["A"])
    assert not torch.equal(
        new_bank(SITES, SOME, (2, 1, 3), 3, 6.0, seed=2).shared["block.0.q"]["A"], one.shared["block.0.q"]["A"]
    )


def test_stacks_hold_one_slot_a_holder_and_one_for_the_rest():
    bank = new_bank(SITES, SOME, (2, 1, 3), 3, 6.0, seed=1)
    assert bank.local["block.0.q"]["A"].shape == (2, 6, 3)
    assert bank.local["block.1.q"]["B"].shape == (1, 3, 5)
    assert bank.shared["block.1.q"]["B"].shape == (1, 3, 5)
    everyone = new_bank(SITES, np.ones((2, 3), bool), (2, 1, 3), 3, 6.0, seed=1)
    assert not everyone.shared
    nobody = new_bank(SITES, np.zeros((2, 3), bool), (2, 1, 3), 3, 6.0, seed=1)
    assert not nobody.local


def test_copies_are_of_the_blocks_that_a_client_holds_and_not_views_of_them():
    bank = filled_bank()
    for client in range(3):
        held = {site.name for site in SITES if bank.slots(site.layer)[client] >= 0}
        copies = bank.copies(client)
        assert copies.keys() == {f"{name}.{matrix}" for name in held for matrix in "AB"}
        assert copies.keys() >= bank.copies(client, SITES[:1]).keys()
        for name, copy in copies.items():
            site, _, matrix = name.rpartition(".")
            slot = bank.local[site][matrix][int(bank.slots(next(s.layer for s in SITES if s.name == site))[client])]
            assert torch.equal(copy, slot)
            assert copy.data_ptr() != slot.data_ptr()


def test_segments_follow_the_clients_of_a_pass_and_join_neighbours_at_the_server():
    bank = filled_bank()
    assert bank.segments(0, (0, 1, 2), (4, 5, 6)) == ((True, 0, 0, 4), (False, 0, 4, 9), (True, 1, 9, 15))
    assert bank.segments(1, (0, 1, 2), (4, 5, 6)) == ((False, 0, 0, 9), (True, 0, 9, 15))
    assert bank.segments(0, (2, 0), (1, 2)) == ((True, 1, 0, 1), (True, 0, 1, 3))
    assert bank.segments(1, (0, 1, 2), (4, 0, 6)) == ((False, 0, 0, 4), (True, 0, 4, 10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pass_and_its_gradients_are_those_of_dense_updates_token_by_token(dtype):
    bank, tokens, clients, site = filled_bank(), (3, 2, 4), (1, 2, 0), SITES[0]
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 5, dtype=dtype)
    active = ActiveAdapters()
    module = StackedLoraLinear(FrozenLinear(linear.weight.data, linear.bias.data, dtype), site, active)
    x = torch.randn(sum(tokens), 6, dtype=dtype, requires_grad=True)
    upstream = torch.randn(sum(tokens), 5, dtype=dtype)
    leaves = [*bank.local[site.name].values(), *bank.shared[site.name].values()]
    if dtype == torch.float64:
        bank.local[site.name] = pair_of(*(p.detach().double().requires_grad_() for p in bank.local[site.name].values()))
        bank.shared[site.name] = pair_of(
            *(p.detach().double().requires_grad_() for p in bank.shared[site.name].values())
        )
        leaves = [*bank.local[site.name].values(), *bank.shared[site.name].values()]
    active.use(bank, clients, tokens)
    found = module(x)

    rows, start = [], 0
    for client, count in zip(clients, tokens, strict=True):
        slot = int(bank.slots(0)[client])
        pair = bank.local[site.name] if slot >= 0 else bank.shared[site.name]
        rows.append(x[start : start + count] @ (bank.scale * pair["A"][max(slot, 0)] @ pair["B"][max(slot, 0)]))
        start += count
    wanted = linear(x) + torch.cat(rows)
    torch.testing.assert_close(found, wanted)
    wanted_gradients = torch.autograd.grad(wanted, [x, *leaves], upstream)
    found.backward(upstream)
    for mine, theirs in zip([x, *leaves], wanted_gradients, strict=True):
        torch.testing.assert_close(mine.grad, theirs)


def test_a_pass_adds_to_the_gradients_of_its_own_clients_in_the_stack_that_is_there():
    bank, site = filled_bank(), SITES[0]
    active = ActiveAdapters()
    module = StackedLoraLinear(FrozenLinear(torch.randn(5, 6), None, torch.float32), site, active)
    holders = [k for k in range(3) if bank.slots(site.layer)[k] >= 0][:2]
    for client in holders:
        active.use(bank, (client,), (4,))
        module(torch.randn(4, 6)).sum().backward()
        stack = bank.local[site.name]["B"].grad
        if client == holders[0]:
            there, before = stack.data_ptr(), stack[0].clone()
    assert stack.data_ptr() == there
    assert torch.equal(stack[0], before)
    assert stack[1].any()


def test_without_a_bank_the_base_alone_answers():
    linear, active = torch.nn.Linear(6, 5), ActiveAdapters()
    module = StackedLoraLinear(FrozenLinear(linear.weight.data, linear.bias.data, torch.float32), SITES[0], active)
    x = torch.randn(3, 6)
    active.use(filled_bank(), (0,), (3,))
    assert not torch.allclose(module(x), linear(x))
    active.use(None)
    torch.testing.assert_close(module(x), linear(x))


def test_factors_that_no_client_of_a_pass_uses_get_no_gradient():
    bank, active = filled_bank(), ActiveAdapters()
    module = StackedLoraLinear(FrozenLinear(torch.randn(5, 6), None, torch.float32), SITES[0], active)
    active.use(bank, (1,), (3,))
    module(torch.randn(3, 6)).sum().backward()
    assert bank.shared["block.0.q"]["B"].grad is not None
    assert bank.local["block.0.q"]["B"].grad is None


@given(
    rank_K=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    decay=st.floats(0, 0.5),
    beta1=st.floats(0, 0.95),
    clip=st.none() | st.floats(1e-3, 1.0),
)
@settings(max_examples=8, deadline=None)
def test_padded_ranks_stay_exactly_zero_while_training(rank_K, decay, beta1, clip):
    adamw = AdamW(1e-1, weight_decay=decay, beta1=beta1, max_grad_norm=clip, schedule="constant", warmup_steps=0)
    num_clients = len(rank_K)
    job = Job(cut_K=(2, *[4] * (num_clients - 1)), tail_K=(None,) * num_clients, rank_K=tuple(rank_K), adamw=adamw,
              weight_K=(1 / num_clients,) * num_clients)  # fmt: skip
    cohort = cohort_of(job)
    before = {name: pair["A"].detach().clone() for name, pair in cohort.bank.local.items()}
    for rows in random_batches(num_clients, steps=3):
        cohort.step(tokens_of(random_rows()), rows, 1.0)
    for site in cohort.bank.sites:
        pair = cohort.bank.local.get(site.name)
        for slot, client in enumerate(np.flatnonzero(cohort.bank.local_LK[site.layer])):
            rank = rank_K[client]
            assert not pair["A"][slot, :, rank:].any()
            assert not pair["B"][slot, rank:].any()
            assert not torch.equal(pair["A"][slot, :, :rank], before[site.name][slot, :, :rank])


def test_parameters_come_in_a_fixed_order_for_both_sides():
    bank = filled_bank()
    assert [p.shape[0] for p in bank.parameters(local=True)] == [2, 2, 2, 2, 1, 1]
    assert len(list(bank.parameters(local=False))) == 6
    assert StackedOptimiser(bank, AdamW()).state() == {}
