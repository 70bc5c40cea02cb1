"""Adapters of all clients in grouped products, as on an accelerator, against one product for each client."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.adapters import lora_site
from wavetune.models import lora
from wavetune.models.lora import ActiveAdapters, FrozenLinear, StackedLoraLinear, new_bank

RANKS = [3, 8, 5, 1]


def bank_of(own, dtype):
    """Adapters of four clients, of whom `own` hold their copy, with B away from zero."""
    site = lora_site("map", 0, 16, 24)
    bank = new_bank([site], np.array([own]), RANKS, 8, 16.0, seed=1, dtype=dtype)
    for stacks in (bank.local, bank.shared):
        for pair in stacks.values():
            with torch.no_grad():
                pair["B"].add_((pair["A"] != 0).any(1)[:, :, None] * torch.randn(pair["B"].shape, dtype=dtype))
    return site, bank


def pass_through(site, bank, weight, x, dtype):
    active = ActiveAdapters()
    active.use(bank, [0, 2, 1, 3], [5, 0, 7, 4])
    linear = StackedLoraLinear(FrozenLinear(weight, torch.ones(24, dtype=weight.dtype), dtype), site, active)
    y = linear(x)
    used = [t for stacks in (bank.local, bank.shared) for pair in stacks.values() for t in pair.values()]
    (y * torch.arange(24)).square().sum().backward()
    found = [t.grad for t in (x, *used)]
    for t in (x, *used):
        t.grad = None
    return y.detach(), found


@pytest.mark.parametrize("own", [[True] * 4, [False] * 4, [True, False, True, False], [False, True, True, True]])
@pytest.mark.parametrize(
    ("low", "wide", "tolerance"), [(torch.float32, torch.float32, 1e-5), (torch.bfloat16, torch.float32, 2e-2)]
)
def test_grouped_products_give_what_one_product_for_each_client_gives(monkeypatch, own, low, wide, tolerance):
    torch.manual_seed(0)
    site, bank = bank_of(own, wide)
    x, weight = torch.randn(16, 16, dtype=wide).requires_grad_(), torch.randn(24, 16, dtype=low)
    expected, wanted = pass_through(site, bank, weight, x, wide)
    monkeypatch.setattr(lora, "can_group", lambda *_: True)
    y, found = pass_through(site, bank, weight, x, wide)
    for mine, other in zip((y, *found), (expected, *wanted), strict=True):
        assert (mine is None) == (other is None)
        assert mine is None or float((mine - other).norm()) <= tolerance * float(other.norm())


def test_frozen_factors_get_no_gradient(monkeypatch):
    monkeypatch.setattr(lora, "can_group", lambda *_: True)
    site, bank = bank_of([True] * 4, torch.float32)
    bank.local["map"]["A"].requires_grad_(False)
    active = ActiveAdapters()
    active.use(bank, [0, 1, 2, 3], [1, 2, 3, 4])
    weight = torch.randn(24, 16, dtype=torch.float32)
    linear = StackedLoraLinear(FrozenLinear(weight, None, torch.float32), site, active)
    linear(torch.randn(10, 16, dtype=torch.float32)).sum().backward()
    assert bank.local["map"]["A"].grad is None
    assert bank.local["map"]["B"].grad is not None


def test_grouped_products_are_left_to_accelerators_and_widths_that_they_take():
    weight = torch.randn(24, 16, dtype=torch.bfloat16)
    assert not lora.can_group(torch.randn(4, 16), weight)
