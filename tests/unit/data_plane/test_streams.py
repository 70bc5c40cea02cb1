"""What the server takes from a device, and what it refuses without harm to anyone else."""

import contextlib
import resource
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
import torch
from grpc._cython import cygrpc

from helpers.data_plane import ADAPTER, ADAPTERS_UP, LAYOUT, LOSS, PATIENCE_S, X, contract, hello, party, up
from wavetune.data_plane import client, server
from wavetune.data_plane.certificates import read_identity
from wavetune.data_plane.client import connect
from wavetune.data_plane.messages_pb2 import Frame, Layout, Part
from wavetune.data_plane.payloads import pack
from wavetune.data_plane.server import METHOD, SERVICE
from wavetune.errors import DeploymentError
from wavetune.federation.codecs import Bf16


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    with party(tmp_path_factory.mktemp("certificates")) as found:
        yield found


def answering(line, parts_of):
    """Take and answer one frame as the round would, beside the device."""
    taken = []

    def act():
        arrived = line.take(PATIENCE_S)
        taken.append(arrived)
        if arrived is not None:
            line.answer(parts_of(arrived))

    thread = threading.Thread(target=act)
    thread.start()
    return thread, taken


def exchange(opened, stream, client=0, **frame):
    thread, taken = answering(opened.plane.stream(client), lambda a: [("gradients_down", Bf16().encode(X * 2))])
    try:
        return stream.ask(**frame), taken
    finally:
        thread.join()


def test_what_is_sent_arrives_and_the_answer_comes_back(opened):
    token = opened.plane.open_round(0, [contract()])[0]
    stream = opened.stream(token)
    for _ in range(2):
        part, (arrived,) = exchange(opened, stream, parts=up(), layout=LAYOUT)
        assert torch.equal(Bf16().decode(arrived.one("activations_up")), X)
        assert arrived.one("labels_up")["ids"].tolist() == [3, 4]
        assert (arrived.lengths, arrived.label_positions) == ((3, 2), (2, 4))
        assert part.kind == "gradients_down"
    _, (arrived,) = exchange(opened, stream, parts=[("adapters_up", ADAPTERS_UP)])
    assert torch.equal(arrived.one("adapters_up")["a|values"], ADAPTER)
    line = opened.plane.stream(0)
    assert line.measured.payload_bytes == stream.measured.payload_bytes | {"gradients_down": 3 * X.numel() * 2}
    assert line.measured.payload_bytes["activations_up"] == 2 * X.numel() * 2
    assert line.measured.frame_bytes["up"] == stream.measured.frame_bytes["up"]
    assert line.measured.frame_bytes["down"] == stream.measured.frame_bytes["down"]


@pytest.mark.parametrize("off_s", [-1e9, 1e9])
def test_a_clock_that_is_far_off_measures_no_more_than_the_time_that_passed(opened, monkeypatch, off_s):
    token, begun = opened.plane.open_round(0, [contract()])[0], time.monotonic()
    stream, line = opened.stream(token), opened.plane.stream(0)
    monkeypatch.setattr(client, "time", SimpleNamespace(time=lambda: time.time() + off_s, monotonic=time.monotonic))
    exchange(opened, stream, parts=up(), layout=LAYOUT, phase="downlink_s")
    passed_s = time.monotonic() - begun
    assert 0 <= line.measured.seconds["uplink_s"] <= passed_s
    assert 0 <= stream.measured.seconds["downlink_s"] <= passed_s


def test_in_u_shape_gradients_go_up_after_activations(opened):
    token = opened.plane.open_round(1, [contract(u_shape=True, local_steps=1)])[0]
    stream = opened.stream(token, round_index=1)
    exchange(opened, stream, parts=up()[:1], layout=Layout(lengths=[3, 2]))
    _, (arrived,) = exchange(opened, stream, parts=[("gradients_up", Bf16().encode(X))], loss=LOSS)
    assert (arrived.nll, arrived.labelled) == (1.5, 2)


