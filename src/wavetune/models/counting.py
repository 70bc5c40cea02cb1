"""Counts a model from itself: its blocks run on the meta device, where tensors have shapes and no values.

One pass of the whole model finds its parts. Then each kind of block runs alone once for every name that can make a
tensor need a gradient (each linear map, and the block's input), and what needs one is noted: factors of matrix products
and tensors that automatic differentiation keeps. Two lengths tell the costs of a token from those of a pair of tokens.

Ignores: what a block does once a sample whatever its length, such as DeBERTa's maps of relative positions; windows of
attention, which are counted as full squares; masks and scores that attention without a fused kernel keeps.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from wavetune.costs.architecture import Architecture
from wavetune.costs.operations import INPUT, PREFIX, Block, Product, Projection, Saved
from wavetune.errors import ModelError
from wavetune.models.light_imports import building, compute_without_storage
from wavetune.models.quiet import quiet
from wavetune.models.recording import ATTENTION, Record, recorded, recording
from wavetune.models.stock import ONE_AT_A_TIME, load_config, model_class
from wavetune.models.structure import find_blocks, is_encoder, text_model
from wavetune.models.targets import lora_targets

SHORT, LONG = 8, 16  # tokens


@dataclass(frozen=True)
class BlockCall:
    """How a model calls one of its blocks on a sample."""

    block: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def maps(self) -> dict[str, nn.Linear | Conv1D]:
        """The block's linear maps by their paths."""
        return _maps(self.block)

    @property
    def hidden(self) -> Tensor:
        """The hidden states that go in."""
        return self.args[0] if self.args else self.kwargs["hidden_states"]

    def run(self, hidden: Tensor) -> object:
        """Call the block again on other hidden states."""
        if self.args:
            return self.block(hidden, *self.args[1:], **self.kwargs)
        return self.block(**{**self.kwargs, "hidden_states": hidden})

    def recorded(self, cause: str) -> Record:
        """What it does where `cause` makes tensors need a gradient."""
        return recorded(self.maps, self.run, self.hidden, cause)


@dataclass(frozen=True)
class Pass:
    """One pass through a model: how it calls its blocks, and the modules outside of them that run after the last."""

    calls: list[BlockCall]
    after: list[nn.Module]


def count_folder(folder: Path) -> Architecture:
    """The architecture that a folder's config describes; see `count_model`."""
    return count_model(load_config(folder))


def count_model(config: PreTrainedConfig) -> Architecture:
    """The architecture of a stock decoder or encoder, counted from its config alone.

    Where its blocks cannot run without weights, `note` of what is returned says what stands for their compute.
    Raises ModelError if the config makes no model with a list of blocks.
    """
    compute_without_storage()
    for attention in (ATTENTION, "eager"):  # not every model calls attention through transformers' interface
        try:
            return _counted(_meta_model(config, attention))
        except ModelError:
            raise
        except Exception:  # whatever a model's code raises on tensors without values
            continue
    try:
        return _estimated(_meta_model(config, "eager"))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"no model of text can be made from a config of type {config.model_type!r} "
            f"({(str(error).splitlines() or [''])[0]}); choose another model"
        ) from error


def _meta_model(config: PreTrainedConfig, attention: str) -> PreTrainedModel:
    config = deepcopy(config)
    config._experts_implementation = "batched_mm"  # the one that asks no tensor for its values
    kind = model_class(config)
    with ONE_AT_A_TIME, torch.device("meta"), no_init_weights(), quiet(), building():
        model = kind.from_config(config, attn_implementation=attention, dtype=torch.float32)
    if is_encoder(config):
        model.pooler = None
    model.tie_weights()
    return model.requires_grad_(False).eval()


def _blocks(model: PreTrainedModel) -> nn.ModuleList:
    return cast(nn.ModuleList, model.get_submodule(find_blocks(model)))


