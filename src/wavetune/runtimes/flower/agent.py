"""A device's part of the rounds that Flower orders."""

import time
from dataclasses import dataclass, field

from wavetune.data_plane import PROTOCOL_VERSION
from wavetune.data_plane.messages_pb2 import Frame, Hello, RoundOrder, RoundReport
from wavetune.data_plane.refusal import parsed
from wavetune.errors import DeploymentError
from wavetune.runtimes import local_round
from wavetune.runtimes.device import Agent


@dataclass
class MessageAgent(Agent):
    """An agent that opens no stream where its device has the whole model.

    The frames that it would send are `frames` of the reply, and what the servers answer, its `download`, comes with the
    next order: what it keeps of such a round is its state before the mixture.
    """

    download: bytes = b""
    frames: dict[str, bytes] = field(default_factory=dict[str, bytes])

    def _round(self, order: RoundOrder) -> RoundReport:
        done = order.round + order.listen
        if done and not order.adapters and (self._run != order.run or done not in self._states):
            raise DeploymentError(f"what client {self.client} kept after round {done} is no longer in {self.folder}")
        if order.HasField("align"):
            return super()._round(order)
        device = self._ready(order)
        if device.cut:
            return super()._round(order)
        if self.download:
            parts = parsed(Frame, self.download, "the servers sent an answer").parts
            local_round.receive(device, parts[0] if parts else None)
        if order.listen:
            return self._end(device, order)
        upload = local_round.train(device, order)
        self._keep(order, device.state())
        hello = Hello(version=PROTOCOL_VERSION, width=device.cohort.backbone.width,
                      cut=order.cuts[self.client])  # fmt: skip
        message = upload.frame()
        message.sent_at_s = time.time()
        self.frames = {"hello": Frame(hello=hello).SerializeToString(), "upload": message.SerializeToString()}
        self.say(f"round {order.round + 1}: done")
        return RoundReport(round=order.round, seconds=device.take_seconds())