HELLOS = {
    "wrong_token": ({"token": b"guess"}, "UNAUTHENTICATED", "a token that is not this round's"),
    "empty_token": ({"token": b""}, "UNAUTHENTICATED", "token"),
    "other_round": ({"round": 7}, "FAILED_PRECONDITION", "not expected in round 7"),
    "other_run": ({"run": "another"}, "FAILED_PRECONDITION", "not expected"),
    "other_device": ({"client": 1}, "PERMISSION_DENIED", "'device-00' is not that of client 1"),
    "no_part_of_the_round": ({"client": 2}, "FAILED_PRECONDITION", "client 2 is not expected"),
    "other_version": ({"version": 99}, "UNIMPLEMENTED", "install the same wavetune"),
    "other_cut": ({"cut": 3}, "INVALID_ARGUMENT", "the plan has 2"),
}


@pytest.mark.parametrize("case", HELLOS)
def test_a_stream_that_may_not_be_opened_is_refused(opened, case):
    changes, status, words = HELLOS[case]
    token = opened.plane.open_round(0, [contract(), contract(1)])[0]
    name = "device-02" if changes.get("client") == 2 else "device-00"
    first = hello(token)
    for field, value in changes.items():
        setattr(first, field, value)
    call = opened.channel(name).stream_stream(f"/{SERVICE}/{METHOD}")(iter([Frame(hello=first).SerializeToString()]))
    with pytest.raises(grpc.RpcError) as refused:
        next(call)
    assert refused.value.code().name == status
    assert words in refused.value.details()
    opened.stream(opened.plane.open_round(0, [contract()])[0]).close()  # the next round is not harmed


def nan(x):
    return x.clone().index_fill_(0, torch.tensor([0]), float("nan"))


UP = Part(kind="activations_up", tensors=pack(Bf16().encode(X)))
IDS = Part(kind="labels_up", tensors=pack({"ids": torch.tensor([3, 4], dtype=torch.int32)}))


def labels(*ids):
    return Part(kind="labels_up", tensors=pack({"ids": torch.tensor(ids, dtype=torch.int32)}))


