"""What a block does in one run on the meta device: its matrix products, and the tensors that it keeps for backward."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from wavetune.costs.operations import INPUT, PREFIX

ATTENTION = "wavetune_counted"
Place = tuple[int, int]
"""Where a tensor was made: by which call, as which of its tensors; the same in every run of a block."""


@dataclass(frozen=True)
class RecordedProduct:
    """One matrix product: its FLOP, the values of either factor, and which of them need a gradient."""

    flop: int
    left_values: int
    right_values: int
    left_needs_grad: bool
    right_needs_grad: bool
    projection: str


@dataclass
class Record:
    """What was noted during a run, in the order of execution.

    Args:
        products: all matrix products.
        saved: tensors that automatic differentiation keeps.
        read: what each linear map read.
        projection: the linear map that runs at the moment, "" for none.
        attended: values of a token's keys and of its values that attention read through transformers' interface.
        cause: what alone makes tensors need a gradient.
    """

    products: list[RecordedProduct] = field(default_factory=list)
    saved: set[Place] = field(default_factory=set)
    read: dict[str, Place] = field(default_factory=dict)
    projection: str = ""
    attended: tuple[int, int] = (0, 0)
    cause: str = ""
    flop: int = 0
    call: int = 0
    paused: bool = False
    _made: dict[int, tuple[Place | None, Tensor]] = field(default_factory=dict)  # alive, so that no address comes twice
    _of_call: int = 0

    @property
    def sizes(self) -> dict[Place, int]:
        """Values of every floating tensor that was made, seen whole or in part."""
        made = ((place, t) for place, t in self._made.values() if place is not None and t.is_floating_point())
        return {place: t.untyped_storage().nbytes() // t.element_size() for place, t in made}

    def next_call(self) -> None:
        """Start the next call; only those that made tensors are numbered, so that looking at one changes nothing."""
        self.call, self.flop, self._of_call = self.call + (self._of_call > 0), 0, 0

    def given(self, tensor: Tensor) -> None:
        """Note a tensor that a call reads: a weight, or one from outside, if no call made it."""
        self._made.setdefault(tensor.untyped_storage()._cdata, (None, tensor))

    def made(self, tensor: Tensor) -> None:
        """Note a tensor that the call under way made, unless it is a view of an older one."""
        self._of_call += 1
        self._made.setdefault(tensor.untyped_storage()._cdata, ((self.call, self._of_call), tensor))

    def is_same(self, tensor: Tensor, other: Tensor) -> None:
        """Note that a tensor stands for another one."""
        self._made[tensor.untyped_storage()._cdata] = (self.place(other), tensor)

    def place(self, tensor: Tensor) -> Place | None:
        """Where a tensor was made; None for weights and what comes from outside."""
        found = self._made.get(tensor.untyped_storage()._cdata)
        return found and found[0]

    def keep(self, tensor: Tensor) -> Tensor:
        """Note that automatic differentiation keeps a tensor."""
        place = None if self.paused else self.place(tensor)
        if place is not None:
            self.saved.add(place)
        return tensor

    def product(self, flop: int, left: Tensor, right: Tensor, left_needs_grad: bool) -> None:
        """Note a matrix product."""
        sizes = left.numel(), right.numel()
        self.products.append(RecordedProduct(flop, *sizes, left_needs_grad, right.requires_grad, self.projection))


class _Kernels(TorchDispatchMode):
    """Notes FLOP and new tensors below automatic differentiation."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.record.paused:
            for tensor in _tensors((args, kwargs)):
                self.record.given(tensor)
        out = func(*args, **(kwargs or {}))
        if not self.record.paused:
            packet = func._overloadpacket
            if packet in flop_registry:
                self.record.flop += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            for tensor in _tensors(out):
                self.record.made(tensor)
        return out


