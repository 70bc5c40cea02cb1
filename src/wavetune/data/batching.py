"""Which rows a client trains on at a step, and how they are put together without padding.

A client's rows form an endless sequence of seeded permutations (one an epoch); batches are cut from it, so that a batch
that reaches the end of an epoch goes on with the next one and no row is dropped. For similar lengths in a batch, a pool
of 2^p consecutive batches is sorted by length before it is cut. All is a function of (seed, client, step) and
has no state, so that any step can be computed without those before it.
Legend: K clients, S samples, N tokens, P labelled positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from wavetune.data.templates import TokenSet
from wavetune.errors import ConfigError
from wavetune.seeds import stream
from wavetune.units import Array, Ints


@dataclass(frozen=True)
class Batching:
    """Batch size and bucketing by length.

    bucket `none`: rows in the order of the permutation. `client`: each batch holds rows of similar length; clients draw
    lengths apart, so that at every step some client is slow. `cohort`: besides, all clients' batches at a step come
    from the same length quantile, so that they take similar time and a stacked pass holds similar lengths.
    """

    batch_size: Annotated[int, Ge(1), Le(65536)] = 16
    bucket: Literal["none", "client", "cohort"] = "cohort"
    pool_batches: Annotated[int, Ge(1)] = 8

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; it must be 1 or more")
        if self.pool_batches < 1 or self.pool_batches & (self.pool_batches - 1):
            raise ConfigError(f"pool_batches is {self.pool_batches}; it must be a power of two (1, 2, 4, 8, ...)")


def batch_indices(lengths: Ints, batching: Batching, seed: int, client_id: int, step: int) -> Ints:
    """Rows of a client's batch at its local step `step` (counted over all rounds).

    Args:
        lengths: tokens of each of the client's rows.
        batching: batch size and bucketing.
        seed: of the run.
        client_id: identity of the client.
        step: how many local steps the client has taken before.
    Returns: positions in `lengths`, [batch_size].
    """
    size = batching.batch_size
    pool_batches = _pool_batches(len(lengths), batching)
    pool = step // pool_batches
    rows = _sequence(len(lengths), seed, client_id, pool * pool_batches * size, pool_batches * size)
    if pool_batches == 1:
        return rows
    rank = _rank(batching, seed, client_id, step) // (batching.pool_batches // pool_batches)
    return rows[np.argsort(lengths[rows], kind="stable")][rank * size : (rank + 1) * size]


@dataclass(frozen=True)
class RaggedBatch:
    """Samples of K clients laid end to end; position label_index[i] must predict label_ids[i].

    Of rows with classes, label_index is each sample's last position and label_ids its class, so P is S.
    """

    input_ids: Ints  # [N]
    lengths: Ints  # [S], sums to N
    client_of_sample: Ints  # [S], position of the client in the cohort
    label_index: Ints  # [P], positions in input_ids
    label_ids: Ints  # [P]
    sample_of_label: Ints  # [P]

    def work_by_client(self, num_clients: int) -> dict[str, Array]:
        """Samples, tokens, token_pairs (sum of squared lengths) and labelled positions of each client, [K] each."""
        labelled = np.bincount(self.sample_of_label, minlength=len(self.lengths))
        counts = {
            "samples": np.ones_like(self.lengths),
            "tokens": self.lengths,
            "token_pairs": self.lengths**2,
            "labelled": labelled,
        }
        return {
            name: np.bincount(self.client_of_sample, count, num_clients).astype(np.float64)
            for name, count in counts.items()
        }

    def pieces(self, most_tokens: int) -> list[RaggedBatch]:
        """The same samples in batches of so many tokens at most, in order. A longer sample stands alone."""
        found, token = list[RaggedBatch](), 0
        for part in runs(self.lengths.tolist(), most_tokens):
            first, last = np.searchsorted(self.sample_of_label, [part.start, part.stop]).tolist()
            lengths = self.lengths[part]
            found.append(
                RaggedBatch(
                    self.input_ids[token : token + int(lengths.sum())],
                    lengths,
                    self.client_of_sample[part],
                    self.label_index[first:last] - token,
                    self.label_ids[first:last],
                    self.sample_of_label[first:last] - part.start,
                )
            )
            token += int(lengths.sum())
        return found


def runs(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Consecutive things that together have at most this size; a larger one is alone.

    >>> [(part.start, part.stop) for part in runs([3, 4, 9, 1], 7)]
    [(0, 2), (2, 3), (3, 4)]
    """
    start, total = 0, 0
    for stop, size in enumerate(sizes):
        if stop > start and total + size > most:
            yield slice(start, stop)
            start, total = stop, 0
        total += size
    if sizes:
        yield slice(start, len(sizes))


