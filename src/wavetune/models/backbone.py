"""A stock Hugging Face decoder or encoder, frozen, seen as embedding, blocks, final norm and head, with adapters on its
target modules.

No model code is rewritten: blocks run as transformers wrote them. What is exchanged are the attention kernel (ragged),
the target linear maps (stacked adapters) and, in bf16, the other linear maps of the blocks (bf16 weights, fp32
activations). An encoder (BERT, RoBERTa) attends in both directions and has neither final norm nor output layer.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from wavetune.costs.architecture import ENCODERS
from wavetune.costs.bottleneck import Bottleneck
from wavetune.errors import ModelError
from wavetune.models.bottleneck import StackedBottleneck, last_map
from wavetune.models.classifier import HEAD, Pooling, pool
from wavetune.models.double import compute_in_double
from wavetune.models.lora import ActiveAdapters, AdapterBank, AdapterSite, FrozenLinear, StackedLoraLinear
from wavetune.models.loss import frozen_head_cross_entropy
from wavetune.models.ragged import ATTENTION, RaggedLayout, ragged_layout

Between = Callable[[int, Tensor], Tensor]  # (blocks done, hidden [N, D]) -> hidden: what a cut does between two blocks

ONE_AT_A_TIME = threading.Lock()  # transformers leaves initialisation off where two threads turn it off at once
_KNOWN_SCALING = ("logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier")


@dataclass
class Backbone:
    """A frozen decoder, or encoder, whose blocks can be interrupted by a cut.

    `head` is the output layer over the vocabulary, None for an encoder; the first token has position `first_position`.
    Activations and adapters are of `dtype`.
    """

    model: PreTrainedModel
    blocks: nn.ModuleList
    final_norm: nn.Module
    head: nn.Linear | None
    sites: tuple[AdapterSite, ...]
    active: ActiveAdapters
    softcap: float | None = None
    first_position: int = 0
    dtype: torch.dtype = torch.float32
    _between: list[Between] = field(default_factory=list)

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def max_tokens(self) -> int | None:
        """Longest sample that the model takes, None if its config names no limit."""
        positions = getattr(self.model.config, "max_position_embeddings", None)
        return None if positions is None else positions - self.first_position

    def forward(
        self,
        input_ids_N: Tensor,
        layout: RaggedLayout,
        bank: AdapterBank | None = None,
        clients: Sequence[int] = (),
        tokens: Sequence[int] = (),
        between: Between | None = None,
    ) -> Tensor:
        """Hidden states after the last block, before the final norm. `[N]` to `[N, D]`.

        `clients` are the cohort positions whose samples stand in the batch, `tokens` how many tokens each has.
        `between` is called after every block.
        """
        self.active.use(bank, clients, tokens)
        self._between[:] = [between] if between else []
        positions_N = layout.positions_N + self.first_position
        output = self.model.get_decoder()(
            input_ids=input_ids_N[None], position_ids=positions_N[None], use_cache=False, ragged=layout
        )
        return output.last_hidden_state[0]

    def pooled(self, hidden_ND: Tensor, lengths: Sequence[int], pooling: Pooling | None = None) -> Tensor:
        """One normed vector for each sample of a pass, `[N, D]` to `[S, D]`.

        By default the mean over an encoder's tokens, and a decoder's last token, which alone has seen all others.
        """
        pooling = pooling or default_pooling(self.model)
        if pooling == "mean":
            return pool(self.final_norm(hidden_ND), lengths, pooling)
        return self.final_norm(pool(hidden_ND, lengths, pooling))

    def labelled_loss(
        self, hidden_ND: Tensor, index_P: Tensor, labels_P: Tensor, weight_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of next-token losses at the labelled positions alone, and each one's loss in nats."""
        if self.head is None:
            raise ModelError(f"{type(self.model).__name__} is an encoder and predicts no next token; choose a decoder")
        normed = self.final_norm(hidden_ND.index_select(0, index_P))
        return frozen_head_cross_entropy(normed, self.head.weight, labels_P, weight_P, self.softcap)

    def _after_block(self, done: int) -> Callable[..., Tensor | tuple[Tensor, ...] | None]:
        def hook(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> object:
            if not self._between:
                return None
            hidden = output if isinstance(output, Tensor) else output[0]
            changed = self._between[0](done, hidden[0])[None]
            return changed if isinstance(output, Tensor) else (changed, *output[1:])

        return hook  # type: ignore[return-value]


def load_backbone(
    folder: Path | str,
    targets: Sequence[str] | None = None,
    bf16: bool = False,
    device: torch.device | str = "cpu",
    bottleneck: Bottleneck | None = None,
    outputs: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Load a decoder or an encoder from a folder and prepare it. Raises ModelError where its architecture does not fit.

    `targets` are the names of the linear maps that carry LoRA, PEFT's default for the model family if None. `outputs`
    asks for a head on pooled samples with so many of them: the classes, or one reward. All is computed in `dtype`, fp32
    or fp64, but for the products with bf16 weights.
    """
    stock = load_stock_model(folder, dtype, attn_implementation=ATTENTION)
    return prepare_backbone(stock, targets, bf16, device, bottleneck, outputs)


def load_stock_model(folder: Path | str, dtype: torch.dtype = torch.float32, **options: object) -> PreTrainedModel:
    """A stock causal language model, or encoder without its pooler, from safetensors, in evaluation mode."""
    with ONE_AT_A_TIME, warnings.catch_warnings(), no_progress_bars():
        warnings.simplefilter("ignore")
        try:
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
            kind = AutoModel if is_encoder(config) else AutoModelForCausalLM
            loaded: Any = kind.from_pretrained(
                str(folder),
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"cannot load a causal language model from {folder}: {reason[0]}") from error
    model, info = loaded
    missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]
    if missing:  # transformers would train on with random numbers in their place
        raise ModelError(f"{folder} holds no weights for {min(missing)}: fetch the model again")
    if kind is AutoModel:
        model.pooler = None
    return model.eval()


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether a model of this config attends in both directions."""
    return config.model_type in ENCODERS and not config.is_decoder


def default_pooling(model: PreTrainedModel) -> Pooling:
    """How a sample becomes one vector unless told otherwise."""
    return "mean" if is_encoder(model.config) else "last"


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """While in this block, transformers draws no progress bars."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_tokenizer(folder: Path | str):
    """The stock tokenizer of a folder, silent on long texts. Raises ModelError if it cannot be loaded."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # which types depends on the tokenizer's format
        raise ModelError(f"cannot load the tokenizer in {folder} ({error}): fetch the model again") from error
    # rows are cut after they were tokenised; without this entry it would warn of the first long one
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def prepare_backbone(
    model: PreTrainedModel,
    targets: Sequence[str] | None,
    bf16: bool = False,
    device: torch.device | str = "cpu",
    bottleneck: Bottleneck | None = None,
    outputs: int | None = None,
) -> Backbone:
    """Freeze a stock model (loaded with ragged attention) and put adapter modules on it; see `load_backbone`.

    It computes in the precision in which it was loaded.
    """
    encoder = is_encoder(model.config)
    blocks, final_norm, head = _encoder_parts(model) if encoder else _decoder_parts(model)
    dtype = model.dtype
    if dtype == torch.float64:
        compute_in_double(*blocks, final_norm)
    model.requires_grad_(False).eval()
    active = ActiveAdapters()
    sites = _install(model, blocks, tuple(_peft_targets(model) if targets is None else targets), active, bf16)
    if bottleneck is not None:
        sites += _install_bottlenecks(model, blocks, bottleneck, active)
    if outputs is not None:
        sites += (AdapterSite(HEAD, len(blocks) - 1, model.config.hidden_size, outputs, "head", outputs),)
    if bf16 and head is not None:
        head.weight.data = head.weight.data.to(torch.bfloat16)
        model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.float())
    nn.Module.to(model, device)
    final_norm.to(device)
    softcap = getattr(model.config, "final_logit_softcapping", None)
    # RoBERTa counts positions from the one behind its padding token's
    first_position = model.config.pad_token_id + 1 if encoder and model.config.model_type != "bert" else 0
    backbone = Backbone(model, blocks, final_norm, head, sites, active, softcap, first_position, dtype)
    for index, block in enumerate(blocks):
        block.register_forward_hook(backbone._after_block(index + 1))
    return backbone


def _encoder_parts(model: PreTrainedModel) -> tuple[nn.ModuleList, nn.Module, None]:
    return _attribute(model.get_submodule("encoder"), ("layer",), "encoder blocks"), nn.Identity(), None


def _decoder_parts(model: PreTrainedModel) -> tuple[nn.ModuleList, nn.Module, nn.Linear]:
    decoder = model.get_decoder()
    blocks = _attribute(decoder, ("layers", "h"), "decoder blocks")
    norm_name = _name_of(decoder, ("norm", "ln_f", "final_layernorm"), "final norm")
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise ModelError(
            f"{type(model).__name__} has no plain output layer; use a Llama-, Qwen- or GPT-2-style decoder"
        )
    for name in _KNOWN_SCALING:
        if getattr(model.config, name, 1.0) not in (None, 1.0):
            raise ModelError(f"{type(model).__name__} uses {name}, which is not supported; choose another model")
    final_norm = getattr(decoder, norm_name)
    setattr(decoder, norm_name, nn.Identity())  # applied later, at the positions that need it
    return blocks, final_norm, head


def _install(
    model: nn.Module, blocks: nn.ModuleList, targets: tuple[str, ...], active: ActiveAdapters, bf16: bool
) -> tuple[AdapterSite, ...]:
    names = {module: name for name, module in model.named_modules()}
    sites: list[AdapterSite] = []
    for layer, block in enumerate(blocks):
        for path, module in list(block.named_modules()):
            if not isinstance(module, nn.Linear | Conv1D):
                continue
            leaf = path.rsplit(".", 1)[-1]
            if leaf not in targets and not bf16:
                continue
            frozen = _frozen(module, bf16)
            if leaf in targets:
                site = AdapterSite(names[module], layer, frozen.weight.shape[1], frozen.weight.shape[0])
                frozen = StackedLoraLinear(frozen, site, active)
                sites.append(site)
            block.set_submodule(path, frozen)
    missing = set(targets) - {site.name.rsplit(".", 1)[-1] for site in sites}
    if missing:
        linear = sorted({path.rsplit(".", 1)[-1] for path, m in blocks[0].named_modules() if _is_linear(m)})
        raise ModelError(f"no linear layer named {sorted(missing)[0]!r} in the model's blocks; choose from {linear}")
    return tuple(sites)


def _install_bottlenecks(
    model: PreTrainedModel, blocks: nn.ModuleList, bottleneck: Bottleneck, active: ActiveAdapters
) -> tuple[AdapterSite, ...]:
    names = {module: name for name, module in model.named_modules()}
    sites: list[AdapterSite] = []
    for layer, block in enumerate(blocks):
        for place in bottleneck.places:
            module = block.get_submodule(last_map(block, place))
            width = model.config.hidden_size
            site = AdapterSite(
                f"{names[module]}:bottleneck", layer, width, width, kind="bottleneck", width=bottleneck.width
            )
            module.register_forward_hook(StackedBottleneck(site, active))
            sites.append(site)
    return tuple(sites)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D | FrozenLinear)


