"""A bf16 model that is opened as it is stored computes the numbers of one that is opened in fp32 and narrowed."""

import gc
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers.decoders import FAMILIES, decoder
from wavetune.models import backbone as module
from wavetune.models.backbone import load_backbone
from wavetune.models.narrow import stored_in_bf16
from wavetune.models.part import load_part
from wavetune.models.ragged import ragged_layout
from wavetune.models.stock import load_stock_model

IDS, LAYOUT = torch.arange(5, 17), ragged_layout([7, 5])


def stored(family, folder, dtype=torch.bfloat16):
    decoder(family).to(dtype).save_pretrained(folder)
    return folder


def numbers(backbone):
    hidden = backbone.forward(IDS, LAYOUT)
    at = torch.tensor([2, 6, 9])
    return hidden, backbone.labelled_loss(hidden, at, IDS[at], torch.ones(3))[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_opened_as_they_are_stored_give_the_same_numbers_to_the_bit(family, tmp_path, monkeypatch):
    folder = stored(family, tmp_path)
    found = numbers(load_backbone(folder, bf16=True))
    monkeypatch.setattr(module, "opened_as", lambda _folder, dtype, _bf16: dtype)
    wanted = numbers(load_backbone(folder, bf16=True))
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, theirs)


def test_no_matrix_of_a_bf16_model_is_wide_at_any_time(tmp_path, monkeypatch):
    folder, widened = stored("llama", tmp_path), []
    monkeypatch.setattr(module, "widen_others", spied(module.widen_others, widened))
    backbone = load_backbone(folder, bf16=True)
    assert all(p.dtype == torch.bfloat16 for p in backbone.model.parameters() if p.dim() > 1)
    assert all(p.dtype == torch.float32 for p in backbone.model.parameters() if p.dim() == 1)
    assert widened == [torch.bfloat16]
    part = load_part(folder, range(1), head=False, bf16=True)
    assert part.dtype == torch.float32


def spied(widen, seen):
    def watching(model, stay):
        seen.append(model.dtype)
        return widen(model, stay)

    return watching


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what a process has mapped")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_file_whose_matrices_were_made_narrow_is_mapped_no_longer(precision, tied, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_stock_model", load_stock_model)  # the tests' own keeps what it read
    config = deepcopy(FAMILIES["llama"])
    config.update({"tie_word_embeddings": tied, "num_hidden_layers": 6})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    mapped = Path("/proc/self/maps")
    backbone = load_backbone(tmp_path, bf16=precision == "bf16", int8=precision == "int8")
    gc.collect()
    assert str(tmp_path) not in mapped.read_text()
    assert all(torch.isfinite(number).all() for number in numbers(backbone))
    _as_it_is = load_backbone(tmp_path)
    assert str(tmp_path) in mapped.read_text()


def test_what_is_stored_in_another_precision_is_not_taken_for_bf16(tmp_path):
    assert stored_in_bf16(stored("llama", tmp_path / "narrow"))
    assert not stored_in_bf16(stored("llama", tmp_path / "wide", torch.float32))
    assert not stored_in_bf16(tmp_path / "nowhere")
