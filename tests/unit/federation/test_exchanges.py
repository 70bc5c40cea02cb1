"""Exchanges and filters: at their neutral settings they are the star, else what a few lines of NumPy compute."""

import numpy as np
import pytest
import torch

from helpers.adapters import lora_site, pair_of, widths_of
from wavetune.federation.codecs import Fp64, TopK
from wavetune.federation.codecs.codec import Context
from wavetune.federation.door import Door
from wavetune.federation.exchanges.gossip import Gossip
from wavetune.federation.exchanges.hierarchical import Hierarchical
from wavetune.federation.exchanges.module_wise import ModuleWise
from wavetune.federation.exchanges.over_the_air import OverTheAir, amplitudes
from wavetune.federation.filters.blend import Blend
from wavetune.federation.filters.scores import Scores
from wavetune.federation.messages import EVERYTHING, Agenda
from wavetune.federation.mixing import AverageFactors
from wavetune.federation.nodes import Nodes
from wavetune.federation.updates import Inbox, Update
from wavetune.models.lora import AdapterBank

K, RANK = 6, 2
SITES = (lora_site("a", 0, 5, 4), lora_site("b", 1, 3, 4))
WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.2, 0.3)


def trained(**given):
    """Nodes whose clients started from the same adapters and moved apart."""
    generator = torch.Generator().manual_seed(0)

    def stack(rows, width):
        return torch.randn(1, rows, width, generator=generator, dtype=torch.float64).repeat(K, 1, 1)

    pairs = {s.name: pair_of(stack(widths_of(s)[0], RANK), stack(RANK, widths_of(s)[1])) for s in SITES}
    bank = AdapterBank(SITES, np.ones((2, K), np.bool_), 1.0, pairs, {})
    nodes = Nodes(bank, (RANK,) * K, AverageFactors(), (Fp64(),), **given)
    for pair in pairs.values():
        for t in pair.values():
            t += 0.1 * torch.randn(t.shape, generator=generator, dtype=torch.float64)
    return nodes


def clients_of(nodes):
    """Every client's adapters in one row."""
    return torch.stack([torch.cat([t.flatten() for t in nodes.own(k).values()]) for k in range(K)])


def flat(factors):
    return torch.cat([t.flatten() for pair in factors.values() for t in pair.values()])


def star(weights=WEIGHTS, **given):
    return flat(trained(**given).exchange(weights, Door()).factors)


def test_gossip_with_everyone_is_the_mean_for_all():
    nodes = trained(exchange_part=Gossip(reach=None))
    mixed = nodes.exchange([1 / K] * K, Door())
    for own in (*clients_of(nodes), flat(mixed.factors)):
        torch.testing.assert_close(own, star([1 / K] * K), rtol=0, atol=1e-12)


def test_gossip_on_a_ring_is_the_metropolis_matrix_and_each_client_sends_once_a_time():
    nodes = trained(exchange_part=Gossip(times=2))
    before, door, W = clients_of(nodes), Door(), np.zeros((K, K))
    nodes.exchange(WEIGHTS, door)
    for k in range(K):
        W[k, [(k - 1) % K, k, (k + 1) % K]] = 1 / 3
    torch.testing.assert_close(clients_of(nodes), torch.from_numpy(W @ W) @ before, rtol=0, atol=1e-12)
    assert {kind for kind, _ in door.bits} == {"adapters_side"}
    assert door.bits["adapters_side", 0] == 2 * 64 * RANK * (5 + 4 + 3 + 4)


@pytest.mark.parametrize("part", [Hierarchical(edges=1), Hierarchical(edges=3), Hierarchical(edges=2, graph="ring")])
def test_a_hierarchy_whose_edges_all_meet_is_the_star(part):
    nodes = trained(exchange_part=part)
    mixed = nodes.exchange(WEIGHTS, Door())
    for own in (*clients_of(nodes), flat(mixed.factors)):
        torch.testing.assert_close(own, star(), rtol=0, atol=1e-12)


