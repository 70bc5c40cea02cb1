"""Why the server does not take what a device sent: a status and a sentence, never harm to the round."""

from __future__ import annotations

import enum

import grpc


class Reason(enum.Enum):
    """What is wrong, as the gRPC status that the device sees."""

    UNKNOWN_DEVICE = grpc.StatusCode.PERMISSION_DENIED
    WRONG_TOKEN = grpc.StatusCode.UNAUTHENTICATED
    OTHER_VERSION = grpc.StatusCode.UNIMPLEMENTED
    OUT_OF_TURN = grpc.StatusCode.FAILED_PRECONDITION
    DUPLICATE = grpc.StatusCode.ALREADY_EXISTS
    MALFORMED = grpc.StatusCode.INVALID_ARGUMENT
    NOT_FINITE = grpc.StatusCode.OUT_OF_RANGE
    TOO_LARGE = grpc.StatusCode.RESOURCE_EXHAUSTED
    LATE = grpc.StatusCode.DEADLINE_EXCEEDED
    CLOSED = grpc.StatusCode.CANCELLED


class RefusedError(Exception):
    """A frame or stream that is not accepted."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason, self.sentence = reason, sentence
