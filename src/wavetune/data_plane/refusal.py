"""Why one side does not take what the other sent: a status and a sentence, never harm to the round or the device."""

import enum
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from wavetune.data_plane.entries import count_entries
from wavetune.errors import WavetuneError

M = TypeVar("M", bound=Message)


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


CLAIM_LETTERS = 300
MOST_ENTRIES = 1 << 16  # of a message; thousands of local steps and a batch of a million tokens have fewer


def quoted(words: str, most: int = CLAIM_LETTERS) -> str:
    """What the other side wrote, cut to a length, with escapes for what a terminal or a page might act on.

    >>> quoted("no battery" + chr(27) + "[2J"), quoted("x" * 400, 5)
    ('no battery\\\\x1b[2J', 'xxxxx…')
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words[:most])
    return shown + ("…" if len(words) > most else "")


class RefusedError(WavetuneError):
    """A message or stream that is not accepted."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason, self.sentence = reason, sentence


def parsed(kind: type[M], content: bytes, what: str) -> M:
    """A message of the other side. Raises RefusedError if the bytes are none, or hold so many entries that reading them
    would take far more memory than they are.
    """
    try:
        if count_entries(content, kind.DESCRIPTOR, MOST_ENTRIES) > MOST_ENTRIES:
            raise RefusedError(Reason.MALFORMED, f"{what} of more than {MOST_ENTRIES} entries")
        return kind.FromString(content)
    except (DecodeError, ValueError) as error:
        raise RefusedError(Reason.MALFORMED, f"{what} that is no protobuf message ({error})") from error
