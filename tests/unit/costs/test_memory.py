from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.costs.architecture import PRESET_CONFIGS, PRESETS, Architecture
from wavetune.costs.memory import Storage, client_memory_bytes
from wavetune.costs.table import CostTable, Workload
from wavetune.errors import ConfigError

TABLE = CostTable(PRESETS["tiny"], ("q_proj", "v_proj"))
UNTIED = CostTable(
    Architecture.from_config(PRESET_CONFIGS["tiny"] | {"tie_word_embeddings": False}), TABLE.lora_targets
)
NOTHING = Workload(0.0, 0.0, 0.0, 0.0)
BATCH = Workload.from_lengths([40, 60], labelled=50)


@pytest.mark.parametrize("u_shape", [False, True])
def test_a_client_of_all_blocks_holds_every_weight_once(u_shape: bool):
    for table in (TABLE, UNTIED):
        held = float(client_memory_bytes(table, 4, 0, NOTHING, u_shape=u_shape))
        assert held == 4 * table.architecture.num_parameters


def test_bf16_halves_the_weights_alone():
    half = client_memory_bytes(TABLE, 2, 4, BATCH, Storage(weight_bytes=2))
    weights = client_memory_bytes(TABLE, 2, 0, NOTHING)
    assert client_memory_bytes(TABLE, 2, 4, BATCH) - half == weights / 2


def test_an_adapter_takes_value_gradient_and_two_moments():
    assert client_memory_bytes(TABLE, 3, 5, NOTHING) - client_memory_bytes(TABLE, 3, 0, NOTHING) == 3 * 5 * 224 * 16


@given(cut=st.integers(1, 3), rank=st.integers(1, 8), u_shape=st.booleans())
def test_client_memory_grows_with_cut_rank_and_batch(cut: int, rank: int, u_shape: bool):
    def memory(cut: int, rank: int, work: Workload) -> float:
        return float(client_memory_bytes(TABLE, cut, rank, work, u_shape=u_shape))

    base = memory(cut, rank, BATCH)
    assert base < memory(cut + 1, rank, BATCH)
    assert base < memory(cut, rank + 1, BATCH)
    assert base < memory(cut, rank, Workload.from_lengths([40, 61], labelled=50))


def test_logits_stop_growing_at_one_chunk():
    storage = Storage(logit_values=10 * 512)
    memory = [
        float(client_memory_bytes(TABLE, 4, 4, Workload(1.0, 99.0, 99.0**2, n), storage)) for n in (9, 10, 11, 12)
    ]
    growth = np.diff(memory)
    assert growth[0] - growth[1] == 2 * 4 * 512
    assert growth[1] == growth[2] == (2 * 64 + 1) * 4


def test_clients_may_differ_in_cut_rank_and_batch():
    work = Workload(np.ones(2), np.array([50.0, 70.0]), np.array([9e3, 1e4]), np.array([3.0, 4.0]))
    together = client_memory_bytes(TABLE, np.array([1, 4]), np.array([2, 8]), work)
    alone = [
        float(client_memory_bytes(TABLE, 1, 2, Workload(1.0, 50.0, 9e3, 3.0))),
        float(client_memory_bytes(TABLE, 4, 8, Workload(1.0, 70.0, 1e4, 4.0))),
    ]
    assert together.tolist() == alone


def test_impossible_cuts_and_ranks_are_refused():
    with pytest.raises(ConfigError, match="cut"):
        client_memory_bytes(TABLE, 5, 1, BATCH)
    with pytest.raises(ConfigError, match="rank"):
        client_memory_bytes(TABLE, 1, -1, BATCH)
