import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.adapters import lora_site, pair_of, widths_of
from wavetune.federation.codecs import Bf16, Fp32, Int8, TopK
from wavetune.federation.door import Door
from wavetune.federation.filters.reuse import Reuse
from wavetune.federation.filters.screening import Screening
from wavetune.federation.mixing import AverageFactors, AverageProduct, FrozenA, Median, MultiKrum
from wavetune.federation.nodes import Nodes
from wavetune.federation.sharing import Sharing
from wavetune.models.classifier import head_of
from wavetune.models.lora import AdapterBank
from wavetune.runtimes.session import client_factors

SITES = (lora_site("a", 0, 6, 5), lora_site("b", 1, 6, 5), lora_site("c", 2, 4, 4))
LOCAL = np.array([[True, True, True], [True, False, True], [False, False, False]])
WEIGHTS, RANKS = (0.2, 0.3, 0.5), (1, 3, 2)


def random_bank(ranks=RANKS, local_LK=LOCAL, seed=0, common_a=False):
    generator, width = torch.Generator().manual_seed(seed), max(ranks)
    local, shared = {}, {}
    for site in SITES:
        own = np.flatnonzero(local_LK[site.layer])
        A = torch.randn(len(own) + 1, widths_of(site)[0], width, generator=generator)
        B = torch.randn(len(own) + 1, width, widths_of(site)[1], generator=generator)
        if common_a:
            A[:] = A[-1]
        for slot, client in enumerate(own):
            A[slot, :, ranks[client] :], B[slot, ranks[client] :] = 0, 0
        if len(own):
            local[site.name] = pair_of(A[:-1].clone(), B[:-1].clone())
        if len(own) < len(ranks):
            shared[site.name] = pair_of(A[-1:].clone(), B[-1:].clone())
    return AdapterBank(SITES, local_LK, 2.0, local, shared)


def test_a_block_is_averaged_over_what_its_clients_act_with():
    """The server's copy stands in for the clients that leave a block to it."""
    bank = random_bank()
    acting = [client_factors(bank, k) for k in range(3)]
    mixed = Nodes(bank, RANKS, AverageFactors(), (Fp32(),)).exchange(WEIGHTS, Door())
    for site in SITES:
        for factor in "AB":
            mean = sum(w * own[site.name][factor] for w, own in zip(WEIGHTS, acting, strict=True))
            torch.testing.assert_close(mixed.factors[site.name][factor], mean)


@pytest.mark.parametrize("mixing", [AverageFactors(), AverageProduct(), FrozenA()], ids=lambda m: m.kind)
def test_everyone_goes_on_with_the_mixture_cut_to_its_rank(mixing):
    bank = random_bank(common_a=mixing.kind == "frozen_a")
    mixed = Nodes(bank, RANKS, mixing, (Fp32(),)).exchange(WEIGHTS, Door())
    for site in SITES:
        A, B = mixed.factors[site.name].values()
        if site.name in bank.shared:
            assert torch.equal(bank.shared[site.name]["A"][0], A)
            assert torch.equal(bank.shared[site.name]["B"][0], B)
        for slot, client in enumerate(np.flatnonzero(LOCAL[site.layer])):
            rank, own = RANKS[client], bank.local[site.name]
            assert torch.equal(own["A"][slot, :, :rank], A[:, :rank])
            assert torch.equal(own["B"][slot, :rank], B[:rank])
            assert not own["A"][slot, :, rank:].any()
            assert not own["B"][slot, rank:].any()


def test_bits_are_those_of_the_clients_own_ranks_and_blocks_both_ways():
    door = Door()
    Nodes(random_bank(), RANKS, AverageFactors(), (Fp32(),)).exchange(WEIGHTS, door)
    values = {0: 1 * (6 + 5) * 2, 1: 3 * (6 + 5), 2: 2 * (6 + 5) * 2}
    wanted = {(kind, k): 32 * n for k, n in values.items() for kind in ("adapters_up", "adapters_down")}
    assert dict(door.take()) == wanted


def test_frozen_a_stays_at_home():
    door = Door()
    Nodes(random_bank(common_a=True), RANKS, FrozenA(), (Fp32(),)).exchange(WEIGHTS, door)
    assert door.take()["adapters_up", 1] == 32 * 3 * 5


def test_without_a_door_nothing_is_sent_and_the_mixture_is_the_same():
    one, other = random_bank(), random_bank()
    sent = Nodes(one, RANKS, AverageFactors(), (Fp32(),)).exchange(WEIGHTS, Door())
    kept = Nodes(other, RANKS, AverageFactors(), (Int8(),)).exchange(WEIGHTS, None)
    for site in SITES:
        torch.testing.assert_close(sent.factors[site.name]["A"], kept.factors[site.name]["A"])


