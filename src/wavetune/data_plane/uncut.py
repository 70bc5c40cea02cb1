"""The training engine of a run without a cut: each device trains the whole model, the servers hear what came of it.

Legend: K clients, P labelled positions.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from wavetune.data.templates import TokenSet
from wavetune.data_plane.halves import Seconds
from wavetune.data_plane.messages_pb2 import Loss
from wavetune.data_plane.wires import ServerWire
from wavetune.federation.cohort import Cohort, Rows, StepResult


@dataclass
class LocalCohort(Cohort):
    """A cohort of one that has the whole model, on the clock."""

    seconds: Seconds = field(default_factory=lambda: Seconds(float), kw_only=True)

    def step(
        self, tokens: TokenSet, rows: Sequence[Rows], factor: float, active_K: Sequence[bool] | None = None
    ) -> StepResult:
        """One local step on `rows[0]`."""
        started = time.perf_counter()
        result = super().step(tokens, rows, factor, active_K)
        self.seconds["client_forward_s"] += self._forward_done_s - started
        self.seconds["client_backward_s"] += time.perf_counter() - self._forward_done_s
        return result

    def _losses(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        found = super()._losses(*arguments)
        self._forward_done_s = time.perf_counter()
        return found


@dataclass
class ReportedCohort(Cohort):
    """The servers' end: the local steps were done on the devices, and came with their adapters."""

    wire: ServerWire = field(kw_only=True)
    seconds: Seconds = field(default_factory=lambda: Seconds(float), kw_only=True)
    _steps: deque[dict[int, Loss]] = field(default_factory=deque[dict[int, Loss]], kw_only=True)

    def step(
        self, tokens: TokenSet, rows: Sequence[Rows], factor: float, active_K: Sequence[bool] | None = None
    ) -> StepResult:
        """What the active devices tell of a local step; with the first step of a round their adapters are awaited.

        Who is lost by then sat the round out.
        """
        num_clients = self.placement.num_clients
        if not self._steps:
            self.wire.gather_adapters(k for k in range(num_clients) if active_K is None or active_K[k])
            arrived = self.wire.arrived
            self.wire.heard |= arrived.keys()
            told = zip(*(arrival.losses for arrival in arrived.values()), strict=True)
            self._steps.extend(dict(zip(arrived, losses, strict=True)) for losses in told)
        step = self._steps.popleft() if self._steps else dict[int, Loss]()
        nll_K, labelled_K = np.full(num_clients, np.nan), np.zeros(num_clients)
        for client, loss in step.items():
            nll_K[client], labelled_K[client] = loss.nll, loss.labelled
        loss_K = np.divide(nll_K, labelled_K, out=nll_K, where=labelled_K > 0)
        return StepResult(loss_K, labelled_K, sum(loss.tokens for loss in step.values()))
