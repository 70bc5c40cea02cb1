"""Products with bf16 weights are the same to rounding, be they the processor's own or made in fp32 blocks."""

import pytest
import torch

from wavetune.models import products
from wavetune.models.lora import FrozenLinear
from wavetune.models.output_layer import OutputLayer


@pytest.mark.parametrize(("has", "few"), [(True, 16), (False, 16), (False, 1)])
def test_a_product_and_its_gradient_are_those_of_the_rounded_matrices(has, few, monkeypatch):
    monkeypatch.setattr(products, "has_bf16_products", lambda: has)
    monkeypatch.setattr(products, "_FEW_ROWS", few)
    monkeypatch.setattr(products, "_BLOCK_VALUES", 40)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, back = (torch.randn(*s, generator=generator).bfloat16() for s in ((5, 8), (13, 8), (13,), (5, 13)))
    x.requires_grad_()
    y = FrozenLinear(weight, bias, torch.float32)(x)
    y.backward(back.float())
    wide, by, own = weight.double(), back.double(), x.detach().double()
    torch.testing.assert_close(y.detach().double(), own @ wide.t() + bias.double(), rtol=1e-2, atol=2e-2)
    torch.testing.assert_close(x.grad.double(), by @ wide, rtol=1e-2, atol=3e-2)
    head = OutputLayer(weight)
    torch.testing.assert_close(head.logits(x.detach())[0].double(), own @ wide.t(), rtol=1e-2, atol=2e-2)
    torch.testing.assert_close(head.back(back.float(), None).double(), by @ wide, rtol=1e-2, atol=3e-2)


def test_no_wide_copy_of_a_whole_weight_is_made_or_kept(monkeypatch):
    monkeypatch.setattr(products, "has_bf16_products", lambda: False)
    monkeypatch.setattr(products, "_BLOCK_VALUES", 16)
    monkeypatch.setattr(products, "_FEW_ROWS", 1)
    sizes = list[int]()
    x = torch.randn(2, 8).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        FrozenLinear(torch.randn(12, 8).bfloat16(), None, torch.float32)(x).sum().backward()
    assert max(sizes) <= 2 * 12 * 8
    assert max(block.numel() for _, block in products._blocks(torch.randn(12, 8))) <= 16
