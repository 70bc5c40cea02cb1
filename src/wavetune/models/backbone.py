"""A stock Hugging Face decoder, frozen, seen as embedding, blocks, final norm and head, with adapters on its target
modules.

No model code is rewritten: blocks run as transformers wrote them. What is exchanged are the attention kernel (ragged),
the target linear maps (stacked adapters) and, in bf16, the other linear maps of the blocks (bf16 weights, fp32
activations).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from wavetune.errors import ModelError
from wavetune.models.lora import ActiveAdapters, AdapterBank, AdapterSite, FrozenLinear, StackedLoraLinear
from wavetune.models.loss import frozen_head_cross_entropy
from wavetune.models.ragged import ATTENTION, RaggedLayout, ragged_layout

Between = Callable[[int, Tensor], Tensor]  # (blocks done, hidden [N, D]) -> hidden: what a cut does between two blocks

_KNOWN_SCALING = ("logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier")


@dataclass
class Backbone:
    """A frozen decoder whose blocks can be interrupted by a cut."""

    model: PreTrainedModel
    blocks: nn.ModuleList
    final_norm: nn.Module
    head: nn.Linear
    sites: tuple[AdapterSite, ...]
    active: ActiveAdapters
    softcap: float | None = None
    _between: list[Between] = field(default_factory=list)

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

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
        output = self.model.get_decoder()(
            input_ids=input_ids_N[None], position_ids=layout.positions_N[None], use_cache=False, ragged=layout
        )
        return output.last_hidden_state[0]

    def labelled_loss(
        self, hidden_ND: Tensor, index_P: Tensor, labels_P: Tensor, weight_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of next-token losses at the labelled positions alone, and each one's loss in nats."""
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
    folder: Path | str, targets: Sequence[str] | None = None, bf16: bool = False, device: torch.device | str = "cpu"
) -> Backbone:
    """Load a decoder from a folder and prepare it. Raises ModelError where its architecture does not fit.

    `targets` are the names of the linear maps that carry LoRA, PEFT's default for the model family if None.
    """
    return prepare_backbone(load_stock_model(folder, attn_implementation=ATTENTION), targets, bf16, device)


def load_stock_model(folder: Path | str, **options: object) -> PreTrainedModel:
    """A stock causal language model in fp32 from safetensors, in evaluation mode."""
    with warnings.catch_warnings(), _no_progress_bars():
        warnings.simplefilter("ignore")
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"cannot load a causal language model from {folder}: {reason[0]}") from error
    model, info = loaded
    if info["missing_keys"]:  # transformers would train on with random numbers in their place
        raise ModelError(f"{folder} holds no weights for {min(info['missing_keys'])}: fetch the model again")
    return model.eval()


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_tokenizer(folder: Path | str):
    """The stock tokenizer of a folder. Raises ModelError if it cannot be loaded."""
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # which types depends on the tokenizer's format
        raise ModelError(f"cannot load the tokenizer in {folder} ({error}): fetch the model again") from error


def prepare_backbone(
    model: PreTrainedModel, targets: Sequence[str] | None, bf16: bool = False, device: torch.device | str = "cpu"
) -> Backbone:
    """Freeze a stock model (loaded with ragged attention) and put adapter modules on its targets."""
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
    model.requires_grad_(False).eval()
    active = ActiveAdapters()
    sites = _install(model, blocks, tuple(targets or _peft_targets(model)), active, bf16)
    final_norm = getattr(decoder, norm_name)
    setattr(decoder, norm_name, nn.Identity())  # applied later, at labelled positions only
    if bf16:
        head.weight.data = head.weight.data.to(torch.bfloat16)
        model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.float())
    nn.Module.to(model, device)
    softcap = getattr(model.config, "final_logit_softcapping", None)
    backbone = Backbone(model, blocks, final_norm, head, sites, active, softcap)
    for index, block in enumerate(blocks):
        block.register_forward_hook(backbone._after_block(index + 1))
    return backbone


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


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D | FrozenLinear)


def _frozen(module: nn.Linear | Conv1D, bf16: bool) -> FrozenLinear:
    weight = module.weight.data
    if isinstance(module, Conv1D):
        weight = weight.t()
    bias: Tensor | None = None if module.bias is None else module.bias.data
    if bf16:
        weight, bias = weight.to(torch.bfloat16).contiguous(), None if bias is None else bias.to(torch.bfloat16)
    return FrozenLinear(weight, bias, torch.float32)


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
