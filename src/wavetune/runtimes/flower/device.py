"""A device as a Flower ClientApp: every message is answered by a process that starts from what the last one kept.

Of its node it needs `partition-id`, the client that it is; `state` names the folder where it keeps adapters, optimiser
and position between rounds (`wavetune/device-NN` in Flower's home, if not given).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from logging import INFO
from pathlib import Path

import grpc
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.supercore import log
from flwr.supercore.utils import get_flwr_home

from wavetune.data_plane.certificates import Identity, device_name
from wavetune.data_plane.contract import PROTOCOL_VERSION
from wavetune.data_plane.messages_pb2 import Frame, Hello, RoundOrder, RoundReport
from wavetune.errors import ConfigError, DeploymentError
from wavetune.runtimes import local_round
from wavetune.runtimes.device import Agent
from wavetune.runtimes.flower.messages import pack, unpack

_REACH_S = 60.0


def client_app() -> ClientApp:
    """The app: a query is answered by who this is, an order to train by a report."""
    app = ClientApp()
    app.query()(introduce)
    app.train()(take_part)
    return app


def introduce(message: Message, context: Context) -> Message:
    """Which client this node is, and which states it can go on from."""
    agent = _agent(context, Identity(b"", b"", b""))
    return Message(pack({"attend": agent.introduce().SerializeToString()}), reply_to=message)


def take_part(message: Message, context: Context) -> Message:
    """Do the round that the message orders."""
    parts = unpack(message.content)
    agent = _agent(context, Identity(*(parts[name] for name in ("authority", "certificate", "key"))))
    agent.download = parts.get("download", b"")
    report = agent.handle(RoundOrder.FromString(parts["order"]))
    return Message(pack({"report": report.SerializeToString(), **agent.frames}), reply_to=message)


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
            self._reach(order.address)
            return super()._round(order)
        if self.download:
            local_round.receive(device, Frame.FromString(self.download).parts)
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

    def _reach(self, address: str) -> None:
        """Servers that started anew since they gave an order show another certificate: not to be waited for."""
        try:
            grpc.channel_ready_future(self._channel(address)).result(_REACH_S)
        except grpc.FutureTimeoutError:
            raise DeploymentError(f"the servers that gave this order are not at {address}") from None


def client_of(context: Context) -> int:
    """The client that a node is. Raises ConfigError where its configuration does not say."""
    found = context.node_config.get("partition-id")
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ConfigError(
            f'partition-id of this node is {found!r}; start its SuperNode with --node-config "partition-id=0"'
        )
    return found


def _agent(context: Context, identity: Identity) -> MessageAgent:
    client = client_of(context)
    state = context.node_config.get("state")
    folder = get_flwr_home() / "wavetune" / device_name(client) if state is None else Path(str(state)).expanduser()
    return MessageAgent(client, "", identity, folder, partial(log, INFO, "client %d: %s", client))
