"""Orders that a run's servers give its devices, and the reports that come back, whoever carries both."""

import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from safetensors.torch import save

from wavetune.data_plane.bounds import out_of_bounds
from wavetune.data_plane.control import Control
from wavetune.data_plane.messages_pb2 import RoundOrder, RoundReport
from wavetune.data_plane.refusal import quoted
from wavetune.runtimes.session import Session

Judge = Callable[[int, RoundReport], str | None]
"""Why a client's report does not answer an order: empty if it does, None if it is a report on something else."""
_POLL_S = 1.0


@dataclass
class Orders:
    """What the servers of a run tell its devices, and hear of them.

    Devices open their streams at `address` (empty: where they attend). One that has to be waited for is waited for
    `patience_s`, and one that was given an order has `deadline_s` to answer it.
    """

    session: Session
    control: Control
    run: str
    address: str
    patience_s: float
    deadline_s: float
    _away: set[int] = field(default_factory=set[int])  # devices that did not come back for an order

    def order(self, index: int, **own: Any) -> RoundOrder:
        """An order of a round: what all devices are told, and what is for one of them."""
        session = self.session
        return RoundOrder(
            run=self.run,
            round=index,
            recipe=self._recipe,
            local_steps=session.recipe.run.local_steps,
            batch_size=session.batching.batch_size,
            cuts=session.cohort.placement.cut_K,
            ranks=session.rank_K,
            bf16=session.precision.startswith("bf16"),
            address=self.address,
            **own,
        )

    @cached_property
    def _recipe(self) -> str:
        """The recipe with the codecs that its planner may have chosen."""
        recipe, link = self.session.recipe, self.session.cohort.link
        chosen = {"activation_codec": link.activation_codec, "gradient_codec": link.gradient_codec}
        method = replace(recipe.method, choose_codecs=False, **chosen)
        return json.dumps(replace(recipe, method=method).to_dict())

    def adapters_of(self, client: int) -> bytes:
        """The shared adapters that a client has after the last broadcast, and what came beside them."""
        cohort = self.session.cohort
        return save(cohort.bank.copies(client, self.session.server.sites) | cohort.optimiser.told(client))

    def knows(self, client: int, index: int) -> bool:
        """Whether a device has the state that a round starts from."""
        return self.control.can_go_on(client, self.run, index)

    def report(self, client: int, index: int, patience_s: float) -> RoundReport | None:
        """A device's report on a round, or None if it left or does not report in time.

        One with a number that no record can hold is a failure.
        """
        report = self.control.report(client, index, patience_s)
        if report is None or not (wrong := out_of_bounds(report)):
            return report
        return RoundReport(round=report.round, failure=f"client {client} reported what cannot be: {wrong}")

    def ask(
        self,
        clients: Collection[int],
        order_for: Callable[[int], RoundOrder],
        judge: Judge = lambda _client, _report: "",
        deadline_s: float | None = None,
        patience_s: float = 0.0,
    ) -> tuple[dict[int, RoundReport], dict[int, str]]:
        """The reports of devices that did what takes no stream, by client, and why the others have none.

        A device that leaves is waited for and ordered again for up to `patience_s`, unless it has stayed away for
        as long as that before.
        """
        deadline_s = self.deadline_s if deadline_s is None else deadline_s
        reports, lost, missing = dict[int, RoundReport](), dict[int, str](), set(clients)
        until = time.monotonic() + patience_s
        while missing:
            orders = {client: order_for(client) for client in sorted(self.control.present() & missing)}
            for client, order in orders.items():
                self.control.order(client, order)
            due = time.monotonic() + deadline_s  # for all of them alike, so that many who are silent cost no more
            for client, order in orders.items():
                report = self._answer(client, order.round, due, judge)
                wrong = "" if report is None else quoted(report.failure) or judge(client, report)
                if wrong:
                    lost[client] = wrong
                elif report is not None:
                    reports[client] = report
                elif time.monotonic() >= due and client in self.control.present():
                    lost[client] = f"client {client} did not answer within {deadline_s:.3g} s"
            missing -= reports.keys() | lost.keys()
            if time.monotonic() >= until or not (missing - self._away or missing & self.control.present()):
                break
            self.control.wait_for(missing - self._away, _POLL_S)
        if patience_s:
            self._away = missing
        return reports, lost | {client: f"client {client} is away" for client in missing}

    def _answer(self, client: int, index: int, until: float, judge: Judge) -> RoundReport | None:
        """A device's report that answers its order; those on something else are passed over."""
        while True:
            report = self.report(client, index, max(0.0, until - time.monotonic()))
            if report is None or report.failure or judge(client, report) is not None:
                return report
