import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.adapters import pair_of
from helpers.training import (
    TOLERANCE,
    Job,
    cohort_of,
    folder_of,
    random_batches,
    random_factors,
    random_rows,
    stock_loss,
    tokens_of,
)
from wavetune.errors import NumericsError
from wavetune.federation.cut import Crossing, LossSum
from wavetune.federation.optimise import AdamW
from wavetune.federation.placement import OF_CLIENTS, OF_SERVERS, WHOLE, Placement
from wavetune.models.backbone import load_stock_model
from wavetune.models.double import compute_in_double
from wavetune.models.lora import AdapterBank
from wavetune.runtimes.session import client_factors

TOKENS = tokens_of(random_rows())
ROWS = random_batches(3)[0]
MIXED = Placement(4, cut_K=(1, 3, 2), tail_K=(None, 0, 1), weight_K=(0.2, 0.3, 0.5))


def test_clients_hold_their_first_blocks_and_their_last_ones():
    assert MIXED.local_LK().tolist() == [
        [True, True, True],
        [False, True, True],
        [False, True, False],
        [False, False, True],
    ]


def test_tokens_cross_up_after_the_cut_and_down_before_the_tail():
    counts = (4, 5, 6)
    found = [MIXED.crossings(done, (0, 1, 2), counts) for done in (1, 2, 3, 4)]
    assert found == [
        [Crossing(0, 0, 4, 0.2, to_server=True)],
        [Crossing(2, 9, 15, 0.5, to_server=True)],
        [Crossing(1, 4, 9, 0.3, to_server=True), Crossing(2, 9, 15, 0.5, to_server=False)],
        [Crossing(1, 4, 9, 0.3, to_server=False)],
    ]
    assert MIXED.crossings(2, (2, 0), (6, 4)) == [Crossing(2, 0, 6, 0.5, to_server=True)]


def test_nothing_crosses_where_nothing_is_split():
    whole = Placement(4, (4, 4), (None, None), (0.5, 0.5), split=False)
    assert not any(whole.crossings(done, (0, 1), (3, 3)) for done in range(1, 5))


def test_loss_is_weighted_where_the_server_computes_it():
    assert [MIXED.loss_weight(k) for k in range(3)] == [0.2, 1.0, 1.0]
    assert [replace(MIXED, sequential=True).loss_weight(k) for k in range(3)] == [1.0, 1.0, 1.0]
    assert Placement(4, (4,), (None,), (0.7,), split=False).loss_weight(0) == 1.0


def test_halves_share_the_blocks_of_every_client_and_its_loss_is_computed_by_the_one_that_has_its_labels():
    whole = replace(MIXED, split=False, cut_K=(4, 4, 4), tail_K=(None, None, None))
    assert [OF_SERVERS.blocks(MIXED, k) for k in range(3)] == [range(1, 4), range(3, 4), range(2, 3)]
    assert [OF_CLIENTS.has_head(MIXED, k) for k in range(3)] == [False, True, True]
    assert [OF_SERVERS.has_head(MIXED, k) for k in range(3)] == [True, False, False]
    assert all(half.blocks(MIXED, 0) == range(4) for half in (WHOLE, OF_CLIENTS))
    assert all(WHOLE.has_head(each, k) for each in (MIXED, whole) for k in range(3))


def test_passes_of_the_servers_half_have_clients_of_one_cut():
    cohort = cohort_of(Job(cut_K=(1, 3, 1), tail_K=(None, None, None)))
    assert list(cohort._groups({0: 5, 1: 5, 2: 5})) == [[0, 1, 2]]
    cohort.half = OF_SERVERS
    assert list(cohort._groups({0: 5, 1: 5, 2: 5})) == [[0, 2], [1]]


def test_step_reports_each_clients_mean_loss_labels_and_tokens():
    cohort = cohort_of(Job())
    for pair in (*cohort.bank.local.values(), *cohort.bank.shared.values()):
        pair["B"].data.zero_()  # so that the first step sees the untouched model
    result, stock = cohort.step(TOKENS, ROWS, 1.0), load_stock_model(folder_of("tiny"))
    for client, rows in enumerate(ROWS):
        assert result.loss_K[client] == pytest.approx(stock_loss(stock, TOKENS, rows).item(), abs=1e-5)
        assert result.labelled_K[client] == TOKENS.labelled[rows].sum()
    assert result.tokens == sum(int(TOKENS.lengths[rows].sum()) for rows in ROWS)