FRAMES = {
    "no_protobuf": (b"\xff" * 9, "INVALID_ARGUMENT", "no protobuf message"),
    "replayed": (Frame(sequence=0, layout=LAYOUT, parts=[UP, IDS]), "ALREADY_EXISTS", "where 1 was due"),
    "skipped": (Frame(sequence=5, layout=LAYOUT, parts=[UP, IDS]), "FAILED_PRECONDITION", "where 1 was due"),
    "second_hello": (Frame(sequence=1, hello=hello(b"")), "INVALID_ARGUMENT", "hello where activations_up"),
    "unasked_loss": (Frame(sequence=1, layout=LAYOUT, parts=[UP, IDS], loss=LOSS), "INVALID_ARGUMENT", "loss where"),
    "no_labels": (Frame(sequence=1, layout=LAYOUT, parts=[UP]), "INVALID_ARGUMENT", "holds 1 parts"),
    "adapters_too_soon": (
        Frame(sequence=1, parts=[Part(kind="adapters_up", tensors=pack(ADAPTERS_UP))]),
        "INVALID_ARGUMENT",
        "rows",
    ),
    "no_safetensors": (
        Frame(sequence=1, layout=LAYOUT, parts=[Part(kind="activations_up", tensors=b"junk" * 9), IDS]),
        "INVALID_ARGUMENT",
        "not readable as safetensors",
    ),
    "other_shape": (
        Frame(sequence=1, layout=Layout(lengths=[3, 3], label_positions=[2]), parts=[UP, labels(3)]),
        "INVALID_ARGUMENT",
        "[5, 8], not torch.bfloat16 [6, 8]",
    ),
    "other_dtype": (
        Frame(sequence=1, layout=LAYOUT, parts=[Part(kind="activations_up", tensors=pack({"values": X.half()})), IDS]),
        "INVALID_ARGUMENT",
        "torch.float16",
    ),
    "other_name": (
        Frame(sequence=1, layout=LAYOUT, parts=[Part(kind="activations_up", tensors=pack({"logits": X})), IDS]),
        "INVALID_ARGUMENT",
        "['logits']",
    ),
    "larger_than_its_rows": (
        Frame(sequence=1, layout=LAYOUT, parts=[Part(kind="activations_up", tensors=b"x" * 9000), IDS]),
        "RESOURCE_EXHAUSTED",
        "9000 bytes came",
    ),
    "larger_than_any": (
        Frame(sequence=1, layout=LAYOUT, parts=[Part(kind="activations_up", tensors=b"x" * (2 << 20)), IDS]),
        "RESOURCE_EXHAUSTED",
        "larger than max",
    ),
    "not_finite": (
        Frame(
            sequence=1,
            layout=LAYOUT,
            parts=[Part(kind="activations_up", tensors=pack(Bf16().encode(nan(X)))), IDS],
        ),
        "OUT_OF_RANGE",
        "not finite",
    ),
    "labels_outside_the_vocabulary": (
        Frame(sequence=1, layout=LAYOUT, parts=[UP, labels(3, 300)]),
        "INVALID_ARGUMENT",
        "outside 0 to 299",
    ),
    "position_outside_the_batch": (
        Frame(sequence=1, layout=Layout(lengths=[3, 2], label_positions=[2, 5]), parts=[UP, IDS]),
        "INVALID_ARGUMENT",
        "do not rise within",
    ),
    "more_rows_than_a_batch": (
        Frame(sequence=1, layout=Layout(lengths=[1] * 5, label_positions=[2]), parts=[UP, IDS]),
        "INVALID_ARGUMENT",
        "1 to 4 rows",
    ),
    "rows_of_no_tokens": (
        Frame(sequence=1, layout=Layout(lengths=[5, 0], label_positions=[2]), parts=[UP, IDS]),
        "INVALID_ARGUMENT",
        "1 to 16 tokens",
    ),
}


@pytest.mark.parametrize("case", FRAMES)
def test_a_frame_that_is_not_what_is_due_ends_its_stream_and_no_other(opened, case):
    frame, status, words = FRAMES[case]
    content = frame if isinstance(frame, bytes) else frame.SerializeToString()
    tokens = opened.plane.open_round(0, [contract(), contract(1)])
    other = opened.stream(tokens[1], 1)
    first = Frame(hello=hello(tokens[0])).SerializeToString()
    call = opened.channel().stream_stream(f"/{SERVICE}/{METHOD}")(iter([first, content]))
    next(call)
    with pytest.raises(grpc.RpcError) as refused:
        next(call)
    assert refused.value.code().name == status
    assert words in refused.value.details()
    assert opened.plane.stream(0).take(PATIENCE_S) is None
    part, _ = exchange(opened, other, 1, parts=up(), layout=LAYOUT)
    assert part.kind == "gradients_down"


U_FRAMES = {
    "labels": (Frame(sequence=1, layout=Layout(lengths=[3, 2]), parts=[UP, IDS]), "holds 2 parts"),
    "label_positions": (Frame(sequence=1, layout=LAYOUT, parts=[UP]), "labels stay with the client"),
    "logits_beside": (
        Frame(sequence=1, layout=Layout(lengths=[3, 2]), parts=[UP, Part(kind="logits", tensors=b"")]),
        "holds 2 parts",
    ),
}


