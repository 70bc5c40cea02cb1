import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavetune.federation.codecs import Context
from wavetune.federation.mixing import AverageFactors, AverageProduct, FrozenA, ServerAdam, squared_error_and_norm

RULES = [AverageFactors(), FrozenA(), AverageProduct()]


def factors(clients, rank, seed=0, ranks=None, width_in=9, width_out=7):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(clients, width_in, rank, generator=generator)
    B = torch.randn(clients, rank, width_out, generator=generator)
    for k, own in enumerate(ranks or []):
        A[k, :, own:], B[k, own:] = 0, 0
    weights = torch.rand(clients, generator=generator) + 0.1
    return A, B, weights / weights.sum()


def mean_product(A, B, weights):
    return torch.einsum("k,kir,kro->io", weights, A, B)


def relative_error(A, B, weights, mixed):
    error, norm = squared_error_and_norm(A, B, weights, *mixed)
    return (error / norm) ** 0.5


@given(clients=st.integers(1, 5), rank=st.integers(1, 6), seed=st.integers(0, 99))
def test_reported_error_is_the_relative_frobenius_error_of_the_product(clients, rank, seed):
    A, B, weights = factors(clients, rank, seed)
    for rule in RULES:
        mixed = rule.mix(A, B, weights)
        wanted = mean_product(A, B, weights)
        dense = (mixed[0] @ mixed[1] - wanted).norm() / wanted.norm()
        assert relative_error(A, B, weights, mixed) == pytest.approx(float(dense), abs=2e-3)


def test_average_of_factors_is_the_weighted_mean_of_each():
    A, B, weights = factors(3, 2)
    mixed = AverageFactors().mix(A, B, weights)
    torch.testing.assert_close(mixed[0], sum(w * a for w, a in zip(weights, A, strict=True)))
    torch.testing.assert_close(mixed[1], sum(w * b for w, b in zip(weights, B, strict=True)))
    assert relative_error(A, B, weights, mixed) > 0.1


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.kind)
@given(clients=st.integers(1, 6), rank=st.integers(1, 6), seed=st.integers(0, 99))
def test_equal_clients_mix_to_themselves(rule, clients, rank, seed):
    A, B, weights = factors(clients, rank, seed)
    A, B = A[:1].expand(clients, -1, -1), B[:1].expand(clients, -1, -1)
    new_a, new_b = rule.mix(A, B, weights)
    torch.testing.assert_close(new_a @ new_b, A[0] @ B[0], rtol=1e-4, atol=1e-4)
    assert relative_error(A, B, weights, (new_a, new_b)) < 1e-5
    if not rule.rebases:
        torch.testing.assert_close(new_b, B[0])


@given(clients=st.integers(1, 5), rank=st.integers(1, 6), seed=st.integers(0, 99), ranks=st.data())
def test_with_a_frozen_the_mixture_is_exact_for_any_ranks(clients, rank, seed, ranks):
    own = [ranks.draw(st.integers(1, rank)) for _ in range(clients)]
    own[0] = rank
    A, B, weights = factors(clients, rank, seed)
    A = A[:1].repeat(clients, 1, 1)
    for k, r in enumerate(own):
        A[k, :, r:], B[k, r:] = 0, 0
    mixed = FrozenA().mix(A, B, weights)
    torch.testing.assert_close(mixed[0], A[0])
    assert relative_error(A, B, weights, mixed) < 1e-6


@given(clients=st.integers(1, 4), rank=st.integers(1, 3), seed=st.integers(0, 99))
def test_averaged_product_is_exact_where_the_rank_suffices(clients, rank, seed):
    room = clients * rank
    A, B, weights = factors(clients, room, seed, ranks=[rank] * clients, width_in=16, width_out=14)
    mixed = AverageProduct().mix(A, B, weights)
    torch.testing.assert_close(mixed[0] @ mixed[1], mean_product(A, B, weights), rtol=1e-4, atol=1e-4)
    assert relative_error(A, B, weights, mixed) < 1e-5


@given(clients=st.integers(2, 5), rank=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_averaged_product_is_the_best_of_its_rank(clients, rank, seed):
    A, B, weights = factors(clients, rank, seed)
    new_a, new_b = AverageProduct().mix(A, B, weights)
    wanted = mean_product(A, B, weights)
    least = torch.linalg.svdvals(wanted)[rank:].norm()
    assert float((new_a @ new_b - wanted).norm()) == pytest.approx(float(least), abs=1e-3)
    assert new_a.shape == A.shape[1:]
    assert new_b.shape == B.shape[1:]


def test_averaged_product_is_balanced_and_ordered_so_that_its_first_components_are_the_best():
    A, B, weights = factors(3, 4)
    new_a, new_b = AverageProduct().mix(A, B, weights)
    sizes = new_a.norm(dim=0)
    torch.testing.assert_close(sizes, new_b.norm(dim=1))
    assert (sizes[:-1] >= sizes[1:] - 1e-5).all()
    two = torch.linalg.svdvals(mean_product(A, B, weights))[2:].norm()
    torch.testing.assert_close(
        (new_a[:, :2] @ new_b[:2] - mean_product(A, B, weights)).norm(), two, rtol=1e-3, atol=1e-4
    )


def test_untrained_adapters_mix_to_nothing_without_error():
    A, B, weights = factors(3, 2)
    for rule in RULES:
        new_a, new_b = rule.mix(A, torch.zeros_like(B), weights)
        assert torch.isfinite(new_a).all()
        assert not (new_a @ new_b).any()


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.kind)
def test_order_of_clients_does_not_matter(rule):
    A, B, weights = factors(4, 3)
    if rule.kind == "frozen_a":
        A = A[:1].repeat(4, 1, 1)
    order = torch.tensor([2, 0, 3, 1])
    one, other = rule.mix(A, B, weights), rule.mix(A[order], B[order], weights[order])
    torch.testing.assert_close(one[0] @ one[1], other[0] @ other[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("yogi", [False, True])
@given(moves=st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=5))
def test_an_optimiser_of_the_server_goes_on_from_the_mean_as_the_formula_says(yogi, moves):
    part, context = ServerAdam(rate=0.03, beta1=0.8, beta2=0.7, tau=0.01, yogi=yogi), Context(0, 0, 0)
    held, state, x, m, v = {"a.A": torch.zeros(1, 1, dtype=torch.float64)}, {}, 0.0, 0.0, 0.01**2
    for move in moves:
        mixture = {"a.A": held["a.A"] + move}
        held, state = part.step(mixture, held, state, context)
        m, square = 0.8 * m + 0.2 * move, move**2
        v = v - 0.3 * square * np.sign(v - square) if yogi else 0.7 * v + 0.3 * square
        x += 0.03 * m / (v**0.5 + 0.01)
        assert float(held["a.A"]) == pytest.approx(x, rel=1e-9, abs=1e-12)
