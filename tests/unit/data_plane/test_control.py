"""Who may attend, what orders and reports go to and fro, and that a device which leaves is noticed."""

import re
import threading
import time

import grpc
import pytest

from wavetune.data_plane import PROTOCOL_VERSION, control
from wavetune.data_plane.certificates import read_identity, write_certificates
from wavetune.data_plane.client import connect
from wavetune.data_plane.control import Coordinator, attend
from wavetune.data_plane.messages_pb2 import Attend, Order, RoundOrder, RoundReport
from wavetune.data_plane.server import serve
from wavetune.errors import DeploymentError

PATIENCE_S = 20.0


class Office:
    """A coordinator of two devices, and devices as threads."""

    def __init__(self, folder):
        write_certificates(folder, 3)
        self.folder, self.lost = folder, []
        self.coordinator = Coordinator(2, lambda *lost: self.lost.append(lost))
        identity = read_identity(folder / "server")
        self.server, self.port = serve("127.0.0.1:0", identity, [self.coordinator.handler()], 16, 1 << 22)

    def attend(self, client, handle, patience_s=PATIENCE_S, changes=()):
        values = {"version": PROTOCOL_VERSION, "client": client, "run": "a run", "states": [0, 3]} | dict(changes)
        name = f"device-{client:02d}"
        with connect(f"localhost:{self.port}", read_identity(self.folder / name)) as channel:
            return attend(channel, lambda: Attend(**values), handle, patience_s, lambda _text: None)


@pytest.fixture
def office(tmp_path):
    opened = Office(tmp_path)
    yield opened
    opened.server.stop(0).wait()


def in_thread(office, *arguments):
    ended = []
    thread = threading.Thread(target=lambda: ended.append(office.attend(*arguments)))
    thread.start()
    return thread, ended


def test_an_order_is_answered_by_its_report_until_the_device_is_dismissed(office):
    def handle(order):
        return RoundReport(round=order.round, failure="no battery" if order.round == 4 else "")

    thread, ended = in_thread(office, 1, handle)
    coordinator = office.coordinator
    assert coordinator.wait_for([1], PATIENCE_S) == {1} == coordinator.present()
    assert coordinator.can_go_on(1, "a run", 3)
    assert not coordinator.can_go_on(1, "a run", 4)
    assert not coordinator.can_go_on(1, "another", 3)
    for index, failure in ((3, ""), (4, "no battery")):
        coordinator.order(1, RoundOrder(run="a run", round=index))
        assert coordinator.report(1, index, PATIENCE_S).failure == failure
    assert coordinator.can_go_on(1, "a run", 4)
    assert not coordinator.can_go_on(1, "a run", 5)
    assert office.lost == [(1, "client 1 reports: no battery", 4)]
    coordinator.dismiss("that was all")
    thread.join(PATIENCE_S)
    assert ended == ["that was all"]


def test_a_device_rests_behind_orders_that_fail_one_after_the_other(office, monkeypatch):
    happened, sleep = [], time.sleep
    monkeypatch.setattr(control.time, "sleep", lambda s: happened.append("rest") or sleep(s / 100))

    def handle(order):
        happened.append(order.round)
        return RoundReport(round=order.round, failure="" if order.round == 3 else "no battery")

    thread, _ = in_thread(office, 0, handle)
    office.coordinator.wait_for([0], PATIENCE_S)
    for index in range(6):
        office.coordinator.order(0, RoundOrder(run="a run", round=index))
        assert office.coordinator.report(0, index, PATIENCE_S).round == index
    office.coordinator.dismiss("that was all")
    thread.join(PATIENCE_S)
    assert happened == [0, 1, "rest", 2, "rest", 3, 4, 5, "rest"]


def test_a_device_that_was_held_up_gets_the_latest_order_alone_and_none_twice(office):
    """Orders of rounds that went on without it do not wait for it, and one that it is at is not sent again."""
    begun, go_on, rounds = threading.Event(), threading.Event(), []

    def handle(order):
        rounds.append((order.round, order.token))
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return RoundReport(round=order.round)

    thread, _ = in_thread(office, 0, handle)
    coordinator = office.coordinator
    coordinator.wait_for([0], PATIENCE_S)
    for index, token in ((3, b"a"), (3, b"a"), (4, b"b"), (5, b"c"), (5, b"c"), (5, b"d"), (5, b"d")):
        coordinator.order(0, RoundOrder(run="a run", round=index, token=token))
        assert begun.wait(PATIENCE_S)
    go_on.set()
    assert coordinator.report(0, 5, PATIENCE_S).round == 5
    coordinator.dismiss("that was all")
    thread.join(PATIENCE_S)
    assert rounds == [(3, b"a"), (5, b"d")]


