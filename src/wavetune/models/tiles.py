"""Products in fp32 on AMX, the matrix unit of some x86 processors, which multiplies bf16 into fp32.

An instruction of it multiplies a tile of 16 rows of 32 values by one of 16 columns and adds what that comes to onto 16
by 16 sums in fp32. A value in fp32 is the sum of three in bf16, each the nearest to what those before it leave; six of
the nine products of such pieces, all but those below the last bit of fp32, come as near to the exact product as the
processor's own fp32 does, in less time. Of values below 1e-33 digits are lost, and a row that holds an infinite one
becomes none.

Shape letters: M rows, K summed, N columns; K and N are multiples of 32. A row's numbers depend neither on other rows
nor on the number of threads.
"""

import ctypes
import platform
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from llvmlite import ir  # pyright: ignore[reportMissingTypeStubs]
from numba import config, types  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numba.extending import intrinsic  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from torch import Tensor

from wavetune.allocation.kernel_cache import compiled
from wavetune.models.threads import side_by_side

_SYSTEM_CALL, _PERMIT, _TILE_DATA = 158, 0x1023, 18  # Linux: arch_prctl, what it is asked, and for which state
_NEEDED = frozenset(("+amx-tile", "+amx-bf16", "+avx512bf16"))
_TILE = 1024  # bytes
_PIECES = 3
# Which pieces of the left are multiplied by which of the right: the smallest first, as their sums lose least so, and
# each time one of the last two stays in its register.
_TURNS = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0))
_STEP = _PIECES * _TILE  # of the right: 32 values of 16 columns
_DEPTH = 768  # of a column's values summed before what was found is written
_AT_ONCE = 4  # steps: so much of 32 rows stays in the first cache while columns pass by
_MOST_COLUMNS = (1 << 20) // (_DEPTH // 32 * _STEP)  # by 16, packed at a time, which the second cache holds
_MOST_ROWS = 4096  # packed at a time
_AHEAD = 512  # bytes
_SUMS = 64 + _STEP  # where they are in a thread's memory, after the unit's configuration and a step of packed columns
_PANEL = _SUMS + 2 * _TILE * (_MOST_COLUMNS + 1)
_ROOM = _PANEL + _MOST_COLUMNS * _DEPTH // 32 * _STEP

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_POINTER, _NOTHING = ir.PointerType(), ir.VoidType()
_FLOATS, _WORDS, _BOTH, _BOTH_WORDS = (
    ir.VectorType(kind, count) for kind, count in ((ir.FloatType(), 16), (_I32, 16), (_I16, 32), (_I32, 32))
)
_IN_TURN = [16 * (k % 2) + k // 2 for k in range(32)]


class _Bf16(ir.Type):
    def _to_string(self) -> str:
        return "bfloat"


def _code(emit: Callable[..., None]) -> Any:
    """What is compiled where a kernel calls an intrinsic, of addresses and of numbers of bytes."""

    def typed(_context: Any, *arguments: Any) -> Any:
        def code(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
            emit(builder, *values)
            return context.get_dummy_value()

        return types.void(*arguments), code

    return typed


def _call(builder: Any, name: str, result: ir.Type, *arguments: Any) -> Any:
    function = builder.module.globals.get(f"llvm.{name}")
    if function is None:
        kind = ir.FunctionType(result, [a.type for a in arguments])
        function = ir.Function(builder.module, kind, f"llvm.{name}")
    return builder.call(function, arguments)


def _at(builder: Any, address: Any, more: int = 0) -> Any:
    return builder.inttoptr(builder.add(address, _I64(more)) if more else address, _POINTER)


@cast(Any, intrinsic)
def _configure(context: Any, address: Any) -> Any:
    """Set up the unit with sizes of tiles."""
    return _code(lambda builder, at: _call(builder, "x86.ldtilecfg", _NOTHING, _at(builder, at)))(context, address)


@cast(Any, intrinsic)
def _release(context: Any) -> Any:
    return _code(lambda builder: _call(builder, "x86.tilerelease", _NOTHING))(context)


@cast(Any, intrinsic)
def _clear(context: Any) -> Any:
    """Set both sums to zero."""

    def emit(builder: Any) -> None:
        for tile in range(2):
            _call(builder, "x86.tilezero", _NOTHING, _I8(tile))

    return _code(emit)(context)


def _move(name: str, builder: Any, address: Any, apart: Any) -> None:
    second = builder.add(address, builder.mul(apart, _I64(16)))
    for tile, at in enumerate((address, second)):
        _call(builder, name, _NOTHING, _I8(tile), _at(builder, at), apart)


@cast(Any, intrinsic)
def _read_sums(context: Any, address: Any, apart: Any) -> Any:
    """Read both sums from 32 rows that lie so many bytes apart."""
    return _code(partial(_move, "x86.tileloadd64"))(context, address, apart)


@cast(Any, intrinsic)
def _write_sums(context: Any, address: Any, apart: Any) -> Any:
    """Write both sums to 32 rows that lie so many bytes apart."""
    return _code(partial(_move, "x86.tilestored64"))(context, address, apart)


@cast(Any, intrinsic)
def _add_products(context: Any, left: Any, right: Any) -> Any:
    """Add the products of one step, 32 packed rows by 16 packed columns. Five of the eight registers serve it: where
    another thread shares the core, a register is free for its next value the later the more of them are in use.
    """

    def emit(builder: Any, left: Any, right: Any) -> None:
        def read(register: int, address: Any, tile: int) -> None:
            at = _at(builder, address, tile * _TILE)
            _call(builder, "x86.tileloadd64", _NOTHING, _I8(register), at, _I64(64))

        held, lines = (-1, -1), iter(range(_STEP, 2 * _STEP, 64))
        for turn in _TURNS:
            if turn[0] != held[0]:
                read(2, left, 2 * turn[0])
                read(3, left, 2 * turn[0] + 1)
            if turn[1] != held[1]:
                read(4, right, turn[1])
            held = turn
            for tile in range(2):
                _call(builder, "x86.tdpbf16ps", _NOTHING, _I8(tile), _I8(2 + tile), _I8(4))
            for _ in range(_STEP // 64 // len(_TURNS)):
                _prefetch(builder, builder.add(right, _I64(next(lines))), near=3)

    return _code(emit)(context, left, right)


def _prefetch(builder: Any, address: Any, write: int = 0, near: int = 2) -> None:
    _call(builder, "prefetch.p0", _NOTHING, _at(builder, address), _I32(write), _I32(near), _I32(1))


@cast(Any, intrinsic)
def _to_read(context: Any, address: Any) -> Any:
    """Ask for a line that is read soon."""
    return _code(_prefetch)(context, address)


@cast(Any, intrinsic)
def _to_write(context: Any, address: Any) -> Any:
    """Ask for a line that is written soon."""
    return _code(partial(_prefetch, write=1))(context, address)


def _packing(order: list[int] | None, builder: Any, first: Any, second: Any, to: Any, apart: Any) -> None:
    left = [builder.load(_at(builder, at), align=1, typ=_FLOATS) for at in (first, second)]
    for _ in range(_PIECES):
        nearest = _call(builder, "x86.avx512bf16.cvtne2ps2bf16.512", ir.VectorType(_Bf16(), 32), left[1], left[0])
        piece = builder.bitcast(nearest, _BOTH)
        for i in range(2):
            half = builder.shuffle_vector(piece, piece, ir.Constant(_WORDS, [16 * i + k for k in range(16)]))
            wide = builder.shl(builder.zext(half, _WORDS), ir.Constant(_WORDS, [16] * 16))
            left[i] = builder.fsub(left[i], builder.bitcast(wide, _FLOATS))
        if order is not None:
            piece = builder.shuffle_vector(piece, piece, ir.Constant(_BOTH_WORDS, order))
        builder.store(piece, _at(builder, to), align=1)
        to = builder.add(to, apart)


@cast(Any, intrinsic)
def _pack(context: Any, first: Any, second: Any, to: Any, apart: Any) -> Any:
    """Write the pieces of 16 values and of 16 more, so many bytes apart."""
    return _code(partial(_packing, None))(context, first, second, to, apart)


@cast(Any, intrinsic)
def _pack_in_turn(context: Any, first: Any, second: Any, to: Any, apart: Any) -> Any:
    """The same, with values of the one and of the other in turn."""
    return _code(partial(_packing, _IN_TURN))(context, first, second, to, apart)


@cast(Any, intrinsic)
def _transpose(context: Any, address: Any, to: Any) -> Any:
    """Write a tile's pairs of values with rows and columns exchanged."""

    def emit(builder: Any, address: Any, to: Any) -> None:
        rows = [builder.load(_at(builder, address, 64 * i), align=1, typ=_WORDS) for i in range(16)]
        for block in (8, 4, 2, 1):
            low = [k + (16 - block) if k & block else k for k in range(16)]
            high = [k + 16 if k & block else k + block for k in range(16)]
            for i in (i for i in range(16) if not i & block):
                both = rows[i], rows[i + block]
                rows[i], rows[i + block] = (
                    builder.shuffle_vector(*both, ir.Constant(_WORDS, which)) for which in (low, high)
                )
        for i, row in enumerate(rows):
            builder.store(row, _at(builder, to, 64 * i), align=1)

    return _code(emit)(context, address, to)


@compiled
def _pack_rows(x: Any, packed: Any, start: Any, stop: Any) -> None:
    """Rows `[M, K]` in pieces, 32 by 32, from one column to another."""
    to, length = np.int64(packed.ctypes.data), x.strides[0]
    for m in range(0, len(x), 32):
        for k in range(start, stop, 32):
            at = np.int64(x.ctypes.data) + m * length + k * 4
            for i in range(min(32, len(x) - m)):
                _to_read(at + _AHEAD)
                _to_read(at + _AHEAD + 64)
                _pack(at, at + 64, to + 64 * i, 2 * _TILE)
                at += length
            to += 2 * _STEP


@compiled
def _multiply(
    packed: Any, weight: Any, back: Any, out: Any, start: Any, stop: Any, first: Any, last: Any, room: Any, held: Any
) -> None:
    """Columns of the product `[M, N]` from the first to the last, summed from `start` to `stop`: onto what is there,
    unless that is the start of it all.
    """
    room_at, weight_at, out_at = np.int64(room.ctypes.data), np.int64(weight.ctypes.data), np.int64(out.ctypes.data)
    sums, panel, steps, length = room_at + _SUMS, room_at + _PANEL, (stop - start) // 32, weight.strides[0]
    rows, across = out.shape[0], out.strides[0]
    _configure(room_at)
    for begin in range(first, last, 16 * _MOST_COLUMNS):
        count = (min(begin + 16 * _MOST_COLUMNS, last) - begin) // 16
        for block in range(count):
            for k in range(steps):
                n, along, to = begin + 16 * block, start + 32 * k, panel + (block * steps + k) * _STEP
                if not back:
                    at = weight_at + n * length + along * 4
                    for i in range(16):
                        _to_read(at + _AHEAD)
                        _to_read(at + _AHEAD + 64)
                        _pack(at, at + 64, room_at + 64 + 64 * i, _TILE)
                        at += length
                    for piece in range(_PIECES):
                        _transpose(room_at + 64 + piece * _TILE, to + piece * _TILE)
                    continue
                at = weight_at + along * length + n * 4
                for i in range(16):
                    _pack_in_turn(at, at + length, to + 64 * i, _TILE)
                    at += 2 * length
        lines = -(-2 * _STEP // (64 * count))
        for m in range(0, rows, 32):
            left, whole = np.int64(packed.ctypes.data) + m // 32 * steps * 2 * _STEP, m + 32 <= rows
            for low in range(0, steps, _AT_ONCE):
                high = min(low + _AT_ONCE, steps)
                for block in range(count):
                    n, own = begin + 16 * block, sums + 2 * _TILE * (block + 1)
                    to, right = out_at + m * across + n * 4, panel + block * steps * _STEP
                    if low > 0:
                        _read_sums(own, 64)
                    elif start == 0:
                        _clear()
                    elif whole:
                        _read_sums(to, across)
                    else:
                        for i in range(rows - m):
                            for j in range(16):
                                held[i, j] = out[m + i, n + j]
                        _read_sums(sums, 64)
                    soon = left + steps * 2 * _STEP + block * lines * 64
                    for k in range(low, high):
                        _add_products(left + k * 2 * _STEP, right + k * _STEP)
                        for line in range(lines):
                            _to_read(soon + k * 2 * _STEP + line * 64)
                    if high < steps:
                        _write_sums(own, 64)
                    elif whole:
                        for i in range(32):
                            _to_write(to + i * across)
                        _write_sums(to, across)
                    else:
                        _write_sums(sums, 64)
                        for i in range(rows - m):
                            for j in range(16):
                                out[m + i, n + j] = held[i, j]
    _release()


@cache
def has_tiles() -> bool:
    """Whether this process may use the unit, and what compiles kernels knows it."""
    from numba.core.codegen import get_host_cpu_features  # pyright: ignore[reportMissingTypeStubs]

    settings = cast(Any, config)
    if sys.platform != "linux" or platform.machine() != "x86_64" or settings.DISABLE_JIT:
        return False
    known = settings.CPU_FEATURES or cast(Any, get_host_cpu_features)()
    if settings.CPU_NAME not in (None, "host") or not set(known.split(",")) >= _NEEDED:
        return False
    return ctypes.CDLL(None).syscall(_SYSTEM_CALL, _PERMIT, _TILE_DATA) == 0


def multiplied(x: Tensor, weight: Tensor, back: bool = False, room: Tensor | None = None) -> Tensor:
    """`x W^T` `[..., N]` of `x` `[..., K]` and a weight `[N, K]`, or going `back` `x W` of a weight `[K, N]`.

    All is in fp32, in a process that `has_tiles`. The product may overwrite `room` `[at least as many rows, N]`. Not
    differentiable.
    """
    rows = x.detach().reshape(-1, x.shape[-1])
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    weight, back = (weight, back) if weight.stride(1) == 1 else (weight.t(), not back)
    width, columns = weight.shape if back else weight.shape[::-1]
    out = torch.empty(len(rows), columns) if room is None else room[: len(rows)]
    threads = torch.get_num_threads()
    for top in range(0, len(rows), _MOST_ROWS):
        part, sums = (y[top : top + _MOST_ROWS].numpy() for y in (rows, out))
        blocks = -(-len(part) // 32)
        for start in range(0, width, _DEPTH):
            stop = min(start + _DEPTH, width)
            size = (stop - start) // 32 * 2 * _STEP
            packed = _room("rows", blocks * size)
            shares = _shares(blocks, threads)
            side_by_side(_pack_rows, [(part[32 * a : 32 * b], packed[a * size :], start, stop) for a, b in shares])
            given = packed, weight.detach().numpy(), back, sums, start, stop
            shares = enumerate(_shares(columns // 16, threads))
            side_by_side(_multiply, [(*given, 16 * a, 16 * b, *_configured(f"columns {i}")) for i, (a, b) in shares])
    return out.view(*x.shape[:-1], columns)


def _shares(count: int, threads: int) -> list[tuple[int, int]]:
    return [(a, b) for a, b in pairwise(count * i // threads for i in range(threads + 1)) if a < b]


_rooms = threading.local()


def _room(name: str, size: int) -> Any:
    """Bytes that this thread keeps, at least so many and from the start of a line of the cache on."""
    rooms: dict[str, Any] = _rooms.__dict__
    if name not in rooms or len(rooms[name]) < size:
        new = np.empty(size + 64, np.uint8)
        rooms[name] = new[-new.ctypes.data % 64 :]
    return rooms[name]


def _configured(name: str) -> tuple[Any, Any]:
    """Memory for a part of the columns, which starts with the sizes of tiles, eight of 16 rows of 64 bytes;
    and the first two sums in it.
    """
    room = _room(name, _ROOM)
    room[:64] = 0
    room[0], room[16:32:2], room[48:56] = 1, 64, 16
    return room, room[_SUMS : _SUMS + 2 * _TILE].view(np.float32).reshape(32, 16)