@pytest.mark.parametrize("case", U_FRAMES)
def test_where_labels_stay_with_the_client_nothing_that_tells_them_is_taken(opened, case):
    frame, words = U_FRAMES[case]
    token = opened.plane.open_round(0, [contract(u_shape=True)])[0]
    sent = [Frame(hello=hello(token)).SerializeToString(), frame.SerializeToString()]
    call = opened.channel().stream_stream(f"/{SERVICE}/{METHOD}")(iter(sent))
    next(call)
    with pytest.raises(grpc.RpcError, match=words):
        next(call)


def test_the_largest_frames_that_are_due_stay_below_the_limit():
    for u_shape in (False, True):
        due = contract(u_shape=u_shape)
        tokens = due.batch_size * due.max_row_tokens
        x = torch.zeros(tokens, due.width)
        layout = Layout(lengths=[due.max_row_tokens] * due.batch_size, label_positions=range(tokens))
        ids = {"ids": torch.full((tokens,), 2**31 - 1, dtype=torch.int32)}
        frame = Frame(sequence=99, sent_at_s=1e9, layout=layout)
        for kind, payload in (("activations_up", Bf16().encode(x)), ("labels_up", ids)):
            frame.parts.add(kind=kind, tensors=pack(payload))
        adapters = Frame(sequence=99, sent_at_s=1e9)
        adapters.parts.add(kind="adapters_up", tensors=pack(ADAPTERS_UP))
        largest = max(len(f.SerializeToString()) for f in (frame, adapters))
        assert largest <= due.max_frame_bytes < largest + (1 << 17)


def test_a_stream_is_opened_once_and_the_first_goes_on(opened):
    token = opened.plane.open_round(0, [contract()])[0]
    stream = opened.stream(token)
    with pytest.raises(DeploymentError, match="ALREADY_EXISTS"):
        opened.stream(token)
    part, _ = exchange(opened, stream, parts=up(), layout=LAYOUT)
    assert part.kind == "gradients_down"


def test_a_token_of_an_earlier_round_is_worth_nothing(opened):
    old = opened.plane.open_round(0, [contract()])[0]
    opened.plane.open_round(1, [contract()])
    with pytest.raises(DeploymentError, match="FAILED_PRECONDITION"):
        opened.stream(old)
    with pytest.raises(DeploymentError, match="UNAUTHENTICATED"):
        opened.stream(old, round_index=1)


def test_a_device_that_does_not_come_in_time_is_given_up_and_told_so(opened):
    token = opened.plane.open_round(0, [contract()])[0]
    stream = opened.stream(token)
    line = opened.plane.stream(0)
    assert line.take(0.01) is None
    told = r"DEADLINE_EXCEEDED: client 0 did not answer within 0\.01 s|CANCELLED: the other side ended the stream"
    with pytest.raises(DeploymentError, match=told):  # the latter where the watch over the places was first
        stream.ask(parts=up(), layout=LAYOUT)


def test_an_answer_that_is_larger_than_a_device_takes_ends_its_stream(opened):
    token = opened.plane.open_round(0, [contract()])[0]
    with connect(f"localhost:{opened.port}", read_identity(opened.folder / "device-00"), 1 << 16) as channel:
        stream = client.Stream(channel, hello(token))
        thread, _ = answering(opened.plane.stream(0), lambda _: [("gradients_down", {"values": torch.zeros(1 << 17)})])
        with pytest.raises(DeploymentError, match=r"RESOURCE_EXHAUSTED: .*larger than max"):
            stream.ask(parts=up(), layout=LAYOUT)
        thread.join()


def test_a_failure_of_an_earlier_round_does_not_cost_a_device_the_next(opened):
    opened.plane.open_round(3, [contract()])
    opened.plane.close_round("the round is over")
    opened.plane.open_round(4, [contract()])
    opened.plane.give_up(0, "client 0 reports: the round is over", 3)
    assert not opened.plane.stream(0).failure
    opened.plane.give_up(0, "client 0 reports: no battery", 4)
    assert opened.plane.stream(0).failure == "client 0 reports: no battery"


