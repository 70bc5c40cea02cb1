"""Hidden states behind the first blocks of a model in which nothing is trained: computed once for a row, and kept.

They are kept by what they depend on, the row's tokens and the adapters in these blocks, so that what is kept is never
out of date. Every row is computed alone: its numbers then do not depend on which rows came before it, and a continued
run finds the same.

Legend: N tokens, D width.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch leave parts of their types open)

import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import torch
from torch import Tensor

from wavetune.costs.adapter import AdapterSite
from wavetune.data.batching import RaggedBatch
from wavetune.models.backbone import Backbone
from wavetune.models.lora import AdapterBank, Matrices
from wavetune.models.ragged import ragged_layout

_CHUNK_BYTES = 64 << 20  # of a file


def lowest_trained(bank: AdapterBank, num_layers: int) -> int:
    """Number of the first block in which an adapter trains; `num_layers` where none does."""
    stacks = (bank.local, bank.shared)
    trained = (
        s.layer
        for s in bank.sites
        if any(t.requires_grad and t.numel() for b in stacks for t in b.get(s.name, {}).values())
    )
    return min(trained, default=num_layers)


@dataclass
class MappedRows:
    """Matrices `[N, D]` in files without names, which are mapped into memory, up to a limit.

    The system may write them out and read them again; they are gone when the process ends.
    """

    width: int
    dtype: torch.dtype
    limit_bytes: int
    _room: Tensor | None = field(default=None, init=False)  # [tokens, D] of the last file that are free
    _bytes: int = field(default=0, init=False)

    def keep(self, rows_ND: Tensor) -> Tensor | None:
        """A copy in the file; None where there is no room for it."""
        room = self._room
        if room is None or len(room) < len(rows_ND):
            room = self._grown(rows_ND.numel() * rows_ND.element_size())
        if room is None:
            return None
        kept, self._room = room[: len(rows_ND)], room[len(rows_ND) :]
        return kept.copy_(rows_ND)

    def _grown(self, least_bytes: int) -> Tensor | None:
        size = -(-max(least_bytes, min(_CHUNK_BYTES, self.limit_bytes - self._bytes)) // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._bytes + size > self.limit_bytes:
            return None
        try:
            with tempfile.TemporaryFile(prefix="wavetune-") as file:
                os.posix_fallocate(file.fileno(), 0, size)
                chunk = torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=self.dtype)
        except OSError:  # the disk is full
            self.limit_bytes = self._bytes
            return None
        self._bytes += size
        return chunk[: len(chunk) // self.width * self.width].view(-1, self.width)


@dataclass
class KeptPrefix:
    """What rows come to behind the first blocks of a backbone, for as many blocks as nothing is trained in."""

    backbone: Backbone
    blocks: int
    limit_bytes: int
    _kept: dict[tuple[int, bytes, bytes], Tensor] = field(default_factory=dict[tuple[int, bytes, bytes], Tensor])
    _asked: AdapterBank | None = None
    _versions: tuple[int, ...] = ()
    _acting: dict[tuple[int, int], bytes] = field(default_factory=dict[tuple[int, int], bytes])

    def __post_init__(self) -> None:
        self._store = MappedRows(self.backbone.width, self.backbone.dtype, self.limit_bytes)

    @torch.no_grad()
    def hidden(self, batch: RaggedBatch, clients: Sequence[int], bank: AdapterBank | None, blocks: int) -> Tensor:
        """Hidden states `[N, D]` of a batch's samples behind so many blocks, as these clients of a bank see them."""
        device, rows, start = self.backbone.device, list[Tensor](), 0
        for position, length in zip(batch.client_of_sample.tolist(), batch.lengths.tolist(), strict=True):
            ids, client = batch.input_ids[start : start + length], clients[position]
            key = (blocks, self._adapters(bank, client, blocks), ids.tobytes())
            found = self._kept.get(key)
            if found is None:
                acting = bank if key[1] else None
                layout = ragged_layout([length], device, self.backbone.key_tokens(acting))
                of_row = torch.from_numpy(ids).to(device)
                found = self.backbone.forward(of_row, layout, acting, [client], [length], blocks=range(blocks))
                kept = self._store.keep(found)
                if kept is not None:
                    self._kept[key] = kept
            rows.append(found.to(device))
            start += length
        return torch.cat(rows)

    def _adapters(self, bank: AdapterBank | None, client: int, blocks: int) -> bytes:
        """A digest of the adapters of a client in the first blocks; empty where they leave the base as it is."""
        if bank is None:
            return b""
        within = [site for site in bank.sites if site.layer < blocks]
        stacks = [
            stack for site in within for b in (bank.local, bank.shared) for stack in b.get(site.name, {}).values()
        ]
        versions = tuple(stack._version for stack in stacks)
        if bank is not self._asked or versions != self._versions:
            self._asked, self._versions, self._acting = bank, versions, {}
        if (blocks, client) not in self._acting:
            own = [(site, _own(bank, site, int(bank.slots(site.layer)[client]))) for site in within]
            self._acting[blocks, client] = _digest(bank.scale, own)
        return self._acting[blocks, client]


def _own(bank: AdapterBank, site: AdapterSite, slot: int) -> Matrices:
    stacks = (bank.local if slot >= 0 else bank.shared).get(site.name, {})
    return {name: stack[max(slot, 0)] for name, stack in stacks.items()}


def _digest(scale: float, own: Sequence[tuple[AdapterSite, Matrices]]) -> bytes:
    digest, acts = sha256(repr(scale).encode()), False
    for site, matrices in own:
        acts |= bool(matrices) and (site.switch is None or bool(matrices[site.switch].any()))
        for t in matrices.values():
            digest.update(f"{site.name} {tuple(t.shape)}".encode() + t.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest() if acts else b""