@pytest.mark.parametrize("codec", [Bf16(), Int8(2)], ids=lambda c: c.kind)
def test_a_lossy_codec_acts_on_the_way_up_and_on_the_way_down(codec):
    """A crosses transposed: a row is one rank's vector, up and down."""
    bank = random_bank()
    acting = [client_factors(bank, k) for k in range(3)]
    mixed = Nodes(bank, RANKS, AverageFactors(), (codec,)).exchange(WEIGHTS, Door())

    def through(x):
        return codec.decode(codec.encode(x))

    up = sum(
        w * torch.nn.functional.pad(through(own["a"]["B"][:r]), (0, 0, 0, 3 - r))
        for w, own, r in zip(WEIGHTS, acting, RANKS, strict=True)
    )
    torch.testing.assert_close(mixed.factors["a"]["B"], up)
    assert not torch.allclose(up, sum(w * own["a"]["B"] for w, own in zip(WEIGHTS, acting, strict=True)), atol=1e-6)
    assert torch.equal(bank.local["a"]["B"][2, :2], through(mixed.factors["a"]["B"][:2]))
    assert torch.equal(bank.local["a"]["A"][2, :, :2], through(mixed.factors["a"]["A"][:, :2].t().contiguous()).t())


@given(seed=st.integers(0, 50), clients=st.integers(1, 4))
def test_equal_clients_keep_what_they_have(seed, clients):
    bank = random_bank((3,) * clients, np.ones((3, clients), bool), seed)
    for pair in bank.local.values():
        pair["A"][:], pair["B"][:] = pair["A"][0].clone(), pair["B"][0].clone()
    before = {name: (pair["A"].clone(), pair["B"].clone()) for name, pair in bank.local.items()}
    mixed = Nodes(bank, (3,) * clients, AverageFactors(), (Fp32(),)).exchange((1 / clients,) * clients, Door())
    assert mixed.error < 1e-5
    for name, (A, B) in before.items():
        torch.testing.assert_close(bank.local[name]["A"], A)
        torch.testing.assert_close(bank.local[name]["B"], B)


def test_aggregation_error_is_that_of_all_blocks_together():
    bank = random_bank()
    acting = [client_factors(bank, k) for k in range(3)]
    mixed = Nodes(bank, RANKS, AverageFactors(), (Fp32(),)).exchange(WEIGHTS, Door())
    error = norm = 0.0
    for site in SITES[:2]:  # block 2 has one copy: nothing is mixed there
        mean = sum(w * own[site.name]["A"] @ own[site.name]["B"] for w, own in zip(WEIGHTS, acting, strict=True))
        A, B = mixed.factors[site.name].values()
        error, norm = error + float((A @ B - mean).pow(2).sum()), norm + float(mean.pow(2).sum())
    assert mixed.error == pytest.approx((error / norm) ** 0.5, rel=1e-4)
    assert mixed.error > 0.1


def test_untrained_adapters_have_no_error():
    bank = random_bank()
    for stacks in (bank.local, bank.shared):
        for pair in stacks.values():
            pair["B"].zero_()
    assert Nodes(bank, RANKS, AverageFactors(), (Fp32(),)).exchange(WEIGHTS, Door()).error == 0.0


EVERY = np.ones((3, 3), bool)


def stacks(bank):
    return {name: pair_of(*(t.clone() for t in pair.values())) for name, pair in bank.local.items()}


def test_a_lost_update_is_left_out_and_the_others_are_reweighted():
    bank = random_bank((3, 3, 3), EVERY)
    before = stacks(bank)
    server = Nodes(bank, (3, 3, 3), AverageFactors(), (Fp32(),))
    mixed = server.exchange(WEIGHTS, Door(), delivered_K=[True, False, True])
    for name, pair in before.items():
        for factor in "AB":
            wanted = (0.2 * pair[factor][0] + 0.5 * pair[factor][2]) / 0.7
            torch.testing.assert_close(mixed.factors[name][factor], wanted)
            for slot in range(3):  # the loser hears the broadcast too
                assert torch.equal(bank.local[name][factor][slot], mixed.factors[name][factor])


def test_a_lost_update_is_replaced_by_the_last_that_arrived_if_asked():
    bank = random_bank((3, 3, 3), EVERY)
    server = Nodes(bank, (3, 3, 3), AverageFactors(), (Fp32(),), filters=(Reuse(),))
    first = stacks(bank)
    server.exchange(WEIGHTS, Door())
    with torch.no_grad():
        for pair in bank.local.values():
            for t in pair.values():
                t += torch.randn(t.shape, generator=torch.Generator().manual_seed(1))
    second = stacks(bank)
    mixed = server.exchange(WEIGHTS, Door(), delivered_K=[True, False, True])
    for name in second:
        for factor in "AB":
            parts = second[name][factor][0], first[name][factor][1], second[name][factor][2]
            wanted = sum(w * part for w, part in zip(WEIGHTS, parts, strict=True))
            torch.testing.assert_close(mixed.factors[name][factor], wanted)


