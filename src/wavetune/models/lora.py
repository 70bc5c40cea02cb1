"""LoRA with a client axis: one frozen base pass serves all clients, the adapters act per client.

A target module keeps its frozen weight. Its adapters are two stacks: `local` with one slot per client that holds its
own copy of the layer, and `shared` with the one slot of whoever serves the others (the main server). Tokens stand
client by client, so a slot's tokens are one slice and the batched product is one small product per slice.

Legend: K clients, S slots, N tokens, R rank.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wavetune.costs.adapter import AdapterSite, Matrix
from wavetune.machine_memory import require_memory
from wavetune.models.adapter import Segment
from wavetune.models.grouped_lora import can_group, grouped_lora
from wavetune.models.products import frozen_product, product, product_back
from wavetune.seeds import torch_stream

Matrices = dict[str, Tensor]
"""The matrices of an adapter by name: of one client, or stacks of those of many, `[S, ...]`.

LoRA's update of slot s is `scale * A[s] @ B[s]`, A `[S, in, R]`, B `[S, R, out]`.
"""

_PROMPT_DEVIATION = 0.02
_BYTES_PER_VALUE = 16  # in fp32: itself, its gradient and what an optimiser remembers of it


def lora_matrices(in_features: int, out_features: int) -> tuple[Matrix, Matrix]:
    """The two factors of LoRA in a linear map."""
    return Matrix("A", in_features, columns=True, start="uniform"), Matrix("B", out_features)


@dataclass(frozen=True)
class AdapterBank:
    """All adapters of a cohort of K clients, LoRA and others. A module whose site is missing acts as the plain base.

    `local_LK[l, k]` says whether client k holds its own copy of block l; the others use the shared slot of that block.
    Components of LoRA beyond a client's rank are zero and stay zero: the gradients of both factors vanish there.
    """

    sites: tuple[AdapterSite, ...]
    local_LK: NDArray[np.bool_]
    scale: float
    local: dict[str, Matrices]
    shared: dict[str, Matrices]

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

    def of_samples(self, site: AdapterSite, matrix: str, client_S: Sequence[int]) -> Tensor:
        """One matrix of a site for each sample, its client's, `[S, ...]`; gradients reach what is used alone."""
        slots = self.slots(site.layer)[list(client_S)]
        stacks = list[Tensor]()
        if (slots >= 0).any():
            stacks.append(self.local[site.name][matrix])
        if (slots < 0).any():
            stacks.append(self.shared[site.name][matrix])
        stack = torch.cat(stacks)
        slots = np.where(slots < 0, len(stack) - 1, slots)  # the shared one stands behind
        return stack.index_select(0, torch.from_numpy(slots).to(stack.device))

    def copies(self, client: int, sites: Sequence[AdapterSite] | None = None) -> Matrices:
        """Copies of the matrices of a client's own slots at these sites (None: at all), named `site.matrix`."""
        own = [(site.name, int(self.slots(site.layer)[client])) for site in (self.sites if sites is None else sites)]
        stacks = {name: {m: stack[slot] for m, stack in self.local[name].items()} for name, slot in own if slot >= 0}
        return {name: matrix.detach().clone() for name, matrix in named_matrices(stacks)}

    def only(self, kinds: Container[str]) -> AdapterBank:
        """The same adapters, restricted to some kinds: without LoRA, the policy that clients started from."""
        sites = tuple(site for site in self.sites if site.kind in kinds)
        names = {site.name for site in sites}
        local, shared = ({n: p for n, p in stacks.items() if n in names} for stacks in (self.local, self.shared))
        return replace(self, sites=sites, local=local, shared=shared)

    def parameters(self, local: bool) -> Iterator[Tensor]:
        """Leaf tensors of the clients, or of the server, in a fixed order."""
        stacks = self.local if local else self.shared
        for site in self.sites:
            yield from stacks.get(site.name, {}).values()


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
    """Fresh adapters, LoRA as PEFT initialises it (A uniform in plus or minus 1/sqrt(in), B zero); equal in all slots.

    Ranks differ by zero padding to the largest, R; the scale is `alpha / R` for everyone, so that factors of different
    clients can be averaged. Each site draws from a stream keyed by its name, in fp32 whatever its `dtype`.
    Raises ConfigError where they are larger than the machine's memory.
    """
    largest, slots_L = max(*rank_K, shared_rank), np.count_nonzero(local_LK, axis=1) + 1
    values = sum(int(slots_L[s.layer]) * m.width * m.rows(largest) for s in sites for m in s.matrices)
    require_memory(_BYTES_PER_VALUE * values, f"adapters of {values:,} values that are trained")
    local: dict[str, Matrices] = {}
    shared: dict[str, Matrices] = {}
    for site in sites:
        generator, own_K = torch_stream(seed, f"lora:{site.name}"), local_LK[site.layer]
        own, common = Matrices(), Matrices()
        for matrix in site.matrices:
            first = _first_values(matrix, matrix.rows(largest), generator).to(device, dtype)
            own[matrix.name] = _stack(first, matrix, [rank_K[k] for k in np.flatnonzero(own_K).tolist()])
            common[matrix.name] = _stack(first, matrix, [shared_rank])
        if own_K.any():
            local[site.name] = own
        if not own_K.all():
            shared[site.name] = common
    return AdapterBank(tuple(sites), local_LK, alpha / max(largest, 1), local, shared)


