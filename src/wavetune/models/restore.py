"""A client's model outside wavetune's engine: the stock model with one client's adapters in place.

Legend: S samples, T longest sample, D width, M bottleneck width, C outputs.
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from wavetune.errors import ModelError
from wavetune.json_reader import read_json, require_files
from wavetune.models.adapter import ModelAdapter
from wavetune.models.adapter_folder import (
    GENERATION,
    PEFT_FILE,
    PREFIX,
    BesidePeft,
    Head,
    is_adapter_folder,
    read_beside_peft,
)
from wavetune.models.backbone import load_stock_model
from wavetune.models.behind import AdaptedMap
from wavetune.models.soft_prompt import PROMPT
from wavetune.models.structure import text_model


class BottleneckAdapter(nn.Module):
    """`y + W_up gelu(W_down y)` of `[..., D]`; down `[M, D]`, up `[D, M]`."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(up)

    def forward(self, y: Tensor) -> Tensor:
        """What the map before it yields, adapted."""
        return y + F.linear(F.gelu(F.linear(y, self.down)), self.up)


class PooledModel(nn.Module):
    """A stock model with a linear head on each sample's pooled state; `labels` name its outputs, if they are classes.

    The head is `weight` `[C, D]` and `bias` `[C]`.
    """

    def __init__(self, model: Any, head: Head, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.model = model
        self.pooling = head.pooling
        self.labels = head.labels
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Outputs of each sample, `[S, T]` to `[S, C]`; a decoder takes batches padded at the end."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        stock = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model  # PEFT's or plain
        hidden = text_model(stock)(input_ids=input_ids, attention_mask=mask).last_hidden_state
        if self.pooling == "mean":
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        else:
            place = mask.sum(1) - 1 if self.pooling == "last" else torch.zeros_like(mask[:, 0])
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), place]
        return F.linear(pooled, self.weight, self.bias)


def load_adapted(base_folder: Path | str, adapter_folder: Path | str, adapters: Sequence[ModelAdapter] = ()) -> Any:
    """The stock model in one folder with the adapters in another, as a plain module in fp32 and evaluation mode.

    Args:
        base_folder: a model in the Hugging Face format, decoder or encoder.
        adapter_folder: what a run wrote under `adapters/`, or any PEFT adapter.
        adapters: further kinds whose matrices the folder holds, as the run's recipe has them in `method.adapters`.

    Returns:
        The transformers model, wrapped by PEFT if there is LoRA (`generate` works as ever); a `PooledModel` on it if
        the adapters have a head.

    Raises:
        ModelError: one of the folders cannot be loaded, or they do not fit each other.
    """
    folder = Path(adapter_folder)
    if not is_adapter_folder(folder):
        raise ModelError(f"{folder} holds no adapters: pass a folder under adapters/ of a run")
    beside = read_beside_peft(folder)
    stock = load_stock_model(base_folder, predicts=beside.head is None)
    width = stock.config.get_text_config().hidden_size
    _stop_where_taught(stock, folder)
    model: Any = stock
    for saved in (folder, folder / PROMPT, folder / PREFIX):  # LoRA acts within the stock model, which these then wrap
        if (saved / PEFT_FILE).exists():
            model = _with_peft(stock, saved)
    try:
        _add_bottlenecks(stock, beside)
        _add_others(stock, beside, adapters)
        if beside.head is not None:
            weight, bias = (beside.weights[f"classifier.{name}"] for name in ("weight", "bias"))
            if weight.shape[1] != width:
                raise ModelError(f"its head reads {weight.shape[1]} values, the model has {width}")
            model = PooledModel(model, beside.head, weight, bias)
    except (AttributeError, KeyError, ModelError) as error:
        raise ModelError(f"the adapters in {folder} do not fit the model in {base_folder}: {error}") from error
    return model.eval()


def prompt_tokens(model: Any) -> int:
    """Positions that PEFT puts before a model's texts, a soft prompt's or prefixes'; 0 without them."""
    config = getattr(model, "active_peft_config", None)
    return config.num_virtual_tokens if config is not None and config.is_prompt_learning else 0


def _stop_where_taught(stock: PreTrainedModel, folder: Path) -> None:
    """Let the model's `generate` stop at the ends that stand beside the adapters."""
    if (folder / GENERATION).is_file() and getattr(stock, "generation_config", None) is not None:
        found = read_json(folder / GENERATION)
        ends = found.get("eos_token_id") if isinstance(found, dict) else None
        stock.generation_config.eos_token_id = ends or stock.generation_config.eos_token_id


def _with_peft(stock: PreTrainedModel, folder: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that is being replaced
        warnings.filterwarnings("ignore", "Unexpected keyword arguments")  # of its config, which it leaves out
        warnings.filterwarnings("ignore", ".* specified but will be ignored")  # settings of training
        warnings.filterwarnings("error", "Found missing adapter keys")  # it would draw them at random
        try:
            require_files(folder)
            _require_its_sizes(folder)
            return PeftModel.from_pretrained(stock, str(folder))
        except Exception as error:  # PEFT, safetensors and the disk have types of their own
            raise ModelError(f"cannot load the adapter {folder} ({error}): train it again") from error


def _require_its_sizes(folder: Path) -> None:
    """Raise ModelError where a config asks for larger adapters than its file holds, for which PEFT would make room."""
    config = read_json(folder / "adapter_config.json")
    with safe_open(folder / PEFT_FILE, "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    values = sum(map(math.prod, shapes))
    rank = max((max(shape) for shape in shapes if shape), default=0)  # it may be larger than the width of its maps
    width = config.get("token_dim") or 1
    if config.get("peft_type") == "PREFIX_TUNING":
        width *= 2 * (config.get("num_layers") or 1)
    asked = {"r": (config.get("r"), rank), "encoder_hidden_size": (config.get("encoder_hidden_size"), values)}
    asked |= {f"rank_pattern.{name}": (value, rank) for name, value in (config.get("rank_pattern") or {}).items()}
    asked["num_virtual_tokens"] = (config.get("num_virtual_tokens"), values // width)
    for name, (value, most) in asked.items():
        if value is not None and value > most:
            raise ModelError(f"its config has {name} = {value}, and its file holds no more than {most}")


def _add_bottlenecks(stock: PreTrainedModel, beside: BesidePeft) -> None:
    """Put each bottleneck behind its map, which may be LoRA's by now: PEFT keeps the names of what it wraps."""
    width = stock.config.get_text_config().hidden_size
    for name in beside.modules:
        down, up = (beside.weights[f"{name}.bottleneck.{part}"] for part in ("down", "up"))
        if down.shape[1] != width:
            raise ModelError(f"its bottlenecks read {down.shape[1]} values, the model has {width}")
        stock.set_submodule(name, nn.Sequential(stock.get_submodule(name), BottleneckAdapter(down, up)))


def _add_others(stock: PreTrainedModel, beside: BesidePeft, adapters: Sequence[ModelAdapter]) -> None:
    known = {adapter.name: adapter for adapter in adapters}
    for site in beside.others:
        module, _, kind = site.rpartition(":")
        if kind not in known:
            raise ModelError(f"what adapters of the kind {kind!r} compute is not known; name them in `adapters`")
        own = {name.removeprefix(f"{site}."): t for name, t in beside.weights.items() if name.startswith(f"{site}.")}
        stock.set_submodule(module, AdaptedMap(stock.get_submodule(module), known[kind], own))
