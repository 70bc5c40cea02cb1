from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.data import batching
from wavetune.data.batching import Batching, batch_indices, collate
from wavetune.data.examples import Example, Turn
from wavetune.data.templates import PlainTemplate, tokenise
from wavetune.errors import ConfigError

BUCKETS = ("none", "client", "cohort")


def codes(text):
    return [ord(c) for c in text]


def lengths_of(num_rows, seed=0):
    return np.random.default_rng(seed).integers(5, 200, num_rows)


def epoch(lengths, settings, steps, client_id=0, seed=0):
    return [batch_indices(lengths, settings, seed, client_id, step) for step in range(steps)]


@given(
    st.integers(1, 90),
    st.integers(1, 12),
    st.sampled_from(BUCKETS),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(0, 5),
    st.integers(1, 4),
)
def test_after_any_number_of_pools_all_rows_were_used_equally_often(num_rows, size, bucket, pool, client_id, pools):
    settings = Batching(size, bucket, pool)
    batches = epoch(lengths_of(num_rows), settings, pools * pool, client_id)
    assert all(len(batch) == size for batch in batches)
    used = np.bincount(np.concatenate(batches), minlength=num_rows)
    assert used.max() - used.min() <= 1


@pytest.mark.parametrize("bucket", BUCKETS)
def test_an_epoch_of_whole_pools_uses_every_row_once(bucket):
    batches = epoch(lengths_of(128), Batching(4, bucket, 8), 32)
    assert sorted(np.concatenate(batches)) == list(range(128))
    following = [batch_indices(lengths_of(128), Batching(4, bucket, 8), 0, 0, step) for step in range(32, 64)]
    assert sorted(np.concatenate(following)) == list(range(128))
    assert [b.tolist() for b in following] != [b.tolist() for b in batches]


@pytest.mark.parametrize("bucket", BUCKETS)
def test_any_step_is_computed_without_those_before_it(bucket):
    lengths, settings = lengths_of(75), Batching(8, bucket, 4)
    in_order = epoch(lengths, settings, 40, client_id=3)
    for step in (39, 0, 17, 23, 8):
        batching._permutation.cache_clear()
        assert batch_indices(lengths, settings, 0, 3, step).tolist() == in_order[step].tolist()


@pytest.mark.parametrize("bucket", BUCKETS)
def test_clients_and_seeds_have_their_own_batches(bucket):
    lengths, settings = lengths_of(200), Batching(8, bucket)
    batches = {
        tuple(np.concatenate(epoch(lengths, settings, 8, client_id, seed))) for client_id in (0, 1) for seed in (0, 1)
    }
    assert len(batches) == 4


def test_bucketing_makes_lengths_in_a_batch_similar():
    lengths = lengths_of(1000)
    spread = {b: np.mean([lengths[rows].std() for rows in epoch(lengths, Batching(8, b), 80)]) for b in BUCKETS}
    assert spread["client"] < 0.3 * spread["none"]
    assert spread["cohort"] < 0.3 * spread["none"]


def test_cohort_bucketing_makes_all_clients_long_at_the_same_step():
    lengths_K = [lengths_of(rows, seed) for seed, rows in enumerate((2000, 900, 300, 64))]

    def correlation(bucket):
        mean_KI = [
            [lengths[rows].mean() for rows in epoch(lengths, Batching(8, bucket), 96, k)]
            for k, lengths in enumerate(lengths_K)
        ]
        return np.corrcoef(mean_KI)[0, 1:]

    assert (correlation("cohort") > 0.8).all()
    assert (np.abs(correlation("client")) < 0.5).all()


def test_a_client_with_fewer_rows_than_a_batch_repeats_them_evenly():
    rows = batch_indices(lengths_of(3), Batching(8), 0, 0, 5)
    assert sorted(np.bincount(rows, minlength=3)) == [2, 3, 3]


def test_misuse_is_named():
    with pytest.raises(ConfigError, match="pool_batches is 6; it must be a power of two"):
        Batching(pool_batches=6)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        Batching(batch_size=0)


TEXTS = st.lists(st.tuples(st.text("ab", max_size=6), st.text("xy", min_size=1, max_size=6)), min_size=1, max_size=6)


@given(TEXTS, st.data())
def test_collate_lays_rows_end_to_end_as_a_loop_would(tokenizer_class, texts, data):
    tokens = tokenise([Example(p, a) for p, a in texts], tokenizer_class(), PlainTemplate(), 50)
    row = st.integers(0, len(texts) - 1)
    clients = data.draw(st.lists(st.lists(row, min_size=1, max_size=4), min_size=1, max_size=3))
    batch = collate(tokens, [np.array(rows) for rows in clients])

    inputs, label_index, label_ids, work = [], [], [], np.zeros((4, len(clients)))
    for k, rows in enumerate(clients):
        for index in rows:
            ids, start = tokens.row(index).tolist(), int(tokens.label_start[index])
            label_index += [len(inputs) + position - 1 for position in range(start, len(ids))]
            label_ids += ids[start:]
            inputs += ids[:-1]
            work[:, k] += [1, len(ids) - 1, (len(ids) - 1) ** 2, len(ids) - start]
    assert batch.input_ids.tolist() == inputs
    assert batch.label_index.tolist() == label_index
    assert batch.label_ids.tolist() == label_ids
    assert batch.lengths.tolist() == [len(tokens.row(i)) - 1 for rows in clients for i in rows]
    assert batch.client_of_sample.tolist() == [k for k, rows in enumerate(clients) for _ in rows]
    assert batch.input_ids.dtype == np.int64
    told = batch.work_by_client(len(clients))
    for name, expected in zip(("samples", "tokens", "token_pairs", "labelled"), work, strict=True):
        assert told[name].tolist() == expected.tolist()


def test_collate_predicts_every_marked_token_from_the_one_before_it(tokenizer):
    turns = [Turn("user", "ab"), Turn("assistant", "x"), Turn("user", "c"), Turn("assistant", "yz")]
    example = Example("User: ab", "yz", turns=tuple(turns[:3]), reply=turns[3])
    tokens = tokenise([example, Example("p", "q")], tokenizer, PlainTemplate(), 50)
    batch = collate(tokens, [np.array([1, 0]), np.array([0])])
    assert batch.label_ids.tolist() == [*codes("q"), 1, *(2 * [*codes("x"), 1, *codes("yz"), 1])]
    before = [batch.input_ids[i] for i in batch.label_index]
    assert before == [*codes("\nq"), *(2 * [*codes("\nx"), *codes("\nyz")])]
    assert batch.sample_of_label.tolist() == [0, 0, *(5 * [1]), *(5 * [2])]
    assert tokens.labelled.tolist() == [5, 2]
