from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.data.partition import ByDomain, Dirichlet, Iid, QuantitySkew, shares, split_alike
from wavetune.errors import ConfigError

PARTS = st.one_of(
    st.just(Iid()),
    st.just(ByDomain()),
    st.builds(Dirichlet, alpha=st.floats(1e-6, 1e6)),
    st.builds(QuantitySkew, alpha=st.floats(1e-6, 1e6)),
)
DOMAINS = [f"d{i % 4}" for i in range(400)]


@given(st.data(), PARTS, st.integers(1, 12), st.integers(0, 2**31), st.integers(1, 6))
def test_every_row_goes_to_exactly_one_client_and_everyone_gets_the_minimum(data, part, clients, seed, minimum):
    minimum = 1 if part == ByDomain() else minimum
    domains = data.draw(st.lists(st.sampled_from("abcde"), min_size=clients * minimum, max_size=120))
    rows = part.split(domains, clients, seed, minimum)
    assert len(rows) == clients
    assert np.sort(np.concatenate(rows)).tolist() == list(range(len(domains)))
    assert min(map(len, rows)) >= minimum
    again = part.split(domains, clients, seed, minimum)
    assert all(np.array_equal(a, b) for a, b in zip(rows, again, strict=True))


@given(
    st.lists(st.sampled_from("abcde"), min_size=12, max_size=120),
    st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 50)), min_size=1, max_size=6),
    st.integers(0, 2**31),
)
def test_rows_that_follow_another_partition_go_to_one_client_each_and_everyone_gets_some(domains, held_K, seed):
    rows = split_alike(domains, held_K, seed, minimum=2)
    assert len(rows) == len(held_K)
    assert np.sort(np.concatenate(rows)).tolist() == list(range(len(domains)))
    assert min(map(len, rows)) >= 2


def test_rows_follow_the_shares_in_which_their_domains_are_held():
    held_K = [{"d0": 30, "d1": 5}, {"d0": 10}, {"d1": 15}]
    counts_K = [{name: sum(DOMAINS[i] == name for i in rows) for name in ("d0", "d1", "d2")}
                for rows in split_alike(DOMAINS, held_K, 3)]  # fmt: skip
    for name, wanted_K in (("d0", [75, 25, 0]), ("d1", [25, 0, 75]), ("d2", [33, 33, 33])):
        assert [counts[name] for counts in counts_K] == pytest.approx(wanted_K, abs=1)


@pytest.mark.parametrize("part", [Iid(), Dirichlet(), QuantitySkew()])
def test_another_seed_is_another_partition(part):
    first, second = (part.split(DOMAINS, 4, seed) for seed in (0, 1))
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def counts_KD(rows, domains=DOMAINS):
    names = sorted(set(domains))
    return np.array([[sum(domains[i] == name for i in part) for name in names] for part in rows])


def test_iid_clients_hold_equal_numbers_in_random_order():
    rows = Iid().split(DOMAINS, 7, 0)
    assert {len(r) for r in rows} <= {57, 58}
    assert counts_KD(rows).min() > 5


def test_large_alpha_tends_to_equal_shares_and_small_alpha_to_one_owner():
    equal = counts_KD(Dirichlet(alpha=1e6).split(DOMAINS, 5, 0))
    assert np.abs(equal - 20).max() <= 1
    owned = counts_KD(Dirichlet(alpha=1e-3).split(DOMAINS, 5, 0))
    assert (owned.max(axis=0) >= 95).all()
    sizes = [len(r) for r in QuantitySkew(alpha=1e6).split(DOMAINS, 5, 0)]
    assert max(sizes) - min(sizes) <= 2
    assert max(map(len, QuantitySkew(alpha=1e-3).split(DOMAINS, 5, 0, minimum=10))) == 360


def test_shares_have_the_moments_of_a_dirichlet_distribution():
    share_KD = shares(0.5, 4, 20_000, seed=0)
    np.testing.assert_allclose(share_KD.sum(axis=0), 1)
    np.testing.assert_allclose(share_KD.mean(axis=1), 0.25, atol=0.01)
    np.testing.assert_allclose(share_KD.var(axis=1), 0.25 * 0.75 / (4 * 0.5 + 1), rtol=0.03)


def test_preferences_of_a_client_do_not_depend_on_how_many_clients_there_are():
    few, many = shares(0.5, 3, 6, seed=0), shares(0.5, 8, 6, seed=0)
    np.testing.assert_allclose(few, many[:3] / many[:3].sum(axis=0))


def test_many_small_domains_do_not_favour_a_client():
    domains = [f"d{i}" for i in range(3000)]
    sizes = [len(r) for r in Dirichlet(alpha=1e6).split(domains, 3, 0)]
    assert min(sizes) > 900


def test_quantity_skew_leaves_the_mixture_of_domains_alone():
    domains = [f"d{i % 2}" for i in range(20_000)]
    counts = counts_KD(QuantitySkew(alpha=0.5).split(domains, 3, 2, minimum=1000), domains)
    np.testing.assert_allclose(counts[:, 0] / counts.sum(axis=1), 0.5, atol=0.05)


def test_fewer_clients_than_domains_hold_whole_domains_in_balance():
    domains = ["a"] * 50 + ["b"] * 30 + ["c"] * 15 + ["d"] * 10
    counts = counts_KD(ByDomain().split(domains, 2, 0), domains)
    assert counts.tolist() == [[50, 0, 0, 0], [0, 30, 15, 10]]


def test_more_clients_than_domains_hold_one_domain_each():
    domains = ["a"] * 60 + ["b"] * 20
    counts = counts_KD(ByDomain().split(domains, 4, 0), domains)
    assert counts.tolist() == [[20, 0], [20, 0], [20, 0], [0, 20]]


def test_a_domain_too_small_for_the_minimum_names_the_client():
    with pytest.raises(
        ConfigError, match=r"client 1 would hold 2 rows \(domains \['b'\]\), fewer than the minimum of 5"
    ):
        ByDomain().split(["a"] * 20 + ["b"] * 2, 2, 0, minimum=5)


@pytest.mark.parametrize("part", [Iid(), Dirichlet(), QuantitySkew(), ByDomain()])
def test_too_few_rows_name_the_first_client_without_data(part):
    with pytest.raises(
        ConfigError, match=r"client 3 would be without data: 5 clients need 10 rows \(2 each\) and there are 7"
    ):
        part.split(DOMAINS[:7], 5, 0, minimum=2)
    with pytest.raises(ConfigError, match="num_clients is 0"):
        part.split(DOMAINS, 0, 0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("part", [Dirichlet, QuantitySkew])
def test_alpha_must_be_positive_and_finite(part, alpha):
    with pytest.raises(ConfigError, match="alpha is"):
        part(alpha=alpha)
