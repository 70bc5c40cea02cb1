"""LoRA with a client axis: one frozen base pass serves all clients, the adapters act per client.

A target module keeps its frozen weight. Its adapters are two stacks: `local` with one slot per client that holds its
own copy of the layer, and `shared` with the one slot of whoever serves the others (the main server). Tokens stand
client by client, so a slot's tokens are one slice and the batched product is one small product per slice.

Legend: K clients, S slots, N tokens, R rank.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wavetune.models.grouped_lora import can_group, grouped_lora
from wavetune.seeds import torch_stream


class LoraPair(NamedTuple):
    """A stack of factors: the update of slot s is `scale * A[s] @ B[s]`. A `[S, in, R]`, B `[S, R, out]`.

    A bottleneck's two maps have the same shapes, with its width as R; a classifier's weight is A and its bias is B,
    `[S, 1, out]`.
    """

    A: Tensor
    B: Tensor


Factors = LoraPair | tuple[None, None]


class Segment(NamedTuple):
    """Tokens `start:stop` belong to `slot` of the local stack, or of the shared one."""

    local: bool
    slot: int
    start: int
    stop: int


AdapterKind = Literal["lora", "bottleneck", "head", "prompt"]
_PROMPT_DEVIATION = 0.02  # of the values that a soft prompt starts with


@dataclass(frozen=True)
class AdapterSite:
    """Where an adapter acts: its dotted name, its block and its widths.

    A LoRA site is named after its module in the stock model. A bottleneck acts on a module's output and is named
    `module:bottleneck`; a classifier's weight and bias are the pair of the site `classifier`, in the last block.
    A soft prompt, at the site `prompt` before the first block, is B `[tokens, width]`; its A is empty, as it reads
    nothing. `width` is the inner width that all slots have, a classifier's number of classes, a prompt's number of
    tokens; None for LoRA, where it is each client's rank.
    """

    name: str
    layer: int
    in_features: int
    out_features: int
    kind: AdapterKind = "lora"
    width: int | None = None

    def width_at(self, rank: int) -> int:
        """Columns of A in use by a client whose LoRA has this rank."""
        return rank if self.width is None else self.width


@dataclass(frozen=True)
class AdapterBank:
    """All adapters of a cohort of K clients, LoRA and others. A module whose site is missing acts as the plain base.

    `local_LK[l, k]` says whether client k holds its own copy of block l; the others use the shared slot of that block.
    Columns of A and rows of B beyond a client's rank are zero and stay zero: both their gradients vanish.
    """

    sites: tuple[AdapterSite, ...]
    local_LK: NDArray[np.bool_]
    scale: float
    local: dict[str, LoraPair]
    shared: dict[str, LoraPair]

    def slots(self, layer: int) -> NDArray[np.intp]:
        """Slot of each client in the local stacks of a block, -1 for the shared one. `[K]`."""
        own_K = self.local_LK[layer]
        return np.where(own_K, np.cumsum(own_K) - 1, -1)

    def segments(self, layer: int, clients: Sequence[int], tokens: Sequence[int]) -> tuple[Segment, ...]:
        """Slices of a pass over `clients` (positions in the cohort) with that many tokens each."""
        slots, found, start = self.slots(layer), list[Segment](), 0
        for client, count in zip(clients, tokens, strict=True):
            slot = int(slots[client])
            segment = Segment(slot >= 0, max(slot, 0), start, start + count)
            if count == 0:
                continue
            if found and not segment.local and not found[-1].local:
                segment = found.pop()._replace(stop=start + count)
            found.append(segment)
            start += count
        return tuple(found)

    def only(self, kinds: Container[AdapterKind]) -> AdapterBank:
        """The same adapters, restricted to some kinds: without LoRA, the policy that clients started from."""
        sites = tuple(site for site in self.sites if site.kind in kinds)
        names = {site.name for site in sites}
        local, shared = ({n: p for n, p in stacks.items() if n in names} for stacks in (self.local, self.shared))
        return replace(self, sites=sites, local=local, shared=shared)

    def parameters(self, local: bool) -> Iterator[Tensor]:
        """Leaf tensors of the clients, or of the server, in a fixed order."""
        stacks = self.local if local else self.shared
        for site in self.sites:
            yield from stacks.get(site.name, ())


def new_bank(
    sites: Sequence[AdapterSite],
    local_LK: NDArray[np.bool_],
    rank_K: Sequence[int],
    shared_rank: int,
    alpha: float,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> AdapterBank:
    """Fresh adapters as PEFT initialises them: A uniform in plus or minus 1/sqrt(in), B zero; equal in all slots.

    The vectors of a soft prompt are normal with deviation 0.02.

    Ranks differ by zero padding to the largest, R; the scale is `alpha / R` for everyone, so that factors of different
    clients can be averaged. Each A is drawn from a stream keyed by its site's name, in fp32 whatever its `dtype`.
    """
    largest = max(*rank_K, shared_rank)
    local: dict[str, LoraPair] = {}
    shared: dict[str, LoraPair] = {}
    for site in sites:
        generator = torch_stream(seed, f"lora:{site.name}")
        bound = max(site.in_features, 1) ** -0.5
        # named, as the default is another while a thread beside this one loads a model in fp64
        A = torch.empty(site.in_features, site.width_at(largest), dtype=torch.float32)
        A = A.uniform_(-bound, bound, generator=generator).to(device, dtype)
        B = torch.zeros(1 if site.kind == "head" else A.shape[1], site.out_features, dtype=torch.float32)
        if site.kind == "prompt":
            B.normal_(0, _PROMPT_DEVIATION, generator=generator)
        B, own_K = B.to(device, dtype), local_LK[site.layer]
        if own_K.any():
            widths = [site.width_at(rank_K[k]) for k in np.flatnonzero(own_K).tolist()]
            local[site.name] = _stack(A, B, widths)
        if not own_K.all():
            shared[site.name] = _stack(A, B, [site.width_at(shared_rank)])
    return AdapterBank(tuple(sites), local_LK, alpha / max(largest, 1), local, shared)


def _stack(A: Tensor, B: Tensor, widths: Sequence[int]) -> LoraPair:
    keep = torch.arange(A.shape[1], device=A.device) < torch.tensor(widths, device=A.device)[:, None, None]
    return LoraPair((A * keep).requires_grad_(), B.repeat(len(widths), 1, 1).requires_grad_())


@dataclass
class ActiveAdapters:
    """What the adapter modules of a model act with during one pass; without a bank they are the plain base."""

    bank: AdapterBank | None = None
    segments: dict[int, tuple[Segment, ...]] = field(default_factory=dict)
    _offsets: dict[tuple[Segment, ...], Tensor] = field(default_factory=dict)

    def use(self, bank: AdapterBank | None, clients: Sequence[int] = (), tokens: Sequence[int] = ()) -> None:
        """Act with a bank on a pass over these clients with that many tokens each."""
        self.bank = bank
        self._offsets = {}
        layers = {site.layer for site in bank.sites} if bank else ()
        self.segments = {layer: bank.segments(layer, clients, tokens) for layer in layers} if bank else {}

    def stacks(self, site: AdapterSite) -> tuple[tuple[Segment, ...], Factors, Factors] | None:
        """Segments, local and shared factors of a site; None where nothing acts.

        What no client of this pass uses is absent: it gets no gradient, so that an optimiser leaves it alone.
        """
        bank = self.bank
        if bank is None or (site.name not in bank.local and site.name not in bank.shared):
            return None
        segments = self.segments[site.layer]
        local = bank.local[site.name] if any(s.local for s in segments) else (None, None)
        shared = bank.shared[site.name] if any(not s.local for s in segments) else (None, None)
        return segments, local, shared

    def offsets(self, segments: tuple[Segment, ...], device: torch.device) -> Tensor:
        """Where each segment of this pass ends, int32 `[S]`; blocks with equal segments share them."""
        if segments not in self._offsets:
            ends = [segment.stop for segment in segments]
            self._offsets[segments] = torch.tensor(ends, dtype=torch.int32, device=device)
        return self._offsets[segments]


class FrozenLinear(nn.Module):
    """A frozen linear map that computes in its weight's precision and returns `out_dtype`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.out_dtype = out_dtype

    def forward(self, x: Tensor) -> Tensor:
        """`x W^T + b` of `[..., in]`."""
        return self.product(x).to(self.out_dtype)

    def product(self, x: Tensor) -> Tensor:
        """The same in the weight's precision."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class StackedLoraLinear(FrozenLinear):
    """A frozen linear map with the active bank's adapters on top."""

    def __init__(self, base: FrozenLinear, site: AdapterSite, active: ActiveAdapters) -> None:
        super().__init__(base.weight, base.bias, base.out_dtype)
        self.site = site
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """`x W^T + b + scale (x A_s) B_s`, each token with its own slot s. `[..., in]` to `[..., out]`."""
        bank, stacks = self.active.bank, self.active.stacks(self.site)
        if bank is None or stacks is None:
            return super().forward(x)
        segments, local, shared = stacks
        rows = x.reshape(-1, x.shape[-1])
        if can_group(rows, self.weight):
            offsets_S = self.active.offsets(segments, rows.device)
            y = grouped_lora(rows, self.weight, self.bias, bank.scale, segments, offsets_S, local, shared)
        else:
            y = _LoraLinear.apply(rows, self.weight, self.bias, bank.scale, segments, *local, *shared)
        return y.view(*x.shape[:-1], -1).to(self.out_dtype)


