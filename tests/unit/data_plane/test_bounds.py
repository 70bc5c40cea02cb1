"""Every number that a device can send is bounded, whatever message it stands in."""

import math

import pytest

from wavetune.data_plane.bounds import BOUNDS, out_of_bounds
from wavetune.data_plane.messages_pb2 import Aligned, Frame, Loss, Report, RoundReport, Score, Scores

COUNTED = {  # held against a due value where they are used
    "Frame.sequence", "Hello.version", "Hello.round", "Hello.client", "Hello.width", "Hello.cut", "Layout.lengths",
    "Layout.label_positions", "Loss.labelled", "Loss.tokens", "Attend.version", "Attend.client", "Attend.states",
    "RoundReport.round", "Aligned.steps",
}  # fmt: skip


def numbers_of(descriptor):
    """Every field of a message and of those within it that holds numbers."""
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            value = inner.fields_by_name["value"]
            if value.message_type is None and value.cpp_type != value.CPPTYPE_STRING:
                yield f"{descriptor.name}.{field.name}"
            inner = value.message_type
        if inner is not None:
            yield from numbers_of(inner)
        elif field.message_type is None and field.cpp_type not in (field.CPPTYPE_STRING, field.CPPTYPE_BOOL):
            yield f"{descriptor.name}.{field.name}"


def test_no_number_of_a_devices_messages_is_without_bounds():
    found = {name for message in (Frame, Report) for name in numbers_of(message.DESCRIPTOR)}
    assert found == BOUNDS.keys() | COUNTED


ABSURD = {
    "a_clock_before_all_time": Frame(sent_at_s=-math.inf),
    "a_clock_that_is_no_number": Frame(sent_at_s=math.nan),
    "a_clock_far_in_the_past": Frame(sent_at_s=-1.7e308),
    "a_clock_far_in_the_future": Frame(sent_at_s=1e308),
    "a_huge_loss": Frame(losses=[Loss(nll=1.0, labelled=1), Loss(nll=1.7e308, labelled=1)]),
    "a_loss_without_labels": Frame(loss=Loss(nll=1.0)),
    "a_loss_of_a_million_nats_a_label": Frame(loss=Loss(nll=2e6, labelled=2)),
    "a_negative_loss": Frame(loss=Loss(nll=-1e-9, labelled=1)),
    "endless_seconds": RoundReport(seconds={"uplink_s": 1.0, "align_s": math.inf}),
    "seconds_that_overflow_in_a_sum": RoundReport(seconds={"uplink_s": 1.7e308}),
    "negative_seconds": RoundReport(seconds={"uplink_s": -5.0}),
    "more_bytes_than_there_are": RoundReport(frame_bytes={"up": 2**64 - 1}),
    "a_huge_score": RoundReport(own=Score(nll=1e300, positions=1.0)),
    "more_right_than_positions": RoundReport(foreign=Score(nll=1.0, positions=1.0, correct=2.0)),
    "a_metric": RoundReport(aligned=Aligned(metrics={"loss": math.nan})),
    "one_score_of_many": RoundReport(aligned=Aligned(own={"helpful": Scores(values=[0.0, 1e308])})),
}


@pytest.mark.parametrize("case", ABSURD)
def test_what_no_record_can_hold_is_named(case):
    assert out_of_bounds(ABSURD[case])
    assert out_of_bounds(ABSURD[case]).isprintable()


def test_what_devices_really_send_is_within_bounds():
    frame = Frame(sent_at_s=1.7e9, losses=[Loss(nll=0.0, labelled=3), Loss(nll=3e4, labelled=3)])
    report = RoundReport(
        round=3,
        seconds={"align_s": 3600.0},
        frame_bytes={"up": 2**40},
        own=Score(nll=70.0, positions=10.0, correct=10.0),
        aligned=Aligned(metrics={"reward": -3.5}, own={"safe": Scores(values=[-12.0, 0.5])}),
    )
    assert out_of_bounds(frame) == out_of_bounds(Report(round=report)) == out_of_bounds(RoundReport()) == ""
