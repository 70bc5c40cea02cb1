"""A client's batch that does not fit a pass, in pieces of whole rows; results are those of the whole.

Between two crossings of a cut lies a stage of the model. What crosses, crosses once, for all rows. A stage before a
crossing goes piece by piece and keeps what it yields alone: the backward pass computes it again. In the last stage each
piece goes forward and back before the next does.

Legend: N tokens, D width.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch leave parts of their types open)

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wavetune.data.batching import RaggedBatch
from wavetune.models.backbone import Between

Roots = list[tuple[Tensor, Tensor | None]]
"""Where the backward pass begins, and with which gradient: None is 1."""
Run = Callable[[RaggedBatch, range, Tensor | None], Tensor]
"""Hidden states `[N, D]` of a piece behind these blocks. They begin with what enters; None: with the embedding."""


def gradients_in_pieces(
    pieces: Sequence[RaggedBatch],
    ends: Sequence[int],
    run: Run,
    cross: Between,
    loss_of: Callable[[RaggedBatch, Tensor], Tensor],
    back: Callable[[Tensor], None],
) -> Roots:
    """Add the gradients of the last stage; from what is returned the backward pass goes on through those before it.

    Stages end after so many blocks (`ends`), each with a crossing but for the last. `back` is asked to go back from the
    sum of a piece's losses.
    """
    *inner, last = pairwise([0, *ends])
    entering: list[Tensor | None] = [None] * len(pieces)
    for start, stop in inner:
        hidden = [
            checkpoint(run, piece, range(start, stop), part, use_reentrant=False, preserve_rng_state=False)
            for piece, part in zip(pieces, entering, strict=True)
        ]
        entering = list(cross(stop, torch.cat(hidden)).split([len(piece.input_ids) for piece in pieces]))
    roots = Roots()
    for piece, part in zip(pieces, entering, strict=True):
        leaf = None if part is None else part.detach().requires_grad_(part.requires_grad)
        loss = loss_of(piece, run(piece, range(*last), leaf))
        if loss.requires_grad:
            back(loss)
        if part is not None and leaf is not None and leaf.grad is not None:
            roots.append((part, leaf.grad))
    return roots