def runs_by_length(lengths: Ints | Sequence[int], most: int) -> Iterator[Ints]:
    """Positions, shortest first, in groups of at most so many tokens; a longer one is alone.

    >>> [part.tolist() for part in runs_by_length([3, 1, 2, 9], 5)]
    [[1, 2], [0], [3]]
    """
    order = np.argsort(lengths, kind="stable")
    yield from (order[part] for part in runs(np.take(lengths, order).tolist(), most))


def collate(tokens: TokenSet, rows: Sequence[Ints]) -> RaggedBatch:
    """One ragged batch of the clients' rows.

    The last token of a row is a label only and is not fed: nothing is predicted from it. Rows with classes are fed
    whole.

    Args:
        tokens: the tokenised rows.
        rows: for each client of the cohort, which rows.
    """
    chosen = np.concatenate([np.asarray(r, np.int64) for r in rows])
    starts, lengths, labels = tokens.offsets[chosen], tokens.lengths[chosen], tokens.labelled[chosen]
    ends = np.cumsum(lengths)
    if tokens.classes is not None:
        label_index, label_ids = ends - 1, tokens.classes[chosen]
    elif tokens.labels is None:
        label_index = _ranges(ends - labels, labels)
        label_ids = tokens.ids[_ranges(starts + tokens.label_start[chosen], labels)]
    else:  # a label is predicted at the token before it
        places, marked = _ranges(ends - lengths, lengths), tokens.labels[_ranges(starts + 1, lengths)]
        label_index, label_ids = places[marked], tokens.ids[_ranges(starts + 1, lengths)][marked]
    return RaggedBatch(
        input_ids=tokens.ids[_ranges(starts, lengths)].astype(np.int64),
        lengths=lengths,
        client_of_sample=np.repeat(np.arange(len(rows)), [len(r) for r in rows]),
        label_index=label_index,
        label_ids=label_ids.astype(np.int64),
        sample_of_label=np.repeat(np.arange(len(chosen)), labels),
    )


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """Concatenated ranges start, ..., start + count - 1."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))


def _pool_batches(num_rows: int, batching: Batching) -> int:
    # At most half an epoch a pool: a pool over several epochs would hold a row twice, side by side once sorted.
    if batching.bucket == "none":
        return 1
    fitting = max(1, num_rows // (2 * batching.batch_size))
    return min(batching.pool_batches, 1 << (fitting.bit_length() - 1))


def _rank(batching: Batching, seed: int, client_id: int, step: int) -> int:
    # Bit-reversed counting with a random mask: any 2^p aligned steps visit each of the 2^p length quantiles once, so
    # that clients with smaller pools keep to the same quantiles.
    bits = batching.pool_batches.bit_length() - 1
    block, position = divmod(step, batching.pool_batches)
    reverse = int(format(position, f"0{bits}b")[::-1], 2)
    owner = client_id + 1 if batching.bucket == "client" else 0
    return reverse ^ int(stream(seed, "batch order", block, owner).integers(batching.pool_batches))


def _sequence(num_rows: int, seed: int, client_id: int, start: int, count: int) -> Ints:
    first, last = start // num_rows, (start + count - 1) // num_rows
    epochs = np.concatenate([_permutation(num_rows, seed, client_id, epoch) for epoch in range(first, last + 1)])
    return epochs[start - first * num_rows :][:count]


@lru_cache(maxsize=256)
def _permutation(num_rows: int, seed: int, client_id: int, epoch: int) -> Ints:
    order = stream(seed, "batches", epoch, client_id).permutation(num_rows)
    order.flags.writeable = False
    return order