def test_a_report_of_more_than_a_megabyte_is_refused(office):
    handle = lambda order: RoundReport(round=order.round, seconds={f"{i:06d}": 1.0 for i in range(90_000)})  # noqa: E731
    refused = []

    def life():
        with pytest.raises(DeploymentError, match=r"INVALID_ARGUMENT: a device reports in 1\d+ bytes") as found:
            office.attend(1, handle)
        refused.append(found)

    thread = threading.Thread(target=life)
    thread.start()
    office.coordinator.wait_for([1], PATIENCE_S)
    office.coordinator.order(1, RoundOrder(run="a run", round=0))
    assert office.coordinator.report(1, 0, PATIENCE_S) is None
    thread.join(PATIENCE_S)
    assert refused


def test_a_round_that_failed_too_late_to_matter_costs_the_device_nothing_in_the_next(office):
    begun, ordered = threading.Event(), threading.Event()

    def handle(order):
        begun.set()
        assert ordered.wait(PATIENCE_S)
        return RoundReport(round=order.round, failure="the round is over" if order.round == 3 else "")

    thread, _ = in_thread(office, 0, handle)
    coordinator = office.coordinator
    coordinator.wait_for([0], PATIENCE_S)
    for index in (3, 4):
        coordinator.order(0, RoundOrder(run="a run", round=index))
        assert begun.wait(PATIENCE_S)
    ordered.set()
    assert coordinator.report(0, 4, PATIENCE_S).failure == ""
    assert office.lost == [(0, "client 0 reports: the round is over", 3)]
    assert not coordinator.can_go_on(0, "a run", 4)
    coordinator.dismiss("that was all")
    thread.join(PATIENCE_S)


def test_servers_do_not_end_before_a_device_that_is_busy_has_taken_its_goodbye(office, monkeypatch):
    monkeypatch.setattr(control, "_PARTING_S", PATIENCE_S)
    done = threading.Event()

    def handle(order):
        assert done.wait(PATIENCE_S)
        return RoundReport(round=order.round)

    thread, ended = in_thread(office, 0, handle)
    office.coordinator.wait_for([0], PATIENCE_S)
    office.coordinator.order(0, RoundOrder(run="a run", round=0))
    threading.Timer(0.1, done.set).start()
    office.coordinator.dismiss("that was all")
    office.server.stop(0).wait()
    thread.join(PATIENCE_S)
    assert ended == ["that was all"]


def test_a_device_that_comes_after_the_goodbye_is_told_it_too(office):
    office.coordinator.dismiss("that was all")
    assert office.attend(0, lambda _order: RoundReport()) == "that was all"


def test_a_device_that_dies_is_noticed_and_not_waited_for(office):
    """Whatever escapes its handling ends its process; here its channel closes."""

    class Dead(BaseException):
        pass

    def die(_order):
        raise Dead

    def whole_life():
        with pytest.raises(Dead):
            office.attend(0, die)

    thread = threading.Thread(target=whole_life)
    thread.start()
    office.coordinator.wait_for([0], PATIENCE_S)
    office.coordinator.order(0, RoundOrder(run="a run", round=0))
    assert office.coordinator.report(0, 0, PATIENCE_S) is None
    thread.join(PATIENCE_S)
    until = time.monotonic() + PATIENCE_S
    while office.coordinator.present() and time.monotonic() < until:
        time.sleep(0.01)
    assert office.lost == [(0, "client 0 left", None)]


@pytest.mark.parametrize(
    ("client", "changes", "words"),
    [
        (0, {"version": 99}, "UNIMPLEMENTED: client 0 speaks version 99"),
        (0, {"client": 1}, "PERMISSION_DENIED: the certificate of 'device-00' is not that of client 1"),
        (2, {}, "PERMISSION_DENIED"),
        (0, {"states": range(1 << 16)}, "INVALID_ARGUMENT: a device attends with [0-9]+ bytes"),
    ],
    ids=["other_version", "other_client", "beyond_the_run", "gigantic"],
)
def test_who_may_not_attend_is_told_why(office, client, changes, words):
    with pytest.raises(DeploymentError, match=words):
        office.attend(client, lambda _order: RoundReport(), changes=changes)
    assert office.coordinator.present() == set()


def test_servers_that_stay_away_are_given_up(office):
    office.server.stop(0).wait()
    with pytest.raises(DeploymentError, match=r"gave up after 0\.1 s: the server has been away"):
        office.attend(0, lambda _order: RoundReport(), 0.1)


