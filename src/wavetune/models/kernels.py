"""Compiled element-wise kernels of a training step, each one sweep over its values: the norm of a residual stream, the
product inside a gated MLP, and what a loss takes from logits, forward and backward.

PyTorch passes over memory for each operation and keeps what each needs; these read and write a value once. Compiled at
their first call and cached, so import this where it is needed. Matrices are `[N, D]` and contiguous, in fp32 or bf16;
all is computed in fp32. What is not a number stays none.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from llvmlite import ir  # pyright: ignore[reportMissingTypeStubs]
from numba import njit, types  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numba.extending import intrinsic, overload  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from torch import Tensor

from wavetune.allocation.kernel_cache import compiled
from wavetune.models.norm import Norm

Rows = tuple[Tensor, Tensor, Tensor]
"""Rows `[N, D]` of a norm, their means, or zeros, and what each was multiplied by, `[N]`."""

_VALUES_A_THREAD = 1 << 16  # with fewer, another thread costs more than it saves
_FAST = {"contract", "reassoc", "nsz"}  # sums in any order, yet infinities and what is not a number as they are
_LOG2_E, _LOG_2 = np.float32(1.4426950408889634), np.float32(0.6931471805599453)
_LEAST_POWER, _MOST_POWER = np.float32(-87), np.float32(87)
_AHEAD = 16  # keys or values of which the memory is asked for before they are read
_AT_ONCE = 512  # powers whose sum is looked at before each of them
_LOWEST = np.int32(-(1 << 31))
_ZERO, _HALF, _ONE, _TWO, _THREE = map(np.float32, (0, 0.5, 1, 2, 3))
_ODD = np.uint32(1)
_ROOT_HALF, _DENSITY = np.float32(0.5**0.5), np.float32((2 * np.pi) ** -0.5)
_P = np.float32(0.3275911)
_A1, _A2, _A3, _A4, _A5 = map(np.float32, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))
# e^f is the sum of f^k / k!, to 5e-9 where |f| is at most half of ln 2.
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1 / c) for c in np.cumprod(np.arange(2, 8)))


@cast(Any, intrinsic)
def _bits(_context: Any, value: Any) -> Any:
    def code(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), code


@cast(Any, intrinsic)
def _float(_context: Any, value: Any) -> Any:
    def code(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), code


@cast(Any, intrinsic)
def _prefetch(context: Any, values: Any, place: Any) -> Any:
    """Have the line of memory brought in which a value of a flat array stands; nothing happens behind its end."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = builder.gep(context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])
        number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
            builder.module, kind, "llvm.prefetch.p0"
        )
        builder.call(prefetch, [builder.bitcast(at, byte), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(values, types.intp), code


def _inline(function: Callable[..., Any]) -> Any:
    return cast(Any, njit)(fastmath=_FAST, error_model="numpy", inline="always")(function)


def _kernel(function: Callable[..., None]) -> Any:
    return compiled(function, fastmath=_FAST)


@_inline
def _exp(x: Any) -> Any:
    """e^x of an x from -87 to 87, and of what lies beyond as of these ends; what is not a number stays none."""
    t = x if x > _LEAST_POWER else _LEAST_POWER
    t = t if t < _MOST_POWER else _MOST_POWER
    whole = np.floor(t * _LOG2_E + _HALF)
    f = t - whole * _LOG_2
    power = ((((((_C7 * f + _C6) * f + _C5) * f + _C4) * f + _C3) * f + _C2) * f + _ONE) * f + _ONE
    power *= _float(np.uint32((np.int32(whole) + np.int32(127)) << np.int32(23)))
    return power if x == x else x


@_inline
def _sigmoid(x: Any) -> Any:
    return _ONE / (_ONE + _exp(-x))


@_inline
def _order(x: Any) -> Any:
    """A number that is larger where x is: of such the largest is found sooner, as all compare alike."""
    bits = np.int32(_bits(x))
    return np.int32(bits ^ ((bits >> 31) & 0x7FFFFFFF))


@_inline
def _ordered(order: Any) -> Any:
    """The x of such a number."""
    return _float(np.uint32(order ^ ((order >> 31) & 0x7FFFFFFF)))


@_inline
def _wide(half: Any) -> Any:
    return _float(np.uint32(half) << np.uint32(16))


@_inline
def _narrow(x: Any) -> Any:
    """The bits of the nearest bf16, of two the even one."""
    whole = _bits(np.float32(x))
    rounded = (whole + np.uint32(0x7FFF) + ((whole >> np.uint32(16)) & _ODD)) >> np.uint32(16)
    return np.uint16(rounded) if x == x else np.uint16(0x7FC0)


def _read(one: Any) -> Any:
    """The number in an element, of fp32 or the bits of a bf16."""


def _as(x: Any, one: Any) -> Any:
    """What is written of a number into the place of an element."""


@cast(Any, overload)(_read, strict=False)
def _read_one(one: Any) -> Any:
    return (lambda one: _wide(one)) if isinstance(one, types.Integer) else (lambda one: one)


@cast(Any, overload)(_as, strict=False)
def _written(x: Any, one: Any) -> Any:
    return (lambda x, one: _narrow(x)) if isinstance(one, types.Integer) else (lambda x, one: x)


@_kernel
def _norm(x: Any, y: Any, inverse: Any, weight: Any, epsilon: Any) -> None:
    rows, width = x.shape
    for n in range(rows):
        total = np.float32(0)
        for i in range(width):
            total += _read(x[n, i]) * _read(x[n, i])
        r = _ONE / np.sqrt(total / np.float32(width) + epsilon)
        inverse[n] = r
        for i in range(width):
            y[n, i] = _read(x[n, i]) * r * weight[i]


@_kernel
def _norm_back(x: Any, inverse: Any, grad: Any, out: Any, weight: Any) -> None:
    rows, width = x.shape
    for n in range(rows):
        r, total = inverse[n], np.float32(0)
        for i in range(width):
            total += grad[n, i] * weight[i] * _read(x[n, i])
        along = total * r * r / np.float32(width)
        for i in range(width):
            out[n, i] = _as(r * (grad[n, i] * weight[i] - _read(x[n, i]) * along), out[n, i])


@_kernel
def _add_norm(
    x: Any, more: Any, total: Any, wide: Any, narrow: Any, mean: Any, inverse: Any, weight: Any, shift: Any,
    epsilon: Any, centred: Any, factor: Any,
) -> None:  # fmt: skip
    rows, width = x.shape
    for n in range(rows):
        for i in range(width if len(more) else 0):
            total[n, i] = x[n, i] + factor * _read(more[n, i])
        row, level, squares, r = total[n] if len(more) else x[n], _ZERO, _ZERO, _ONE
        for i in range(width if centred else 0):
            level += row[i]
        level /= np.float32(width)
        if len(weight):
            for i in range(width):
                squares += (row[i] - level) * (row[i] - level)
            r = _ONE / np.sqrt(squares / np.float32(width) + epsilon)
            for i in range(width if len(narrow) else 0):
                narrow[n, i] = _narrow((row[i] - level) * r * weight[i] + shift[i])
            for i in range(width if len(wide) else 0):
                wide[n, i] = (row[i] - level) * r * weight[i] + shift[i]
        else:
            for i in range(width):
                narrow[n, i] = _narrow(row[i])
        mean[n], inverse[n] = level, r


@_kernel
def _add(x: Any, more: Any, out: Any, factor: Any) -> None:
    rows, width = x.shape
    for n in range(rows):
        for i in range(width):
            out[n, i] = x[n, i] + factor * _read(more[n, i])


@_kernel
def _norm_back_onto(
    base: Any, x: Any, mean: Any, inverse: Any, a: Any, b: Any, c: Any, more: Any, out: Any, narrow: Any, weight: Any,
    centred: Any, within: Any,
) -> None:  # fmt: skip
    rows, width = base.shape
    grad = np.empty(width, np.float32)
    for n in range(rows):
        grad[:] = _ZERO
        for i in range(width if len(a) else 0):
            grad[i] = _wide(a[n, i])
        for i in range(width if len(b) else 0):
            grad[i] += _wide(b[n, i])
        for i in range(width if len(c) else 0):
            grad[i] += _wide(c[n, i])
        for i in range(width if len(more) else 0):
            grad[i] += more[n, i]
        for i in range(width if within else 0):
            grad[i] += base[n, i]
        if len(weight):
            r, m, total, level = inverse[n], mean[n], _ZERO, _ZERO
            for i in range(width):
                grad[i] *= weight[i]
                total += grad[i] * (x[n, i] - m)
            for i in range(width if centred else 0):
                level += grad[i]
            along, level = total * r * r / np.float32(width), level / np.float32(width)
            for i in range(width):
                grad[i] = r * (grad[i] - level - (x[n, i] - m) * along)
        for i in range(width):
            out[n, i] = grad[i] if within else grad[i] + base[n, i]
        for i in range(width if len(narrow) else 0):
            narrow[n, i] = _narrow(out[n, i])


@_kernel
def _heads_in(places: Any, x: Any, cos: Any, sin: Any, out: Any) -> None:
    heads, size = x.shape[1], x.shape[3]
    for p in range(len(places)):
        n, first, own, length = places[p]
        for h in range(heads):
            row = first * heads + h * length + own
            if n < 0:
                out[row] = _ZERO
            elif len(cos) == 0:
                for i in range(size):
                    out[row, 0, i] = _read(x[n, h, 0, i])
            else:
                for i in range(size):
                    low, high = _read(x[n, h, 0, i]), _read(x[n, h, 1, i])
                    out[row, 0, i] = low * cos[n, 0, i] - high * sin[n, 0, i]
                    out[row, 1, i] = high * cos[n, 1, i] + low * sin[n, 1, i]


@_kernel
def _heads_out(out: Any, places: Any, cos: Any, sin: Any, x: Any) -> None:
    heads, size = out.shape[1], out.shape[3]
    for n in range(len(out)):
        first, own, length = places[n]
        for h in range(heads):
            row = first * heads + h * length + own
            if len(cos) == 0:
                for i in range(size):
                    out[n, h, 0, i] = _as(x[row, 0, i], out[n, h, 0, i])
            else:
                for i in range(size):
                    low, high = x[row, 0, i], x[row, 1, i]
                    out[n, h, 0, i] = _as(low * cos[n, 0, i] + high * sin[n, 1, i], out[n, h, 0, i])
                    out[n, h, 1, i] = _as(high * cos[n, 1, i] - low * sin[n, 0, i], out[n, h, 1, i])


@_kernel
def _weights(scores: Any, lengths: Any, scaling: Any) -> None:
    for b in range(len(scores)):
        for t in range(scores.shape[1]):
            order, total, stop = _LOWEST, _ZERO, lengths[b] if len(lengths) else t + 1
            for i in range(stop):
                order = max(order, _order(scores[b, t, i]))
            top = _ordered(order)
            for i in range(stop):
                power = _exp((scores[b, t, i] - top) * scaling)
                total += power
                scores[b, t, i] = power
            factor = _ONE / total
            for i in range(stop):
                scores[b, t, i] *= factor
            for i in range(stop, scores.shape[2]):
                scores[b, t, i] = _ZERO


@_kernel
def _read_kept(
    query: Any, key: Any, value: Any, row: Any, first: Any, place: Any, out: Any, keys: Any, values: Any, scaling: Any,
    softcap: Any, sinks: Any,
) -> None:  # fmt: skip
    groups, many, size = query.shape[1:]
    most, width, all_keys, all_values = keys.shape[2], out.shape[3], keys.reshape(-1), values.reshape(-1)
    weights, line = np.empty((many, most), np.float32), 64 // keys.itemsize
    for n in range(len(query)):
        r, last = row[n], place[n]
        for g in range(groups):
            for i in range(size):
                keys[r, g, last, i] = _as(key[n, g, i], keys[r, g, last, i])
            for i in range(width):
                values[r, g, last, i] = _as(value[n, g, i], values[r, g, last, i])
            k, v, begin = keys[r, g, first[n] : last + 1], values[r, g, first[n] : last + 1], (r * groups + g) * most
            begin += first[n] + _AHEAD
            for t in range(len(k)):
                for i in range(-(-size // line)):
                    _prefetch(all_keys, (begin + t) * size + i * line)
                for h in range(many):
                    total = _ZERO
                    for i in range(size):
                        total += query[n, g, h, i] * _read(k[t, i])
                    weights[h, t] = total * scaling
            for h in range(many):
                order, total = _LOWEST, _ZERO
                for t in range(len(k) if softcap else 0):
                    weights[h, t] = softcap * (_ONE - _TWO / (_exp(_TWO * weights[h, t] / softcap) + _ONE))
                for t in range(len(k)):
                    order = max(order, _order(weights[h, t]))
                if len(sinks):
                    order = max(order, _order(sinks[g, h]))
                    total = _exp(sinks[g, h] - _ordered(order))
                top = _ordered(order)
                for t in range(len(k)):
                    power = _exp(weights[h, t] - top)
                    total += power
                    weights[h, t] = power
                factor = _ONE / total
                for t in range(len(k)):
                    weights[h, t] *= factor
                for i in range(width):
                    out[n, g, h, i] = _ZERO
            for t in range(len(v)):
                for i in range(-(-width // line)):
                    _prefetch(all_values, (begin + t) * width + i * line)
                for h in range(many):
                    for i in range(width):
                        out[n, g, h, i] += weights[h, t] * _read(v[t, i])


@_kernel
def _weights_back(weights: Any, grad: Any, lengths: Any, scaling: Any) -> None:
    for b in range(len(weights)):
        for t in range(weights.shape[1]):
            total, stop = _ZERO, lengths[b] if len(lengths) else t + 1
            for i in range(stop):
                total += weights[b, t, i] * grad[b, t, i]
            for i in range(stop):
                grad[b, t, i] = scaling * weights[b, t, i] * (grad[b, t, i] - total)
            for i in range(stop, weights.shape[2]):
                grad[b, t, i] = _ZERO


@_inline
def _below(x: Any) -> Any:
    """The probability that a normal number is below x, to 2e-7. Source: Abramowitz and Stegun, 7.1.26."""
    z = abs(x) * _ROOT_HALF
    t = _ONE / (_ONE + _P * z)
    tail = ((((_A5 * t + _A4) * t + _A3) * t + _A2) * t + _A1) * t * _exp(-z * z) * _HALF
    return tail if x < _ZERO else _ONE - tail


@_inline
def _part(x: Any, a: Any, b: Any) -> Any:
    """What an activation multiplies an x by."""
    return _below(x) if a == _ZERO and b == _ZERO else _sigmoid(x * (a + b * x * x))


@_inline
def _slope(x: Any, part: Any, a: Any, b: Any) -> Any:
    """An activation's slope where it multiplies an x by this part."""
    if a == _ZERO and b == _ZERO:
        return part + x * _exp(-_HALF * x * x) * _DENSITY
    return part + x * part * (_ONE - part) * (a + _THREE * b * x * x)


@_kernel
def _gated(gate: Any, up: Any, out: Any, a: Any, b: Any) -> None:
    rows, width = gate.shape
    for n in range(rows):
        if len(up):
            for i in range(width):
                g = _read(gate[n, i])
                out[n, i] = _as(g * _part(g, a, b) * _read(up[n, i]), out[n, i])
        else:
            for i in range(width):
                g = _read(gate[n, i])
                out[n, i] = _as(g * _part(g, a, b), out[n, i])


@_kernel
def _gated_back(gate: Any, up: Any, grad: Any, to_gate: Any, to_up: Any, a: Any, b: Any) -> None:
    rows, width = gate.shape
    for n in range(rows):
        if len(up):
            for i in range(width):
                g, above = _read(gate[n, i]), _read(grad[n, i])
                s = _part(g, a, b)
                to_gate[n, i] = _as(above * _read(up[n, i]) * _slope(g, s, a, b), to_gate[n, i])
                to_up[n, i] = _as(above * g * s, to_up[n, i])
        else:
            for i in range(width):
                g = _read(gate[n, i])
                to_gate[n, i] = _as(_read(grad[n, i]) * _slope(g, _part(g, a, b), a, b), to_gate[n, i])


@_inline
def _top(logits: Any, n: Any) -> Any:
    order = _LOWEST
    for i in range(logits.shape[1]):
        order = max(order, _order(logits[n, i]))
    return _ordered(order)


@_kernel
def _likelihoods(logits: Any, labels: Any, weight: Any, nll: Any) -> None:
    for n in range(len(labels)):
        top, own, total = _top(logits, n), logits[n, labels[n]], _ZERO
        for i in range(logits.shape[1]):
            power = _exp(logits[n, i] - top)
            total += power
            logits[n, i] = power
        nll[n] = np.log(total) + (top - own)
        scale = weight[n] / total
        for i in range(logits.shape[1]):
            logits[n, i] *= scale
        logits[n, labels[n]] -= weight[n]


@_kernel
def _likelihoods_bf16(logits: Any, labels: Any, weight: Any, nll: Any) -> None:
    powers = np.empty(logits.shape[1], np.float32)
    for n in range(len(labels)):
        order, total = _LOWEST, _ZERO
        for i in range(logits.shape[1]):
            order = max(order, _order(_wide(logits[n, i])))
        top, own = _ordered(order), _wide(logits[n, labels[n]])
        for i in range(logits.shape[1]):
            power = _exp(_wide(logits[n, i]) - top)
            total += power
            powers[i] = power
        nll[n] = np.log(total) + (top - own)
        scale = weight[n] / total
        for i in range(logits.shape[1]):
            logits[n, i] = _narrow(powers[i] * scale)
        logits[n, labels[n]] = _narrow(powers[labels[n]] * scale - weight[n])


@_kernel
def _distributions(logits: Any, labels: Any, log_prob: Any, entropy: Any, inverse: Any) -> None:
    for n in range(len(labels)):
        top, total, mean = _top(logits, n), _ZERO, _ZERO
        for i in range(logits.shape[1]):
            away = (logits[n, i] - top) * inverse
            power = _exp(away)
            total += power
            mean += power * away
        normaliser = np.log(total)
        log_prob[n] = (logits[n, labels[n]] - top) * inverse - normaliser
        entropy[n] = normaliser - mean / total


@_kernel
def _distributions_back(
    logits: Any, labels: Any, entropy: Any, to_log_prob: Any, to_entropy: Any, inverse: Any
) -> None:
    """Turn logits into their gradients: d log p_y / dz = [y] - p and dH / dz = -p (log p + H), over the temperature."""
    for n in range(len(labels)):
        top, total = _top(logits, n), _ZERO
        for i in range(logits.shape[1]):
            total += _exp((logits[n, i] - top) * inverse)
        normaliser = np.log(total)
        constant = to_log_prob[n] + to_entropy[n] * (entropy[n] - normaliser)
        factor = -inverse / total
        for i in range(logits.shape[1]):
            away = (logits[n, i] - top) * inverse
            logits[n, i] = factor * _exp(away) * (constant + to_entropy[n] * away)
        logits[n, labels[n]] += to_log_prob[n] * inverse


@_kernel
def _choose(logits: Any, draw: Any, token: Any, log_prob: Any, entropy: Any, inverse: Any) -> None:
    powers = np.empty(logits.shape[1], np.float32)
    for n in range(len(logits)):
        order, total, mean = _LOWEST, np.float64(0), _ZERO
        for i in range(logits.shape[1]):
            order = max(order, _order(_read(logits[n, i])))
        top = _ordered(order)
        for i in range(logits.shape[1]):
            away = (_read(logits[n, i]) - top) * inverse
            power = _exp(away)
            total += power
            mean += power * away
            powers[i] = power
        found, reached, wanted = 0, np.float64(0), draw[n] * total
        if draw[n] < 0:
            while found < logits.shape[1] - 1 and _read(logits[n, found]) != top:
                found += 1
        else:
            while found < logits.shape[1]:  # some values at a time, whose sum is that of all of them at once
                more = np.float64(0)
                for i in range(found, min(found + _AT_ONCE, logits.shape[1])):
                    more += powers[i]
                if reached + more > wanted:
                    break
                reached += more
                found += _AT_ONCE
            while found < logits.shape[1] - 1 and reached + powers[found] <= wanted:
                reached += powers[found]
                found += 1
        found = min(found, logits.shape[1] - 1)
        normaliser = np.log(total)
        token[n] = found
        log_prob[n] = (_read(logits[n, found]) - top) * inverse - normaliser
        entropy[n] = normaliser - mean / total


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, "kernels")


def _run(kernel: Any, by_row: tuple[Tensor, ...], constants: tuple[Any, ...], count: int | None = None) -> None:
    """Call a kernel with the rows of these tensors, and its constants, in as many parts as PyTorch has threads; so many
    values are written, by default as many as the first has.
    """
    arrays = [_array(t) for t in by_row]
    rows, threads = len(arrays[0]), torch.get_num_threads()
    parts = max(1, min(threads, (arrays[0].size if count is None else count) // _VALUES_A_THREAD))
    ends = [rows * part // parts for part in range(parts + 1)]
    calls = [(*(array[start:stop] for array in arrays), *constants) for start, stop in pairwise(ends)]
    waiting = [_pool(threads - 1).submit(kernel, *call) for call in calls[1:]]
    kernel(*calls[0])
    for one in waiting:
        one.result()


def _array(x: Tensor) -> Any:
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """`x weight / sqrt(mean(x^2) + epsilon)` of `[N, D]`, with a frozen weight `[D]`."""
    return _RmsNorm.apply(x, weight, epsilon)


def gated_product(gate: Tensor, up: Tensor, a: float, b: float) -> Tensor:
    """`gate sigmoid(a gate + b gate^3) up` of two matrices of one precision, with SiLU where a = 1 and b = 0, and with
    GELU in place of it where both are 0.
    """
    return _GatedProduct.apply(gate, up, a, b)


def likelihoods(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Negative log-likelihoods `[P]` in nats of logits `[P, V]`, which become the gradient of their weighted sum."""
    nll = torch.empty_like(weight)
    _run(_likelihoods_bf16 if logits.dtype == torch.bfloat16 else _likelihoods, (logits, labels, weight, nll), ())
    return nll


def distributions(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each label and each row's entropy, `[P]` in nats, of logits `[P, V]` over a temperature."""
    log_prob, entropy = logits.new_empty(len(labels)), logits.new_empty(len(labels))
    _run(_distributions, (logits, labels, log_prob, entropy), (np.float32(1 / temperature),))
    return log_prob, entropy


def distributions_back(
    logits: Tensor, labels: Tensor, entropy: Tensor, to_log_prob: Tensor, to_entropy: Tensor, temperature: float
) -> None:
    """Turn logits `[P, V]` into their gradient from those of `distributions`' results, `[P]`."""
    by_row = (logits, labels, entropy, to_log_prob.contiguous(), to_entropy.contiguous())
    _run(_distributions_back, by_row, (np.float32(1 / temperature),))


def chosen(logits: Tensor, draw_L: Tensor | None, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """A token of each row of logits `[L, V]`, in fp32 or bf16, over a temperature: the likeliest, or the first up to
    which probabilities add up to more than its draw; the log-probability of each, and the row's entropy, in nats.
    """
    token_L, log_prob_L = torch.empty(len(logits), dtype=torch.long), torch.empty(len(logits))
    draw_L = torch.full((len(logits),), -1.0, dtype=torch.float64) if draw_L is None else draw_L
    entropy_L = torch.empty_like(log_prob_L)
    _run(_choose, (logits, draw_L, token_L, log_prob_L, entropy_L), (np.float32(1 / temperature),))
    return token_L, log_prob_L, entropy_L


def normed(
    x: Tensor, more: Tensor | None, norm: Norm | None, is_wide: bool, is_narrow: bool = True, factor: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Rows]:
    """A stream `[N, D]` with `factor` times `more` added, in bf16 or fp32; the norm of that, or itself, in bf16 if it
    `is_narrow`, and in fp32 if it `is_wide`; and what its rows were.
    """
    none, mean, inverse = x.new_empty(0, 0), x.new_empty(len(x)), x.new_empty(len(x))
    total, wide = none if more is None else torch.empty_like(x), torch.empty_like(x) if is_wide and norm else none
    narrow = torch.empty_like(x if is_narrow else none, dtype=torch.bfloat16)
    weight, shift, epsilon, centred = norm or (x.new_empty(0), x.new_empty(0), 0.0, False)
    by_row = (x, none.bfloat16() if more is None else more, total, wide, narrow, mean, inverse)
    _run(_add_norm, by_row, (weight.numpy(), shift.numpy(), np.float32(epsilon), centred, np.float32(factor)))
    total = x if more is None else total
    return total, narrow, wide if norm else total, (total, mean, inverse)


def rows_normed(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """`rms_norm` in fp32 of rows `[N, D]`, or of each D values of longer ones, in fp32 or bf16, and what each was
    multiplied by.
    """
    rows = x.view(-1, len(weight))
    y, inverse = torch.empty_like(rows, dtype=torch.float32), rows.new_empty(len(rows), dtype=torch.float32)
    _run(_norm, (rows, y, inverse), (weight.numpy(), np.float32(epsilon)))
    return y.view(x.shape), inverse


def rows_norm_back(x: Tensor, inverse: Tensor, grad: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient of such an `x`, in this precision, from that of its norm in fp32."""
    rows, out = x.view(-1, len(weight)), torch.empty_like(x, dtype=dtype)
    _run(_norm_back, (rows, inverse, grad.view(rows.shape), out.view(rows.shape)), (weight.numpy(),))
    return out


def added(x: Tensor, more: Tensor, factor: float) -> Tensor:
    """`x + factor more` of two matrices in fp32, of which the second may be bf16."""
    out = torch.empty_like(x)
    _run(_add, (x, more, out), (np.float32(factor),))
    return out


def norm_back_onto(
    base: Tensor,
    rows: Rows,
    grads: Sequence[Tensor],
    more: Tensor | None,
    norm: Norm | None,
    narrow: bool,
    within: bool,
) -> tuple[Tensor, Tensor]:
    """`base` plus the gradient of normed `rows`, as `normed` gave them, from that of their norm: the sum of up to three
    in bf16, of what is `more` in fp32 and, if that stands `within`, of `base`. Returns it in fp32 and, if it is asked
    for `narrow`, in bf16.
    """
    none = base.new_empty(0, 0)
    out, half = torch.empty_like(base), torch.empty_like(base if narrow else none, dtype=torch.bfloat16)
    a, b, c = (*grads, *[none.bfloat16()] * 3)[:3]
    by_row = (base, *rows, a, b, c, none if more is None else more, out, half)
    weight, centred = (base.new_empty(0), False) if norm is None else (norm.weight, norm.centred)
    _run(_norm_back_onto, by_row, (weight.numpy(), centred, within))
    return out, half


def heads_in(x: Tensor, places: Tensor, angles: tuple[Tensor, Tensor], size: int) -> Tensor:
    """Heads of `[N, H D]`, turned by their tokens' angles `[N, D]` if there are any, to rows `[P H, D]` in fp32.

    `places` `[P, 4]` says of each of P rows a head whose token it holds (-1: zeros), the first row of its sample, its
    own place in that and how many rows the sample has; a sample's heads follow each other.
    """
    halves = 1 + bool(len(angles[0]))
    out = angles[0].new_empty(len(places) * (x.shape[1] // size), size)
    cos, sin, rows = (_array(t).reshape(len(t), halves, t.shape[1] // halves) for t in (*angles, out))
    _run(_heads_in, (places,), (_array(x).reshape(len(x), -1, *rows.shape[1:]), cos, sin, rows), out.numel())
    return out


def heads_out(
    x: Tensor, places: Tensor, angles: tuple[Tensor, Tensor], width: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Heads of tokens `[N, H D]` of a total width from rows `[P H, D]`, turned back; `places` `[N, 3]` as above."""
    out = x.new_empty(len(places), width, dtype=dtype)
    halves = 1 + bool(len(angles[0]))
    cos, sin, rows = (t.view(len(t), halves, t.shape[1] // halves) for t in (*angles, x))
    _run(_heads_out, (out.view(len(out), -1, *rows.shape[1:]), places, cos, sin), (rows.numpy(),))
    return out


def attention_weights(scores: Tensor, length_B: Tensor, scaling: float) -> None:
    """Turn products `[B, T, T]` of queries and keys into the weights of so many keys each, or, if `length_B` is empty,
    of those that stand before a query, and itself.
    """
    _run(_weights, (scores, length_B), (np.float32(scaling),))


def attention_weights_back(weights: Tensor, grad: Tensor, length_B: Tensor, scaling: float) -> None:
    """Turn gradients of such weights into those of the products."""
    _run(_weights_back, (weights, grad, length_B), (np.float32(scaling),))


def read_kept(
    query: Tensor, key: Tensor, value: Tensor, row_L: Tensor, first_L: Tensor, place_L: Tensor, keys: Tensor,
    values: Tensor, scaling: float, softcap: float | None, sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    """What one new token of each sample reads, `[L, H, E]` in fp32, of keys `[R, G, T, D]` and values `[R, G, T, E]` in
    fp32 or bf16: its row's from a first place to its own, at which its key `[L, G, D]` and value `[L, G, E]` are
    written. Scores may be bent by a soft cap, and `sinks` `[H]` are scores of a key of value zero.
    """
    grouped = query.reshape(len(query), keys.shape[1], -1, query.shape[2])
    out = query.new_empty(*grouped.shape[:3], values.shape[3])
    by_row = (grouped, key.contiguous(), value.contiguous(), row_L, first_L, place_L, out)
    own_sinks = query.new_empty(0, 0) if sinks is None else sinks.float().reshape(grouped.shape[1:3])
    constants = (np.float32(scaling), np.float32(softcap or 0), own_sinks.numpy())
    _run(_read_kept, by_row, (_array(keys), _array(values), *constants), query.numel() * (keys.shape[2] // 2))
    return out.view(*query.shape[:2], -1)


def gated(gate: Tensor, up: Tensor | None, a: float, b: float) -> Tensor:
    """`gated_product` without a gradient, and without a factor `up` where that is None."""
    out = torch.empty_like(gate)
    _run(_gated, (gate, gate.new_empty(0, 0) if up is None else up, out), (np.float32(a), np.float32(b)))
    return out


def gated_back(gate: Tensor, up: Tensor | None, grad: Tensor, a: float, b: float) -> tuple[Tensor, Tensor]:
    """Gradients of both factors of `gated`."""
    none = gate.new_empty(0, 0)
    to_gate, to_up = torch.empty_like(gate), none if up is None else torch.empty_like(up)
    by_row = (gate, none if up is None else up, grad, to_gate, to_up)
    _run(_gated_back, by_row, (np.float32(a), np.float32(b)))
    return to_gate, to_up


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        x = x.contiguous()
        y, inverse = rows_normed(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        return rows_norm_back(x, inverse, grads[0].contiguous(), weight, x.dtype), None, None


class _GatedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, a: float, b: float) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        ctx.numbers = a, b
        return gated(gate, up, a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gate, up = ctx.saved_tensors
        return *gated_back(gate, up, grads[0].contiguous(), *ctx.numbers), None, None
