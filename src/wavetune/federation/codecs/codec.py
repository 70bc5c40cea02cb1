"""The seams of what is done to messages on their way: transforms of adapters, and codecs of hidden states too.

A chain is a tuple of transforms. The sender's half runs from first to last, the receiver's half from last to first.
Configuration is frozen; what a transform remembers between rounds is passed in and out as named tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from wavetune.errors import PartError
from wavetune.federation.facts import UNROUNDED
from wavetune.federation.messages import Field, Spec, bits_of
from wavetune.guarded import Checks, pair_of
from wavetune.parts import Part

if TYPE_CHECKING:
    from torch import Tensor

Payload = dict[str, "Tensor"]
Tensors = dict[str, "Tensor"]  # a message, or what a part remembers


@dataclass(frozen=True)
class Context:
    """Of which client and round a message is; all randomness of a part is keyed by this."""

    seed: int
    round: int
    client: int


def are_tensors(value: Any) -> bool:
    """Whether this is a dict of tensors by name, as a message is, or what a part remembers."""
    import torch

    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(t, torch.Tensor) for name, t in cast("dict[Any, Any]", value).items()
    )


def _are_declared(sent: Any, spec: Mapping[str, Field]) -> bool:
    """Whether what is sent is tensors of the names and shapes of a declaration."""
    shapes = {name: field.shape for name, field in spec.items()}
    return are_tensors(sent) and {name: tuple(t.shape) for name, t in sent.items()} == shapes


def _check_send(transform: Transform, found: Any, x: Tensors, *_: Any) -> str:
    pair = pair_of(found)
    if pair is None or not all(map(are_tensors, pair)):
        return "what is sent and what is remembered, each a dict of tensors"
    spec = transform.spec({n: Field(tuple(t.shape), str(t.dtype).rpartition(".")[2]) for n, t in x.items()})
    return "" if _are_declared(pair[0], spec) else f"what its spec declares, {_shapes(spec)}"


def _check_receive(_: Transform, found: Any, x: Tensors, spec: Spec, *__: Any) -> str:
    return "" if _are_declared(found, spec) else f"what was sent, {_shapes(spec)}"


def _check_encode(codec: UpdateCodec, found: Any, x: Tensor) -> str:
    declared = codec.fields(*x.shape)
    return "" if _are_declared(found, declared) else f"what its fields declare, {_shapes(declared)}"


def _shapes(spec: Mapping[str, Field]) -> str:
    return ", ".join(f"{name} {list(field.shape)}" for name, field in list(spec.items())[:3])


class Transform(Part):
    """What is done to a message of adapters: the sender's half, the receiver's half, and what is then on the wire."""

    home = "wavetune.federation.codecs"
    removes = (UNROUNDED,)
    of_changes: ClassVar[bool] = False  # adapters are then sent as what changed since the last broadcast
    both_ways: ClassVar[bool] = False  # the broadcast is written so as well
    checks: ClassVar[Checks] = {"send": _check_send, "receive": _check_receive}
    public: ClassVar[bool] = False  # what is left depends on no data, so that privacy may come after it

    def spec(self, spec: Spec) -> dict[str, Field]:
        """What is on the wire, of what is declared before."""
        return dict(spec)

    def start(self, spec: Spec) -> Tensors:
        """What a sender remembers before its first message."""
        return {}

    def send(self, x: Tensors, state: Tensors, context: Context) -> tuple[Tensors, Tensors]:
        """The sender's half: what goes on, and what it remembers."""
        return x, state

    def receive(self, x: Tensors, spec: Spec, context: Context) -> Tensors:
        """The receiver's half; `spec` and `context` are those of what the sender's half took."""
        return x