def test_rate_of_zero_trains_nothing_and_labels_cross_only_to_the_server():
    job = Job(cut_K=(1, 2, 2), tail_K=(None, 0, None))
    cohort = cohort_of(job)
    before = [p.detach().clone() for side in (True, False) for p in cohort.bank.parameters(side)]
    cohort.step(TOKENS, ROWS, 0.0)
    after = [p for side in (True, False) for p in cohort.bank.parameters(side)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    bits = cohort.link.door.take()
    assert {client for kind, client in bits if kind == "labels_up"} == {0, 2}
    assert bits["labels_up", 2] == 32 * TOKENS.labelled[ROWS[2]].sum()


def test_gradients_are_gone_after_a_step():
    cohort = cohort_of(Job())
    cohort.step(TOKENS, ROWS, 1.0)
    assert all(p.grad is None for side in (True, False) for p in cohort.bank.parameters(side))


def test_evaluation_sums_the_stock_models_loss_over_all_rows():
    stock = load_stock_model(folder_of("tiny"), torch.float64)
    compute_in_double(stock)
    wanted_R = [stock_loss(stock, TOKENS, [row]).item() * TOKENS.labelled[row] for row in range(len(TOKENS))]
    found = cohort_of(Job()).evaluate(TOKENS, None)
    np.testing.assert_array_equal(found.positions_R, TOKENS.labelled)
    np.testing.assert_allclose(found.nll_R, wanted_R, rtol=TOLERANCE)
    assert found.loss() == pytest.approx(sum(wanted_R) / TOKENS.labelled.sum(), rel=TOLERANCE)


def test_evaluation_under_adapters_differs_and_leaves_training_alone():
    cohort, reference = cohort_of(Job()), cohort_of(Job())
    factors = {name: pair_of(A[None], B[None]) for name, (A, B) in random_factors(cohort.backbone, 4, 9).items()}
    bank = AdapterBank(cohort.bank.sites, np.zeros((4, 1), bool), 2.0, {}, factors)
    assert cohort.evaluate(TOKENS, bank).loss() != pytest.approx(cohort.evaluate(TOKENS, None).loss(), rel=1e-3)
    assert not cohort.link.door.take()
    np.testing.assert_array_equal(cohort.step(TOKENS, ROWS, 1.0).loss_K, reference.step(TOKENS, ROWS, 1.0).loss_K)


def poison(cohort, parameter, slot):
    """After every pass the gradient of one slot is none."""
    plain = cohort._pass

    def spoiled(*args):
        losses = plain(*args)
        if parameter.grad is not None:
            parameter.grad[slot] = float("nan")
        return losses

    cohort._pass = spoiled


def everything(cohort):
    adapters = (t for side in (True, False) for t in cohort.bank.parameters(side))
    return {str(place): t.detach() for place, t in enumerate(adapters)} | cohort.optimiser.state()


def assert_as_if_absent(cohort, result, client, why, **job):
    """The step was that of a cohort in which the client sat out, and names it."""
    assert list(result.given_up) == [client]
    assert re.search(why, result.given_up[client])
    reference = cohort_of(Job(**job))
    wanted = reference.step(TOKENS, ROWS, 1.0, [k != client for k in range(3)])
    theirs = everything(reference)
    for name, mine in everything(cohort).items():
        own = mine.isfinite()
        assert torch.equal(mine[own], theirs.get(name, torch.zeros_like(mine))[own])
    np.testing.assert_array_equal(result.loss_K, wanted.loss_K)
    assert result.tokens == wanted.tokens
    assert cohort.link.door.take() == reference.link.door.take()


def test_a_client_whose_loss_is_not_finite_is_given_up_and_the_others_do_not_notice():
    cohort = cohort_of(Job())
    name = next(s.name for s in cohort.bank.sites if s.name.endswith("v_proj"))
    with torch.no_grad():
        cohort.bank.local[name]["B"][1, 0, 0] = float("nan")
    assert_as_if_absent(cohort, cohort.step(TOKENS, ROWS, 1.0), 1, "the loss of client 1 is nan")


@pytest.mark.parametrize("sequential", [False, True])
def test_a_client_whose_gradient_is_not_finite_is_given_up_with_its_tensor(sequential):
    job = {"cut_K": (1, 2, 3), "sequential": sequential}
    cohort = cohort_of(Job(**job))
    site = next(s for s in cohort.bank.sites if s.layer == 1)
    poison(cohort, cohort.bank.local[site.name]["B"], slot=1)  # slots of block 1: clients 1 and 2
    result = cohort.step(TOKENS, ROWS, 1.0)
    assert_as_if_absent(cohort, result, 2, rf"gradient of {site.name}\.B of client 2 is not finite", **job)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("limit", [1, 1000])
def test_a_client_whose_finite_activations_break_the_servers_gradient_is_given_up(sequential, limit):
    job = {"cut_K": (2, 2, 2), "sequential": sequential, "tokens_per_pass": limit, "dtype": torch.float32}
    cohort = cohort_of(Job(**job))

    def lie(kind, client, payload):
        if (kind, client) == ("activations_up", 1):
            return {name: torch.full_like(tensor, 3e38) for name, tensor in payload.items()}
        return payload

    cohort.link.door.carry = lie
    assert_as_if_absent(cohort, cohort.step(TOKENS, ROWS, 1.0), 1, "is nan|not finite", **job)


def test_where_no_client_alone_is_at_fault_the_largest_share_of_the_servers_gradient_is_left_out():
    cohort = cohort_of(Job(cut_K=(2, 2, 2), dtype=torch.float32))
    shares = {0: 1e18, 1: 1.6e19, 2: 1.2e19}

    def passes(clients):
        parameter = next(cohort.bank.parameters(local=False))
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad.view(-1)[0] = sum(shares[k] for k in clients)
        return dict.fromkeys(clients, LossSum(1.0, 1))

    losses, given_up = cohort.without_faults(passes, [0, 1, 2])
    assert (list(losses), list(given_up)) == ([0, 2], [1])


def test_where_all_clients_are_at_fault_the_first_is_named():
    cohort = cohort_of(Job(dtype=torch.float32))
    with torch.no_grad():
        for pair in cohort.bank.local.values():
            pair["B"].fill_(1e30)
            pair["A"].fill_(1e30)
    with pytest.raises(NumericsError, match=r"client 0 is|not finite"):
        cohort.step(TOKENS, ROWS, 1.0)


@pytest.mark.parametrize("sequential", [False, True])
def test_gradient_of_the_server_that_is_not_finite_names_the_server(sequential):
    cohort = cohort_of(Job(sequential=sequential))
    site = next(s for s in cohort.bank.sites if s.layer == 3)
    poison(cohort, cohort.bank.shared[site.name]["A"], slot=0)
    with pytest.raises(NumericsError, match=rf"gradient of {site.name}\.A of the server is not finite"):
        cohort.step(TOKENS, ROWS, 1.0)


@pytest.mark.parametrize(("limit", "wanted"), [(1, [[0], [1], [2]]), (25, [[0, 1], [2]]), (1000, [[0, 1, 2]])])
def test_consecutive_clients_share_a_pass_while_their_tokens_fit(limit, wanted):
    cohort = cohort_of(Job(tokens_per_pass=limit))
    assert list(cohort._groups({0: 10, 1: 15, 2: 8})) == wanted
    cohort.placement = replace(cohort.placement, sequential=True)
    assert list(cohort._groups({0: 10, 1: 15, 2: 8})) == [[0], [1], [2]]


def test_clients_that_sit_out_change_nothing_and_are_not_changed():
    """With clients 0 and 2 alone, a cohort of three steps as a cohort of these two would."""
    whole = cohort_of(Job(split=False, cut_K=(4, 4, 4)))
    pair = cohort_of(Job(split=False, cut_K=(4, 4), tail_K=(None, None), rank_K=(4, 4), weight_K=(2 / 7, 5 / 7)))
    start = client_factors(whole.bank, 1)
    attending = [True, False, True]
    for rows in random_batches(3, steps=3):
        found = whole.step(TOKENS, rows, 1.0, attending)
        wanted = pair.step(TOKENS, [rows[0], rows[2]], 1.0)
        np.testing.assert_allclose(found.loss_K[[0, 2]], wanted.loss_K, rtol=TOLERANCE)
        assert np.isnan(found.loss_K[1])
    for name, kept in client_factors(whole.bank, 1).items():
        assert all(torch.equal(x, y) for x, y in zip(kept.values(), start[name].values(), strict=True))
    for mine, theirs in ((0, 0), (2, 1)):
        for name, factors in client_factors(pair.bank, theirs).items():
            for x, y in zip(client_factors(whole.bank, mine)[name].values(), factors.values(), strict=True):
                torch.testing.assert_close(x, y, rtol=0, atol=TOLERANCE)


def test_a_client_that_sat_out_goes_on_with_its_own_count_of_steps():
    """AdamW corrects its moments by the steps taken, which then are fewer than the others'."""
    whole = cohort_of(Job(split=False, cut_K=(4, 4, 4)))
    alone = cohort_of(Job(split=False, cut_K=(4,), tail_K=(None,), rank_K=(4,), weight_K=(1.0,)))
    for step, rows in enumerate(random_batches(3, steps=3)):
        attends = step != 1
        whole.step(TOKENS, rows, 1.0, [True, attends, True])
        if attends:
            alone.step(TOKENS, [rows[1]], 1.0)
    for name, factors in client_factors(alone.bank, 0).items():
        for x, y in zip(client_factors(whole.bank, 1)[name].values(), factors.values(), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=TOLERANCE)


def test_the_proximal_term_is_the_gradient_of_half_mu_times_the_squared_distance():
    job = Job(split=False, cut_K=(4, 4, 4), adamw=AdamW(max_grad_norm=None, warmup_steps=0, weight_decay=0.0))
    near, plain = cohort_of(job), cohort_of(job)
    near.proximal = 0.5
    site = near.bank.sites[0].name
    near.begin_round([site])
    with torch.no_grad():
        for cohort in (near, plain):
            cohort.bank.local[site]["B"].add_(1.0)
    for cohort in (near, plain):
        cohort.optimiser.step_clients = lambda *_: None  # keep the gradients
        cohort.step(TOKENS, ROWS, 1.0)
    other = near.bank.sites[1].name
    difference = near.bank.local[site]["B"].grad - plain.bank.local[site]["B"].grad
    torch.testing.assert_close(difference, torch.full_like(difference, 0.5), rtol=0, atol=TOLERANCE)
    assert torch.equal(near.bank.local[other]["B"].grad, plain.bank.local[other]["B"].grad)
