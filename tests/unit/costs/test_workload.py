from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.costs.architecture import PRESETS
from wavetune.costs.memory import Storage, client_memory_bytes
from wavetune.costs.table import CostTable, Workload
from wavetune.costs.workload import SplitWork, layer_costs, split_work
from wavetune.errors import ConfigError

TABLE = CostTable(PRESETS["tiny"], ("q_proj", "v_proj"))
L = TABLE.num_layers
ranks = st.integers(0, 16)


def whole_step(rank: int, work: Workload) -> tuple[float, float]:
    forward = TABLE.forward_flop(work).sum() + rank * TABLE.lora_forward_flop_per_rank(work).sum()
    backward = TABLE.backward_flop(work).sum() + rank * TABLE.lora_backward_flop_per_rank(work).sum()
    return forward + TABLE.head_forward_flop(work), backward + TABLE.head_backward_flop(work)


@given(
    cut_K=st.lists(st.integers(1, L), min_size=1, max_size=4), rank=ranks, u_shape=st.booleans(), seed=st.integers(0, 9)
)
def test_both_sides_of_any_cut_do_the_whole_step(cut_K: list[int], rank: int, u_shape: bool, seed: int):
    rng = np.random.default_rng(seed)
    batches = [Workload.from_lengths(rng.integers(1, 300, 5).tolist(), float(rng.integers(500))) for _ in cut_K]
    fields = (np.array([getattr(b, f) for b in batches]) for f in ("samples", "tokens", "token_pairs", "labelled"))
    split = split_work(TABLE, np.array(cut_K), rank, rank, Workload(*fields), u_shape=u_shape)
    forward_K, backward_K = zip(*(whole_step(rank, batch) for batch in batches), strict=True)
    np.testing.assert_allclose(split.client_forward_flop_K + split.server_forward_flop_K, forward_K, rtol=1e-12)
    np.testing.assert_allclose(split.client_backward_flop_K + split.server_backward_flop_K, backward_K, rtol=1e-12)


def test_each_client_has_its_own_cut_and_rank_in_every_step():
    rng = np.random.default_rng(1)
    tokens, pairs, labelled = (rng.integers(1, 500, size=(3, 2)).astype(float) for _ in range(3))
    work = Workload(np.ones((3, 2)), tokens, pairs, labelled)
    cut_K, rank_K = np.array([1, 4]), np.array([8, 2])
    split = split_work(TABLE, cut_K, rank_K, 16, work)
    for i, k in np.ndindex(3, 2):
        alone = Workload(1.0, *(float(f[i, k]) for f in (tokens, pairs, labelled)))
        one = split_work(TABLE, int(cut_K[k]), int(rank_K[k]), 16, alone)
        for field in SplitWork.__dataclass_fields__:
            assert getattr(split, field)[i, k] == getattr(one, field)


def test_the_head_runs_where_the_last_block_does_or_on_the_client_of_a_u_shape():
    work = Workload(0.0, 0.0, 0.0, labelled=10.0)
    head = float(TABLE.head_forward_flop(work))
    for cut, u_shape, on_client in ((0, False, 0), (L - 1, False, 0), (L, False, 1), (1, True, 1)):
        split = split_work(TABLE, cut, 4, 4, work, u_shape=u_shape)
        assert float(split.client_forward_flop_K) == float(split.client_backward_flop_K) == head * on_client
        assert float(split.server_forward_flop_K) == float(split.server_backward_flop_K) == head * (1 - on_client)


@given(cut=st.integers(1, L), rank=ranks, u_shape=st.booleans(), labelled=st.integers(0, 90))
def test_layer_costs_and_split_work_agree(cut: int, rank: int, u_shape: bool, labelled: int):
    batch_size, num_clients, tokens, pairs = 8, 3, 90.5, 9000.0
    storage = Storage(weight_bytes=2)
    costs = layer_costs(
        TABLE, tokens, labelled, 16, 32,
        batch_size=batch_size, token_pairs_per_sample=pairs, storage=storage, u_shape=u_shape,
    )  # fmt: skip
    batch = Workload(*(batch_size * np.full(num_clients, x) for x in (1.0, tokens, pairs, float(labelled))))
    split = split_work(TABLE, cut, rank, rank, batch, u_shape=u_shape)
    forward_L = batch_size * (costs.forward_flop_L + rank * costs.lora_forward_flop_per_rank_L)
    backward_L = batch_size * (costs.backward_flop_L + rank * costs.lora_backward_flop_per_rank_L)
    np.testing.assert_allclose(split.client_forward_flop_K, forward_L[:cut].sum(), rtol=1e-12)
    np.testing.assert_allclose(split.client_backward_flop_K, backward_L[:cut].sum(), rtol=1e-12)
    server = split.server_forward_flop_K.sum(), split.server_backward_flop_K.sum()
    expected = num_clients * forward_L[cut:].sum(), num_clients * backward_L[cut:].sum()
    np.testing.assert_allclose(server, expected, rtol=1e-12)
    memory = (costs.memory_bytes_L + rank * costs.memory_bytes_per_rank_L)[:cut].sum()
    np.testing.assert_allclose(client_memory_bytes(TABLE, cut, rank, batch, storage, u_shape=u_shape), memory)
    assert costs.activation_bits_L.tolist() == [tokens * 64 * 16] * L
    assert costs.lora_bits_per_rank_L.tolist() == [(64 + 64 + 64 + 32) * 32] * L


def test_equal_lengths_need_no_token_pairs():
    given_pairs = layer_costs(TABLE, 100, 50, 16, 32, batch_size=4, token_pairs_per_sample=100.0**2)
    np.testing.assert_array_equal(
        layer_costs(TABLE, 100, 50, 16, 32, batch_size=4).forward_flop_L, given_pairs.forward_flop_L
    )


@pytest.mark.parametrize(("cut", "rank", "named"), [(L + 1, 1, "cut"), (-1, 1, "cut"), (1, -1, "rank_K")])
def test_impossible_cuts_and_ranks_are_refused(cut: int, rank: int, named: str):
    work = Workload.from_lengths([5], labelled=1)
    with pytest.raises(ConfigError, match=named):
        split_work(TABLE, np.array([1, cut]), rank, 1, work)
    with pytest.raises(ConfigError, match="from 1 to 4"):
        split_work(TABLE, 0, 1, 1, work, u_shape=True)


def test_a_cut_at_zero_leaves_all_to_the_server():
    split = split_work(TABLE, np.zeros(2), 4, 4, Workload.from_lengths([5], labelled=1))
    assert split.client_forward_flop_K.tolist() == split.client_backward_flop_K.tolist() == [0.0, 0.0]
    assert (split.server_forward_flop_K > 0).all()