def _first_values(matrix: Matrix, rows: int, generator: torch.Generator) -> Tensor:
    # named, as the default is another while a thread beside this one loads a model in fp64
    shape = (matrix.width, rows) if matrix.columns else (rows, matrix.width)
    values = torch.full(shape, float(matrix.start == "one"), dtype=torch.float32)
    if matrix.start == "uniform":
        bound = matrix.width**-0.5
        values.uniform_(-bound, bound, generator=generator)
    elif matrix.start == "normal":
        values.normal_(0, _PROMPT_DEVIATION, generator=generator)
    return values


def _stack(first: Tensor, matrix: Matrix, rank_S: Sequence[int]) -> Tensor:
    """As many slots with the same first values, without the components beyond the rank of each."""
    rows = torch.tensor([matrix.rows(rank) for rank in rank_S], device=first.device)[:, None, None]
    place = torch.arange(first.shape[1 if matrix.columns else 0], device=first.device)
    return (first * ((place if matrix.columns else place[:, None]) < rows)).requires_grad_()


def named_matrices(stacks: Mapping[str, Mapping[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """All matrices of adapters by site, named `site.matrix`."""
    for site, matrices in stacks.items():
        for name, matrix in matrices.items():
            yield f"{site}.{name}", matrix


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

    def stacks(self, site: AdapterSite) -> tuple[tuple[Segment, ...], Matrices | None, Matrices | None] | None:
        """Segments, local and shared matrices of a site; None where nothing acts.

        What no client of this pass uses is absent: it gets no gradient, so that an optimiser leaves it alone.
        """
        bank = self.bank
        if bank is None or (site.name not in bank.local and site.name not in bank.shared):
            return None
        segments = self.segments[site.layer]
        local = bank.local[site.name] if any(s.local for s in segments) else None
        shared = bank.shared[site.name] if any(not s.local for s in segments) else None
        return segments, local, shared

    def offsets(self, segments: tuple[Segment, ...], device: torch.device) -> Tensor:
        """Where each segment of this pass ends, int32 `[S]`; blocks with equal segments share them."""
        if segments not in self._offsets:
            ends = [segment.stop for segment in segments]
            self._offsets[segments] = torch.tensor(ends, dtype=torch.int32, device=device)
        return self._offsets[segments]


class FrozenLinear(nn.Module):
    """A frozen linear map that computes in its weight's precision and returns `out_dtype`.

    A weight of int8 counts in steps, one an output channel (`step_O`), and computes in fp32.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype, step_O: Tensor | None = None
    ) -> None:
        super().__init__()
        self.step_O = None if step_O is None else nn.Parameter(step_O, requires_grad=False)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.out_dtype = out_dtype

    def forward(self, x: Tensor) -> Tensor:
        """`x W^T + b` of `[..., in]`."""
        return self.product(x).to(self.out_dtype)

    def product(self, x: Tensor) -> Tensor:
        """The same in the weight's precision."""
        return frozen_product(x, self.weight, self.bias, self.step_O)


class StackedLoraLinear(FrozenLinear):
    """A frozen linear map with the active bank's adapters on top."""

    def __init__(self, base: FrozenLinear, site: AdapterSite, active: ActiveAdapters) -> None:
        super().__init__(base.weight, base.bias, base.out_dtype, base.step_O)
        self.site = site
        self.active = active

    def acting(self) -> tuple[float, tuple[Segment, ...], Matrices | None, Matrices | None] | None:
        """What acts on this map in a pass: scale, segments, local and shared matrices; None where nothing does."""
        bank, stacks = self.active.bank, self.active.stacks(self.site)
        return None if bank is None or stacks is None else (bank.scale, *stacks)

    def forward(self, x: Tensor) -> Tensor:
        """`x W^T + b + scale (x A_s) B_s`, each token with its own slot s. `[..., in]` to `[..., out]`."""
        if (acting := self.acting()) is None:
            return super().forward(x)
        scale, segments, local, shared = *acting[:2], *map(factors_of, acting[2:])
        rows = x.reshape(-1, x.shape[-1])
        if can_group(rows, self.weight):
            offsets_S = self.active.offsets(segments, rows.device)
            y = grouped_lora(rows, self.weight, self.bias, scale, segments, offsets_S, local, shared)
        else:
            y = _LoraLinear.apply(rows, self.weight, self.bias, self.step_O, scale, segments, *local, *shared)
        return y.view(*x.shape[:-1], -1).to(self.out_dtype)


def factors_of(stacks: Mapping[str, Tensor] | None) -> tuple[Tensor | None, Tensor | None]:
    """A and B of LoRA's stacks, or neither."""
    return (None, None) if stacks is None else (stacks["A"], stacks["B"])


class _LoraLinear(torch.autograd.Function):
    """Base and adapter in one node: the update lands in the base product's buffer, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, step_O: Tensor | None, scale: float,
        segments: tuple[Segment, ...], local_A: Any, local_B: Any, shared_A: Any, shared_B: Any,
    ) -> Tensor:  # fmt: skip
        wide = x.to(torch.float32) if x.dtype != torch.float64 else x
        y = product(x, weight, bias, step_O).to(wide.dtype)
        reduced = add_updates(y, wide, scale, segments, (local_A, local_B, shared_A, shared_B))
        ctx.save_for_backward(wide, weight, step_O, local_A, local_B, shared_A, shared_B, *reduced)
        ctx.scale, ctx.segments, ctx.in_dtype = scale, segments, x.dtype
        ctx.stacks = local_A, local_B, shared_A, shared_B
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, step_O, _, _, _, _, *reduced = ctx.saved_tensors
        gy = grads[0]
        gx = product_back(gy, weight, step_O).to(x.dtype) if ctx.needs_input_grad[0] else None
        wanted = ctx.needs_input_grad[6:]
        returned = updates_back(gy, x, gx, reduced, ctx.scale, ctx.segments, ctx.stacks, wanted)
        gx = gx.to(ctx.in_dtype) if gx is not None else None
        return gx, None, None, None, None, None, *returned


Factors = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Stacks A and B of the clients, and of the shared slot; what no client of a pass uses is absent."""


def add_updates(y: Tensor, x: Tensor, scale: float, segments: Sequence[Segment], factors: Factors) -> list[Tensor]:
    """Add every slot's update to its rows of a map's output `[N, out]`; returns `x A` of each segment."""
    reduced = list[Tensor]()
    for local, slot, start, stop in segments:
        A, B = cast(tuple[Tensor, Tensor], factors[:2] if local else factors[2:])
        h = x[start:stop] @ A[slot]
        y[start:stop].addmm_(h, B[slot], alpha=scale)
        reduced.append(h)
    return reduced


def updates_back(
    gy: Tensor, x: Tensor, gx: Tensor | None, reduced: Sequence[Tensor], scale: float, segments: Sequence[Segment],
    factors: Factors, wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Add the updates' part to the gradient `gx` of a map's input, if it is asked for; returns those of the factors."""
    buffers, returned = zip(*(_gradient_of(f, needed) for f, needed in zip(factors, wanted, strict=True)), strict=True)
    for (local, slot, start, stop), h in zip(segments, reduced, strict=True):
        A, B = cast(tuple[Tensor, Tensor], factors[:2] if local else factors[2:])
        gA, gB = buffers[:2] if local else buffers[2:]
        gy_part = gy[start:stop]
        gh = gy_part @ B[slot].t()
        if gA is not None:
            gA[slot].add_((gh.t() @ x[start:stop]).t(), alpha=scale)  # thrice as fast as the product as it stands
        if gB is not None:
            gB[slot].addmm_(h.t(), gy_part, alpha=scale)
        if gx is not None:
            gx[start:stop].addmm_(gh, A[slot].t(), alpha=scale)
    return returned


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
