"""The servers' end of the data plane: a stream for each device and round, checked before anyone acts on it.

A device's frame is answered by one of ours before its next is read, so that a device that sends more waits in its own
buffers (HTTP/2 flow control). What is refused ends that device's stream with a status and a sentence; the others do not
notice.
"""

import hmac
import queue
import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from wavetune.data_plane import PROTOCOL_VERSION
from wavetune.data_plane.certificates import Identity, device_name
from wavetune.data_plane.contract import Arrived, Contract
from wavetune.data_plane.frames import frame_bytes
from wavetune.data_plane.messages_pb2 import Frame, Hello
from wavetune.data_plane.payloads import num_bytes
from wavetune.data_plane.places import Places, Requests, peer_name
from wavetune.data_plane.refusal import Reason, RefusedError, parsed
from wavetune.federation.codecs import Payload

SERVICE, METHOD = "wavetune.DataPlane", "Exchange"
_TOKEN_BYTES = 32
_MOST_FILES = 1 << 20  # open at once, of which connections take half
_WAITING = 64  # streams that may wait for each that is served
WIDE: tuple[tuple[str, Any], ...] = (  # activations are megabytes, and gRPC's defaults are for messages of kilobytes
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.http2.max_frame_size", 4 << 20),
    ("grpc.http2.write_buffer_size", 4 << 20),
    ("grpc.experimental.tcp_min_read_chunk_size", 256 << 10),
    ("grpc.experimental.tcp_read_chunk_size", 1 << 20),
    ("grpc.experimental.tcp_max_read_chunk_size", 4 << 20),
)


@dataclass
class Measured:
    """What one stream moved: payload bytes by kind, bytes of whole frames, seconds on the way by phase."""

    payload_bytes: Counter[str] = field(default_factory=Counter[str])
    frame_bytes: Counter[str] = field(default_factory=Counter[str])
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


class DeviceStream:
    """One device's stream of one round, as the round sees it: take what came, answer it."""

    def __init__(self, contract: Contract, downlink_bit_per_s: float = 0.0) -> None:
        self.contract, self.downlink_bit_per_s = contract, downlink_bit_per_s
        self.measured = Measured()
        self.ready = threading.Event()  # the device has come, or will not
        self.failure, self.reason = "", Reason.CLOSED
        self._arrived: queue.SimpleQueue[Arrived | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[bytes, int] | None] = queue.SimpleQueue()
        self._received = self._answered = self._tokens = 0
        self._left_s = 0.0  # when the frame left to which the device's next is the answer
        self._lock = threading.Lock()

    def take(self, patience_s: float, deadline_s: float | None = None) -> Arrived | None:
        """The next frame, or None if the device is lost or does not come within the time, the rest of its deadline."""
        if self.failure:
            return None
        try:
            arrived = self._arrived.get(timeout=max(patience_s, 0.0))
        except queue.Empty:
            within_s = patience_s if deadline_s is None else deadline_s
            self.fail(f"client {self.contract.client} did not answer within {within_s:.3g} s", Reason.LATE)
            return None
        return arrived

    def answer(self, parts: Sequence[tuple[str, Payload]] = (), hello: Hello | None = None) -> None:
        """Send what the device waits for."""
        frame = Frame(sequence=self._answered, sent_at_s=time.time(), hello=hello)
        size = 0
        for kind, payload in parts:
            self.measured.payload_bytes[kind] += num_bytes(payload)
            size += num_bytes(payload)
        self._answered += 1
        self._answers.put((frame_bytes(frame, parts), size))

    def fail(self, sentence: str, reason: Reason = Reason.CLOSED) -> None:
        """Give the device up for this round; only the first reason is kept."""
        with self._lock:
            if self.failure:
                return
            self.failure, self.reason = sentence, reason
        self.ready.set()
        self._arrived.put(None)
        self._answers.put(None)

    def is_given_up(self) -> bool:
        """Whether nobody waits for the device any longer."""
        return bool(self.failure)

    def receive(self, content: bytes) -> None:
        """Check a frame and hand it to the round. Raises RefusedError."""
        if self.failure:
            raise RefusedError(self.reason, self.failure)
        frame, now, elapsed_s = parsed(Frame, content, "a frame"), time.time(), time.monotonic() - self._left_s
        arrived = self.contract.accept(self._received, frame, self._tokens)
        self._received += 1
        self.measured.frame_bytes["up"] += len(content)
        for kind, payload in arrived.payloads:
            self.measured.payload_bytes[kind] += num_bytes(payload)
        if arrived.stage == "hello":
            self.answer(hello=Hello(version=PROTOCOL_VERSION))
            self.ready.set()
            return
        phase = "fed_upload_s" if arrived.stage == "adapters_up" else "uplink_s"
        self.measured.seconds[phase] += min(max(0.0, now - frame.sent_at_s), elapsed_s)  # its clock may be far off
        self._tokens = sum(arrived.lengths) or self._tokens
        self._arrived.put(arrived)

    def next_answer(self) -> bytes:
        """What is to be sent next; waits for it. Raises RefusedError if the device was given up."""
        answer = self._answers.get()
        if answer is None:
            raise RefusedError(self.reason, self.failure)
        content, payload_bytes = answer
        if self.downlink_bit_per_s:
            time.sleep(8 * payload_bytes / self.downlink_bit_per_s)
        self.measured.frame_bytes["down"] += len(content)
        self._left_s = time.monotonic()
        return content


@dataclass
class _Ticket:
    token: bytes
    stream: DeviceStream
    used: bool = False


