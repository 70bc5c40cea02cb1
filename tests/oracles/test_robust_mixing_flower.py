"""Robust rules of mixing against Flower's, which takes the same updates as lists of arrays."""

import numpy as np
import torch
from flwr.server.strategy.aggregate import aggregate_krum, aggregate_median, aggregate_trimmed_avg
from hypothesis import given, settings
from hypothesis import strategies as st

from wavetune.federation.mixing import Median, MultiKrum, TrimmedMean

SIZES = {"clients": st.integers(1, 9), "seed": st.integers(0, 999)}


def drawn(clients, seed):
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(clients, 5, 3, generator=generator), torch.randn(clients, 3, 4, generator=generator)
    weights = torch.rand(clients, generator=generator) + 0.1
    return A, B, weights / weights.sum()


def results(A, B, counts):
    return [([a.numpy(), b.numpy()], int(n)) for a, b, n in zip(A, B, counts, strict=True)]


def assert_equal(found, wanted):
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-5, atol=1e-6)


@given(**SIZES)
@settings(deadline=None)
def test_median_is_flowers(clients, seed):
    A, B, weights = drawn(clients, seed)
    assert_equal(Median().mix(A, B, weights), aggregate_median(results(A, B, [1] * clients)))


@given(fraction=st.floats(0, 0.49), **SIZES)
@settings(deadline=None)
def test_trimmed_mean_is_flowers(fraction, clients, seed):
    A, B, weights = drawn(clients, seed)
    wanted = aggregate_trimmed_avg(results(A, B, [1] * clients), fraction)
    assert_equal(TrimmedMean(fraction=fraction).mix(A, B, weights), wanted)


@given(malicious=st.integers(0, 3), keep=st.integers(1, 5), clients=st.integers(2, 9), seed=st.integers(0, 999))
@settings(deadline=None)
def test_multi_krum_is_flowers(malicious, keep, clients, seed):
    A, B, _ = drawn(clients, seed)
    keep, counts = min(keep, clients), torch.arange(1, clients + 1)
    rule = MultiKrum(malicious=malicious, keep=keep)
    kept = rule.chosen(torch.cat([A.flatten(1), B.flatten(1)], 1))
    weights = counts[kept] / counts[kept].sum()
    wanted = aggregate_krum(results(A, B, counts), malicious, keep)
    assert_equal(rule.mix(A[kept], B[kept], weights), wanted)