class _LoraLinear(torch.autograd.Function):
    """Base and adapter in one node: the update lands in the base product's buffer, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float, segments: tuple[Segment, ...],
        local_A: Any, local_B: Any, shared_A: Any, shared_B: Any,
    ) -> Tensor:  # fmt: skip
        wide = x.to(torch.float32) if x.dtype != torch.float64 else x
        y = F.linear(x.to(weight.dtype), weight, bias).to(wide.dtype)
        reduced: list[Tensor] = []
        for local, slot, start, stop in segments:
            A, B = (local_A, local_B) if local else (shared_A, shared_B)
            h = wide[start:stop] @ A[slot]
            y[start:stop].addmm_(h, B[slot], alpha=scale)
            reduced.append(h)
        ctx.save_for_backward(wide, weight, local_A, local_B, shared_A, shared_B, *reduced)
        ctx.scale, ctx.segments, ctx.in_dtype = scale, segments, x.dtype
        ctx.stacks = local_A, local_B, shared_A, shared_B
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, local_A, local_B, shared_A, shared_B, *reduced = ctx.saved_tensors
        gy = grads[0]
        gx = (gy.to(weight.dtype) @ weight).to(x.dtype) if ctx.needs_input_grad[0] else None
        wanted = zip(ctx.stacks, ctx.needs_input_grad[5:], strict=True)
        buffers, returned = zip(*(_gradient_of(f, needed) for f, needed in wanted), strict=True)
        for (local, slot, start, stop), h in zip(ctx.segments, reduced, strict=True):
            A, B = (local_A, local_B) if local else (shared_A, shared_B)
            gA, gB = buffers[:2] if local else buffers[2:]
            gy_part = gy[start:stop]
            gh = gy_part @ B[slot].t()
            if gA is not None:
                gA[slot].addmm_(x[start:stop].t(), gh, alpha=ctx.scale)
            if gB is not None:
                gB[slot].addmm_(h.t(), gy_part, alpha=ctx.scale)
            if gx is not None:
                gx[start:stop].addmm_(gh, A[slot].t(), alpha=ctx.scale)
        gx = gx.to(ctx.in_dtype) if gx is not None else None
        return gx, None, None, None, None, *returned


def _gradient_of(stack: Tensor | None, needed: bool) -> tuple[Tensor | None, Tensor | None]:
    """Where the gradient of a stack is added up, and what its pass returns of it.

    A stack of several slots has its gradient in place: a pass is about few of them, and leaves the others alone.
    """
    if stack is None or not needed:
        return None, None
    if len(stack) == 1 or not stack.is_leaf:
        return (found := torch.zeros_like(stack)), found
    if stack.grad is None:
        stack.grad = torch.zeros_like(stack)
    return stack.grad, None
