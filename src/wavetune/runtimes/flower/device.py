"""A device as a Flower ClientApp: every message is answered by a process that starts from what the last one kept.

Of its node it needs `partition-id`, the client that it is; `state` names the folder where it keeps adapters, optimiser
and position between rounds (`wavetune/device-NN` in Flower's home, if not given). PyTorch is loaded to train, not to
say who this is.
"""

import secrets
from functools import partial
from logging import INFO, WARNING
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.supercore import log
from flwr.supercore.utils import get_flwr_home

from wavetune.data_plane import PROTOCOL_VERSION
from wavetune.data_plane.certificates import Identity, device_name
from wavetune.data_plane.messages_pb2 import Attend, RoundOrder
from wavetune.data_plane.refusal import parsed
from wavetune.errors import ConfigError
from wavetune.given import at_home
from wavetune.runtimes import state_folder
from wavetune.runtimes.flower.messages import pack, unpack


def client_app() -> ClientApp:
    """The app: a query is answered by who this is, an order to train by a report."""
    app = ClientApp()
    app.query()(introduce)
    app.train()(take_part)
    return app


def introduce(message: Message, context: Context) -> Message:
    """Which client this node is, and which states it can go on from."""
    folder = _folder(context)
    latest = state_folder.latest(folder)
    run, states = ("", {}) if latest is None else state_folder.kept(latest, partial(log, WARNING, "%s"))
    attend = Attend(
        version=PROTOCOL_VERSION,
        client=client_of(context),
        run=run,
        states=sorted(states),
        process=secrets.token_bytes(8),
    )
    return Message(pack({"attend": attend.SerializeToString()}), reply_to=message)


def take_part(message: Message, context: Context) -> Message:
    """Do the round that the message orders."""
    from wavetune.runtimes.flower.agent import MessageAgent

    parts, client = unpack(message.content), client_of(context)
    identity = Identity(*(parts[name] for name in ("authority", "certificate", "key")))
    agent = MessageAgent(client, "", identity, _folder(context), partial(log, INFO, "client %d: %s", client))
    agent.download = parts.get("download", b"")
    report = agent.handle(parsed(RoundOrder, parts["order"], "the servers sent an order"))
    return Message(pack({"report": report.SerializeToString(), **agent.frames}), reply_to=message)


def client_of(context: Context) -> int:
    """The client that a node is. Raises ConfigError where its configuration does not say."""
    found = context.node_config.get("partition-id")
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ConfigError(
            f'partition-id of this node is {found!r}; start its SuperNode with --node-config "partition-id=0"'
        )
    return found


def _folder(context: Context) -> Path:
    state = context.node_config.get("state")
    name = device_name(client_of(context))
    return get_flwr_home() / "wavetune" / name if state is None else at_home(str(state))
