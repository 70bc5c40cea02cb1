"""The control stream: devices attend, are given an order a round, and report.

It carries `RoundOrder` and `RoundReport` and nothing else, so that whatever moves one message each way a round can take
its place; what a device does with an order does not depend on it.
"""

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any, Protocol

import grpc

from wavetune.data_plane import PROTOCOL_VERSION
from wavetune.data_plane.certificates import device_name
from wavetune.data_plane.client import refusal
from wavetune.data_plane.messages_pb2 import Attend, Goodbye, Order, Report, RoundOrder, RoundReport
from wavetune.data_plane.places import Requests, address_of, peer_name
from wavetune.data_plane.refusal import Reason, RefusedError, parsed, quoted
from wavetune.errors import DeploymentError

SERVICE, METHOD = "wavetune.Control", "Attend"
_RETRY_S = 0.5
_PARTING_S = 5.0  # for devices to take their goodbye
_ATTEND_BYTES, _REPORT_BYTES = 1 << 16, 1 << 20  # who a device is, and the rounds that it kept; what a round was like
_PASSING = {
    grpc.StatusCode.UNAVAILABLE: "the server has been away ({})",
    grpc.StatusCode.CANCELLED: "the server ended the stream ({})",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "the server is full ({})",
    grpc.StatusCode.ALREADY_EXISTS: "{}",
    grpc.StatusCode.UNKNOWN: "the connection broke ({})",  # where something on the way changed what it carries
    grpc.StatusCode.INTERNAL: "the connection broke ({})",
}
"""Refusals that pass, and what they mean to the device."""


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

    def has_broadcast_to_come(self, client: int) -> bool:
        """Whether a device that reported gets what came of its round only with its next order."""
        ...

    def dismiss(self, reason: str) -> None:
        """Tell all devices that there is nothing more to do, and give them a moment to hear it."""
        ...


class _Attendance:
    """One device that attends."""

    def __init__(self, attend: Attend, context: grpc.ServicerContext) -> None:
        self.attend, self.context = attend, context
        self.notice = ""  # goes with the next order
        self.states = set(attend.states)
        self.ordered = -1  # the latest round
        self.due = b""  # the order that is not answered yet
        self.orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self.reports: queue.SimpleQueue[RoundReport | None] = queue.SimpleQueue()

    def give(self, order: Order) -> None:
        """Have an order taken next; a goodbye stays before it."""
        with suppress(queue.Empty):
            waiting = self.orders.get_nowait()
            if waiting is None or waiting.HasField("goodbye"):
                self.orders.put(waiting)
        self.orders.put(order)

    def leave(self) -> None:
        """Wake whoever waits."""
        self.orders.put(None)
        self.reports.put(None)


