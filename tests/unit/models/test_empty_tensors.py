"""Models that are built without PyTorch's operators in Python are the models that transformers opens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaModel

from wavetune.models.resolve import resolve_model
from wavetune.models.stock import RangesOfValues, load_stock_model


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _same(found: Any, wanted: Any) -> bool:
    ours, theirs = _tensors(found), _tensors(wanted)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_ranges_have_values_and_initial_values_of_tensors_without_storage_are_not_drawn() -> None:
    before = torch.get_rng_state()
    with RangesOfValues(), torch.device("meta"):
        table, places = torch.nn.Embedding(4, 2), torch.arange(3)
    assert table.weight.is_meta
    assert places.tolist() == [0, 1, 2]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_has_the_weights_and_buffers_that_transformers_gives_it() -> None:
    folder = resolve_model("tiny").folder
    assert _same(load_stock_model(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def test_a_model_that_mixes_ranges_with_tensors_without_storage_is_opened_too(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, build, tried = resolve_model("tiny").folder, LlamaModel.__init__, list[torch.device]()

    def mixing(self: Any, *args: Any, **named: Any) -> None:
        places = torch.arange(3)
        tried.append(places.device)
        torch.add(torch.ones(3), places)
        build(self, *args, **named)

    monkeypatch.setattr(LlamaModel, "__init__", mixing)
    assert _same(load_stock_model(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    assert {device.type for device in tried} == {"cpu", "meta"}
