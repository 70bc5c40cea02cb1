"""A decoder of which only some blocks are here, as on a device that holds the first ones.

An absent block keeps its place and passes hidden states through, so that names, block numbers and per-layer patterns
are those of the whole model, and a cut between two blocks is the same hook in either half.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from wavetune.costs.bottleneck import Bottleneck
from wavetune.errors import ModelError
from wavetune.json_reader import read_json
from wavetune.models.backbone import Backbone, prepare_backbone
from wavetune.models.folder_check import check_weights
from wavetune.models.stock import ONE_AT_A_TIME, load_config, quiet
from wavetune.models.structure import AbsentBlock, find_blocks


def load_part(
    folder: Path | str,
    blocks: Container[int],
    head: bool,
    targets: Sequence[str] | str | None = None,
    bf16: bool = False,
    device: torch.device | str = "cpu",
    bottleneck: Bottleneck | None = None,
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """The embedding, the blocks with these numbers and, where `head`, the head of a decoder; nothing else is read.

    Without a head `labelled_loss` cannot be used. A head that shares its weight with the embedding comes with it.
    Raises ModelError where a weight is missing or the architecture does not fit.
    """
    config = load_config(folder)
    check_weights(Path(folder), None)
    try:
        with ONE_AT_A_TIME, quiet(), no_init_weights():  # memory that is never written is never taken
            options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False}
            model = AutoModelForCausalLM.from_config(config, **options)
        model.tie_weights()
        files = _files_by_weight(Path(folder))
    except Exception as error:  # which types depends on the family
        raise ModelError(f"cannot load a causal language model from {folder}: {error}") from error
    stack: Any = model.get_submodule(find_blocks(model))
    for index in range(len(stack)):
        if index not in blocks:
            stack[index] = AbsentBlock(stack[index])
    if not head:
        _drop_head(model)
    _read_weights(model, files)
    backbone = prepare_backbone(model, targets, bf16, device, bottleneck)
    if not backbone.way.cuts:
        raise ModelError(
            f"{type(model).__name__} cannot be split: its upper blocks read more than the hidden states that cross a"
            " cut; use a recipe without a cut, such as fedavg_lora"
        )
    return backbone


def _drop_head(model: PreTrainedModel) -> None:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if isinstance(head, nn.Linear) and head.weight is not embedding.weight:
        head.weight = nn.Parameter(head.weight.new_empty(0, head.in_features))


def _files_by_weight(folder: Path) -> dict[str, Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        found: Mapping[str, str] = read_json(index, finite=False, unique=False)["weight_map"]
        return {name: folder / file for name, file in found.items()}
    whole = folder / "model.safetensors"
    with safe_open(whole, "pt") as stored:
        return dict.fromkeys(stored.keys(), whole)


@torch.no_grad()
def _read_weights(model: PreTrainedModel, files: Mapping[str, Path]) -> None:
    """Copy what the model has from the files, where a base model's weights may lack their prefix."""
    prefix, wanted = model.base_model_prefix + ".", dict[int, list[tuple[str, Tensor]]]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.numel():
            wanted.setdefault(tensor.data_ptr(), []).append((name, tensor))
    places = dict[Path, list[tuple[str, Tensor]]]()
    for shared in wanted.values():
        names = [own for name, _ in shared for own in (name, name.removeprefix(prefix)) if own in files]
        if not names:
            raise ModelError(f"the model's files hold no weights for {shared[0][0]}: fetch the model again")
        places.setdefault(files[names[0]], []).append((names[0], shared[0][1]))
    for path, tensors in places.items():
        with safe_open(path, "pt") as stored:
            for name, tensor in tensors:
                value = stored.get_tensor(name)
                if value.shape != tensor.shape:
                    raise ModelError(f"{path} holds {name} as {tuple(value.shape)}, not {tuple(tensor.shape)}")
                tensor.copy_(value)