def test_of_two_machines_with_one_key_the_first_goes_on_and_both_are_told(office):
    said, notices, asked = [], [], threading.Event()
    name = "device-01"

    class StoppedError(Exception):
        pass

    def life(process, handle, say):
        with connect(f"localhost:{office.port}", read_identity(office.folder / name)) as channel:
            introduce = lambda: Attend(version=PROTOCOL_VERSION, client=1, process=process)  # noqa: E731
            return attend(channel, introduce, handle, PATIENCE_S, say)

    def handle(order):
        notices.append(order.notice)
        return RoundReport(round=order.round)

    def told(text):
        said.append(text)
        asked.set()
        raise StoppedError

    def twin():
        with pytest.raises(StoppedError):
            life(b"second", handle, told)

    ended = []
    first = threading.Thread(target=lambda: ended.append(life(b"first", handle, lambda _text: None)))
    first.start()
    office.coordinator.wait_for([1], PATIENCE_S)
    second = threading.Thread(target=twin)
    second.start()
    assert asked.wait(PATIENCE_S)
    for index in (0, 1):
        office.coordinator.order(1, RoundOrder(run="a run", round=index))
        assert office.coordinator.report(1, index, PATIENCE_S).round == index
    second.join(PATIENCE_S)
    assert office.lost == []
    office.coordinator.dismiss("that was all")
    first.join(PATIENCE_S)
    assert ended == ["that was all"]
    assert re.match(r"another machine, at \S+, attends with the certificate of device-01; .*; trying again$", said[0])
    assert "came with the certificate of device-01" in notices[0]


class Failing:
    """A coordinator whose first streams end as given: after an order, if there is one. `take` is the true one."""

    def __init__(self, office, monkeypatch, status, sentence, order=None, more=()):
        take, ends = type(office.coordinator)._attend, [(status, sentence), *more]

        def fails_at_first(coordinator, requests, context):
            if ends:
                if order is not None:
                    next(requests)
                    yield Order(round=order).SerializeToString()
                    next(requests)
                context.abort(*ends.pop(0))
            yield from take(coordinator, requests, context)

        monkeypatch.setattr(type(office.coordinator), "_attend", fails_at_first)
        office.server.stop(0).wait()
        handlers = [office.coordinator.handler()]
        identity = read_identity(office.folder / "server")
        office.server, office.port = serve("127.0.0.1:0", identity, handlers, 16, 1 << 20)
        self.office, self.said, self.ended = office, [], []

    def attend(self, diagnose):
        with connect(f"localhost:{self.office.port}", read_identity(self.office.folder / "device-00")) as channel:
            introduce = lambda: Attend(version=PROTOCOL_VERSION, client=0)  # noqa: E731
            handle = lambda order: RoundReport(round=order.round)  # noqa: E731
            self.ended.append(attend(channel, introduce, handle, PATIENCE_S, self.said.append, diagnose))

    def until_dismissed(self, diagnose=lambda: None):
        thread = threading.Thread(target=self.attend, args=(diagnose,))
        thread.start()
        assert self.office.coordinator.wait_for([0], PATIENCE_S) == {0}
        self.office.coordinator.dismiss("that was all")
        thread.join(PATIENCE_S)
        assert self.ended == ["that was all"]


@pytest.mark.parametrize(
    ("status", "sentence", "said"),
    [  # as gRPC refuses a stream where too many wait, and ends one whose bytes were changed on the way
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", "the server is full"),
        (grpc.StatusCode.UNKNOWN, "Stream removed (TSI_DATA_CORRUPTED)", "the connection broke"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 1", "the connection broke"),
    ],
)
def test_servers_that_are_full_and_connections_that_break_are_tried_again(office, monkeypatch, status, sentence, said):
    failing = Failing(office, monkeypatch, status, sentence)
    failing.until_dismissed()
    assert failing.said == [f"{said} ({sentence}); trying again"]


def test_reasons_that_take_turns_are_said_once_each(office, monkeypatch):
    """As where a server's name has two addresses, which are tried in turns."""
    monkeypatch.setattr(control, "_RETRY_S", 0.01)
    turns = [(grpc.StatusCode.UNAVAILABLE, why) for why in ("the first address", "the second", "the first address")]
    failing = Failing(office, monkeypatch, *turns[0], more=turns[1:])
    failing.until_dismissed()
    assert failing.said == [
        f"the server has been away ({why}); trying again" for why in ("the first address", "the second")
    ]


def diagnosed():
    raise DeploymentError("they do not take this certificate")


def test_what_a_look_at_a_connection_finds_ends_no_device_that_the_servers_took_before(office, monkeypatch):
    """It may be somebody on the way, and for a moment."""
    order = RoundOrder(run="a run", round=0)
    failing = Failing(office, monkeypatch, grpc.StatusCode.UNAVAILABLE, "Socket closed", order)
    failing.until_dismissed(diagnosed)
    assert failing.said == ["they do not take this certificate; trying again"]


def test_what_a_look_at_the_first_connection_finds_ends_the_device(office, monkeypatch):
    failing = Failing(office, monkeypatch, grpc.StatusCode.UNAVAILABLE, "Socket closed")
    with pytest.raises(DeploymentError, match="they do not take"):
        failing.attend(diagnosed)
