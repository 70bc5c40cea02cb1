from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.adapters import lora_site, pair_of
from helpers.training import Job, cohort_of, random_batches, random_rows, tokens_of
from wavetune.errors import PartError
from wavetune.federation.optimise import AdamW, Optimiser, StackedOptimiser
from wavetune.models.lora import AdapterBank, new_bank
from wavetune.part_values import read_part, values_of

SITES = (lora_site("a", 0, 4, 3), lora_site("b", 1, 4, 3))
LOCAL = np.array([[True, True], [False, True]])


def bank_with_gradients(seed=0, spread=1.0):
    bank = new_bank(SITES, LOCAL, (2, 2), 2, alpha=2.0, seed=0)
    generator = torch.Generator().manual_seed(seed)
    for side in (True, False):
        for parameter in bank.parameters(side):
            parameter.grad = torch.randn(parameter.shape, generator=generator) * spread
    return bank


def norms(bank):
    """Norm of the gradient of block 0 at client 0 and client 1, of block 1 at client 1 and the server."""
    parts = [
        [g.grad[0] for g in bank.local["a"].values()],
        [g.grad[1] for g in bank.local["a"].values()],
        [g.grad[0] for g in bank.local["b"].values()],
        [g.grad[0] for g in bank.shared["b"].values()],
    ]
    return [float(torch.cat([g.flatten() for g in part]).norm()) for part in parts]


@given(limit=st.floats(0.01, 100), spread=st.floats(0.01, 10))
def test_each_blocks_gradient_is_clipped_to_its_share_for_every_client_and_the_server(limit, spread):
    bank = bank_with_gradients(spread=spread)
    before, share = norms(bank), limit / 2**0.5
    optimiser = StackedOptimiser(bank, AdamW(max_grad_norm=limit))
    optimiser._clip("clients")
    after = norms(bank)
    assert after[:3] == pytest.approx([min(n, share) for n in before[:3]], rel=1e-3)
    assert after[3] == before[3]
    optimiser._clip("server")
    assert norms(bank) == pytest.approx([*after[:3], min(before[3], share)], rel=1e-3)


