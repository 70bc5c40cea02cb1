"""The control stream: devices attend, are given an order a round, and report.

It carries `RoundOrder` and `RoundReport` and nothing else, so that whatever moves one message each way a round can take
its place; what a device does with an order does not depend on it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from wavetune.data_plane.certificates import device_name
from wavetune.data_plane.client import refusal
from wavetune.data_plane.contract import PROTOCOL_VERSION
from wavetune.data_plane.messages_pb2 import Attend, Goodbye, Order, Report, RoundOrder, RoundReport
from wavetune.data_plane.refusal import Reason, RefusedError
from wavetune.data_plane.server import peer_name
from wavetune.errors import DeploymentError

SERVICE, METHOD = "wavetune.Control", "Attend"
_RETRY_S = 0.5


class Control(Protocol):
    """What carries orders to devices and their reports back."""

    def present(self) -> set[int]:
        """Who attends now."""
        ...

    def wait_for(self, clients: Collection[int], patience_s: float) -> set[int]:
        """Who of these attends, at the latest after the given time."""
        ...

    def can_go_on(self, client: int, run: str, rounds_done: int) -> bool:
        """Whether a device kept its state after this many rounds of the run."""
        ...

    def order(self, client: int, order: RoundOrder) -> None:
        """Send an order to a device, if it is still there."""
        ...

    def report(self, client: int, round_index: int, patience_s: float) -> RoundReport | None:
        """A device's report on a round, or None if it left or does not report in time."""
        ...

    def owes(self, client: int) -> bool:
        """Whether a device that reported gets what came of its round only with its next order."""
        ...

    def dismiss(self, reason: str) -> None:
        """Tell all devices that there is nothing more to do."""
        ...


class _Desk:
    """One device that attends."""

    def __init__(self, attend: Attend) -> None:
        self.attend = attend
        self.states = set(attend.states)
        self.ordered = -1  # the latest round
        self.orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self.reports: queue.SimpleQueue[RoundReport | None] = queue.SimpleQueue()

    def leave(self) -> None:
        """Wake whoever waits."""
        self.orders.put(None)
        self.reports.put(None)


