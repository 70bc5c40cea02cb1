"""How a stock model is put together, found by watching it run: its blocks, what follows them, which linear maps every
token goes through. No list of families is kept.

Legend: N tokens, D width, V vocabulary, L blocks.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

from wavetune.errors import ModelError
from wavetune.models.targets import peft_takes

LINEAR = (nn.Linear, Conv1D)
_LOUD = 40.0  # logits large enough for a soft cap to show
_CLOSE = 1e-5


@dataclass(frozen=True)
class Structure:
    """Where a stock model keeps what: dotted paths in the model.

    `blocks` is the list of its blocks, each of which returns a tuple of `yields` values (None: a tensor); `tail` are
    the modules between the last block and the output layer, `head`, which an encoder lacks. Logits are scaled, then
    bent by a soft cap. `linear_maps` are the paths within a block of the maps that all tokens go through once.
    """

    blocks: str
    yields: int | None
    tail: tuple[str, ...]
    head: str | None
    scale: float
    softcap: float | None
    linear_maps: frozenset[str]


class Way(NamedTuple):
    """How the engine runs a model: tokens packed in one row or padded, where positions start, whether it can be cut."""

    packed: bool = True
    first_position: int = 0
    cuts: bool = True


class Checked(NamedTuple):
    """What is known of a model after its check at load."""

    structure: Structure
    way: Way


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether a model of this config attends in both directions."""
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)


def text_model(model: PreTrainedModel) -> PreTrainedModel:
    """What takes tokens and holds the blocks: the model without its output layer, or the text part of a larger one."""
    inner: PreTrainedModel = model if is_encoder(model.config) else model.get_decoder()
    holds_blocks = any(isinstance(module, nn.ModuleList) for module in inner.modules())
    return inner if holds_blocks else cast(PreTrainedModel, model.base_model)


def find_blocks(model: PreTrainedModel) -> str:
    """Path of the list of blocks; the model may be on the meta device. Raises ModelError if there is none."""
    config = model.config.get_text_config()
    count, inside = getattr(config, "num_hidden_layers", None), text_model(model)
    stacks = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and _holds(inside, module)
    }
    if not stacks:
        raise ModelError(
            f"{type(model).__name__} has no list of its blocks to cut and adapt (blocks that share weights are not"
            " supported); choose another model"
        )
    return max(stacks, key=lambda name: stacks[name])


def _holds(whole: nn.Module, part: nn.Module) -> bool:
    return any(module is part for module in whole.modules())


class AbsentBlock(nn.Module):
    """Stands where a block is that runs elsewhere, with its plain attributes, which models read from outside."""

    def __init__(self, block: nn.Module, yields: int | None = None) -> None:
        super().__init__()
        for name, value in vars(block).items():
            if not name.startswith("_") and (value is None or isinstance(value, str | int | float)):
                setattr(self, name, value)
        self.yields = yields

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor | tuple[Tensor | None, ...]:
        """Its input, in the form in which the model's own blocks return their output."""
        return hidden_states if self.yields is None else (hidden_states, *[None] * (self.yields - 1))


def first_of(output: Tensor | Sequence[Any]) -> Tensor:
    """The hidden states that a block returned."""
    return output if isinstance(output, Tensor) else output[0]


@torch.no_grad()
def examine(model: PreTrainedModel, ids_N: Tensor) -> Structure:
    """Structure of a stock model, seen while it runs on a few tokens. Absent blocks are taught what blocks return.

    Raises: ModelError where it is put together in a way that the engine cannot follow.
    """
    path = find_blocks(model)
    blocks: nn.ModuleList = model.get_submodule(path)  # type: ignore[assignment]
    yields, seen = _watched(model, blocks, ids_N)
    if seen.order != list(range(len(blocks))):
        raise ModelError(f"{type(model).__name__} does not run its {len(blocks)} blocks once each, one after another")
    if seen.last is None or not torch.isfinite(seen.last).all():
        raise _damaged(model)
    head = None if is_encoder(model.config) else _head(model)
    tail, head_path = _tail(model, seen, head)
    scale, softcap = 1.0, None
    if head is not None and head.weight.numel():
        scale, softcap = _after_head(model, blocks, head, yields, ids_N)
        scale *= _before_head(model, seen, tail, head)
    maps = {path for path, rows in seen.rows.items() if all(r == len(ids_N) for r in rows)}
    maps = {path for path in maps if "experts" not in path.split(".") and peft_takes(model, path)}
    return Structure(path, yields, tail, head_path, scale, softcap, frozenset(maps))