def test_a_stream_that_breaks_is_noticed_at_once(opened):
    token = opened.plane.open_round(0, [contract()])[0]
    stream = opened.stream(token)
    stream.close()
    line = opened.plane.stream(0)
    assert line.take(PATIENCE_S) is None
    assert line.failure == "the stream of client 0 broke"


def test_a_round_that_is_closed_lets_its_devices_go(opened):
    token = opened.plane.open_round(0, [contract()])[0]
    stream = opened.stream(token)
    thread = threading.Timer(0.05, opened.plane.close_round, ["the round is over"])
    thread.start()
    with pytest.raises(DeploymentError, match="CANCELLED: the round is over"):
        stream.ask(parts=up(), layout=LAYOUT)
    thread.join()


def test_without_a_certificate_of_the_authority_nobody_is_heard(opened, tmp_path):
    with party(tmp_path, 1) as strangers:
        identity_of_others = strangers.folder / "device-00"
        (tmp_path / "mixed").mkdir()
        for name in ("certificate", "key"):
            (tmp_path / "mixed" / f"{name}.pem").write_bytes((identity_of_others / f"{name}.pem").read_bytes())
        ours = opened.folder / "device-00" / "authority.pem"
        (tmp_path / "mixed" / "authority.pem").write_bytes(ours.read_bytes())
        for identity in (tmp_path / "mixed", identity_of_others):
            channel = connect(f"localhost:{opened.port}", read_identity(identity))
            call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(iter([b""]), wait_for_ready=False)
            with pytest.raises(grpc.RpcError) as refused:
                next(call)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            channel.close()


def test_grpc_knows_every_option_that_it_is_given(tmp_path, monkeypatch):
    """It takes no notice of a name that it does not know; then idle devices are cut off for their pings."""
    given = []
    for name in ("server", "secure_channel"):
        real = getattr(grpc, name)

        def noted(*arguments, real=real, **keywords):
            given.extend(keywords.get("options", arguments[-1]))
            return real(*arguments, **keywords)

        monkeypatch.setattr(grpc, name, noted)
    with party(tmp_path, 1) as opened:
        opened.channel()
    known = Path(cygrpc.__file__).read_bytes()
    assert len(given) > 10
    assert [name for name, _ in given if name.encode() not in known] == []


@pytest.mark.parametrize(
    ("soft", "hard", "most"),
    [(64, 64, 32), (64, 1000, 500), (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1 << 19), (1, 1, 1)],
)
def test_connections_are_half_of_the_files_that_the_system_allows(monkeypatch, soft, hard, most):
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    assert server.connections() == most


def test_strangers_who_hold_connections_leave_the_process_files_to_open(tmp_path, monkeypatch):
    """Half of what a process may open is for connections; more end at once, and make room for devices when they go."""
    assert 1 <= server.connections() <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
    monkeypatch.setattr(server, "connections", lambda: 4)
    with party(tmp_path, 1) as opened:
        strangers = [socket.create_connection(("127.0.0.1", opened.port), PATIENCE_S) for _ in range(10)]
        for stranger in strangers[4:]:
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
        for stranger in strangers:
            stranger.close()
        token = opened.plane.open_round(0, [contract()])[0]
        assert exchange(opened, opened.stream(token), parts=up(), layout=LAYOUT)[0].kind == "gradients_down"


def test_a_round_that_is_opened_again_keeps_the_token_of_who_has_not_come(opened):
    """Its order may still be on the way; a token that was shown, and one of another round, are good for nothing."""
    plane = opened.plane
    first = plane.open_round(0, [contract(0), contract(1)])
    stream = opened.stream(first[0])
    again = plane.open_round(0, [contract(0), contract(1), contract(2)])
    assert again[1] == first[1]
    assert again[0] != first[0]
    assert opened.stream(again[1], 1) is not None
    assert set(plane.open_round(1, [contract(0), contract(1)]).values()).isdisjoint(again.values())
    stream.close()