class Coordinator:
    """The servers' end: who attends, orders to them, their reports.

    `lost(client, why, round_index)` is called as soon as a device reports that a round failed, or leaves (None).
    """

    def __init__(self, num_clients: int, lost: Callable[[int, str, int | None], None]) -> None:
        self.num_clients, self.lost = num_clients, lost
        self._devices: dict[int, _Attendance] = {}
        self._changed = threading.Condition()
        self._goodbye: Order | None = None  # once there is nothing more to do

    def present(self) -> set[int]:
        """Who attends now."""
        with self._changed:
            return set(self._devices)

    def wait_for(self, clients: Collection[int], patience_s: float) -> set[int]:
        """Who of these attends, at the latest after the given time."""
        with self._changed:
            self._changed.wait_for(lambda: self._devices.keys() >= set(clients), patience_s)
            return set(clients) & set(self._devices)

    def can_go_on(self, client: int, run: str, rounds_done: int) -> bool:
        """Whether a device kept its state after this many rounds of the run."""
        device = self._devices.get(client)
        return device is not None and device.attend.run == run and rounds_done in device.states

    def order(self, client: int, order: RoundOrder) -> None:
        """Send an order to a device, if it is still there; in the place of one that it has not taken.

        One that it has not answered yet is not sent again.
        """
        device, content = self._devices.get(client), order.SerializeToString(deterministic=True)
        if device is not None and device.due != content:
            device.attend.run, device.ordered, device.due = order.run, order.round, content
            order.notice, device.notice = device.notice, ""
            device.give(Order(round=order))

    def report(self, client: int, round_index: int, patience_s: float) -> RoundReport | None:
        """A device's report on a round, or None if it left or does not report in time."""
        device, until = self._devices.get(client), time.monotonic() + patience_s
        while device is not None and device.ordered >= round_index:  # who came back since was not ordered it
            try:
                report = device.reports.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return None
            if report is None or report.round == round_index:
                return report
        return None

    def has_broadcast_to_come(self, client: int) -> bool:
        """Never: a device's stream ends with what came of its round."""
        return False

    def dismiss(self, reason: str) -> None:
        """Tell all devices, and whoever still comes, that there is nothing more to do; wait until they have left."""
        with self._changed:
            self._goodbye = Order(goodbye=Goodbye(reason=reason))
            for device in self._devices.values():
                device.orders.put(self._goodbye)
            self._changed.wait_for(lambda: not self._devices, _PARTING_S)

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server serves."""
        method = grpc.stream_stream_rpc_method_handler(self._attend)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    def _attend(self, requests: Requests, context: grpc.ServicerContext) -> Iterator[bytes]:
        device: _Attendance | None = None
        try:
            for content in requests:
                if len(content) > (_ATTEND_BYTES if device is None else _REPORT_BYTES):
                    what = "attends with" if device is None else "reports in"
                    raise RefusedError(Reason.MALFORMED, f"a device {what} {len(content)} bytes")
                report = parsed(Report, content, "a report")
                if device is None:
                    device = self._admit(report, context)
                    requests.admitted = True
                elif not report.HasField("round"):
                    raise RefusedError(Reason.OUT_OF_TURN, "a device attends once, then reports on rounds")
                else:
                    if report.round.failure:
                        why = claimed(device.attend.client, report.round.failure)
                        self.lost(device.attend.client, why, report.round.round)
                    else:
                        device.states.add(report.round.round + 1)
                    if report.round.round == device.ordered:
                        device.due = b""
                    device.reports.put(report.round)
                order = device.orders.get()
                if order is None:
                    return
                yield order.SerializeToString()
        finally:
            if device is not None:
                self._left(device)

    def _admit(self, report: Report, context: grpc.ServicerContext) -> _Attendance:
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
        device = _Attendance(attend, context)
        with self._changed:
            earlier = self._devices.get(attend.client)
            if earlier is not None:
                _require_the_same(earlier, device)
            self._devices[attend.client] = device
            if self._goodbye is not None:
                device.orders.put(self._goodbye)
            self._changed.notify_all()
        if earlier is not None:  # a device that lost its connection may come back before we notice
            earlier.leave()
        context.add_callback(device.leave)
        return device

    def _left(self, device: _Attendance) -> None:
        with self._changed:
            if self._devices.get(device.attend.client) is device:
                del self._devices[device.attend.client]
                self._changed.notify_all()
                self.lost(device.attend.client, f"client {device.attend.client} left", None)
        device.leave()


def claimed(client: int, failure: str) -> str:
    """A device's own account of why its round failed, as the servers tell it."""
    return f"client {client} reports: {quoted(failure)}"


def _require_the_same(earlier: _Attendance, later: _Attendance) -> None:
    """Raise RefusedError if two processes attend as one device; the first goes on, and is told."""
    if earlier.attend.process == later.attend.process or not earlier.context.is_active():
        return
    name = device_name(earlier.attend.client)
    first, second = (address_of(device.context.peer()) for device in (earlier, later))
    remedy = f"the certificate of {name}; stop one of them, or give each a certificate of its own"
    earlier.notice = f"another machine, at {second}, came with {remedy}"
    raise RefusedError(Reason.DUPLICATE, f"another machine, at {first}, attends with {remedy}")


def attend(
    channel: grpc.Channel,
    introduce: Callable[[], Attend],
    handle: Callable[[RoundOrder], RoundReport],
    patience_s: float,
    say: Callable[[str], None],
    diagnose: Callable[[], None] = lambda: None,
) -> str:
    """Attend until the server says goodbye; returns its reason. A server that is away or full is waited for.

    Raises DeploymentError if the server refuses, or does not take the device for longer than `patience_s`. `diagnose`
    looks at a connection that failed and raises what waiting cannot mend; once the server has taken the device, that is
    somebody on the way, and waited for too. Behind orders that fail one after the other it rests, as each is told of.
    """
    until, said, taken, failed = time.monotonic() + patience_s, set[str](), False, False
    while True:
        replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call: Any = channel.stream_stream(f"/{SERVICE}/{METHOD}")(iter(replies.get, None))
        replies.put(Report(attend=introduce()).SerializeToString())
        try:
            for content in call:
                until, said, taken = time.monotonic() + patience_s, set[str](), True
                order = parsed(Order, content, "the servers sent an order")
                if order.HasField("goodbye"):
                    return quoted(order.goodbye.reason)
                report = handle(order.round)
                replies.put(Report(round=report).SerializeToString())
                if failed and report.failure:
                    time.sleep(_RETRY_S)
                failed = bool(report.failure)
        except grpc.RpcError as error:
            status: Any = error
            if status.code() not in _PASSING:
                raise refusal(error) from error
            why = _PASSING[status.code()].format(quoted(status.details()))
            try:
                if status.code() == grpc.StatusCode.UNAVAILABLE:
                    diagnose()
            except DeploymentError as found:
                if not taken:
                    raise
                why = str(found)
            if time.monotonic() > until:
                raise DeploymentError(f"gave up after {patience_s:.3g} s: {why}") from error
            if why not in said:  # each once, though a name may have addresses that fail in turns
                say(f"{why}; trying again")
            said.add(why)
        finally:
            replies.put(None)
            call.cancel()
        time.sleep(_RETRY_S)
