"""Stock models and tokenizers from a folder: from safetensors, and never with code that a folder brings."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from wavetune.errors import ModelError, one_line
from wavetune.models.folder_check import check_config, check_weights, read_object
from wavetune.models.light_imports import building, compute_without_storage
from wavetune.models.quiet import quiet
from wavetune.models.settle import settle
from wavetune.models.structure import is_encoder

ONE_AT_A_TIME = threading.Lock()  # transformers leaves initialisation off where two threads turn it off at once
_NEVER_RUN = "code from a model's folder is never run"
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Nothing is fetched, and a folder's own code is not run, whatever anybody answers at a terminal."""


class RangesOfValues(TorchFunctionMode):
    """While in this block ranges, and what models compute of them, have values whatever the device, and initial values
    on the meta device, where models are built before their weights are read, are not drawn.

    For the first operator or random number on that device PyTorch imports SymPy: half a second, and 50 MB, of a start.
    A model that mixes them with tensors of that device makes PyTorch raise a RuntimeError.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch, or what stands for it."""
        named = kwargs or {}
        if func is torch.arange:
            return func(*args, **{**named, "device": "cpu"})
        if getattr(func, "__module__", "") == nn.init.__name__:
            tensor = args[0] if args else named["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **named)


def load_config(folder: Path | str) -> PreTrainedConfig:
    """The config of a model that the engine may be able to run. Raises ModelError for others."""
    check_config(Path(folder))
    try:
        with quiet():
            config = AutoConfig.from_pretrained(str(folder), **LOCAL)
            config._attn_implementation = None  # which attention computes is not the folder's to say
    except Exception as error:  # which types depends on the family
        raise ModelError(_cannot_load(folder, error)) from error
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{folder} is a {config.model_type!r} model, which has an encoder and a decoder: wavetune trains models"
            " that are one of the two; choose such a one"
        )
    if model_class(config) is None:
        raise ModelError(
            f"{folder} is a {config.model_type!r} model, which neither predicts the next token of a text nor was"
            " trained to fill its gaps: choose a causal language model or an encoder such as BERT"
        )
    return config


def model_class(config: PreTrainedConfig) -> Any:
    """What opens a model of this config: an encoder, or what predicts the next token (a larger one that also reads
    images included); None for other kinds.
    """
    if is_encoder(config):
        return AutoModel
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForCausalLM
    return AutoModelForImageTextToText if config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES else None


def load_stock_model(
    folder: Path | str,
    dtype: torch.dtype = torch.float32,
    thin: Callable[[PreTrainedModel], None] | None = None,
    predicts: bool = True,
    **options: object,
) -> PreTrainedModel:
    """A stock causal language model, or encoder without its pooler, from safetensors, in evaluation mode.

    What `thin` takes away from the still empty model is not read. Raises ModelError, also where the output layer is
    missing and the model `predicts` tokens.
    """
    config = load_config(folder)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    check_weights(Path(folder), layers if thin is None else None)
    kind = model_class(config)

    def read() -> Any:
        return (kind if thin is None else _thinned(kind, config, thin)).from_pretrained(
            str(folder),
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # refused below, in a sentence
            output_loading_info=True,
            **LOCAL,
            **options,
        )

    with ONE_AT_A_TIME, quiet(), building():
        try:
            try:
                with RangesOfValues():
                    loaded = read()
            except RuntimeError:
                compute_without_storage()
                loaded = read()
        except Exception as error:
            raise ModelError(_cannot_load(folder, error)) from error
    model, info = loaded
    _refuse_incomplete(folder, model, info, predicts)
    if is_encoder(config) and hasattr(model, "pooler"):
        model.pooler = None
    return model.eval()


def _thinned(kind: Any, config: PreTrainedConfig, thin: Callable[[PreTrainedModel], None]) -> Any:
    """The class of a config's models, whose instances are thinned before weights are read."""
    with torch.device("meta"):
        own = type(kind.from_config(config))

    def build(self: Any, *args: Any, **named: Any) -> None:
        own.__init__(self, *args, **named)
        thin(self)

    return type(own.__name__, (own,), {"__init__": build, "__module__": own.__module__})


def _refuse_incomplete(folder: Path | str, model: PreTrainedModel, info: dict[str, Any], predicts: bool) -> None:
    """Transformers would train on with random numbers in the place of weights that are missing or of another size."""
    for name, stored, wanted in info["mismatched_keys"]:
        if 0 in wanted:  # thinned
            continue
        raise ModelError(
            f"{folder} holds {name} as {tuple(stored)}, but its config.json asks for {tuple(wanted)}: correct the"
            " config or fetch the model again"
        )
    head = model.get_output_embeddings()
    own = set() if head is None else {name for name, module in model.named_modules() if module is head}
    missing = {key for key in info["missing_keys"] if not key.startswith("pooler.")}
    if missing and all(key.rpartition(".")[0] in own for key in missing):
        if not predicts:
            return
        kind = (model.config.architectures or [type(model.base_model).__name__])[0]
        raise ModelError(
            f"{folder} was saved as {kind}, without an output layer ({min(missing)}), so it predicts no tokens: save it"
            " again with AutoModelForCausalLM, from a model that has one"
        )
    if missing:
        raise ModelError(f"{folder} holds no weights for {min(missing)}: fetch the model again")


def load_tokenizer(folder: Path | str):
    """The stock tokenizer of a folder, silent on long texts. Raises ModelError if it cannot be loaded."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **LOCAL)
        tokenizer("a")  # of its settings some are looked at only now
    except Exception as error:  # which types depends on the tokenizer's format
        load_config(folder)  # which it reads as well, and says more of
        if "custom code" in str(error):
            raise ModelError(
                f"{folder}: its tokenizer_config.json names a tokenizer's code, and {_NEVER_RUN}: save the tokenizer as"
                " one that transformers knows, with a tokenizer.json"
            ) from error
        remedy = "fetch the model again"
        if Path(folder).is_dir() and not (Path(folder) / "tokenizer.json").exists():
            remedy = (
                "it has no tokenizer.json; install sentencepiece, or tiktoken if it is of that kind, from which one is"
                " made, or save one there with AutoTokenizer...save_pretrained(folder)"
            )
        raise ModelError(f"cannot load the tokenizer in {folder} ({_reason(error)}): {remedy}") from error
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        settle(backend)
    # rows are cut after they were tokenised; without this entry it would warn of the first long one
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def _cannot_load(folder: Path | str, error: Exception) -> str:
    if any(mark in str(error) for mark in ("trust_remote_code", "does not recognize this architecture")):
        kind = read_object(Path(folder) / "config.json").get("model_type") if Path(folder).is_dir() else None
        named = f"a model of type {kind!r}" if kind else "the model"
        return (
            f"{folder}: {named} needs model code that this transformers does not have, and {_NEVER_RUN}: choose a model"
            " that transformers knows"
        )
    return f"cannot load a causal language model from {folder}: {_reason(error)}"


def _reason(error: Exception) -> str:
    name = isinstance(error, KeyError) and " " not in str(error)
    return f"it names {error}, which is unknown" if name else one_line(error)
