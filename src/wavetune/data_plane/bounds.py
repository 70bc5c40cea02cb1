"""What a number that a device sends may be: one table for every fraction and count of its messages.

A record keeps these numbers, and sums of them, so that each must be finite and no larger than anything that is measured
or computed here. Counts that have a due value (rounds, lengths, labels) are held against it where they are used.
"""

import math
from collections.abc import Iterator, Mapping
from statistics import median_low

from google.protobuf.message import Message

LOSS_PER_LABEL_NATS = 1e4
GUESSED_NATS = 20.0  # a vocabulary of a million tokens, guessed at random, has 14
_OUT_OF_PROPORTION = 10.0
_FAR_BELOW = 0.01
_YEARS_S = 1e8
_CLOCK_S = 1e11
_COUNT = 2.0**53  # above it a JSON reader may lose the last digits
_SCORE = 1e9

BOUNDS: Mapping[str, tuple[float, float]] = {
    "Frame.sent_at_s": (0.0, _CLOCK_S),
    "Loss.nll": (0.0, LOSS_PER_LABEL_NATS * 2**32),
    "RoundReport.seconds": (0.0, _YEARS_S),
    "RoundReport.payload_bytes": (0.0, _COUNT),
    "RoundReport.frame_bytes": (0.0, _COUNT),
    "Score.nll": (0.0, LOSS_PER_LABEL_NATS * _COUNT),
    "Score.positions": (0.0, _COUNT),
    "Score.correct": (0.0, _COUNT),
    "Aligned.metrics": (-_SCORE, _SCORE),
    "Scores.values": (-_SCORE, _SCORE),
}
"""Smallest and largest value of every field that is a fraction or a long count, by message and field."""

RATIOS: Mapping[str, tuple[str, float]] = {
    "Loss.nll": ("labelled", LOSS_PER_LABEL_NATS),
    "Score.nll": ("positions", LOSS_PER_LABEL_NATS),
    "Score.correct": ("positions", 1.0 + 1e-9),
}
"""Fields that are at most so many times another of the same message."""


def out_of_bounds(message: Message) -> str:
    """The first number of a message, or of one within it, that no record can take, as a sentence; empty if all can.

    >>> from wavetune.data_plane.messages_pb2 import RoundReport
    >>> out_of_bounds(RoundReport(seconds={"uplink_s": float("inf")}))
    'RoundReport.seconds is inf, which is not finite'
    """
    return next(filter(None, (_wrong(*number) for number in _numbers(message))), "")


def out_of_proportion(loss: str, loss_by_client: Mapping[int, float]) -> dict[int, str]:
    """Whose loss, in nats per label, is above that of a model that guesses and above 10 times the median, as sentences.

    >>> out_of_proportion("training loss", {0: 2.0, 1: 9000.0, 2: 3.0, 3: 0.0})
    {1: 'its training loss of 9e+03 nats a label, where the median is 2, counts in no mean'}
    """
    typical = median_low(loss_by_client.values()) if loss_by_client else 0.0
    most = max(GUESSED_NATS, _OUT_OF_PROPORTION * typical)
    beside = f"nats a label, where the median is {typical:.3g}, counts in no mean"
    return {client: f"its {loss} of {nats:.3g} {beside}" for client, nats in loss_by_client.items() if nats > most}


def far_below(loss: str, loss_by_client: Mapping[int, float]) -> dict[int, str]:
    """Whose loss, in nats per label, is under a hundredth of the median of three or more, as sentences.

    It counts, as that of a model that knows its rows; who lies about it pulls the mean down.

    >>> far_below("training loss", {0: 2.0, 1: 1e-4, 2: 3.0})
    {1: 'its training loss of 0.0001 nats a label is under a hundredth of the median, 2; it counts in the mean'}
    """
    if len(loss_by_client) < 3:
        return {}
    typical = median_low(loss_by_client.values())
    beside = f"nats a label is under a hundredth of the median, {typical:.3g}; it counts in the mean"
    low = {client: nats for client, nats in loss_by_client.items() if nats < _FAR_BELOW * typical}
    return {client: f"its {loss} of {nats:.3g} {beside}" for client, nats in low.items()}


def _numbers(message: Message) -> Iterator[tuple[str, float, Message]]:
    """Place, value and message of every number that is bounded."""
    for field, value in message.ListFields():
        place = f"{message.DESCRIPTOR.name}.{field.name}"
        if field.message_type is None and place not in BOUNDS:
            continue
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        for item in value.values() if is_map else value if field.is_repeated else (value,):
            if isinstance(item, Message):
                yield from _numbers(item)
            else:
                yield place, item, message


def _wrong(place: str, number: float, message: Message) -> str:
    low, high = BOUNDS[place]
    if not math.isfinite(number):
        return f"{place} is {number}, which is not finite"
    if not low <= number <= high:
        return f"{place} is {number:.6g}, which is outside {low:.6g} to {high:.6g}"
    if place in RATIOS:
        other, most = RATIOS[place]
        total = getattr(message, other)
        if not number <= most * total:
            return f"{place} is {number:.6g} over {other} {total:.6g}, which is beyond all bounds"
    return ""