class Coordinator:
    """The servers' end: who attends, orders to them, their reports.

    `lost(client, why)` is called as soon as a device leaves or reports that the round it was last sent failed.
    """

    def __init__(self, num_clients: int, lost: Callable[[int, str], None]) -> None:
        self.num_clients, self.lost = num_clients, lost
        self._desks: dict[int, _Desk] = {}
        self._changed = threading.Condition()

    def present(self) -> set[int]:
        """Who attends now."""
        with self._changed:
            return set(self._desks)

    def wait_for(self, clients: Collection[int], patience_s: float) -> set[int]:
        """Who of these attends, at the latest after the given time."""
        with self._changed:
            self._changed.wait_for(lambda: self._desks.keys() >= set(clients), patience_s)
            return set(clients) & set(self._desks)

    def can_go_on(self, client: int, run: str, rounds_done: int) -> bool:
        """Whether a device kept its state after this many rounds of the run."""
        desk = self._desks.get(client)
        return desk is not None and desk.attend.run == run and rounds_done in desk.states

    def order(self, client: int, order: RoundOrder) -> None:
        """Send an order to a device, if it is still there."""
        desk = self._desks.get(client)
        if desk is not None:
            desk.attend.run, desk.ordered = order.run, order.round
            desk.orders.put(Order(round=order))

    def report(self, client: int, round_index: int, patience_s: float) -> RoundReport | None:
        """A device's report on a round, or None if it left or does not report in time."""
        desk, until = self._desks.get(client), time.monotonic() + patience_s
        while desk is not None and desk.ordered >= round_index:  # who came back since was not ordered it
            try:
                report = desk.reports.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return None
            if report is None or report.round == round_index:
                return report
        return None

    def owes(self, client: int) -> bool:
        """Never: a device's stream ends with what came of its round."""
        return False

    def dismiss(self, reason: str) -> None:
        """Tell all devices that there is nothing more to do."""
        for desk in list(self._desks.values()):
            desk.orders.put(Order(goodbye=Goodbye(reason=reason)))

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server serves."""
        method = grpc.stream_stream_rpc_method_handler(self._attend)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    def _attend(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        desk: _Desk | None = None
        try:
            for content in requests:
                report = _parsed(content)
                if desk is None:
                    desk = self._admit(report, context)
                elif not report.HasField("round"):
                    raise RefusedError(Reason.OUT_OF_TURN, "a device attends once, then reports on rounds")
                else:
                    if report.round.failure and report.round.round == desk.ordered:
                        self.lost(desk.attend.client, report.round.failure)
                    elif not report.round.failure:
                        desk.states.add(report.round.round + 1)
                    desk.reports.put(report.round)
                order = desk.orders.get()
                if order is None:
                    return
                yield order.SerializeToString()
        except RefusedError as refused:
            context.abort(refused.reason.value, refused.sentence)
        finally:
            if desk is not None:
                self._left(desk)

    def _admit(self, report: Report, context: grpc.ServicerContext) -> _Desk:
        attend = report.attend
        if not report.HasField("attend"):
            raise RefusedError(Reason.OUT_OF_TURN, "a device attends before it reports")
        if attend.version != PROTOCOL_VERSION:
            raise RefusedError(
                Reason.OTHER_VERSION,
                f"client {attend.client} speaks version {attend.version} of the protocol, the server "
                f"{PROTOCOL_VERSION}; install the same wavetune on both",
            )
        if peer_name(context) != device_name(attend.client) or attend.client >= self.num_clients:
            raise RefusedError(
                Reason.UNKNOWN_DEVICE,
                f"the certificate of {peer_name(context)!r} is not that of client {attend.client} of this run",
            )
        desk = _Desk(attend)
        with self._changed:
            earlier, self._desks[attend.client] = self._desks.get(attend.client), desk
            self._changed.notify_all()
        if earlier is not None:  # a device that lost its connection may come back before we notice
            earlier.leave()
        context.add_callback(desk.leave)
        return desk

    def _left(self, desk: _Desk) -> None:
        with self._changed:
            if self._desks.get(desk.attend.client) is desk:
                del self._desks[desk.attend.client]
                self._changed.notify_all()
                self.lost(desk.attend.client, f"client {desk.attend.client} left")
        desk.leave()


def attend(
    channel: grpc.Channel,
    introduce: Callable[[], Attend],
    handle: Callable[[RoundOrder], RoundReport],
    patience_s: float,
    say: Callable[[str], None],
) -> str:
    """Attend until the server says goodbye; returns its reason. A server that is away is waited for.

    Raises DeploymentError if the server refuses, or is away for longer than `patience_s`.
    """
    until = time.monotonic() + patience_s
    while True:
        replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call: Any = channel.stream_stream(f"/{SERVICE}/{METHOD}")(iter(replies.get, None))
        replies.put(Report(attend=introduce()).SerializeToString())
        try:
            for content in call:
                until = time.monotonic() + patience_s
                order = Order.FromString(content)
                if order.HasField("goodbye"):
                    return order.goodbye.reason
                replies.put(Report(round=handle(order.round)).SerializeToString())
        except grpc.RpcError as error:
            status: Any = error
            if status.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise refusal(error) from error
            if time.monotonic() > until:
                raise DeploymentError(f"the server has been away for {patience_s:.3g} s: {status.details()}") from error
            say(f"the server is away ({status.details()}); trying again")
        finally:
            replies.put(None)
            call.cancel()
        time.sleep(_RETRY_S)


def _parsed(content: bytes) -> Report:
    try:
        return Report.FromString(content)
    except DecodeError as error:
        raise RefusedError(Reason.MALFORMED, f"a report that is no protobuf message ({error})") from error
