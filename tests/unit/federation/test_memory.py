"""How many tokens go through the base at once follows from the model and the machine."""

import os
from pathlib import Path

import pytest

from helpers.training import folder_of
from wavetune import machine_memory
from wavetune.federation.memory import (
    activation_bytes_per_token,
    default_tokens_per_pass,
    give_back_free_heap,
    tokens_of_a_piece,
    tokens_that_fit,
)
from wavetune.models import products
from wavetune.models.backbone import load_backbone


def limit(monkeypatch, backbone, tokens, container=None):
    weights = sum(p.numel() * p.element_size() for p in backbone.model.parameters())
    enough = weights + 8 * tokens * activation_bytes_per_token(backbone)
    there = enough if container is None else 100 * enough
    monkeypatch.setattr(machine_memory.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": there}[name])
    monkeypatch.setattr(machine_memory, "_CONTAINER_LIMIT", Path("nowhere") if container is None else container)
    if container is not None:
        container.write_text(f"{enough}\n", encoding="ascii")


@pytest.mark.parametrize(("tokens", "wanted"), [(10_000, 1024), (300, 300), (3, 64)])
def test_a_pass_takes_what_fits_an_eighth_of_the_memory_and_no_more_than_is_of_use(tokens, wanted, monkeypatch):
    backbone = load_backbone(folder_of("tiny"))
    limit(monkeypatch, backbone, tokens)
    assert default_tokens_per_pass(backbone) == wanted
    assert tokens_that_fit(backbone) == max(tokens, 64)


@pytest.mark.parametrize(("quick", "wanted"), [(True, 2048), (False, 1024)])
def test_a_pass_in_bf16_is_larger_where_the_processor_multiplies_it(quick, wanted, monkeypatch):
    monkeypatch.setattr(products, "has_bf16_products", lambda: quick)
    backbone = load_backbone(folder_of("tiny"), bf16=True)
    limit(monkeypatch, backbone, 10_000)
    assert default_tokens_per_pass(backbone) == wanted


def test_a_containers_limit_counts_as_its_memory(monkeypatch, tmp_path):
    backbone = load_backbone(folder_of("tiny"))
    limit(monkeypatch, backbone, 300, tmp_path / "memory.max")
    assert tokens_that_fit(backbone) == 300


def test_one_clients_rows_are_divided_beyond_what_fits_or_beyond_a_limit_that_helps(monkeypatch):
    backbone = load_backbone(folder_of("tiny"))
    limit(monkeypatch, backbone, 300)
    assert [tokens_of_a_piece(backbone, most) for most in (None, 700, 1)] == [300, 700, 512]


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no resident size to read")
def test_freed_memory_goes_back_to_the_system():
    def resident():
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    pieces = [bytearray(60_000) for _ in range(2000)]
    kept, full = pieces[::100], resident()
    del pieces
    give_back_free_heap()
    assert kept
    assert resident() < full - 60_000_000
