"""What crosses the air, declared once: the names, shapes and number formats of every message, before it is sent.

Predicted bits, the contract of a device's stream, the meter, the record's kinds and the planner's load are all read
from these declarations. Nothing here imports torch.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from wavetune.costs.adapter import AdapterSite
from wavetune.errors import ConfigError, nearest

FORMAT_BITS = {"float64": 64, "float32": 32, "bfloat16": 16, "int32": 32, "int8": 8}


@dataclass(frozen=True)
class Field:
    """One named tensor of a message: its shape and number format.

    In planning the rows of an average message are a fraction. `bits_per_value` is given where the air asks another
    number of bits than the format has, as for values sent as amplitudes.
    """

    shape: tuple[float, ...]
    format: str = "float32"
    bits_per_value: float | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMAT_BITS:
            raise ConfigError(f"{self.format!r} is no number format of a message; {nearest(self.format, FORMAT_BITS)}")

    @property
    def bits(self) -> float:
        """Bits of the whole tensor."""
        found: float = FORMAT_BITS[self.format] if self.bits_per_value is None else self.bits_per_value
        for size in self.shape:
            found *= size
        return found


Spec = Mapping[str, Field]


@dataclass(frozen=True)
class Agenda:
    """What a round trains and sends: the adapters of these `blocks`, counted from 0 (None: of all), without those
    factors of LoRA that are `frozen`.
    """

    blocks: tuple[int, ...] | None = None
    frozen: frozenset[str] = frozenset()

    def has(self, layer: int) -> bool:
        """Whether it is about the adapters of a block."""
        return self.blocks is None or layer in self.blocks


EVERYTHING = Agenda()


def bits_of(spec: Spec) -> float:
    """Bits of a message.

    >>> bits_of({"values": Field((2, 3), "bfloat16"), "index": Field((2,), "int32")})
    160.0
    """
    return float(sum(field.bits for field in spec.values()))


class Matrices(Protocol):
    """What says how a matrix is written for the air."""

    def fields(self, rows: float, width: int) -> Mapping[str, Field]:
        """The tensors that are sent for a matrix of so many rows."""
        ...


def step_messages(
    tokens: float, labelled: float, width: int, activation: Matrices, gradient: Matrices, *, labels_stay: bool
) -> dict[str, Spec]:
    """The messages of one client's local step before a cut, by kind.

    Args:
        tokens: that cross the cut.
        labelled: positions with a label.
        width: of the hidden states.
        activation: codec of hidden states.
        gradient: codec of their gradients.
        labels_stay: whether the head and the labels are the client's (U-shape), so that all crosses twice.
    """
    activations, gradients = activation.fields(tokens, width), gradient.fields(tokens, width)
    if labels_stay:
        return {
            "activations_up": activations,
            "activations_down": activations,
            "gradients_down": gradients,
            "gradients_up": gradients,
        }
    return {"activations_up": activations, "gradients_down": gradients, "labels_up": label_fields(labelled)}


def label_fields(labelled: float) -> Spec:
    """The labels of so many positions."""
    return {"ids": Field((labelled,), "int32")}


def adapter_spec(sites: Sequence[AdapterSite], rank: int, frozen: Container[str] = ()) -> dict[str, Field]:
    """The adapters that one client of a rank exchanges at these sites, before any codec: matrices, component by
    component. Those of LoRA that are `frozen` stay where they are.
    """
    return {
        f"{site.name}.{matrix.name}": Field((matrix.rows(rank), matrix.width))
        for site in sites
        for matrix in site.matrices
        if not (site.ranked and matrix.name in frozen)
    }


def beside(spec: Spec, names: Sequence[str]) -> dict[str, Field]:
    """A message with a value of each of these names beside every one of its values."""
    return {**spec, **{f"{what}.{name}": field for what in names for name, field in spec.items()}}


def server_bits(sites: Sequence[AdapterSite], rank: int, frozen: Container[str] = ()) -> float:
    """Bits of one server's message to another: all adapters at the largest rank, and a weight."""
    return bits_of(adapter_spec(sites, rank, frozen)) + 32