def test_push_sum_on_a_ring_comes_to_the_mean_by_weight_and_keeps_it_all_along():
    near = trained(exchange_part=Hierarchical(edges=5, graph="ring", steps=60))
    near.exchange(WEIGHTS, Door())
    torch.testing.assert_close(clients_of(near), star().repeat(K, 1), rtol=0, atol=1e-9)
    apart = trained(exchange_part=Hierarchical(edges=5, graph="ring", steps=1))
    mixed = apart.exchange(WEIGHTS, Door())
    torch.testing.assert_close(flat(mixed.factors), star(), rtol=0, atol=1e-12)
    assert (clients_of(apart)[0] - clients_of(apart)[2]).abs().max() > 1e-3


def test_edges_that_never_meet_are_runs_of_their_own():
    nodes = trained(exchange_part=Hierarchical(edges=2, period=9))
    before, weights = clients_of(nodes), torch.tensor(WEIGHTS, dtype=torch.float64)
    nodes.exchange(WEIGHTS, Door())
    for edge in (0, 1):
        own = weights[edge::2] / weights[edge::2].sum()
        torch.testing.assert_close(clients_of(nodes)[edge], own @ before[edge::2], rtol=0, atol=1e-12)


def moving(nodes, by_site):
    """What clients of a round make of what they have; sites that the round is not about stay."""
    for site in nodes.due:
        for t in nodes.bank.local[site.name].values():
            t += by_site[site.name]


def rounds(nodes, moves):
    """What each round was about, and its bits of client 0."""
    found = []
    for i, by_site in enumerate(moves):
        door, agenda = Door(), nodes.begin(i)
        moving(nodes, by_site)
        nodes.exchange(WEIGHTS, door, round_index=i)
        found.append((agenda, door.bits["adapters_up", 0]))
    return found


BITS = {EVERYTHING: 64 * RANK * (5 + 4 + 3 + 4), Agenda((0,)): 64 * RANK * (5 + 4), Agenda((1,)): 64 * RANK * (3 + 4)}


def test_a_block_that_moves_less_than_it_did_is_neither_sent_nor_changed_until_all_have_their_turn():
    part = ModuleWise(full_rounds=1, threshold=0.6, patience=1, period=1, full_every=5)
    nodes = trained(exchange_part=part)
    nodes.begin(0)
    nodes.exchange(WEIGHTS, Door())
    fading = [{"a": 1.0, "b": 0.5**i} for i in range(5)]  # b's share of its fastest: 1, 0.75, 0.5 on average
    kept, found = nodes.current["b"]["A"].clone(), []
    for i, by_site in enumerate(fading, 1):
        nodes.begin(i)
        if nodes.agenda == Agenda((0,)):
            kept = nodes.current["b"]["A"].clone()
        moving(nodes, by_site)
        nodes.exchange(WEIGHTS, Door(), round_index=i)
        found.append(nodes.agenda)
        if nodes.agenda == Agenda((0,)):
            assert torch.equal(nodes.current["b"]["A"], kept)
            assert all(torch.equal(own, kept) for own in nodes.bank.local["b"]["A"])
    assert found[0] == EVERYTHING
    assert Agenda((0,)) in found
    assert found[4 - 1] == EVERYTHING  # the fifth round