@dataclass
class _Seen:
    """What was called, in order, in one pass."""

    order: list[int] = field(default_factory=list[int])
    yields: set[int | None] = field(default_factory=set[int | None])
    rows: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    after: list[nn.Module] = field(default_factory=list[nn.Module])
    inputs: dict[nn.Module, Tensor] = field(default_factory=dict[nn.Module, Tensor])
    last: Tensor | None = None
    depth: int = 0


def _watched(model: PreTrainedModel, blocks: nn.ModuleList, ids_N: Tensor) -> tuple[int | None, _Seen]:
    """Absent blocks return what the others do, which may show only after a try."""
    absent = [block for block in blocks if isinstance(block, AbsentBlock)]
    failure: Exception | None = None
    for yields in (None, 1, 2, 3) if absent else (None,):
        for block in absent:
            block.yields = yields
        try:
            seen = _watch(model, blocks, ids_N)
        except Exception as error:  # whatever model code does with a tensor where it awaits a tuple
            failure = error
            continue
        if len(seen.yields) == 1 and (not absent or seen.yields == {yields}):
            return seen.yields.pop(), seen
    raise ModelError(f"{type(model).__name__} cannot be run on a few tokens ({failure}); choose another model")


def _watch(model: PreTrainedModel, blocks: nn.ModuleList, ids_N: Tensor) -> _Seen:
    seen = _Seen()
    within = set(blocks.modules())
    with ExitStack() as hooks:

        def hook(register: Any, function: Any) -> None:
            hooks.callback(register(function).remove)

        for index, block in enumerate(blocks):
            hook(block.register_forward_hook, _note_block(seen, index, len(blocks)))
            for path, module in block.named_modules():
                if isinstance(module, LINEAR):
                    seen.rows.setdefault(path, [])
                    hook(module.register_forward_hook, _note_rows(seen, path))
        for module in model.modules():
            if module not in within and not _holds(module, blocks):
                hook(module.register_forward_pre_hook, _note_call(seen, module))
                hook(module.register_forward_hook, _note_return(seen))
        model(input_ids=ids_N[None], use_cache=False) if not is_encoder(model.config) else model(input_ids=ids_N[None])
    counts = Counter(path for block in blocks for path, _ in block.named_modules())
    seen.rows = {path: rows for path, rows in seen.rows.items() if len(rows) == counts[path]}
    return seen


def _note_block(seen: _Seen, index: int, count: int) -> Any:
    def note(block: nn.Module, _args: object, output: Any) -> None:
        seen.order.append(index)
        if not isinstance(block, AbsentBlock):
            seen.yields.add(None if isinstance(output, Tensor) else len(output))
        if index + 1 == count:
            seen.last = first_of(output)

    return note


def _note_rows(seen: _Seen, path: str) -> Any:
    def note(_module: nn.Module, _args: object, output: Tensor | tuple[Any, ...]) -> None:
        seen.rows[path].append(output[..., 0].numel() if isinstance(output, Tensor) else -1)  # a router's is a tuple

    return note


def _note_call(seen: _Seen, module: nn.Module) -> Any:
    def note(_module: nn.Module, args: tuple[Any, ...]) -> None:
        if seen.last is not None and seen.depth == 0:
            seen.after.append(module)
        seen.depth += 1
        if args and isinstance(args[0], Tensor):
            seen.inputs[module] = args[0]

    return note


def _note_return(seen: _Seen) -> Any:
    def note(*_: object) -> None:
        seen.depth -= 1

    return note


def _head(model: PreTrainedModel) -> nn.Linear:
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ModelError(f"{type(model).__name__} has no plain output layer over its vocabulary; choose another model")
    return head


