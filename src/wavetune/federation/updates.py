"""What a receiver has of its senders at the end of a round."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from wavetune.federation.codecs.codec import Context

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.federation.codecs import Tensors

Node = int | str  # a client's number, or a server's name
MAIN = "main"  # the main server, whose own copies are mixed beside the clients'


@dataclass(frozen=True)
class Update:
    """One sender's adapters by `site.matrix`, padded to the common rank, and what it started the round from.

    `loss` is the mean of a client's training loss over the labels of the round, before each step, in nats; NaN where it
    is not known, as of servers. What a client tells `beside` is named `name.site.matrix`; servers and what stands in
    for a client tell nothing. `rates` are the learning rates of the local steps that a client made; of servers there
    are none.
    """

    sender: Node
    weight: float
    tensors: Tensors
    start: Tensors
    loss: float = math.nan
    beside: Tensors = field(default_factory=dict[str, "Tensor"])
    rates: tuple[float, ...] = ()

    @property
    def change(self) -> Tensors:
        """What the round changed."""
        return {name: t - self.start[name] for name, t in self.tensors.items()}

    def norm(self) -> float:
        """L2 norm of the change."""
        return sum(float((t.double() - self.start[n]).square().sum()) for n, t in self.tensors.items()) ** 0.5

    def size(self) -> float:
        """L2 norm of what the sender started from."""
        return sum(float(t.double().square().sum()) for t in self.start.values()) ** 0.5

    def moved(self, change: Tensors) -> Update:
        """The same sender's update with another change."""
        return replace(self, tensors={name: start + change[name] for name, start in self.start.items()})


@dataclass(frozen=True)
class Inbox:
    """The updates of clients that are to be mixed, in their order; those that took part and are `missing`, unchanged.

    `rejected` says of whom an update was not taken, and why.
    """

    updates: tuple[Update, ...]
    missing: tuple[Update, ...] = ()
    rejected: dict[int, str] = field(default_factory=dict[int, str])

    def with_fill(self, stand_ins: Iterable[Update]) -> Inbox:
        """With updates that stand in for missing ones."""
        found = {u.sender: u for u in stand_ins}
        updates = sorted((*self.updates, *found.values()), key=lambda u: int(u.sender))
        return replace(self, updates=tuple(updates), missing=tuple(u for u in self.missing if u.sender not in found))

    def without(self, reasons: dict[int, str]) -> Inbox:
        """Without the updates of these clients."""
        kept = tuple(u for u in self.updates if u.sender not in reasons)
        return replace(self, updates=kept, rejected=self.rejected | reasons)


@dataclass(frozen=True)
class RoundEnd(Context):
    """Which round a server ends, of how many `clients` in all: its mixture is of these `updates`."""

    updates: tuple[Update, ...] = ()
    clients: int = 0


def summed_changes(updates: Sequence[Update]) -> tuple[Tensors, dict[str, float]]:
    """The weighted sum of the changes of every adapter, and the weight of those that hold it."""
    summed, weight = dict[str, "Tensor"](), dict[str, float]()
    for update in updates:
        for name, t in update.change.items():
            summed[name] = update.weight * t + summed[name] if name in summed else update.weight * t
            weight[name] = weight.get(name, 0.0) + update.weight
    return summed, weight


def mean_change(updates: Sequence[Update]) -> Tensors:
    """The mean change of every adapter by the weights of those that hold it."""
    summed, weight = summed_changes(updates)
    return {name: t / weight[name] for name, t in summed.items()}
