"""Products in fp32 that a matrix unit of bf16 makes are as near to the exact ones as PyTorch's, row by row the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from wavetune.models import products
from wavetune.models.lora import FrozenLinear
from wavetune.models.tiles import has_tiles, multiplied

pytestmark = pytest.mark.skipif(not has_tiles(), reason="needs a processor with AMX")


def drawn(seed: int, rows: int, width: int, columns: int, back: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (width, columns) if back else (columns, width)
    return torch.randn(rows, width, generator=generator), torch.randn(shape, generator=generator)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 200),
    width=st.sampled_from([32, 64, 160, 768, 800, 1600]),
    columns=st.sampled_from([32, 64, 192, 736]),
    back=st.booleans(),
    into=st.booleans(),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
)
def test_products_are_as_near_to_the_exact_ones_as_those_of_pytorch(rows, width, columns, back, into, scale):
    x, weight = drawn(rows, rows, width, columns, back)
    x *= scale
    right = weight if back else weight.t()
    exact = x.double() @ right.double()
    room = torch.full((rows + 3, columns), torch.nan) if into else None
    found = multiplied(x, weight, back, room)
    if room is not None:
        assert found.data_ptr() == room.data_ptr()
        assert room[rows:].isnan().all()
    at_most = 1.2 * (x @ right - exact).abs().square().sum().sqrt() + 1e-7 * exact.square().sum().sqrt()
    assert (found - exact).square().sum().sqrt() <= at_most


def test_a_row_depends_neither_on_the_others_nor_on_threads(monkeypatch):
    x, weight = drawn(0, 301, 1024, 544)
    usual, threads = multiplied(x, weight), torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(multiplied(x, weight), usual)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(multiplied(x[37:120], weight), usual[37:120])
    monkeypatch.setattr("wavetune.models.tiles._MOST_ROWS", 64)
    assert torch.equal(multiplied(x, weight), usual)


def test_what_is_not_a_number_stays_in_its_row():
    x, weight = drawn(1, 70, 96, 64)
    usual = multiplied(x, weight)
    x[5, 7], x[69, 0] = torch.nan, torch.inf
    found = multiplied(x, weight)
    assert found[[5, 69]].isnan().all()
    others = [i for i in range(70) if i not in (5, 69)]
    assert torch.equal(found[others], usual[others])


def test_rows_and_weights_that_are_parts_of_others_are_read_where_they_are():
    x, weight = drawn(2, 40, 128, 256)
    within, part = torch.randn(40, 200), torch.randn(256, 160)
    within[:, 10:138], part[:, 32:] = x, weight
    assert torch.equal(multiplied(within[:, 10:138], part[:, 32:]), multiplied(x, weight))
    assert torch.equal(multiplied(x[:1].expand(40, 128), weight), multiplied(x[:1], weight).expand(40, 256))
    assert torch.equal(multiplied(x.t().contiguous().t(), weight), multiplied(x, weight))
    assert torch.equal(multiplied(x.view(2, 20, 128), weight), multiplied(x, weight).view(2, 20, 256))


def test_large_maps_and_their_gradients_are_made_of_tiles_unless_they_are_counted(monkeypatch):
    calls = list[tuple[int, ...]]()
    monkeypatch.setattr(
        "wavetune.models.tiles.multiplied", lambda *a, **k: calls.append(a[1].shape) or multiplied(*a, **k)
    )
    x, weight = drawn(3, 256, 256, 288)
    bias, grad = torch.randn(288), torch.randn(256, 288)
    x.requires_grad_()
    y = FrozenLinear(weight, bias, torch.float32)(x)
    y.backward(grad)
    assert len(calls) == 2
    torch.testing.assert_close(y.detach(), x.detach() @ weight.t() + bias, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(x.grad, grad @ weight, rtol=1e-5, atol=1e-4)
    with FlopCounterMode(display=False) as counted:
        products.product(x.detach(), weight)
    assert (counted.get_total_flops(), len(calls)) == (2 * 256 * 256 * 288, 2)
    products.product(x.detach()[:255], weight)
    products.product(x.detach().double(), weight.double())
    products.product(torch.randn(256, 250), torch.randn(288, 250))
    assert len(calls) == 2