def test_what_is_sent_is_what_the_round_is_about_and_one_block_remains_where_all_have_converged():
    found = rounds(
        trained(exchange_part=ModuleWise(full_rounds=2, threshold=1e9, patience=1, full_every=None)),
        [{"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 0.9}, {"a": 1.0, "b": 1.0}],
    )
    assert [agenda for agenda, _ in found] == [EVERYTHING, EVERYTHING, Agenda((1,))]
    assert [bits for _, bits in found] == [BITS[agenda] for agenda, _ in found]


@pytest.mark.parametrize("neutral", [{"threshold": 0.0}, {"full_rounds": 99}])
def test_a_star_whose_blocks_never_converge_is_the_plain_one(neutral):
    nodes, plain = trained(exchange_part=ModuleWise(**neutral)), trained()
    for i in range(3):
        assert nodes.begin(i) == EVERYTHING
        moving(nodes, {"a": 0.5**i, "b": 0.1**i})
        moving(plain, {"a": 0.5**i, "b": 0.1**i})
        both = [each.exchange(WEIGHTS, Door(), round_index=i).factors for each in (nodes, plain)]
        assert torch.equal(*map(flat, both))


def test_residuals_of_what_a_round_does_not_send_wait_for_their_turn():
    part = ModuleWise(full_rounds=1, threshold=1e9, patience=1, full_every=3)
    nodes = trained(exchange_part=part)
    nodes.chain, nodes.of_changes = (TopK(fraction=0.5),), True
    nodes.begin(0)
    nodes.exchange(WEIGHTS, Door())
    key = "0|adapters_up|0"
    waiting = {name: t.clone() for name, t in nodes.states[key].items()}
    (block,) = nodes.begin(1).blocks
    nodes.exchange(WEIGHTS, Door(), round_index=1)
    name = {0: "a", 1: "b"}[1 - block]
    assert torch.equal(nodes.states[key][f"{name}.B"], waiting[f"{name}.B"])
    assert nodes.begin(2) == EVERYTHING
    nodes.exchange(WEIGHTS, Door(), round_index=2)


@pytest.mark.parametrize("policy", ["optimal", "inversion"])
def test_over_the_air_without_noise_is_the_star(policy):
    found = flat(trained(exchange_part=OverTheAir(snr_db=240.0, policy=policy)).exchange(WEIGHTS, Door()).factors)
    torch.testing.assert_close(found, star(), rtol=0, atol=1e-9)


def test_where_nobody_is_strong_enough_nothing_is_heard_and_all_keep_what_they_had():
    nodes = trained(exchange_part=OverTheAir(policy="truncated", threshold=1e9))
    before = flat(nodes.current)
    assert torch.equal(flat(nodes.exchange(WEIGHTS, Door()).factors), before)


def test_the_error_over_the_air_is_the_stated_one():
    """Mean squared error over many rounds against nu^2 (sum_k (c_k / s - w_k)^2 v_k + 1 / s^2)."""
    generator = torch.Generator().manual_seed(1)
    start = {"x.A": torch.zeros(200, 1, dtype=torch.float64)}
    changes = [torch.randn(200, 1, generator=generator, dtype=torch.float64) * (1 + k) for k in range(3)]
    weight_K, gain_K = np.array([0.2, 0.3, 0.5]), np.array([0.3, 1.0, 0.02])
    updates = [Update(k, w, {"x.A": c}, start) for k, (w, c) in enumerate(zip(weight_K, changes, strict=True))]
    part, var_K = OverTheAir(snr_db=5.0), np.array([float(c.var(correction=0)) for c in changes])
    nu2, reach_K = float(weight_K @ var_K), np.sqrt(10**0.5 * gain_K)
    c_K, scale = amplitudes(weight_K, np.sqrt(var_K / nu2), reach_K, "optimal")
    assert (c_K * np.sqrt(var_K / nu2) <= reach_K * (1 + 1e-12)).all()
    centred = torch.stack([c.flatten() - c.mean() for c in changes])
    bias = torch.from_numpy(c_K / scale - weight_K) @ centred
    wanted = float(bias.square().mean()) + nu2 / scale**2
    ideal = sum(w * c for w, c in zip(weight_K, changes, strict=True))
    errors = [part.superposed(updates, gain_K, Context(0, i, 0))["x.A"] - ideal for i in range(400)]
    assert float(torch.stack(errors).square().mean()) == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_amplitudes_are_those_of_a_fine_grid(seed):
    rng = np.random.default_rng(seed)
    weight_K, deviation_K, reach_K = rng.dirichlet(np.ones(5)), rng.uniform(0.3, 2, 5), rng.exponential(2, 5)
    wanted_K = weight_K * deviation_K

    def error(scale):
        sent_K = np.minimum(reach_K, wanted_K * scale)
        return float(((sent_K / scale - wanted_K) ** 2).sum() + 1 / scale**2)

    _, best = amplitudes(weight_K, deviation_K, reach_K, "optimal")
    _, aligned = amplitudes(weight_K, deviation_K, reach_K, "inversion")
    assert error(best) <= min(error(s) for s in np.geomspace(0.01, 1e4, 2_001)) * (1 + 1e-9)
    assert error(best) <= error(aligned) * (1 + 1e-12)


def test_scores_are_those_of_numpy_and_a_large_chi_scores_all_alike():
    nodes = trained(filters=(Scores(chi=1.5),))
    start, own = flat(nodes.current).numpy(), clients_of(nodes).numpy()
    found = flat(nodes.exchange(WEIGHTS, Door()).factors)
    change, w = own - start, np.array(WEIGHTS)
    together = w @ change
    cosine = change @ together / np.linalg.norm(change, axis=1) / np.linalg.norm(together)
    np.testing.assert_allclose(found.numpy(), start + (w * (1.5 + cosine) / 2.5) @ change, rtol=0, atol=1e-12)
    torch.testing.assert_close(star(filters=(Scores(chi=1e12),)), star(), rtol=0, atol=1e-9)


def test_equal_updates_score_one_and_an_opposite_one_counts_nothing():
    part, along = Scores(), {"x.A": torch.tensor([[1.0, 2.0]])}
    assert part.score(along, along) == pytest.approx(1.0)
    assert part.score({"x.A": -along["x.A"]}, along) == pytest.approx(0.0)


@pytest.mark.parametrize(("theta", "counts"), [(1.0, "as the mean of the others"), (0.0, "as no change")])
def test_without_a_temporal_part_a_missing_update_counts(theta, counts):
    """Theta 1 is skipping it; theta 0 leaves its weight in the denominator."""
    nodes = trained(filters=(Blend(theta=theta, phi=0.0, fit="fixed"),))
    start, own = flat(nodes.current), clients_of(nodes)
    mixed = nodes.exchange(WEIGHTS, Door(), delivered_K=[k != 1 for k in range(K)])
    w = torch.tensor([0.0 if k == 1 else w for k, w in enumerate(WEIGHTS)], dtype=torch.float64)
    w = w / w.sum() if theta else w
    torch.testing.assert_close(flat(mixed.factors), start + w @ (own - start), rtol=0, atol=1e-12)


def test_a_lost_update_is_the_last_one_faded_by_its_age():
    part, state = Blend(theta=0.0, phi=0.5, fit="fixed", max_age=2), {}
    start = {"x.A": torch.zeros(3, 1, dtype=torch.float64)}
    own, other = (Update(k, 1.0, {"x.A": torch.full((3, 1), 1.0 + k, dtype=torch.float64)}, start) for k in (0, 1))
    _, state = part.take(Inbox((own, other)), state, Context(0, 0, 0))
    for age, wanted in ((1, 0.5), (2, 0.25), (3, 0.0)):
        found, state = part.take(Inbox((other,), (Update(0, 1.0, start, start),)), state, Context(0, age, 0))
        assert [float(u.tensors["x.A"][0]) for u in found.updates] == [wanted, 2.0]


def test_fitted_factors_are_the_least_squares_of_what_arrived():
    part, state, rng = Blend(), {}, np.random.default_rng(0)
    start = {"x.A": torch.zeros(40, 1, dtype=torch.float64)}

    def inbox(values):
        return Inbox(tuple(Update(k, 1.0, {"x.A": torch.from_numpy(v)[:, None]}, start) for k, v in enumerate(values)))

    first, second = rng.normal(size=(2, 4, 40)) + rng.normal(size=40)
    _, state = part.take(inbox(first), state, Context(0, 0, 0))
    assert part.factors(state) == (0.5, 0.5)
    _, state = part.take(inbox(second), state, Context(0, 1, 0))
    rows = [np.stack([np.delete(second, k, 0).mean(0), first[k]]) for k in range(4)]
    wanted = np.linalg.lstsq(np.concatenate(rows, 1).T, second.ravel(), rcond=None)[0]
    np.testing.assert_allclose(part.factors(state), wanted, rtol=1e-9)


@pytest.mark.parametrize("part", [Gossip(), Hierarchical(edges=2, graph="ring"), OverTheAir()], ids=lambda p: p.kind)
def test_what_was_saved_is_continued_to_the_bit(part):
    filters = () if isinstance(part, OverTheAir) else (Blend(),)
    whole, cut = (trained(exchange_part=part, filters=filters) for _ in range(2))
    for nodes in (whole, cut):
        nodes.exchange(WEIGHTS, Door())
    again = Nodes(cut.bank, cut.rank_K, cut.mixing, cut.chain, filters=cut.filters, exchange_part=part)
    again.load_state({name: t.clone() for name, t in cut.state().items()})
    delivered = [True, False, True, True, True, False]
    found, wanted = (n.exchange(WEIGHTS, Door(), delivered_K=delivered, round_index=1) for n in (again, whole))
    assert torch.equal(flat(found.factors), flat(wanted.factors))