def test_schedule_warms_up_and_falls_to_nothing_at_the_last_step():
    linear = AdamW(warmup_steps=4, schedule="linear")
    factors = [linear.factor(i, 20) for i in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[12] == 0.5
    assert factors[20] == 0.0
    assert linear.factor(25, 20) == 0.0
    cosine = AdamW(warmup_steps=0, schedule="cosine")
    assert [round(cosine.factor(i, 10), 3) for i in (0, 5, 10)] == [1.0, 0.5, 0.0]
    assert AdamW(warmup_steps=0, schedule="constant").factor(10**6, 10) == 1.0


def test_warm_up_longer_than_the_run_never_divides_by_zero():
    assert AdamW(warmup_steps=50).factor(9, 10) == 0.2
    assert AdamW(warmup_steps=10).factor(10, 10) == 1.0


def test_server_has_a_rate_of_its_own():
    moved = []
    for rate in (None, 1e-1):
        bank = bank_with_gradients()
        start = bank.shared["b"]["A"].detach().clone()
        settings = AdamW(learning_rate=1e-3, server_learning_rate=rate, weight_decay=0, max_grad_norm=None)
        optimiser = StackedOptimiser(bank, settings)
        optimiser.step_server(0.5)
        moved.append(float((bank.shared["b"]["A"].detach() - start).abs().max()))
    assert moved == pytest.approx([0.5e-3, 0.5e-1], rel=1e-3)  # Adam's first step is the rate


def test_a_side_without_parameters_steps_without_effect():
    everyone = new_bank(SITES, np.ones((2, 2), bool), (2, 2), 2, 2.0, 0)
    nobody = new_bank(SITES, np.zeros((2, 2), bool), (2, 2), 2, 2.0, 0)
    StackedOptimiser(everyone, AdamW()).step_server(1.0)
    StackedOptimiser(nobody, AdamW()).step_clients(1.0)


def test_saved_state_continues_to_the_same_bytes():
    tokens, batches = tokens_of(random_rows()), random_batches(3, steps=4)
    whole, first = cohort_of(Job()), cohort_of(Job())
    for rows in batches:
        whole.step(tokens, rows, 1.0)
    for rows in batches[:2]:
        first.step(tokens, rows, 1.0)
    second = cohort_of(Job())
    with torch.no_grad():
        for side in (True, False):
            for mine, saved in zip(second.bank.parameters(side), first.bank.parameters(side), strict=True):
                mine.copy_(saved)
    state = {name: value.clone() for name, value in first.optimiser.state().items()}
    second.optimiser.load_state(state)
    for rows in batches[2:]:
        second.step(tokens, rows, 1.0)
    for side in (True, False):
        for mine, wanted in zip(second.bank.parameters(side), whole.bank.parameters(side), strict=True):
            assert torch.equal(mine, wanted)
    assert set(state) == {
        f"{side}.{index}.{key}"
        for side, count in (("clients", 8), ("server", 8))
        for index in range(count)
        for key in ("step", "exp_avg", "exp_avg_sq")
    }


def test_reset_forgets_all_moments():
    bank = bank_with_gradients()
    optimiser = StackedOptimiser(bank, AdamW())
    optimiser.step_clients(1.0)
    optimiser.step_server(1.0)
    assert optimiser.state()
    optimiser.reset()
    assert not optimiser.state()


def test_frozen_a_is_neither_trained_nor_decayed():
    bank = bank_with_gradients()
    for stacks in (bank.local, bank.shared):
        for pair in stacks.values():
            pair["A"].grad = None
            pair["A"].requires_grad_(False)
    before = bank.local["a"]["A"].clone()
    optimiser = StackedOptimiser(bank, AdamW(learning_rate=0.1, weight_decay=0.5))
    optimiser.step_clients(1.0)
    assert torch.equal(bank.local["a"]["A"], before)
    assert bank.local["a"]["B"].any()


def test_a_clients_gradient_is_clipped_to_the_same_bits_whoever_stands_beside_it():
    sites = tuple(lora_site(name, 0, 5, 3) for name in "abcd")  # eight factors, which torch adds in several ways
    generator = torch.Generator().manual_seed(0)
    grads = {
        s.name: [torch.randn(3, *shape, generator=generator).double() for shape in ((5, 2), (2, 3))] for s in sites
    }

    def clipped(slots):
        pairs = {name: pair_of(*(g[slots].clone().requires_grad_() for g in pair)) for name, pair in grads.items()}
        for name, pair in pairs.items():
            for parameter, gradient in zip(pair.values(), grads[name], strict=True):
                parameter.grad = gradient[slots].clone()
        bank = AdapterBank(sites, np.ones((1, len(slots)), np.bool_), 1.0, pairs, {})
        StackedOptimiser(bank, AdamW(max_grad_norm=0.1))._clip("clients")
        return [p.grad for pair in pairs.values() for p in pair.values()]

    for slot in range(3):
        for together, alone in zip(clipped([0, 1, 2]), clipped([slot]), strict=True):
            assert torch.equal(together[slot], alone[0])


@dataclass(frozen=True)
class Told(Optimiser):
    """Goes down the gradient at rate 1, and remembers what it was told."""

    moments = ("seen", "first")

    def advance(self, value, grad, moments, going):
        seen = moments["seen"] + going.step_S * going.shared
        return value - grad, {"first": moments["first"] + going.first, "seen": seen}


def test_an_optimiser_of_ones_own_goes_on_with_what_it_returns_and_knows_rounds_steps_and_what_is_shared():
    bank = new_bank(SITES, LOCAL, (2, 2), 2, alpha=2.0, seed=0)
    optimiser, before = StackedOptimiser(bank, Told()), bank.local["a"]["A"].detach().clone()
    for active_K in ((True, True), (True, False), (False, True)):
        if active_K[1]:
            optimiser.begin_round({"a"})
        for parameter in bank.parameters(local=True):
            parameter.grad = torch.ones_like(parameter)
        optimiser.step_clients(1.0, active_K)
    torch.testing.assert_close(bank.local["a"]["A"].detach(), before - 2)
    found = {name: t[:, 0, 0].tolist() for name, t in optimiser.state().items() if "seen" in name or "first" in name}
    assert found["clients.0.seen"] == [1 + 2, 1 + 2]  # a, of both clients: steps of their own
    assert found["clients.0.first"] == [1, 2]  # the second client's are first in both rounds
    assert (found["clients.2.seen"], found["clients.2.first"]) == ([0], [2])  # b, which is not shared
    again = StackedOptimiser(bank, Told())
    again.load_state(optimiser.state())
    assert all(torch.equal(t, again.state()[name]) for name, t in optimiser.state().items())


@dataclass(frozen=True)
class Handed(Optimiser):
    """Hands its values and moments on, one to the other, as they are or as views."""

    moments = ("first", "second")

    def advance(self, value, grad, moments, going):
        first, second = moments.values()
        return second, {"first": value, "second": first.view(first.shape)}


@pytest.mark.parametrize("active_K", [(True, True), (True, False)])
def test_what_an_optimiser_hands_on_is_what_it_was_given_whoever_trains(active_K):
    bank = new_bank(SITES, LOCAL, (2, 2), 2, alpha=2.0, seed=0)
    optimiser, name = StackedOptimiser(bank, Handed()), "clients.0"
    stack = bank.local["a"]["A"]
    ones, twos = torch.ones_like(stack), 2 * torch.ones_like(stack)
    optimiser.load_state({f"{name}.step": torch.zeros(2), f"{name}.first": ones, f"{name}.second": twos})
    before, stack.grad = stack.detach().clone(), torch.ones_like(stack)
    optimiser.step_clients(1.0, active_K)
    state = optimiser.state()
    found = (stack.detach(), state[f"{name}.first"], state[f"{name}.second"])
    for own, wanted in zip(found, (twos, before, ones), strict=True):
        assert torch.equal(own[0], wanted[0])


def test_moments_that_an_optimiser_does_not_declare_are_refused():
    @dataclass(frozen=True)
    class Undeclared(Optimiser):
        def advance(self, value, grad, moments, going):
            return value, {"velocity": grad}

    bank = bank_with_gradients()
    with pytest.raises(PartError, match=r"is to return values \[2, 4, 2\] and its moments by name, \[\]"):
        StackedOptimiser(bank, Undeclared()).step_clients(1.0)


def test_a_recipe_that_names_no_optimiser_has_the_usual_one():
    values = {"learning_rate": 0.5}
    assert read_part(Optimiser, values, "method.optimiser") == AdamW(learning_rate=0.5)
    assert values_of(AdamW())["kind"] == "adamw"
