"""How the tokens of a ragged batch stand in what a model is given: packed in one row, or a padded row for each sample.

A packed row computes no padding, but needs the ragged attention and positions from outside. Padded rows run in every
stock model, with its own attention.

Legend: N tokens, S rows, T longest row, P = S T, D width.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from wavetune.models.ragged import BranchedLayout, KeysBefore, RaggedLayout, attending


class PackedRow:
    """All tokens in one row, `[1, N]`; the first token of a sample has position `first_position`, or stands behind the
    keys that are `before` it.
    """

    def __init__(self, layout: RaggedLayout, first_position: int, before: KeysBefore | None = None) -> None:
        self.layout, self.before = layout, before
        self.first_position = first_position

    def inputs(self, ids_N: Tensor) -> dict[str, Tensor]:
        """Arguments of the model's forward."""
        positions_N = self.layout.positions_N + self.first_position
        # with a mask, transformers does not look for samples in the positions: the layout tells them apart
        return {
            "input_ids": ids_N[None],
            "attention_mask": torch.ones_like(ids_N)[None],
            "position_ids": positions_N[None],
        }

    def running(self) -> AbstractContextManager[None]:
        """The context in which the model runs."""
        return attending(self.layout, self.before)

    def tokens(self, tokens: Sequence[int]) -> Sequence[int]:
        """Rows of a linear map's input that belong to each client, of whose tokens there are so many."""
        return tokens

    def read(self, hidden: Tensor) -> Tensor:
        """`[1, N, D]` to `[N, D]`."""
        return hidden[0]

    def write(self, hidden_ND: Tensor) -> Tensor:
        """`[N, D]` to `[1, N, D]`."""
        return hidden_ND[None]


class PaddedRows:
    """A row for each sample, padded behind, `[S, T]`; of a sample with branches a row for each, trunk included."""

    def __init__(self, layout: RaggedLayout) -> None:
        self.rows_of, rows = _rows(layout)
        device, longest = layout.positions_N.device, max(map(len, rows))
        self.lengths = layout.lengths
        self.shape = len(rows), longest
        source, count = torch.full(self.shape, layout.positions_N.numel()), torch.zeros(self.shape, dtype=torch.long)
        for row, tokens in enumerate(rows):
            source[row, : len(tokens)] = torch.tensor(tokens)
            count[row, : len(tokens)] = 1
        self.source_P = source.flatten().to(device)
        self.mask = count.to(device)
        # where rows share a trunk, its tokens are read from any of them: they are equal
        place_N = torch.empty(layout.positions_N.numel() + 1, dtype=torch.long)
        place_N[source.flatten()] = torch.arange(source.numel())
        self.place_N = place_N[:-1].to(device)

    def inputs(self, ids_N: Tensor) -> dict[str, Tensor]:
        """Arguments of the model's forward; padding repeats the first token."""
        ids_P = ids_N[self.source_P.clamp(max=len(ids_N) - 1)]
        return {"input_ids": ids_P.view(self.shape), "attention_mask": self.mask}

    def running(self) -> AbstractContextManager[Any]:
        """The context in which the model runs."""
        return nullcontext()

    def tokens(self, tokens: Sequence[int]) -> Sequence[int]:
        """Rows of a linear map's input that belong to each client, of whose tokens there are so many."""
        sizes, samples = list[int](), iter(zip(self.lengths, self.rows_of, strict=True))
        for count in tokens:
            rows = 0
            while count > 0:
                length, own = next(samples)
                count, rows = count - length, rows + own
            sizes.append(rows * self.shape[1])
        return sizes

    def read(self, hidden: Tensor) -> Tensor:
        """`[S, T, D]` to `[N, D]`."""
        return hidden.flatten(0, 1).index_select(0, self.place_N)

    def write(self, hidden_ND: Tensor) -> Tensor:
        """`[N, D]` to `[S, T, D]`, with zeros for padding."""
        padded = torch.cat([hidden_ND, hidden_ND.new_zeros(1, hidden_ND.shape[1])])
        return padded.index_select(0, self.source_P).view(*self.shape, -1)


def _rows(layout: RaggedLayout) -> tuple[list[int], list[list[int]]]:
    """How many rows each sample takes, and the tokens of each row."""
    rows_of, rows, start = list[int](), list[list[int]](), 0
    branch = layout.branch_N.tolist() if isinstance(layout, BranchedLayout) else None
    for length in layout.lengths:
        tokens = range(start, start + length)
        if branch is None:
            own = [list(tokens)]
        else:
            trunk = [n for n in tokens if branch[n] == 0]
            forks = dict.fromkeys(branch[n] for n in tokens if branch[n])
            own = [trunk + [n for n in tokens if branch[n] == fork] for fork in forks] or [trunk]
        rows_of.append(len(own))
        rows += own
        start += length
    return rows_of, rows