class UpdateCodec(Transform):
    """How the matrices of a message are written for the air, each by itself."""

    checks: ClassVar[Checks] = {"encode": _check_encode}

    def fields(self, rows: float, width: int) -> dict[str, Field]:
        """The tensors that are sent for a matrix of so many rows."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Payload:
        """What is sent for `x [rows, width]`."""
        raise NotImplementedError

    def decode(self, payload: Payload) -> Tensor:
        """What is received, `[rows, width]`."""
        raise NotImplementedError

    def bits(self, rows: float, width: int) -> float:
        """Bits of a message of `rows` vectors of `width` values."""
        return bits_of(self.fields(rows, width))

    def spec(self, spec: Spec) -> dict[str, Field]:
        """What is on the wire: numbers of matrices as they are written, all else untouched."""
        found = dict[str, Field]()
        for name, field in spec.items():
            found |= self._written(name, field) or {name: field}
        return found

    def send(self, x: Tensors, state: Tensors, context: Context) -> tuple[Tensors, Tensors]:
        """Every matrix as it is written."""
        sent = Tensors()
        for name, tensor in x.items():
            is_matrix = tensor.is_floating_point() and tensor.ndim == 2
            written = {f"{name}|{part}": t for part, t in self.encode(tensor).items()} if is_matrix else {name: tensor}
            sent |= written
        return sent, state

    def receive(self, x: Tensors, spec: Spec, context: Context) -> Tensors:
        """Every matrix as it is read."""
        found = Tensors()
        for name, field in spec.items():
            written = self._written(name, field)
            found[name] = self.decode({key.rpartition("|")[2]: x[key] for key in written}) if written else x[name]
            if found[name].shape != field.shape:
                raise PartError(f"{self.kind} decodes {list(field.shape)} to {list(found[name].shape)}")
        return found

    def _written(self, name: str, field: Field) -> dict[str, Field]:
        """The tensors of one matrix by name; none where it is not written by this codec."""
        if len(field.shape) != 2 or field.format not in ("float32", "float64", "bfloat16"):
            return {}
        rows, width = field.shape
        return {f"{name}|{part}": each for part, each in self.fields(rows, int(width)).items()}


class Codec(UpdateCodec):
    """How adapters, activations or gradients are written for the air."""

    both_ways = True


Chain = tuple[Transform, ...]


def specs(chain: Chain, spec: Spec) -> list[dict[str, Field]]:
    """What goes into each transform of a chain, and what is on the wire at its end."""
    found = [dict(spec)]
    for one in chain:
        found.append(one.spec(found[-1]))
    return found


def on_the_wire(chain: Chain, spec: Spec) -> dict[str, Field]:
    """What a chain makes of a message."""
    return specs(chain, spec)[-1]


def send(chain: Chain, x: Tensors, states: Sequence[Tensors], context: Context) -> tuple[Tensors, list[Tensors]]:
    """The sender's half of a chain: what is on the wire, and what each transform remembers."""
    kept = list[Tensors]()
    for one, state in zip(chain, states, strict=True):
        x, state = one.send(x, state, context)
        kept.append(state)
    return x, kept


def receive(chain: Chain, x: Mapping[str, Tensor], spec: Spec, context: Context) -> Tensors:
    """The receiver's half of a chain, of what came and what was declared before the chain."""
    found = dict(x)
    for one, before in reversed(list(zip(chain, specs(chain, spec)[:-1], strict=True))):
        found = one.receive(found, before, context)
    return found


def send_with_feedback(chain: Chain, x: Tensors, left: Tensors, context: Context) -> tuple[Tensors, Tensors]:
    """Send a change and what was left out before; returns what is sent, and what is left out now."""
    spec = {name: Field(tuple(t.shape)) for name, t in x.items()}
    wanted = {name: left[name].to(t) + t for name, t in x.items()}
    sent, _ = send(chain, wanted, [one.start(spec) for one in chain], context)
    got = receive(chain, sent, spec, context)
    return sent, {name: asked - got[name].to(asked) for name, asked in wanted.items()}


def zeros(spec: Spec) -> Tensors:
    """Tensors of these shapes without any values."""
    import torch

    return {name: torch.zeros([int(size) for size in field.shape]) for name, field in spec.items()}