def test_where_nothing_arrives_the_last_broadcast_stays():
    bank = random_bank((3, 3, 3), EVERY)
    server = Nodes(bank, (3, 3, 3), AverageFactors(), (Fp32(),))
    start = dict(server.exchange(WEIGHTS, Door()).factors)
    for pair in bank.local.values():
        pair["B"].add_(1.0)
    mixed = server.exchange(WEIGHTS, Door(), delivered_K=[False] * 3)
    for name, pair in start.items():
        assert torch.equal(mixed.factors[name]["B"], pair["B"])
        assert torch.equal(bank.local[name]["B"][1], pair["B"])


def test_who_sits_out_sends_nothing_and_weighs_nothing():
    bank, door = random_bank(), Door()
    acting = [client_factors(bank, k) for k in range(3)]
    mixed = Nodes(bank, RANKS, AverageFactors(), (Fp32(),)).exchange(WEIGHTS, door, active_K=[True, True, False])
    for site in SITES:  # client 1 leaves blocks to the server, whose copy then has its weight alone
        mean = sum(w * own[site.name]["B"] for w, own in zip((0.4, 0.6), acting[:2], strict=True))
        torch.testing.assert_close(mixed.factors[site.name]["B"], mean)
    bits = door.take()
    assert ("adapters_up", 2) not in bits
    assert bits["adapters_down", 2]


def test_personal_adapters_are_neither_sent_nor_changed():
    bank, door = random_bank((3, 3, 3), EVERY), Door()
    before = stacks(bank)
    server = Nodes(bank, (3, 3, 3), AverageFactors(), (Fp32(),), Sharing(shared_layers=1))
    mixed = server.exchange(WEIGHTS, door)
    assert set(mixed.factors) == {"c"}
    assert door.take()["adapters_up", 0] == 32 * 3 * (4 + 4)
    for name in ("a", "b"):
        assert all(torch.equal(x, y) for x, y in zip(bank.local[name].values(), before[name].values(), strict=True))


@given(seed=st.integers(0, 20))
def test_what_sparse_updates_leave_out_is_sent_later(seed):
    """Error feedback: with nothing new to learn, repeated exchanges converge to the mean of the clients."""
    bank = random_bank((3, 3, 3), EVERY, seed)
    for pair in bank.local.values():
        for t in pair.values():
            t[:] = t[:1]
    server = Nodes(bank, (3, 3, 3), AverageFactors(), (TopK(fraction=0.4),))
    generator = torch.Generator().manual_seed(seed)
    moves = {
        name: [torch.randn(t.shape, generator=generator) for t in pair.values()] for name, pair in bank.local.items()
    }
    wanted = {
        name: [
            server.current[name][f] + sum(w * m[k] for k, w in enumerate(WEIGHTS))
            for f, m in zip("AB", move, strict=True)
        ]
        for name, move in moves.items()
    }
    for name, pair in bank.local.items():
        for t, move in zip(pair.values(), moves[name], strict=True):
            t += move
    for _ in range(8):  # later rounds train nothing: the clients send what they still owe
        mixed = server.exchange(WEIGHTS, Door())
    for name, pair in wanted.items():
        for factor, found in zip(pair, mixed.factors[name].values(), strict=True):
            torch.testing.assert_close(found, factor, rtol=1e-4, atol=1e-5)


def test_a_heads_bias_is_averaged_with_its_weight():
    site = head_of(4, 2, layer=2)
    pair = pair_of(torch.randn(3, 4, 2), torch.randn(3, 1, 2))
    before = pair_of(*(t.clone() for t in pair.values()))
    bank, door = AdapterBank((site,), EVERY, 1.0, {"classifier": pair}, {}), Door()
    mixed = Nodes(bank, (1, 1, 1), FrozenA(), (Fp32(),)).exchange(WEIGHTS, door)
    for factor in "AB":
        wanted = sum(w * before[factor][k] for k, w in enumerate(WEIGHTS))
        torch.testing.assert_close(mixed.factors["classifier"][factor], wanted)
    assert door.take()["adapters_up", 1] == 32 * (4 * 2 + 2)


