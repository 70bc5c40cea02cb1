"""What nodes of Flower say is quoted and cut, as what devices say."""

import threading

from flwr.app import Message

from helpers.flower import ThreadGrid
from wavetune.data_plane import PROTOCOL_VERSION
from wavetune.data_plane.certificates import Identity
from wavetune.data_plane.contract import Contract
from wavetune.data_plane.messages_pb2 import Attend, RoundOrder, RoundReport
from wavetune.data_plane.server import DataPlane
from wavetune.federation.codecs import Fp32
from wavetune.runtimes.flower.coordinator import FlowerCoordinator
from wavetune.runtimes.flower.messages import pack, unpack

WAIT_S = 20.0
SCREEN = "\x1b[2J" * 1000  # which would clear a terminal
DUE = Contract(0, False, 1, 8, 2, 1, 16, 300, Fp32(), Fp32(), (Fp32(),), {}, uncut=True)


def answer(grid, reply):
    """Have all nodes answer with the parts that `reply` makes of those they were sent."""
    grid.app = lambda message, _context: Message(pack(reply(unpack(message.content))), reply_to=message)


def test_what_a_node_says_neither_acts_on_a_terminal_nor_fills_it(tmp_path):
    said, heard, plane = list[str](), threading.Event(), DataPlane("a run")
    grid = ThreadGrid(tmp_path, 1)

    def fail(_parts):
        raise ValueError(SCREEN)

    def hear(text: str) -> None:
        said.append(text)
        heard.set()

    answer(grid, fail)
    coordinator = FlowerCoordinator(grid, plane, {}, False, hear)
    try:
        assert heard.wait(WAIT_S)
    finally:
        coordinator.close()
    assert "\x1b" not in said[0]
    assert len(said[0]) < 2000


def test_a_report_that_failed_is_told_as_what_was_read_of_it(tmp_path):
    plane, grid = DataPlane("a run"), ThreadGrid(tmp_path, 1)
    plane.open_round(0, [DUE])

    def reply(parts):
        if "order" in parts:
            return {"report": RoundReport(failure=SCREEN).SerializeToString()}
        return {"attend": Attend(version=PROTOCOL_VERSION).SerializeToString()}

    answer(grid, reply)
    coordinator = FlowerCoordinator(grid, plane, {0: Identity(b"", b"", b"")}, True, print)
    try:
        assert coordinator.wait_for({0}, WAIT_S) == {0}
        coordinator.order(0, RoundOrder(run="a run", round=0))
        assert coordinator.report(0, 0, WAIT_S) is not None
    finally:
        coordinator.close()
    failure = plane.stream(0).failure
    assert failure
    assert "\x1b" not in failure
    assert len(failure) < 2000
