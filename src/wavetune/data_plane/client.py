"""A device's end of the data plane."""

import queue
import time
from collections.abc import Sequence
from typing import Any

import grpc

from wavetune.data_plane.certificates import Identity
from wavetune.data_plane.frames import frame_bytes
from wavetune.data_plane.messages_pb2 import Frame, Hello, Layout, Loss, Part
from wavetune.data_plane.payloads import num_bytes
from wavetune.data_plane.refusal import Reason, RefusedError, parsed, quoted
from wavetune.data_plane.server import METHOD, SERVICE, WIDE, Measured
from wavetune.errors import DeploymentError
from wavetune.federation.codecs import Payload

LONGEST_ORDER = 512 << 20
"""Bytes of a recipe with adapters and rewards, at most."""


class Stream:
    """The stream of one round: every frame that is sent is answered by one."""

    def __init__(self, channel: grpc.Channel, hello: Hello) -> None:
        self.measured = Measured()
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._sequence = 0
        self._call: Any = channel.stream_stream(f"/{SERVICE}/{METHOD}")(
            iter(self._requests.get, None), wait_for_ready=True
        )
        self.ask(hello=hello)

    def ask(
        self,
        parts: Sequence[tuple[str, Payload]] = (),
        layout: Layout | None = None,
        loss: Loss | None = None,
        hello: Hello | None = None,
        bit_per_s: float = 0.0,
        phase: str = "",
        losses: Sequence[Loss] = (),
    ) -> Part | None:
        """Send a frame, at `bit_per_s` if that is not 0, and return what the answer holds.

        Raises DeploymentError, RefusedError.
        """
        frame = Frame(
            sequence=self._sequence, sent_at_s=time.time(), hello=hello, layout=layout, loss=loss, losses=losses
        )
        payload_bits = 0
        for kind, payload in parts:
            self.measured.payload_bytes[kind] += num_bytes(payload)
            payload_bits += 8 * num_bytes(payload)
        self._sequence += 1
        content = frame_bytes(frame, parts)
        if bit_per_s:
            time.sleep(payload_bits / bit_per_s)
        self.measured.frame_bytes["up"] += len(content)
        self._requests.put(content)
        left_s = time.monotonic()
        try:
            answer: bytes = next(self._call)
        except grpc.RpcError as error:
            raise refusal(error) from error
        except StopIteration:
            raise DeploymentError("the server ended the stream") from None
        received = parsed(Frame, answer, "the servers sent an answer")
        self.measured.frame_bytes["down"] += len(answer)
        if phase:
            on_the_way_s = max(0.0, time.time() - received.sent_at_s)
            self.measured.seconds[phase] += min(on_the_way_s, time.monotonic() - left_s)  # clocks may be far apart
        if len(received.parts) > 1:
            raise RefusedError(Reason.MALFORMED, f"the servers sent an answer of {len(received.parts)} parts, not one")
        return received.parts[0] if received.parts else None

    def close(self) -> None:
        """End the stream."""
        self._requests.put(None)
        self._call.cancel()


def connect(address: str, identity: Identity, most_bytes: int = LONGEST_ORDER) -> grpc.Channel:
    """A channel to a server that shows a certificate of our authority; no message of its may have more bytes."""
    credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", most_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        *WIDE,
    ]
    return grpc.secure_channel(address, credentials, options)


def refusal(error: grpc.RpcError) -> DeploymentError:
    """The other side's status and sentence."""
    status: Any = error
    name, sentence = status.code().name, status.details()
    return DeploymentError(f"{name}: {'the other side ended the stream' if sentence == name else quoted(sentence)}")
