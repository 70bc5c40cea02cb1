"""Gains of paths, in whatever form a tracer hands them over."""

import numpy as np
import pytest
import torch

from wavetune.errors import ConfigError
from wavetune.wireless.impulse_response import gains_of_paths

DRAW = np.random.default_rng(0)
A = DRAW.standard_normal((2, 1, 3, 4, 2, 6, 5)) + 1j * DRAW.standard_normal((2, 1, 3, 4, 2, 6, 5))
TAU_S = DRAW.exponential(3e-7, (2, 1, 4, 6))
EXPECTED = gains_of_paths(A, TAU_S, 7, 5e5)


def each_antenna(tau_s):
    return np.broadcast_to(tau_s[:, :, None, :, None], A.shape[:6])


@pytest.mark.parametrize(
    ("a", "tau_s"),
    [
        (torch.tensor(A, requires_grad=True), torch.tensor(TAU_S)),
        ((A.real, A.imag), TAU_S),
        (A, each_antenna(TAU_S)),
    ],
)
def test_tensors_pairs_of_parts_and_delays_of_each_antenna_are_the_same_paths(a, tau_s):
    np.testing.assert_allclose(gains_of_paths(a, tau_s, 7, 5e5), EXPECTED, rtol=1e-12)


def test_paths_without_a_batch_are_one():
    np.testing.assert_allclose(gains_of_paths(A[0], TAU_S[0], 7, 5e5), EXPECTED[:5], rtol=1e-12)
    np.testing.assert_allclose(gains_of_paths(A[1], each_antenna(TAU_S)[1], 7, 5e5), EXPECTED[5:], rtol=1e-12)


@pytest.mark.parametrize(
    ("a", "tau_s"),
    [
        (A.transpose(0, 3, 2, 1, 4, 5, 6), TAU_S.transpose(0, 2, 1, 3)),  # the devices receive
        (A, TAU_S[:, :, :3]),
        (A[0, 0], TAU_S),
        (A[..., None], TAU_S),
        (np.array(1j), np.array(1.0)),
    ],
)
def test_other_shapes_are_refused_and_not_cut_down(a, tau_s):
    with pytest.raises(ConfigError, match="choose one receiver, and let the devices send"):
        gains_of_paths(a, tau_s, 7, 5e5)