def _tail(model: PreTrainedModel, seen: _Seen, head: nn.Module | None) -> tuple[tuple[str, ...], str | None]:
    """Paths of the modules between the last block and the head, and of the head."""
    names = {module: name for name, module in model.named_modules()}
    if head is None:
        return tuple(names[module] for module in seen.after if names[module] != "pooler"), None
    if head not in seen.after:
        raise ModelError(f"{type(model).__name__} has no plain output layer behind its blocks; choose another model")
    return tuple(names[module] for module in seen.after[: seen.after.index(head)]), names[head]


def _before_head(model: PreTrainedModel, seen: _Seen, tail: tuple[str, ...], head: nn.Linear) -> float:
    """Factor between what the tail yields and what the head reads."""
    hidden = seen.last
    for path in tail:
        hidden = model.get_submodule(path)(hidden)
    assert hidden is not None  # the caller has looked
    factor = _factor(hidden, seen.inputs[head])
    if factor is None or (factor != 1.0 and head.bias is not None):
        raise ModelError(f"{type(model).__name__} changes hidden states on the way to its output layer; choose another")
    return _snapped(factor, model.config)


def _after_head(
    model: PreTrainedModel, blocks: nn.ModuleList, head: nn.Linear, yields: int | None, ids_N: Tensor
) -> tuple[float, float | None]:
    """Scale and soft cap of the logits, from a pass without blocks in which the head's output is loud."""
    heard: list[Tensor] = []

    def amplify(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        heard.append(output * (_LOUD / output.abs().max().clamp_min(1e-30)))
        return heard[-1]

    with absent(blocks, yields):
        hook = head.register_forward_hook(amplify)
        try:
            found = model(input_ids=ids_N[None], use_cache=False).logits
        finally:
            hook.remove()
    raw, found = heard[-1].flatten().double(), found.flatten().double()
    if not torch.isfinite(raw).all():
        raise _damaged(model)
    factor = _factor(raw, found)
    if factor is not None:
        return _snapped(factor, model.config), None
    for cap in _numbers(model.config):
        inside = found.abs() < 0.9 * cap
        if cap < 1 or not inside.any():
            continue
        factor = float(torch.atanh(found[inside] / cap).mul(cap).dot(raw[inside]) / raw[inside].dot(raw[inside]))
        factor = _snapped(factor, model.config)
        if torch.allclose(cap * torch.tanh(factor * raw / cap), found, rtol=1e-4, atol=1e-4):
            return factor, cap
    raise ModelError(f"{type(model).__name__} changes its logits in a way that is not known; choose another model")


def _damaged(model: PreTrainedModel) -> ModelError:
    return ModelError(f"{type(model).__name__} yields numbers that are not finite: its weights are damaged")


def _factor(of: Tensor, to: Tensor) -> float | None:
    """The number that `of` is multiplied by to give `to`, None if there is none."""
    a, b = of.flatten().double(), to.flatten().double()
    if a.shape != b.shape:
        return None
    factor = float(a.dot(b) / a.dot(a).clamp_min(1e-300))
    error = (factor * a - b).abs().max()
    return factor if error <= _CLOSE * b.abs().max() else None


def _snapped(factor: float, config: PreTrainedConfig) -> float:
    """The config's own number, or one over it, where a measured factor is one of them."""
    for number in (1.0, *_numbers(config)):
        for exact in (number, 1 / number):
            if abs(factor - exact) <= _CLOSE * abs(exact):
                return exact
    return factor


def _numbers(config: PreTrainedConfig) -> list[float]:
    values: Mapping[str, Any] = config.get_text_config().to_dict()
    return [float(v) for v in values.values() if isinstance(v, int | float) and not isinstance(v, bool) and v]


@contextmanager
def absent(blocks: nn.ModuleList, yields: int | None) -> Iterator[None]:
    """While in this block no block runs."""
    kept = list(blocks)
    for index in range(len(kept)):
        blocks[index] = AbsentBlock(kept[index], yields)
    try:
        yield
    finally:
        for index, block in enumerate(kept):
            blocks[index] = block
