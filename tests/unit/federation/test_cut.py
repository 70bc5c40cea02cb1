import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.training import random_rows, tokens_of
from wavetune.data.batching import collate
from wavetune.federation.codecs import Bf16, Fp32, Int8
from wavetune.federation.cut import Crossing, CutLink, Layout
from wavetune.federation.door import Door

EXACT = (Fp32(), Fp32())


def crossed(x, crossings, upstream, codecs=EXACT):
    x = x.clone().requires_grad_()
    link = CutLink(Door(), *codecs)
    out = link.cross(x, crossings)
    (gradient,) = torch.autograd.grad(out, x, upstream)
    return out.detach(), gradient, link.door.take()


@given(weight=st.floats(1e-3, 1.0), to_server=st.booleans())
def test_value_passes_and_gradient_is_rescaled_by_the_clients_weight(weight, to_server):
    """Towards the client by 1/w_k, so that it sees its own mean loss; towards the server by w_k, back into the sum."""
    x, upstream = torch.randn(6, 4), torch.randn(6, 4)
    out, gradient, _ = crossed(x, [Crossing(0, 2, 5, weight, to_server)], upstream)
    assert torch.equal(out, x)
    wanted = upstream.clone()
    wanted[2:5] *= 1 / weight if to_server else weight
    torch.testing.assert_close(gradient, wanted)


def test_there_and_back_again_leaves_the_clients_own_gradient():
    x, upstream = torch.randn(3, 4), torch.randn(3, 4)
    twice = [Crossing(0, 0, 3, 0.2, to_server=True), Crossing(0, 0, 3, 0.2, to_server=False)]
    out, gradient, bits = crossed(x, twice, upstream)
    assert torch.equal(out, x)
    torch.testing.assert_close(gradient, upstream)
    assert dict(bits) == {
        (kind, 0): 32 * 12 for kind in ("activations_up", "activations_down", "gradients_up", "gradients_down")
    }


def test_tokens_of_clients_that_do_not_cross_are_untouched():
    x, upstream = torch.randn(6, 4), torch.randn(6, 4)
    out, gradient, bits = crossed(x, [Crossing(1, 2, 4, 0.5, to_server=True)], upstream, (Int8(0), Int8(0)))
    for rows in (slice(0, 2), slice(4, 6)):
        assert torch.equal(out[rows], x[rows])
        assert torch.equal(gradient[rows], upstream[rows])
    assert not torch.equal(out[2:4], x[2:4])
    assert {client for _, client in bits} == {1}


def test_activations_and_gradients_have_codecs_of_their_own():
    x, upstream = torch.randn(2, 8), torch.randn(2, 8)
    crossing = [Crossing(0, 0, 2, 0.25, to_server=True)]
    out, gradient, bits = crossed(x, crossing, upstream, (Bf16(), Int8(1)))
    assert torch.equal(out, x.bfloat16().float())
    assert torch.equal(gradient, Int8(1).decode(Int8(1).encode(upstream * 4)))
    assert dict(bits) == {("activations_up", 0): Bf16().bits(2, 8), ("gradients_down", 0): Int8(1).bits(2, 8)}


def test_gradient_is_rescaled_before_it_is_sent_to_a_client_and_after_it_reached_the_server():
    """So that what crosses is always the client's own gradient, whatever its weight."""
    seen = {}

    def watch(kind, _client, payload):
        seen[kind] = payload["values"].clone()
        return payload

    x, upstream = torch.randn(2, 4, requires_grad=True), torch.randn(2, 4)
    link = CutLink(Door(watch), Fp32(), Fp32())
    link.cross(x, [Crossing(0, 0, 1, 0.1, to_server=True), Crossing(1, 1, 2, 0.1, to_server=False)]).backward(upstream)
    torch.testing.assert_close(seen["gradients_down"], upstream[:1] / 0.1)
    torch.testing.assert_close(seen["gradients_up"], upstream[1:])


@pytest.mark.parametrize("crossings", [[], ()])
def test_without_a_crossing_nothing_is_copied_or_metered(crossings):
    x, link = torch.randn(2, 4), CutLink(Door(), Fp32(), Fp32())
    assert link.cross(x, crossings) is x
    assert not link.door.take()


def test_gradients_cross_back_though_nothing_in_front_of_the_cut_is_trained():
    link = CutLink(Door(), Fp32(), Fp32())
    link.cross(torch.randn(2, 4), [Crossing(0, 0, 2, 0.5, to_server=True)]).sum().backward()
    assert link.door.take() == {("activations_up", 0): 2 * 4 * 32, ("gradients_down", 0): 2 * 4 * 32}


def test_a_layout_tells_each_clients_rows_apart_and_no_position_of_labels_that_stay():
    batch = collate(tokens_of(random_rows()), [np.array([0, 3]), np.array([5])])
    first, second = (Layout.of(batch, position, labels_stay=False) for position in (0, 1))
    assert first.lengths + second.lengths == tuple(batch.lengths)
    shifted = [place + sum(first.lengths) for place in second.label_positions]
    assert [*first.label_positions, *shifted] == batch.label_index.tolist()
    assert Layout.of(batch, 1, labels_stay=True) == (second.lengths, ())