class DataPlane:
    """Admits devices to the round that is open."""

    def __init__(self, run: str) -> None:
        self.run, self._round, self._tickets = run, -1, dict[int, _Ticket]()
        self._lock = threading.Lock()

    def open_round(
        self, round_index: int, contracts: Sequence[Contract], downlink_bit_per_s: Mapping[int, float] | None = None
    ) -> dict[int, bytes]:
        """Expect these devices in this round; returns the token that each must show.

        Where the round was open before, the token of who has not come yet stays: its order may still be on the way.
        """
        pace = downlink_bit_per_s or {}
        with self._lock:
            before = self._tickets if round_index == self._round else {}
            known = {client: ticket.token for client, ticket in before.items() if not ticket.used}
        tickets = {
            c.client: _Ticket(
                known.get(c.client) or secrets.token_bytes(_TOKEN_BYTES), DeviceStream(c, pace.get(c.client, 0.0))
            )
            for c in contracts
        }
        self.close_round("another round has begun")
        with self._lock:
            self._round, self._tickets = round_index, tickets
        return {client: ticket.token for client, ticket in tickets.items()}

    def stream(self, client: int) -> DeviceStream:
        """A device's stream of this round, come or not."""
        return self._tickets[client].stream

    def find(self, client: int) -> DeviceStream | None:
        """A device's stream of this round, if it was asked."""
        ticket = self._tickets.get(client)
        return ticket and ticket.stream

    def give_up(self, client: int, sentence: str, round_index: int | None = None) -> None:
        """Do not wait for a device any longer in this round; a failure of another round costs it nothing."""
        with self._lock:
            ticket = self._tickets.get(client) if round_index in (None, self._round) else None
        if ticket is not None:
            ticket.stream.fail(sentence)

    def wait_for(self, patience_s_by_client: Mapping[int, float]) -> None:
        """Until each of these has opened its stream, or its patience is over."""
        started = time.monotonic()
        for client, patience_s in patience_s_by_client.items():
            stream = self.stream(client)
            if not stream.ready.wait(max(0.0, started + patience_s - time.monotonic())):
                stream.fail(f"client {client} did not open its stream within {patience_s:.3g} s", Reason.LATE)

    def close_round(self, sentence: str) -> None:
        """Whoever still waits is told that the round is over."""
        with self._lock:
            tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            ticket.stream.fail(sentence)

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server serves."""
        method = grpc.stream_stream_rpc_method_handler(self._exchange)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    def _exchange(self, requests: Requests, context: grpc.ServicerContext) -> Iterator[bytes]:
        stream: DeviceStream | None = None
        try:
            for content in requests:
                if stream is None:
                    stream = self._admit(content, context)
                    requests.admitted, requests.given_up = True, stream.is_given_up
                stream.receive(content)
                yield stream.next_answer()
        except RefusedError as refused:
            if stream is not None:
                stream.fail(refused.sentence, refused.reason)
            raise
        finally:
            if stream is not None:
                stream.fail(f"the stream of client {stream.contract.client} broke")

    def _admit(self, content: bytes, context: grpc.ServicerContext) -> DeviceStream:
        """The stream that a first frame opens. A refused stranger leaves the rightful device's stream alone."""
        hello = parsed(Frame, content, "a frame").hello
        if peer_name(context) != device_name(hello.client):
            raise RefusedError(
                Reason.UNKNOWN_DEVICE, f"the certificate of {peer_name(context)!r} is not that of client {hello.client}"
            )
        with self._lock:
            ticket = self._tickets.get(hello.client)
            if ticket is None or hello.run != self.run or hello.round != self._round:
                raise RefusedError(Reason.OUT_OF_TURN, f"client {hello.client} is not expected in round {hello.round}")
            if not hmac.compare_digest(ticket.token, hello.token):
                raise RefusedError(Reason.WRONG_TOKEN, f"client {hello.client} showed a token that is not this round's")
            if ticket.used:
                raise RefusedError(
                    Reason.DUPLICATE, f"client {hello.client} has opened its stream of round {hello.round}"
                )
            ticket.used = True
        stream = ticket.stream
        if not context.add_callback(lambda: stream.fail(f"the stream of client {hello.client} broke")):
            stream.fail(f"the stream of client {hello.client} broke")
        return stream


def serve(
    address: str,
    identity: Identity,
    handlers: Sequence[grpc.GenericRpcHandler],
    streams: int,
    max_message_bytes: int,
    places: Places | None = None,
) -> tuple[grpc.Server, int]:
    """Start a gRPC server behind mutual TLS; returns it and its port. `address` may end in port 0 for a free one.

    So many `streams` are served at once, and many more wait for a moment; who may hold them is up to `places`.
    """
    places = Places() if places is None else places
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.max_concurrent_streams", 64),  # of one connection
        ("grpc.max_connection_idle_ms", 30_000),  # without a stream
        ("grpc.server_handshake_timeout_ms", 20_000),
        ("grpc.max_allowed_incoming_connections", connections()),
        *WIDE,
    ]
    server = grpc.server(
        ThreadPoolExecutor(streams),
        handlers=[places.guarded(handler) for handler in handlers],
        options=options,
        maximum_concurrent_rpcs=_WAITING * streams,
    )
    credentials = grpc.ssl_server_credentials(
        [(identity.key, identity.certificate)], root_certificates=identity.authority, require_client_auth=True
    )
    port = server.add_secure_port(address, credentials)
    server.start()
    threading.Thread(target=places.watch, args=(server,), daemon=True).start()
    return server, port


def connections() -> int:
    """How many connections may be open: half of the files that this process may open, the other half is the run's.

    As many files are allowed as the system's administrator lets the process allow itself.
    """
    import resource

    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if most == resource.RLIM_INFINITY else min(most, _MOST_FILES)
    if now != resource.RLIM_INFINITY and now < wanted:
        with suppress(OSError, ValueError):  # systems have limits of their own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (_MOST_FILES if now == resource.RLIM_INFINITY else min(now, _MOST_FILES)) // 2)
