from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.costs.architecture import PRESETS
from wavetune.costs.table import CostTable, Workload
from wavetune.errors import ConfigError
from wavetune.units import Array

TABLES = {name: CostTable(a, a.default_lora_targets) for name, a in PRESETS.items()}
COSTS = (
    CostTable.forward_flop,
    CostTable.backward_flop,
    CostTable.lora_forward_flop_per_rank,
    CostTable.lora_backward_flop_per_rank,
)
lengths = st.lists(st.integers(0, 2048), min_size=1, max_size=6)


def test_tiny_llama_by_hand():
    # d = 64, kv width 32, inner 128: q and o 64 x 64, k and v 64 x 32, gate, up and down 64 x 128.
    weights = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128
    work = Workload.from_lengths([10], labelled=3)
    table = TABLES["tiny"]
    attention = 4 * 64 * 10**2
    assert table.forward_flop(work).tolist() == [2 * 10 * weights + attention] * 4
    # Block 0 with q and v adapted: no input gradient of q, k, v, and no gradient of the keys.
    first = 2 * 10 * (weights - 64 * 64 - 2 * 64 * 32) + 2 * attention - 2 * 64 * 10**2
    later = 2 * 10 * weights + 2 * attention
    assert table.backward_flop(work).tolist() == [first, later, later, later]
    lora = (64 + 64) + (64 + 32)
    assert table.lora_values_per_rank_L.tolist() == [lora] * 4
    assert table.lora_forward_flop_per_rank(work).tolist() == [2 * 10 * lora] * 4
    spared = 2 * 10 * (64 + 64)
    assert table.lora_backward_flop_per_rank(work).tolist() == [4 * 10 * lora - spared, *[4 * 10 * lora] * 3]
    assert table.head_forward_flop(work) == table.head_backward_flop(work) == 2 * 3 * 64 * 512


@pytest.mark.parametrize(("name", "values"), [("gpt2", 4 * 768), ("gpt2-medium", 4 * 1024)])
def test_gpt2_adapters_have_four_widths_per_rank_and_block(name: str, values: int):
    assert set(TABLES[name].lora_values_per_rank_L) == {values}


@pytest.mark.parametrize("name", TABLES)
def test_frozen_backward_is_the_forward_projections_and_twice_its_attention(name: str):
    table = TABLES[name]
    tokens_only, pairs_only = Workload(1.0, 7.0, 0.0, 0.0), Workload(1.0, 0.0, 49.0, 0.0)
    np.testing.assert_array_equal(table.backward_flop(tokens_only)[1:], table.forward_flop(tokens_only)[1:])
    np.testing.assert_array_equal(table.backward_flop(pairs_only)[1:], 2 * table.forward_flop(pairs_only)[1:])
    assert (table.backward_flop(tokens_only)[0] < table.backward_flop(tokens_only)[1:]).all()


@given(first=lengths, second=lengths, labelled=st.integers(0, 5000))
def test_costs_of_two_batches_together_are_the_sum_of_both(first: list[int], second: list[int], labelled: int):
    table = TABLES["smollm2-135m"]
    apart = [Workload.from_lengths(first, labelled), Workload.from_lengths(second, 1)]
    both = Workload.from_lengths(first + second, labelled + 1)
    for cost in COSTS:
        np.testing.assert_allclose(cost(table, both), sum(cost(table, work) for work in apart), rtol=1e-12)
    head = [float(table.head_forward_flop(work)) for work in (*apart, both)]
    assert head[0] + head[1] == head[2]


def test_arrays_of_work_cost_what_their_elements_do():
    table = TABLES["qwen2.5-0.5b"]
    rng = np.random.default_rng(0)
    fields: list[Array] = [rng.integers(1, 1000, size=(3, 2)).astype(float) for _ in range(4)]
    for cost in (*COSTS, CostTable.head_forward_flop):
        together = cost(table, Workload(*fields))
        for index in np.ndindex(3, 2):
            np.testing.assert_array_equal(together[index], cost(table, Workload(*(float(f[index]) for f in fields))))


def test_a_gradient_at_the_input_is_dearer_only_in_the_first_block():
    work = Workload.from_lengths([100], labelled=0)
    table = TABLES["llama-3.2-1b"]
    needed = CostTable(table.architecture, table.lora_targets, input_needs_grad=True)
    assert needed.backward_flop(work)[0] > table.backward_flop(work)[0]
    np.testing.assert_array_equal(needed.backward_flop(work)[1:], table.backward_flop(work)[1:])
    np.testing.assert_array_equal(needed.forward_flop(work), table.forward_flop(work))


def test_a_wrong_target_is_refused_at_once():
    with pytest.raises(ConfigError, match="'qproj'"):
        CostTable(PRESETS["tiny"], ("qproj",))
