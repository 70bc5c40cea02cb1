"""Weights in whole steps of int8: multiplied in fp32 as they are, and never wide as a whole."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers.decoders import decoder
from helpers.training import folder_of
from wavetune.errors import ModelError
from wavetune.models import products
from wavetune.models.backbone import load_backbone, prepare_backbone
from wavetune.models.lora import FrozenLinear
from wavetune.models.part import load_part
from wavetune.models.products import in_steps
from wavetune.models.ragged import ATTENTION, ragged_layout
from wavetune.models.self_check import checked

IDS, LENGTHS = torch.arange(3, 15), [5, 7]


def hidden(backbone, ids=IDS, **options):
    return backbone.forward(ids, ragged_layout(LENGTHS), **options)


def maps(backbone):
    return [m for m in backbone.blocks.modules() if isinstance(m, FrozenLinear)]


def test_a_value_is_off_by_at_most_half_a_step_of_its_channel():
    weight = torch.randn(9, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(9)[:, None]
    whole, step_O = in_steps(weight)
    assert whole.dtype == torch.int8
    off = (whole * step_O[:, None] - weight).abs()
    assert (off <= 0.5001 * step_O[:, None]).all()
    assert torch.equal(whole[0], torch.zeros(8, dtype=torch.int8))  # a channel of zeros has a step too
    assert whole[1:].abs().amax(1).tolist() == [127] * 8


@pytest.mark.parametrize("block", [1 << 22, 40])
def test_a_product_and_its_gradient_are_those_of_the_steps_in_fp64(block, monkeypatch):
    monkeypatch.setattr(products, "_BLOCK_VALUES", block)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, back = (torch.randn(*s, generator=generator) for s in ((5, 8), (13, 8), (13,), (5, 13)))
    whole, step_O = in_steps(weight)
    wide = whole.double() * step_O.double()[:, None]
    y = FrozenLinear(whole, bias, torch.float32, step_O)(x.requires_grad_())
    y.backward(back)
    torch.testing.assert_close(y.detach().double(), x.detach().double() @ wide.t() + bias, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), back.double() @ wide, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["tiny", "tiny-gpt2", "tiny-bert"])
def test_a_model_computes_with_every_map_of_its_blocks_in_int8_and_all_else_in_fp32(model):
    backbone, found = (load_backbone(folder_of(model), int8=int8) for int8 in (False, True))
    assert {m.weight.dtype for m in maps(found)} == {torch.int8}
    others = [p for n, p in found.model.named_parameters() if not any(n.endswith(w) for w in ("weight", "step_O"))]
    assert all(p.dtype == torch.float32 for p in others)
    assert not any(isinstance(m, nn.Linear) for m in found.blocks.modules())
    assert 0 < found.weight_error < 0.01
    assert found.exact
    error = (hidden(found) - hidden(backbone)).norm() / hidden(backbone).norm()
    assert 0 < error < 0.02


def test_a_bf16_checkpoint_is_opened_as_it_is_stored_and_its_embedding_stays_so(tmp_path):
    decoder("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    found = load_backbone(tmp_path, int8=True)
    assert found.model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert found.head.weight.dtype == torch.float32
    assert {m.weight.dtype for m in maps(found)} == {torch.int8}
    assert hidden(found).dtype == torch.float32


def test_two_halves_in_int8_are_the_whole_model_to_the_bit():
    folder = folder_of("tiny")
    whole = load_backbone(folder, int8=True)
    cut, hold = 1, []
    first = load_part(folder, range(cut), False, int8=True)
    last = load_part(folder, range(cut, whole.num_layers), True, int8=True)
    hidden(first, between=lambda done, h: hold.append(h) or h if done == cut else h)
    got = hidden(last, between=lambda done, h: hold[0] if done == cut else h)
    assert torch.equal(got, hidden(whole))


def test_a_model_without_maps_that_could_be_in_int8_is_refused(monkeypatch):
    def without_maps(model, unadapted):
        structure, way = checked(model, unadapted)
        return replace(structure, linear_maps=frozenset()), way

    monkeypatch.setattr("wavetune.models.backbone.checked", without_maps)
    with pytest.raises(ModelError, match=r"run\.precision=bf16"):
        prepare_backbone(decoder("llama", ATTENTION), (), int8=True)
