"""Clipping, noise and the accountant of private updates."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm as normal

from helpers.adapters import lora_site, pair_of, widths_of
from wavetune.errors import ConfigError
from wavetune.federation.codecs import Fp32
from wavetune.federation.codecs.noise import secure_normal
from wavetune.federation.door import Door
from wavetune.federation.method import Method
from wavetune.federation.mixing import AverageFactors, FrozenA
from wavetune.federation.nodes import Nodes
from wavetune.federation.privacy import Gaussian, epsilon
from wavetune.models.lora import AdapterBank, Matrices
from wavetune.part_values import read_part

K, RANK, CLIP = 4, 3, 0.7
AVERAGE = AverageFactors()
SITES = (lora_site("a", 0, 6, 5), lora_site("b", 1, 4, 4))


def bank_of(pairs: dict[str, Matrices]) -> AdapterBank:
    return AdapterBank(SITES, np.ones((2, K), np.bool_), 2.0, pairs, {})


def start_bank() -> AdapterBank:
    """Every client holds the same adapters, as after a broadcast."""
    generator = torch.Generator().manual_seed(0)

    def common(rows, width):
        return torch.randn(1, rows, width, generator=generator).repeat(K, 1, 1)

    return bank_of({s.name: pair_of(common(widths_of(s)[0], RANK), common(RANK, widths_of(s)[1])) for s in SITES})


def train(bank: AdapterBank, client: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    for pair in bank.local.values():
        for stack in pair.values():
            stack[client] += scale * torch.randn(stack[client].shape, generator=generator)


def server_of(bank: AdapterBank, part: Gaussian | None, mixing=AVERAGE, seed: int = 5) -> Nodes:
    chain = () if part is None else part.chain(K)
    return Nodes(bank, (RANK,) * K, mixing, (*chain, Fp32()), seed=seed)


def mix(part: Gaussian | None, changes: dict[int, tuple[int, float]], round_index=0, mixing=AVERAGE, seed=5):
    """The mixture of clients that changed their adapters from the common start by (seed, scale)."""
    bank = start_bank()
    server = server_of(bank, part, mixing, seed)
    for client, change in changes.items():
        train(bank, client, *change)
    return server.exchange([1 / K] * K, Door(), round_index=round_index).factors


def flat(factors: dict[str, Matrices]) -> torch.Tensor:
    return torch.cat([t.flatten() for pair in factors.values() for t in pair.values()]).double()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, K - 1), st.integers(0, 99), st.sampled_from([0.001, 0.1, 5.0, 1e4]))
def test_one_client_moves_the_mixture_before_noise_by_at_most_the_clip_norm_over_the_clients(client, seed, scale):
    part = Gaussian(clip_norm=CLIP, noise_multiplier=0.0)
    others = {k: (100 + k, 0.3) for k in range(K) if k != client}
    without, with_it = mix(part, others), mix(part, {**others, client: (seed, scale)})
    moved = float((flat(with_it) - flat(without)).norm())
    assert moved <= CLIP / K * (1 + 1e-4)
    if scale >= 5.0:
        assert moved == pytest.approx(CLIP / K, rel=1e-4)


def test_an_update_that_is_short_enough_is_sent_as_it_is():
    changes = {k: (k, 0.001) for k in range(K)}
    wanted = mix(None, changes)
    for part in (Gaussian(clip_norm=CLIP, noise_multiplier=0.0), Gaussian(clip_norm=None, noise_multiplier=0.0)):
        torch.testing.assert_close(flat(mix(part, changes)), flat(wanted), rtol=0, atol=1e-6)  # sent as its change


def test_an_update_that_is_not_finite_counts_as_none():
    part = Gaussian(clip_norm=CLIP, noise_multiplier=0.0)
    others = {k: (k, 0.1) for k in range(1, K)}
    assert torch.equal(flat(mix(part, {**others, 0: (0, math.inf)})), flat(mix(part, others)))


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_the_mean_carries_the_noise_that_is_stated(noise):
    """Over many rounds: standard deviation z C / K, mean 0, no correlation between values or rounds."""
    part = Gaussian(clip_norm=CLIP, noise_multiplier=2.0, noise=noise)
    start = flat(mix(None, {}))
    drawn = torch.stack([flat(mix(part, {}, index)) - start for index in range(100)])
    assert float(drawn.std()) == pytest.approx(2.0 * CLIP / K, rel=0.05)
    assert abs(float(drawn.mean())) < 5 * 2.0 * CLIP / K / drawn.numel() ** 0.5
    one_apart = float((drawn[1:] * drawn[:-1]).mean() / drawn.var())
    assert abs(one_apart) < 5 / drawn.numel() ** 0.5


def test_seeded_noise_depends_on_seed_round_and_client_alone_and_secure_noise_on_nothing():
    part, secure = (Gaussian(clip_norm=CLIP, noise=noise) for noise in ("seeded", "secure"))
    first = flat(mix(part, {}))
    assert torch.equal(first, flat(mix(part, {})))
    assert not torch.equal(first, flat(mix(part, {}, round_index=1)))
    assert not torch.equal(first, flat(mix(part, {}, seed=6)))
    assert not torch.equal(flat(mix(secure, {})), flat(mix(secure, {})))


def test_a_frozen_a_is_neither_sent_nor_noised():
    start, mixed = mix(None, {}), mix(Gaussian(), {}, mixing=FrozenA())
    for name, pair in start.items():
        assert torch.equal(mixed[name]["A"], pair["A"])
        assert not torch.equal(mixed[name]["B"], pair["B"])


def test_secure_noise_is_standard_normal():
    values = secure_normal((50, 400)).flatten().double().numpy()
    assert values.std() == pytest.approx(1.0, rel=0.03)
    quantiles = np.quantile(values, [0.023, 0.159, 0.5, 0.841, 0.977])
    np.testing.assert_allclose(quantiles, [-2, -1, 0, 1, 2], atol=0.07)


def exact_epsilon(z: float, delta: float) -> float:
    """Of one Gaussian mechanism, exactly: Balle and Wang (2018), theorem 8."""

    def missing(eps):
        return normal.cdf(0.5 / z - eps * z) - math.exp(eps) * normal.cdf(-0.5 / z - eps * z) - delta

    return brentq(missing, 0.0, 50.0)


@pytest.mark.parametrize("z", [0.8, 2.0, 10.0, 60.0])
@pytest.mark.parametrize("rounds", [1, 25])
def test_epsilon_is_an_upper_bound_of_the_exact_one_and_not_far_above(z, rounds):
    """T Gaussian mechanisms are one of multiplier z / sqrt(T)."""
    exact, found = exact_epsilon(z / rounds**0.5, 1e-5), epsilon([z] * rounds, 1e-5)
    assert exact <= found <= 1.3 * exact


def test_epsilon_follows_who_looks_and_who_was_lost():
    part = Gaussian(clip_norm=1.0, noise_multiplier=4.0)
    whole, partial = part.spent([K] * 10, K), part.spent([K] * 9 + [K - 1], K)
    assert whole.epsilon == epsilon([4.0] * 10, 1e-5)
    assert whole.epsilon < whole.epsilon_client < whole.epsilon_server
    assert whole.epsilon_server == epsilon([4.0 / K**0.5] * 10, 1e-5)
    assert whole.epsilon < partial.epsilon < epsilon([4.0 * ((K - 1) / K) ** 0.5] * 10, 1e-5)
    assert part.spent([K, 0], K).epsilon == part.spent([K], K).epsilon
    assert math.isnan(part.spent([1], K).epsilon_client)
    assert math.isnan(Gaussian(noise_multiplier=0.0).spent([K], K).epsilon)
    assert part.spent([], K).epsilon == 0.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"topology": {"kind": "split"}}, "method.topology split"),
        ({"topology": {"kind": "central"}}, "method.topology central"),
        ({"mixing": {"kind": "median"}}, "method.mixing median"),
        ({"mixing": {"kind": "average_product"}}, "method.mixing average_product"),
        ({"adapter_codec": {"kind": "top_k"}}, "method.adapter_codec top_k"),
        ({"adapter_codec": {"kind": "int8"}}, "method.adapter_codec int8"),
        ({"link": {"kind": "outage", "lost": "reuse"}}, "method.link.lost=skip"),
        ({"screening": {}}, "method.screening"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_what_the_guarantee_does_not_hold_for_is_refused_in_a_sentence(change, words):
    values = {"title": "t", "topology": {"kind": "federated"}, "lora": {"rank": 2}, "privacy": {}}
    read_part(Method, values).check(K, 4, 8)
    with pytest.raises(ConfigError, match=words):
        read_part(Method, {**values, **change}).check(K, 4, 8)


def test_noise_without_a_clip_norm_is_refused():
    with pytest.raises(ConfigError, match="clip_norm is null"):
        Gaussian(clip_norm=None)
