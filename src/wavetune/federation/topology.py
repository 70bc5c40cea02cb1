"""Who runs which blocks of the model, and what then crosses the air."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

from annotated_types import Ge, Le, MinLen

from wavetune.errors import ConfigError
from wavetune.federation.facts import ADAPTERS, AT_ONCE, CLIENTS, CUT, ONE_CUT, UNTOUCHED, UPDATES_ALONE, WHOLE_MODEL
from wavetune.guarded import Checks
from wavetune.parts import Extent, Fact, Part

Cut = Annotated[int, Ge(1)]
Steps = Annotated[int, Ge(1), Le(10_000)]
Rows = Annotated[int, Ge(1)]


def _check_numbers(_: Topology, found: Any, samples_K: Sequence[int], *most: Any) -> str:
    given = cast("Sequence[Any]", found) if isinstance(found, list | tuple) else ()
    fits = len(given) == len(samples_K) and all(isinstance(n, int) and 1 <= n <= most[-1] for n in given)
    return "" if fits else f"a list of one number for each of {len(samples_K)} clients, from 1 to {most[-1]}"


class Topology(Part):
    """Where the blocks of the model run."""

    checks: ClassVar[Checks] = {"steps_K": _check_numbers, "batch_size_K": _check_numbers}

    is_split: ClassVar[bool] = False  # clients run the first blocks and a server the rest
    pooled: ClassVar[bool] = False  # one trainer holds everybody's data
    steps: tuple[Steps, ...] | None = None  # of a round, one number a client
    batch_sizes: tuple[Rows, ...] | None = None  # rows of a step, one number a client

    @property
    def labels_stay(self) -> bool:
        """Whether a split is U-shaped: labels, head and loss are the client's."""
        return False

    @property
    def in_turn(self) -> bool:
        """Whether a server steps after each client in turn, rather than once on all of them."""
        return False

    def cut_of(self, num_layers: int) -> int | tuple[int, ...] | None:
        """Blocks that clients run: one number, one a client, or None where the planner chooses."""
        return num_layers

    def allowed_cuts(self, num_layers: int) -> tuple[int, ...]:
        """Cuts among which the planner chooses."""
        return (num_layers,)

    def batch_size_K(self, samples_K: Sequence[int], batch_size: int) -> Sequence[int]:
        """Rows of each client's local step, 1 to `batch_size`."""
        return self.batch_sizes or [batch_size] * len(samples_K)

    def steps_K(self, samples_K: Sequence[int], batch_size_K: Sequence[int], local_steps: int) -> Sequence[int]:
        """Local steps that each client makes in a round, 1 to `local_steps`; all, where clients are cut."""
        return self.steps or [local_steps] * len(samples_K)


@dataclass(frozen=True)
class Split(Topology):
    """The model is cut: each client runs the first blocks, the main server the rest.

    `cut` is one number for all clients, one per client, or None: the planner chooses among `cuts` (all, if None too)
    that are at least `least_cut`, so that owners keep the first blocks, whose activations tell the text, to themselves.
    With `batch_sizes` each takes so many rows in a step, of which `world.data.batching.batch_size` are the most.
    `labels` at the client makes the model U-shaped: final norm, head and loss come back to the client. With the
    sequential schedule the server steps after each client in turn (SplitLoRA), else once on all of them.
    """

    is_split = True
    cut: Cut | tuple[Cut, ...] | None = None
    cuts: Annotated[tuple[Cut, ...], MinLen(1)] | None = None
    least_cut: Cut = 1
    labels: Literal["server", "client"] = "server"
    schedule: Literal["parallel", "sequential"] = "parallel"
    batch_sizes: tuple[Rows, ...] | None = None

    @property
    def labels_stay(self) -> bool:
        """Whether the clients keep labels, head and loss."""
        return self.labels == "client"

    @property
    def in_turn(self) -> bool:
        """Whether the server steps after each client in turn."""
        return self.schedule == "sequential"

    def cut_of(self, num_layers: int) -> int | tuple[int, ...] | None:
        """Blocks that clients run, as configured."""
        return self.cut

    def allowed_cuts(self, num_layers: int) -> tuple[int, ...]:
        """Cuts among which the planner chooses."""
        if self.cut is not None:
            return tuple(sorted(set(self.cut))) if isinstance(self.cut, tuple) else (self.cut,)
        return tuple(c for c in self.cuts or range(1, num_layers) if c >= self.least_cut)

    def removed(self) -> tuple[Fact, ...]:
        """What a cut leaves no room for."""
        several = isinstance(self.cut, tuple)
        always = WHOLE_MODEL, UNTOUCHED, UPDATES_ALONE
        return *always, *((ONE_CUT,) if several else ()), *((AT_ONCE,) if self.in_turn else ())

    def fits(self, path: str, extent: Extent) -> None:
        """Refuse cuts that the model does not have, a floor that leaves none, and what is not one number a client."""
        require_per_client(f"{path}.batch_sizes", self.batch_sizes, extent.num_clients, sys.maxsize, "rows")
        for name, cuts in (("cut", (self.cut,)), ("cuts", self.cuts or ())):
            for cut in cuts:
                require_per_client(f"{path}.{name}", cut, extent.num_clients, extent.num_layers, "the model's blocks")
        if self.cut is not None:
            if (least := min(self.allowed_cuts(extent.num_layers))) < self.least_cut:
                raise ConfigError(
                    f"{path}.cut is {least} but least_cut is {self.least_cut}; raise the one or lower the other"
                )
        elif extent.num_layers == 1 and not self.cuts:
            raise ConfigError(
                f"the model has one block, so that there is no cut to choose; set {path}.cut=1, or take a recipe "
                "without a cut, such as fedavg_lora"
            )
        elif (largest := max(self.cuts or (extent.num_layers - 1,))) < self.least_cut:
            raise ConfigError(
                f"{path}.least_cut is {self.least_cut} but the largest cut to choose is {largest}; lower it, or set "
                f"{path}.cut"
            )


@dataclass(frozen=True)
class Federated(Topology):
    """Every client holds the whole model and sends only adapters.

    With `steps` each makes so many local steps in a round, the first of its `run.local_steps`; with `batch_sizes` each
    takes so many rows in a step, of which `world.data.batching.batch_size` are the most.
    """

    removes = (CUT, AT_ONCE)
    steps: tuple[Steps, ...] | None = None
    batch_sizes: tuple[Rows, ...] | None = None

    def fits(self, path: str, extent: Extent) -> None:
        """Refuse steps and batch sizes that are not one number a client."""
        require_per_client(f"{path}.batch_sizes", self.batch_sizes, extent.num_clients, sys.maxsize, "rows")
        require_per_client(f"{path}.steps", self.steps, extent.num_clients, sys.maxsize, "steps")


@dataclass(frozen=True)
class Central(Topology):
    """One trainer holds everybody's data and takes the clients' batches as one: the reference without federation."""

    pooled = True
    removes = (CUT, AT_ONCE, ADAPTERS, CLIENTS, WHOLE_MODEL, UPDATES_ALONE)


def require_per_client(
    path: str, value: int | tuple[int, ...] | None, num_clients: int, largest: int, what: str
) -> None:
    """ConfigError unless a setting is one number or one a client, each from 1 to the largest."""
    values = () if value is None else value if isinstance(value, tuple) else (value,)
    if isinstance(value, tuple) and len(value) != num_clients:
        raise ConfigError(
            f"{path} has {len(value)} entries for {num_clients} clients; give one number, or one per client"
        )
    for entry in values:
        if not 1 <= entry <= largest:
            raise ConfigError(f"{path} is {entry} but must be between 1 and {largest} ({what})")
