"""An adapter of one client behind a linear map, as a stock model calls it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from wavetune.federation.adapters.adapter import Adapter
from wavetune.models.behind import AdaptedMap


@dataclass(frozen=True)
class Narrowed(Adapter):
    """What a map takes, summed up, on what it yields."""

    def forward(self, x, y, matrices):
        return y + (x @ torch.ones(x.shape[1], 1)) * matrices["scale"]


def test_an_adapter_is_given_tokens_in_rows_whatever_the_shape_a_model_has_them_in():
    inner, x = nn.Linear(4, 3), torch.randn(2, 5, 4)
    adapted = AdaptedMap(inner, Narrowed(), {"scale": torch.full((1, 3), 2.0)})
    torch.testing.assert_close(adapted(x), inner(x) + 2 * x.sum(-1, keepdim=True))
