"""A decoder of which only some blocks are here, as on a device that holds the first ones.

An absent block keeps its place and passes hidden states through, so that names, block numbers and per-layer patterns
are those of the whole model, and a cut between two blocks is the same hook in either half.
"""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from wavetune.models.adapter import ModelAdapter
from wavetune.models.backbone import Backbone, opened_as, prepare_backbone
from wavetune.models.stock import load_stock_model
from wavetune.models.structure import AbsentBlock, find_blocks


def load_part(
    folder: Path | str,
    blocks: Container[int],
    head: bool,
    targets: Sequence[str] | str | None = None,
    bf16: bool = False,
    device: torch.device | str = "cpu",
    adapters: Sequence[ModelAdapter] = (),
    dtype: torch.dtype = torch.float32,
    int8: bool = False,
) -> Backbone:
    """The embedding, the blocks with these numbers and, where `head`, the head of a decoder; nothing else is read.

    Without a head `labelled_loss` cannot be used. A head that shares its weight with the embedding comes with it.
    Raises ModelError where a weight is missing, or where the engine cannot run the model or cut it.
    """

    def thin(model: PreTrainedModel) -> None:
        stack: Any = model.get_submodule(find_blocks(model))
        for index in range(len(stack)):
            if index not in blocks:
                stack[index] = AbsentBlock(stack[index])
        if not head:
            _drop_head(model)

    backbone = prepare_backbone(
        load_stock_model(folder, opened_as(folder, dtype, bf16 or int8), thin),
        targets,
        bf16,
        device,
        adapters,
        int8=int8,
    )
    backbone.require_cuts()
    return backbone


def _drop_head(model: PreTrainedModel) -> None:
    head: Any = model.get_output_embeddings()
    tied = model.config.get_text_config().tie_word_embeddings
    if isinstance(head, nn.Linear) and not tied:
        head.weight = nn.Parameter(head.weight.new_empty(0, head.in_features))
        if head.bias is not None:
            head.bias = nn.Parameter(head.bias.new_empty(0))