def test_a_restored_server_goes_on_as_the_first_would():
    def played(interrupted):
        bank = random_bank((3, 3, 3), EVERY)
        server = Nodes(bank, (3, 3, 3), AverageFactors(), (TopK(fraction=0.3),), filters=(Reuse(),))
        server.exchange(WEIGHTS, Door())
        if interrupted:
            state = {name: t.clone() for name, t in server.state().items()}
            server = Nodes(bank, (3, 3, 3), AverageFactors(), (TopK(fraction=0.3),), filters=(Reuse(),))
            server.load_state(state)
        for pair in bank.local.values():
            pair["B"].add_(torch.arange(3.0).view(3, 1, 1))
        return server.exchange(WEIGHTS, Door(), delivered_K=[True, False, True]).factors

    for name, pair in played(False).items():
        assert all(torch.equal(x, y) for x, y in zip(pair.values(), played(True)[name].values(), strict=True))


def five_clients(spoil):
    """A server of five clients near each other, of whom the last is spoilt."""
    bank = random_bank((3,) * 5, np.ones((3, 5), bool))
    generator = torch.Generator().manual_seed(3)
    for pair in bank.local.values():
        for t in pair.values():
            t[:] = t[:1]
    server = Nodes(bank, (3,) * 5, AverageFactors(), (Fp32(),), filters=(Screening(quarantine_after=2),))
    for pair in bank.local.values():
        for t in pair.values():
            t += 0.1 * torch.randn(t.shape, generator=generator)
            t[4] = spoil(t[4])
    return bank, server


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda t: t * float("nan"), "it is not finite"),
        (lambda t: t + float("inf"), "it is not finite"),
        (lambda t: t + 1e3, "times the median"),
    ],
    ids=["nan", "infinite", "exploding"],
)
def test_a_spoilt_update_is_rejected_named_and_later_quarantined(spoil, why):
    bank, server = five_clients(spoil)
    before, weights = stacks(bank), (0.1, 0.2, 0.3, 0.2, 0.2)
    mixed = server.exchange(weights, Door())
    assert list(mixed.rejected) == [4]
    assert why in mixed.rejected[4]
    for name, pair in before.items():
        wanted = sum(w * pair["B"][k] for k, w in enumerate(weights[:4])) / 0.8
        torch.testing.assert_close(mixed.factors[name]["B"], wanted)
        assert torch.isfinite(bank.local[name]["B"]).all()  # the client itself goes on from the broadcast
    for pair in bank.local.values():
        pair["B"][4] = spoil(pair["B"][4])
        pair["B"][:4] += 0.01
    server.exchange(weights, Door())
    for pair in bank.local.values():
        pair["B"].add_(0.01)  # sound again, but not heard any more
    restored = Nodes(bank, (3,) * 5, AverageFactors(), (Fp32(),), filters=(Screening(quarantine_after=2),))
    restored.load_state(server.state())
    assert restored.exchange(weights, Door()).rejected == {4: "quarantined after 2 rejections"}


def test_sound_updates_are_all_taken():
    _, server = five_clients(lambda t: t)
    assert server.exchange((0.2,) * 5, Door()).rejected == {}


def test_multi_krum_keeps_whole_clients_and_leaves_the_outlier_out():
    bank = five_clients(lambda t: t + 5)[0]
    before = stacks(bank)
    server = Nodes(bank, (3,) * 5, MultiKrum(malicious=1, keep=4), (Fp32(),))
    mixed = server.exchange((0.2,) * 5, Door())
    for name, pair in before.items():
        torch.testing.assert_close(mixed.factors[name]["A"], pair["A"][:4].mean(0))


def test_the_median_of_three_ignores_one_that_lies():
    bank = random_bank((3, 3, 3), EVERY)
    for pair in bank.local.values():
        pair["B"][0], pair["B"][1], pair["B"][2] = 1.0, 2.0, 1e6
    mixed = Nodes(bank, (3, 3, 3), Median(), (Fp32(),)).exchange(WEIGHTS, Door())
    assert all((pair["B"] == 2.0).all() for pair in mixed.factors.values())


@pytest.mark.parametrize("active", [(True, False, True), (False, False, True), (True, True, False)])
def test_the_main_servers_copy_counts_for_those_of_its_clients_that_took_part(active):
    bank = random_bank()
    acting = [client_factors(bank, k) for k in range(3)]
    mixed = Nodes(bank, RANKS, AverageFactors(), (Fp32(),)).exchange(WEIGHTS, Door(), active)
    total = sum(w for w, on in zip(WEIGHTS, active, strict=True) if on)
    for site in SITES:
        for factor in "AB":
            parts = [
                w / total * own[site.name][factor] for w, own, on in zip(WEIGHTS, acting, active, strict=True) if on
            ]
            torch.testing.assert_close(mixed.factors[site.name][factor], sum(parts))
