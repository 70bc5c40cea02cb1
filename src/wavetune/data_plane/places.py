"""Places at the servers: who may hold a stream, how many, and for how long without a word.

A party is known by its certificate. It holds at most two streams of each service, the one in use and one that takes its
place, so that no party keeps another out: a third ends the first that was not admitted, or else the oldest. A stream
whose first frame does not come in time ends, and so does one that was given up in the middle of a frame, and those of
a certificate that was revoked.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import grpc
from cryptography import x509

from wavetune.data_plane.certificates import common_name
from wavetune.data_plane.refusal import Reason, RefusedError, quoted
from wavetune.records.rounds import Refused

PER_PARTY = 2
FIRST_FRAME_S = 10.0
_LOOK_S = 0.5
_EVERYDAY = (Reason.LATE, Reason.CLOSED)


class Requests:
    """What comes over a stream. Who serves it says so once its sender is admitted, and whether it is given up."""

    def __init__(self, frames: Iterator[bytes]) -> None:
        self._frames, self.spoken, self.admitted, self.waiting = frames, False, False, False
        self.given_up: Callable[[], bool] = lambda: False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.waiting = True
        try:
            frame = next(self._frames)
        except grpc.RpcError as error:  # the other side is gone
            error.__traceback__ = None  # gRPC keeps the error with its call, which would keep itself by these frames
            raise StopIteration from None
        self.spoken, self.waiting = True, False
        return frame


Behaviour = Callable[[Requests, grpc.ServicerContext], Iterator[bytes]]


@dataclass(eq=False)
class _Place:
    context: grpc.ServicerContext
    requests: Requests
    serial: int
    until: float


@dataclass
class Places:
    """The open streams of every party. `revoked` says of a certificate's serial number whether it may not come."""

    revoked: Callable[[int], bool] = lambda _serial: False
    say: Callable[[str], None] = lambda _text: None
    first_frame_s: float = FIRST_FRAME_S
    _open: dict[tuple[str, str], list[_Place]] = field(default_factory=dict[tuple[str, str], list[_Place]])
    _said: set[tuple[str, Reason]] = field(default_factory=set[tuple[str, Reason]])
    _refused: dict[str, Refused] = field(default_factory=dict[str, Refused])  # since the last round
    _ever: dict[str, Refused] = field(default_factory=dict[str, Refused])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def guarded(self, handlers: grpc.GenericRpcHandler) -> grpc.GenericRpcHandler:
        """The same services, for who finds a place."""
        return _Guarded(handlers, self)

    def behaviour(
        self, method: str, serve: Behaviour
    ) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
        """A stream's behaviour within its place."""

        def within(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            certificate = peer_certificate(context)
            key = (common_name(certificate), method)
            place = self._take(key, context, Requests(requests), certificate.serial_number)
            try:
                if self.revoked(certificate.serial_number):
                    raise RefusedError(
                        Reason.UNKNOWN_DEVICE,
                        f"the certificate of {key[0]!r} was revoked; ask who runs the servers for another",
                    )
                yield from serve(place.requests, context)
            except RefusedError as refused:
                if refused.reason not in _EVERYDAY:
                    self._note(key[0], context.peer(), refused)
                context.abort(refused.reason.value, refused.sentence)
            finally:
                self._leave(key, place)

        return within

    def take_refused(self) -> list[Refused]:
        """Who was refused since the last call, why at first and how often."""
        with self._lock:
            refused, self._refused = self._refused, {}
        return list(refused.values())

    def refusals(self) -> tuple[str, ...]:
        """Everybody who was refused since the servers started, why at first and how often."""
        with self._lock:
            return tuple(
                f"{one.who}: {one.why}" + (f" (the first of {one.times:,} refusals)" if one.times > 1 else "")
                for _, one in sorted(self._ever.items())
            )

    def _note(self, who: str, peer: str, refused: RefusedError) -> None:
        """Count a refusal; what a party is refused for is said once, however many sentences it comes with."""
        who, why = quoted(who), quoted(refused.sentence)
        with self._lock:
            for told in (self._refused, self._ever):
                before = told.get(who, Refused(who, why, 0))
                told[who] = replace(before, times=before.times + 1)
            new = (who, refused.reason) not in self._said
            self._said.add((who, refused.reason))
        if new:
            self.say(f"refused {who} at {address_of(peer)}: {why}")

    def watch(self, server: grpc.Server) -> None:
        """Look after the places until the server stops."""
        while server.wait_for_termination(_LOOK_S):
            self.look()

    def look(self) -> None:
        """End the streams whose time is over and those of revoked certificates."""
        now = time.monotonic()
        with self._lock:
            places = [place for places in self._open.values() for place in places]
        for place in places:
            late = not place.requests.spoken and now > place.until
            stuck = place.requests.waiting and place.requests.given_up()
            if late or stuck or self.revoked(place.serial):
                _cancel(place)

    def _take(self, key: tuple[str, str], context: grpc.ServicerContext, requests: Requests, serial: int) -> _Place:
        place = _Place(context, requests, serial, time.monotonic() + self.first_frame_s)
        with self._lock:
            places = self._open.setdefault(key, [])
            leaves = None
            if len(places) >= PER_PARTY:
                leaves = next((p for p in places if not p.requests.admitted), places[0])
                places.remove(leaves)
            places.append(place)
        if leaves is not None:
            _cancel(leaves)
        return place

    def _leave(self, key: tuple[str, str], place: _Place) -> None:
        with self._lock:
            places = self._open.get(key, [])
            if place in places:
                places.remove(place)
            if not places:
                self._open.pop(key, None)


@dataclass(frozen=True)
class _Guarded(grpc.GenericRpcHandler):
    handlers: grpc.GenericRpcHandler
    places: Places

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        found: Any = self.handlers.service(handler_call_details)
        if found is None or found.stream_stream is None:
            return found
        inner = self.places.behaviour(handler_call_details.method, found.stream_stream)
        return grpc.stream_stream_rpc_method_handler(inner, found.request_deserializer, found.response_serializer)


def peer_certificate(context: grpc.ServicerContext) -> x509.Certificate:
    """The certificate that the other side presented."""
    contents: Any = context.auth_context()["x509_pem_cert"]
    return _certificate(contents[0])


def peer_name(context: grpc.ServicerContext) -> str:
    """Common name of the certificate that the other side presented, to its last letter."""
    return common_name(peer_certificate(context))


def address_of(peer: str) -> str:
    """Host and port of what gRPC calls a peer.

    >>> address_of("ipv4:192.0.2.7:5000"), address_of("ipv6:%5B::1%5D:5000")
    ('192.0.2.7:5000', '[::1]:5000')
    """
    return unquote(peer.partition(":")[2])


@lru_cache(maxsize=256)
def _certificate(content: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(content)


def _cancel(place: _Place) -> None:
    cancel: Any = place.context
    cancel.cancel()