class _Calls(TorchFunctionMode):
    """Notes the factors of products above automatic differentiation, where it shows which need a gradient.

    Questions for a value, which no tensor has here, are answered with zero.
    """

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name, record = kwargs or {}, getattr(func, "__name__", ""), self.record
        if name in _QUESTIONS and args[0].is_meta:
            return _QUESTIONS[name]
        if record.paused:
            return func(*args, **kwargs)
        record.next_call()
        out = func(*args, **kwargs)
        if record.flop:
            self._note(name, [t for t in _tensors((args, kwargs)) if t.is_floating_point()])
        return out

    def _note(self, name: str, tensors: list[Tensor]) -> None:
        record = self.record
        if name == "scaled_dot_product_attention":
            record_attention(record, tensors[0], tensors[1], tensors[2], record.flop)
            return
        left, right = tensors[1:3] if name.startswith(("add", "badd")) else tensors[:2]
        record.product(record.flop, left, right, left.requires_grad)


_QUESTIONS = {"__bool__": False, "item": 0, "__int__": 0, "__index__": 0, "__float__": 0.0}


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def record_attention(record: Record, query: Tensor, key: Tensor, value: Tensor, flop: int) -> None:
    """Note attention's two products: the scores, and the average of the values by them."""
    scores = query.requires_grad or key.requires_grad
    share = flop * query.shape[-1] // (query.shape[-1] + value.shape[-1])
    record.product(share, query, key, query.requires_grad)
    record.product(flop - share, query, value, scores)


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps: queries, keys, values, its output and one normaliser a row. `[B, H, T, D]`."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, length, _ = query.shape
        output = query.new_empty(batch, length, heads, value.shape[-1])
        ctx.save_for_backward(query, key, value, output, query.new_empty(batch, heads, length))
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError("a counted block has no backward pass")


_records: list[Record] = []


def _attention(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, counted over the full square; `[B, H, T, D]` to `[B, T, H, D]`."""
    if _records:
        record = _records[-1]
        record.attended = key.shape[1] * key.shape[3], value.shape[1] * value.shape[3]
        if record.cause == PREFIX:
            key, value = _cause(record, key), _cause(record, value)
        flop = 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        record_attention(record, query, key, value, flop)
    return _FusedAttention.apply(query, key, value), None  # type: ignore[return-value]


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)


@contextmanager
def recording() -> Iterator[Record]:
    """While active, all that runs on meta tensors is noted."""
    record = Record()
    _records.append(record)
    try:
        with _Calls(record), _Kernels(record):
            yield record
    finally:
        _records.remove(record)


def recorded(maps: Mapping[str, nn.Module], run: Callable[[Tensor], object], hidden: Tensor, cause: str) -> Record:
    """One run of a block on hidden states like these, in which `cause` alone makes tensors need a gradient.

    Args:
        maps: the linear maps of the block by their path.
        run: calls the block on hidden states.
        hidden: like those it gets.
        cause: the linear map whose output needs a gradient, `INPUT` for the hidden states, or `PREFIX` for the keys and
            values that attention reads.
    """
    with ExitStack() as stack:
        record = stack.enter_context(recording())
        record.cause = cause
        for name, module in maps.items():
            for handle in _watch(record, name, module, name == cause):
                stack.callback(handle.remove)
        stack.enter_context(saved_tensors_hooks(record.keep, lambda tensor: tensor))
        with _paused(record):
            given = torch.empty_like(hidden)
        record.made(given)
        run(_cause(record, given) if cause == INPUT else given)
    return record


def _cause(record: Record, tensor: Tensor) -> Tensor:
    """The same tensor, but one that needs a gradient."""
    if not tensor.is_floating_point():
        return tensor
    with _paused(record):
        cause = tensor.detach().requires_grad_().clone()  # no leaf, so that a block may change it in place
        record.is_same(cause, tensor)
    return cause


def _watch(record: Record, name: str, module: nn.Module, is_cause: bool) -> Iterator[Any]:
    def enter(_module: nn.Module, args: tuple[Any, ...]) -> None:
        place = record.place(args[0])
        if place is not None:
            record.read[name] = place
        record.projection = name

    def leave(_module: nn.Module, _args: object, output: Any) -> Any:
        record.projection = ""
        return tree_map_only(Tensor, lambda t: _cause(record, t), output) if is_cause else None

    yield module.register_forward_pre_hook(enter)
    yield module.register_forward_hook(leave)


@contextmanager
def _paused(record: Record) -> Iterator[None]:
    record.paused = True
    try:
        yield
    finally:
        record.paused = False