def _counted(model: PreTrainedModel) -> Architecture:
    short, long = (_one_pass(model, length) for length in (SHORT, LONG))
    kinds: dict[object, Block] = {}
    widest = 0
    for call, longer in zip(short.calls, long.calls, strict=True):
        if _kind(call.block) not in kinds:
            kinds[_kind(call.block)], width = _count_block(call, longer)
            widest = max(widest, width)
    first = short.calls[0]
    given = [t for t in tree_leaves((first.args, dict(first.kwargs))) if isinstance(t, Tensor)]
    passing = sum(t.numel() // SHORT for t in given if t.is_floating_point())  # hidden states, sines and cosines
    blocks = tuple(kinds[_kind(call.block)] for call in short.calls)
    return _architecture(model, blocks, first.hidden.numel() // SHORT, short.after, 3 * widest + passing)


def _one_pass(model: PreTrainedModel, length: int) -> Pass:
    blocks, trunk, found = _blocks(model), text_model(model), Pass([], [])
    inside = {*blocks.modules(), *(m for m in trunk.modules() if blocks in m.modules())}

    def before_block(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.calls.append(BlockCall(module, args, kwargs))
        found.after.clear()

    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(before_block, with_kwargs=True).remove)
        for module in set(trunk.modules()) - inside:
            stack.callback(module.register_forward_pre_hook(lambda m, _args: found.after.append(m)).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(recording())
        ids = torch.zeros(1, length, dtype=torch.long, device="meta")
        options = {} if is_encoder(model.config) else {"use_cache": False}
        trunk(input_ids=ids, **options)
    if [call.block for call in found.calls] != list(blocks):
        raise ModelError(f"{type(model).__name__} does not run its blocks once each, in order; choose another model")
    return found


def _kind(block: nn.Module) -> object:
    """What blocks of the same costs have in common: modules, settings and sizes."""
    own = ("layer_idx", "layer_id", "layer_number")
    settings = tuple(
        (name, type(module), key, value)
        for name, module in block.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and key not in own
    )
    return settings, tuple((name, tuple(p.shape)) for name, p in block.named_parameters())


def _count_block(short: BlockCall, long: BlockCall) -> tuple[Block, int]:
    """A block, and the width of the widest tensor that one of its maps reads."""
    maps = short.maps
    runs = {cause: short.recorded(cause) for cause in (INPUT, PREFIX, *maps)}
    longer = long.recorded(INPUT)
    if len({len(run.products) for run in (*runs.values(), longer)}) > 1:
        raise ValueError("which products it computes depends on what needs a gradient")
    products = tuple(
        Product(
            *_per_token_and_pair(product.flop, longer.products[i].flop),
            frozenset(cause for cause, run in runs.items() if run.products[i].left_needs_grad),
            frozenset(cause for cause, run in runs.items() if run.products[i].right_needs_grad),
            product.projection,
        )
        for i, product in enumerate(runs[INPUT].products)
    )
    projections = tuple(
        Projection(name, *_widths(maps[name]), maps[name].bias is not None)
        for name in maps
        if _is_read_once(name, _widths(maps[name]), products)
    )
    block = Block(
        _values(short.block),
        projections,
        tuple(p for p in products if p.flop_per_token or p.flop_per_pair),
        _saved(runs, longer),
        *_ends(products, projections, short.hidden.shape[-1]),
        *runs[INPUT].attended,
    )
    widths = [
        (made.left_values if made.left_needs_grad else made.right_values) // SHORT
        for made, product in zip(runs[INPUT].products, products, strict=True)
        if not product.flop_per_pair
    ]
    return block, max(widths, default=0)


def _is_read_once(name: str, widths: tuple[int, int], products: Sequence[Product]) -> bool:
    """Whether every token goes through a map once, so that it can carry LoRA; not so experts and shared maps."""
    own = [p.flop_per_token for p in products if p.projection == name]
    return own == [2 * widths[0] * widths[1]] and "experts" not in name.split(".")


def _saved(runs: Mapping[str, Record], longer: Record) -> tuple[Saved, ...]:
    first, sizes = runs[INPUT], longer.sizes
    saved = (
        Saved(
            _per_token_and_pair(size, sizes[place])[0],
            frozenset(cause for cause, run in runs.items() if place in run.saved),
            frozenset(name for name, read in first.read.items() if read == place),
        )
        for place, size in first.sizes.items()
        if place in sizes
    )
    return tuple(s for s in saved if s.values and (s.because or s.read_by))


def _per_token_and_pair(short: int, long: int) -> tuple[int, int]:
    """`a` and `b` of `a n + b n^2` that is `short` at 8 tokens and `long` at 16; what does not grow counts nothing."""
    pair = max((long - 2 * short) // (LONG**2 - 2 * SHORT**2), 0)
    return (long - short) // (LONG - SHORT) - pair * (LONG + SHORT), pair


def _ends(products: Sequence[Product], projections: Sequence[Projection], width: int) -> tuple[str, str]:
    """The maps that end attention and feed-forward; "" where there is none."""
    back = {p.name for p in projections if p.out_features == width}
    pairs = [i for i, product in enumerate(products) if product.flop_per_pair]
    behind = [p.projection for p in products[pairs[-1] + 1 :] if p.projection] if pairs else []
    attention_end = behind[0] if behind and behind[0] in back else ""
    last = [p.projection for p in products if p.projection in back][-1:]
    return attention_end, last[0] if last and last[0] != attention_end else ""


def _estimated(model: PreTrainedModel) -> Architecture:
    """What can be said of a model whose blocks do not run without weights: its sizes."""
    blocks = tuple(_estimated_block(block) for block in _blocks(model))
    embedding: Any = model.get_input_embeddings()
    hidden = embedding.weight.shape[-1]
    widest = max((p.in_features for block in blocks for p in block.projections), default=hidden)
    return _architecture(
        model,
        blocks,
        hidden,
        (),
        3 * widest + hidden,
        f"the blocks of a {model.config.model_type} model do not run without weights, so their compute is estimated "
        "from their parameters, 2 FLOP each a token, and attention is not counted",
    )


def _estimated_block(module: nn.Module) -> Block:
    maps = _maps(module)
    projections = tuple(Projection(name, *_widths(m), m.bias is not None) for name, m in maps.items())
    every = frozenset({INPUT, *maps})
    mapped = sum(p.in_features * p.out_features for p in projections)
    rest = Product(2 * max(_values(module) - mapped, 0), 0, every)
    products = (*(Product(2 * p.in_features * p.out_features, 0, every, projection=p.name) for p in projections), rest)
    saved = tuple(Saved(2 * p.out_features, every) for p in projections)
    return Block(_values(module), projections, products, saved, "", "")


def _architecture(
    model: PreTrainedModel,
    blocks: tuple[Block, ...],
    hidden: int,
    after: Sequence[nn.Module],
    passing: int,
    note: str = "",
) -> Architecture:
    embedding: Any = model.get_input_embeddings()
    head: Any = None if is_encoder(model.config) else model.get_output_embeddings()
    in_head = set() if head is None else {head.weight}
    trunk = {*text_model(model).parameters()}
    behind = {p for m in after for p in m.parameters()} | ({*model.parameters()} - trunk - in_head)
    before = trunk - behind - {*_blocks(model).parameters()}
    norms = any(isinstance(m, nn.LayerNorm) for m in after)
    return Architecture(
        family=model.config.model_type,
        hidden_size=hidden,
        vocab_size=(embedding if head is None else head).weight.shape[0],
        embedding_values=_sum(before),
        head_values=_sum(in_head),
        tied_embeddings=head is None or head.weight is embedding.weight,
        final_norm_values=_sum(behind),
        final_norm_statistics=2 if norms else min(len(after), 1),
        passing_values_per_token=passing,
        default_lora_targets=lora_targets(model, {p.name for block in blocks for p in block.projections}, None),
        blocks=blocks,
        note=note,
    )


def _maps(block: nn.Module) -> dict[str, nn.Linear | Conv1D]:
    return {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def _widths(module: nn.Linear | Conv1D) -> tuple[int, int]:
    """What a linear map reads and yields."""
    rows, columns = module.weight.shape
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def _values(module: nn.Module) -> int:
    return _sum({*module.parameters()})


def _sum(parameters: set[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
