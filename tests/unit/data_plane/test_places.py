"""No party keeps another from its place, however many streams it opens and however little it says."""

import gc
import queue
import time

import grpc
import pytest

from helpers.data_plane import contract, party
from wavetune.data_plane import PROTOCOL_VERSION
from wavetune.data_plane.certificates import read_identity
from wavetune.data_plane.client import connect
from wavetune.data_plane.messages_pb2 import Frame
from wavetune.data_plane.places import PER_PARTY, Places
from wavetune.data_plane.server import METHOD, SERVICE, serve

HURRIED_S = 0.2
PATIENCE_S = 20.0


class Hall:
    """A server with a few threads; silent streams are those of `channel`."""

    def __init__(self, opened, **places):
        self.said = []
        self.places = Places(say=self.said.append, **places)
        identity = read_identity(opened.folder / "server")
        self.server, port = serve("127.0.0.1:0", identity, [opened.plane.handler()], 8, 1 << 20, self.places)
        self.address, self.folder, self.calls, self.channels = f"localhost:{port}", opened.folder, [], []

    def stream(self, name, *frames, channel=None):
        """A stream that says these frames and then nothing."""
        self.channels.append(channel or connect(self.address, read_identity(self.folder / name)))
        requests = queue.SimpleQueue()
        for frame in frames:
            requests.put(frame)
        self.calls.append(self.channels[-1].stream_stream(f"/{SERVICE}/{METHOD}")(iter(requests.get, None)))
        return self.calls[-1]

    def close(self):
        for call in self.calls:
            call.cancel()
        for channel in self.channels:
            channel.close()
        self.server.stop(0).wait()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    with party(tmp_path_factory.mktemp("certificates")) as found:
        yield found


@pytest.fixture
def hall(opened):
    found = Hall(opened)
    yield found
    found.close()


def ends(call):
    until = time.monotonic() + PATIENCE_S
    while not call.done() and time.monotonic() < until:
        time.sleep(0.01)
    return call.code()


def all_end_but(kept, calls):
    """The calls that ended, once no more than so many are open: those that came last, in whatever order they came."""
    until = time.monotonic() + PATIENCE_S
    while sum(not call.done() for call in calls) > kept:
        assert time.monotonic() < until
        time.sleep(0.01)
    return [call for call in calls if call.done()]


def test_silent_streams_of_one_device_leave_the_others_their_places(opened, hall):
    ended = all_end_but(PER_PARTY, [hall.stream("device-02") for _ in range(40)])
    assert {call.code() for call in ended} <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN}
    token = opened.plane.open_round(0, [contract(0)])[0]
    hello = Frame(hello={"version": PROTOCOL_VERSION, "run": "a run", "token": token, "width": 8, "cut": 2})
    answer = next(hall.stream("device-00", hello.SerializeToString()))
    assert Frame.FromString(answer).hello.version == PROTOCOL_VERSION


def test_a_stream_that_is_in_use_is_not_the_one_that_ends(opened, hall):
    token = opened.plane.open_round(0, [contract(0)])[0]
    hello = Frame(hello={"version": PROTOCOL_VERSION, "run": "a run", "token": token, "width": 8, "cut": 2})
    used = hall.stream("device-00", hello.SerializeToString())
    next(used)
    all_end_but(1, [hall.stream("device-00") for _ in range(10)])
    assert not used.done()


def test_streams_of_rubbish_with_ones_own_key_do_not_end_the_one_in_use(opened, hall):
    token = opened.plane.open_round(0, [contract(0)])[0]
    hello = Frame(hello={"version": PROTOCOL_VERSION, "run": "a run", "token": token, "width": 8, "cut": 2})
    used = hall.stream("device-00", hello.SerializeToString())
    next(used)
    rubbish = [hall.stream("device-00", bytes([number]) * 50) for number in range(200)]
    for call in rubbish:
        ends(call)
    assert not used.done()
    assert opened.plane.stream(0).failure == ""


def test_a_stream_whose_first_frame_does_not_come_in_time_ends(opened):
    hall = Hall(opened, first_frame_s=HURRIED_S)
    try:
        assert ends(hall.stream("device-01")) in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
    finally:
        hall.close()


def test_a_stream_that_was_given_up_while_its_next_frame_was_awaited_ends(opened, hall):
    token = opened.plane.open_round(0, [contract(0), contract(1)])
    hellos = [
        {"version": PROTOCOL_VERSION, "run": "a run", "token": token[k], "width": 8, "cut": 2, "client": k}
        for k in (0, 1)
    ]
    slow, other = (
        hall.stream(f"device-0{k}", Frame(hello=hello).SerializeToString()) for k, hello in enumerate(hellos)
    )
    next(slow), next(other)
    opened.plane.give_up(0, "client 0 did not answer in time")
    all_end_but(0, [slow])
    assert not other.done()


def test_streams_that_a_device_broke_off_are_forgotten_at_once(opened, hall):
    """gRPC refuses a connection's streams while about 100 that ended are in memory; a run has one or more a round."""
    channel = connect(hall.address, read_identity(hall.folder / "device-00"))
    gc.disable()  # among a model's many objects it seldom looks at old ones
    try:
        for _ in range(200):
            token = opened.plane.open_round(0, [contract(0)])[0]
            hello = Frame(hello={"version": PROTOCOL_VERSION, "run": "a run", "token": token, "width": 8, "cut": 2})
            stream = hall.stream("device-00", hello.SerializeToString(), channel=channel)
            next(stream)
            stream.cancel()
    finally:
        gc.enable()


def test_who_is_refused_again_and_again_is_named_once_and_counted(opened, hall):
    def knock(**hello):
        with pytest.raises(grpc.RpcError):
            next(hall.stream("device-01", Frame(hello={"version": PROTOCOL_VERSION, **hello}).SerializeToString()))

    for number in range(20):
        knock(client=100 + number)
    assert "refused device-01 at 127.0.0.1:" in hall.said[0] or "refused device-01 at [::1]:" in hall.said[0]
    assert "is not that of client 100" in hall.said[0]
    (once,) = hall.places.take_refused()
    assert (once.who, once.times) == ("device-01", 20)
    assert hall.places.take_refused() == []
    knock(client=1)
    assert [one.times for one in hall.places.take_refused()] == [1]
    assert len(hall.said) == 2  # for what it was refused, each once
    (ever,) = hall.places.refusals()
    assert ever.startswith("device-01: the certificate of")
    assert ever.endswith("is not that of client 100 (the first of 21 refusals)")


def test_a_revoked_certificate_loses_its_streams_and_gets_no_other(opened):
    revoked = set()
    hall = Hall(opened, revoked=revoked.__contains__)
    try:
        token = opened.plane.open_round(0, [contract(0)])[0]
        hello = Frame(hello={"version": PROTOCOL_VERSION, "run": "a run", "token": token, "width": 8, "cut": 2})
        used = hall.stream("device-00", hello.SerializeToString())
        next(used)
        (place,) = next(iter(hall.places._open.values()))
        revoked.add(place.serial)
        ends(used)
        assert opened.plane.stream(0).take(PATIENCE_S) is None
        with pytest.raises(grpc.RpcError, match="was revoked"):
            next(hall.stream("device-00", hello.SerializeToString()))
    finally:
        hall.close()