def _frozen(module: nn.Linear | Conv1D, bf16: bool) -> FrozenLinear:
    weight, dtype = module.weight.data, module.weight.dtype
    if isinstance(module, Conv1D):
        weight = weight.t()
    bias: Tensor | None = None if module.bias is None else module.bias.data
    if bf16:
        weight, bias = weight.to(torch.bfloat16).contiguous(), None if bias is None else bias.to(torch.bfloat16)
    return FrozenLinear(weight, bias, dtype)


def _peft_targets(model: PreTrainedModel) -> tuple[str, ...]:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

    kind = model.config.model_type
    if kind not in DEFAULTS:
        raise ModelError(f"no default LoRA targets are known for {kind!r} models; name them in method.lora.targets")
    return tuple(DEFAULTS[kind])


def _name_of(module: nn.Module, names: Sequence[str], what: str) -> str:
    for name in names:
        if hasattr(module, name):
            return name
    raise ModelError(f"{type(module).__name__} has no {what} under a known name ({', '.join(names)})")


def _attribute(module: nn.Module, names: Sequence[str], what: str) -> nn.ModuleList:
    return getattr(module, _name_of(module, names, what))


__all__ = [
    "Backbone",
    "Between",
    "load_backbone",
    "load_stock_model",
    "load_tokenizer",
    "prepare_backbone",
    "ragged_layout",
]
