"""The servers' end of a run whose orders Flower carries: which node is which client, what was asked, what came back."""

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from wavetune.data_plane import PROTOCOL_VERSION
from wavetune.data_plane.certificates import Identity
from wavetune.data_plane.messages_pb2 import Attend, RoundOrder, RoundReport
from wavetune.data_plane.refusal import RefusedError, parsed, quoted
from wavetune.data_plane.server import DataPlane, DeviceStream
from wavetune.errors import DeploymentError
from wavetune.runtimes.flower.messages import pack, unpack

_POLL_S = 0.2
_SEE_S = 1.0  # between looks at who is there, while answers are awaited
_ASK_AGAIN_S = 60.0  # a node that did not answer
_LONGEST_QUEUE = 2  # messages that one node has not answered, after which it is asked no more


@dataclass
class _Node:
    number: int  # Flower's
    attend: Attend
    states: set[int]
    round_index: int = -1  # that it was last asked for
    order: str = ""  # Flower's name of the message that asked
    unanswered_since_s: float = math.inf
    report: RoundReport | None = None
    stream: DeviceStream | None = None  # of that round, where adapters come with the report
    download: bytes = b""  # what its stream answered, which goes with the next order
    has_broadcast: bool = False  # what it keeps of that round lacks no download


@dataclass
class FlowerCoordinator:
    """Orders to nodes and their reports, each a Flower message; one thread asks the SuperLink what is new.

    Where adapters go `by_message` a device opens no stream: its frames of a round come with its report, and what the
    servers answer goes with its next order. A node that leaves or fails is given up for the round at once. Of two that
    are the same client the later one counts. Each is asked who it is, and again where an answer does not come: a
    SuperNode that was left with a message of a SuperLink before this one sends each answer only when it next gets a
    message.
    """

    grid: Grid
    plane: DataPlane
    identities: Mapping[int, Identity]
    by_message: bool
    say: Callable[[str], None]
    _nodes: dict[int, _Node] = field(default_factory=dict[int, _Node])  # by client
    _asked: dict[int, float] = field(default_factory=dict[int, float])  # nodes, and when
    _open: dict[str, int] = field(default_factory=dict[str, int])  # messages without a reply, and to which node
    _gone: str = ""

    def __post_init__(self) -> None:
        self._changed, self._grid_is_free, self._closed = threading.Condition(), threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask the SuperLink no more. A question that waits for one that is away ends with the process."""
        self._closed.set()
        self._thread.join(5 * _POLL_S)

    def present(self) -> set[int]:
        """Who attends now."""
        with self._changed:
            self._require_link()
            return set(self._nodes)

    def wait_for(self, clients: Collection[int], patience_s: float) -> set[int]:
        """Who of these attends, at the latest after the given time."""
        with self._changed:
            self._changed.wait_for(lambda: self._gone or self._nodes.keys() >= set(clients), patience_s)
            self._require_link()
            return set(clients) & set(self._nodes)

    def can_go_on(self, client: int, run: str, rounds_done: int) -> bool:
        """Whether a device kept its state after this many rounds of the run."""
        node = self._nodes.get(client)
        if node is None or node.attend.run != run or rounds_done not in node.states:
            return False
        return not self.by_message or (
            node.round_index + 1 == rounds_done and (node.has_broadcast or bool(node.download))
        )

    def order(self, client: int, order: RoundOrder) -> None:
        """Send an order to a device, if it is still there."""
        node, identity = self._nodes.get(client), self.identities[client]
        if node is None:
            return
        if node.download and order.listen:
            order.adapters = b""  # it takes the mixture as all others do
        parts = {
            "order": order.SerializeToString(),
            "authority": identity.authority,
            "certificate": identity.certificate,
            "key": identity.key,
        }
        if node.download and not order.adapters:
            parts["download"] = node.download
        with self._changed:
            node.attend.run, node.round_index, node.report, node.order = order.run, order.round, None, ""
            node.stream, node.download, node.has_broadcast = None, b"", order.listen or order.HasField("align")
            if self.by_message and not node.has_broadcast:
                node.stream = self.plane.stream(client)
                node.stream.ready.set()
        self._push(Message(pack(parts), node.number, MessageType.TRAIN, group_id=str(order.round + 1)), node)

    def report(self, client: int, round_index: int, patience_s: float) -> RoundReport | None:
        """A device's report on a round, or None if it left or does not report in time."""
        until = time.monotonic() + patience_s
        with self._changed:
            while (node := self._nodes.get(client)) is not None and node.round_index == round_index:
                if node.report is not None:
                    _collect(node)
                    return node.report
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    return None
                self._require_link()
        return None

    def has_broadcast_to_come(self, client: int) -> bool:
        """Whether the mixture of a device's round is still here."""
        node = self._nodes.get(client)
        return node is not None and bool(node.download)

    def dismiss(self, reason: str) -> None:
        """Nodes stay with their SuperLink; there is nothing to tell them."""

    def _require_link(self) -> None:
        if self._gone:
            raise DeploymentError(f"the SuperLink is away: {self._gone}")

    def _push(self, message: Message, node: _Node | None = None) -> None:
        """Send a message; if it is an order, it is from now on the one that its node's report must answer."""
        with self._grid_is_free:
            (name,) = self.grid.push_messages([message])
            with self._changed:
                self._open[name] = message.metadata.dst_node_id
                if node is not None:
                    node.order, node.unanswered_since_s = name, time.monotonic()

    def _watch(self) -> None:
        seen_s = -math.inf
        while not self._closed.wait(_POLL_S):
            try:
                if not self._open or time.monotonic() - seen_s > _SEE_S:
                    with self._grid_is_free:
                        nodes = set(self.grid.get_node_ids())
                    self._see(nodes)
                    seen_s = time.monotonic()
                with self._changed:
                    waiting = list(self._open)
                if waiting:
                    with self._grid_is_free:
                        replies = list(self.grid.pull_messages(waiting))
                    self._take(replies)
            except Exception as error:  # whatever Flower's transport raises
                with self._changed:
                    self._gone = str(error) or type(error).__name__
                    self._changed.notify_all()
                for client in list(self._nodes):
                    self.plane.give_up(client, f"the SuperLink is away: {self._gone}")
                return

    def _see(self, nodes: set[int]) -> None:
        """Note who left, and ask who came or is silent."""
        with self._changed:
            left = [client for client, node in self._nodes.items() if node.number not in nodes]
            for client in left:
                del self._nodes[client]
            self._asked = {number: when for number, when in self._asked.items() if number in nodes}
            now, queues = time.monotonic(), Counter(self._open.values())
            last = {number: self._asked.get(number, -math.inf) for number in nodes}
            last |= {node.number: node.unanswered_since_s for node in self._nodes.values()}
            silent = {n for n in nodes if now - last[n] >= _ASK_AGAIN_S and queues[n] < _LONGEST_QUEUE}
            for node in self._nodes.values():
                if node.number in silent:
                    node.unanswered_since_s = now
            self._changed.notify_all()
        for client in left:
            self.plane.give_up(client, f"client {client} left")
        for number in silent:
            self._asked[number] = now
            self._push(Message(pack({}), number, MessageType.QUERY))

    def _take(self, replies: Iterable[Message]) -> None:
        for reply in replies:
            name = reply.metadata.reply_to_message_id
            number = self._open.pop(name)
            asked = [(client, node) for client, node in self._nodes.items() if node.order == name]
            try:
                if reply.has_error():
                    raise DeploymentError(reply.error.reason or f"Flower's error {reply.error.code}")
                parts = unpack(reply.content)
                if "attend" in parts:
                    self._admit(number, parsed(Attend, parts["attend"], "a node attends with bytes"))
                    continue
                report = parsed(RoundReport, parts["report"], "a report")
                for _, node in asked if "upload" in parts else ():
                    _receive(node, parts)
            except Exception as error:  # whatever a ClientApp raised, or sent
                if not asked:
                    self.say(f"a node does not take part: {quoted(str(error))}")
                report = RoundReport(failure=f"its ClientApp failed: {quoted(str(error))}")
            for client, node in asked:  # nobody, if the round went on without it
                node.unanswered_since_s = math.inf
                self._reported(client, node, report)

    def _admit(self, number: int, attend: Attend) -> None:
        self._asked[number] = math.inf
        if attend.version != PROTOCOL_VERSION:
            raise DeploymentError(
                f"client {attend.client} speaks version {attend.version} of the protocol, the server "
                f"{PROTOCOL_VERSION}; install the same wavetune on both"
            )
        if attend.client >= len(self.identities):
            raise DeploymentError(
                f"its partition-id is {attend.client}, and the run has {len(self.identities)} clients"
            )
        with self._changed:
            earlier = self._nodes.get(attend.client)
            if earlier is not None and earlier.number == number:
                return
            self._nodes[attend.client] = _Node(number, attend, set(attend.states))
            self._changed.notify_all()
        if earlier is not None:
            self.plane.give_up(attend.client, f"client {attend.client} came back as another node")

    def _reported(self, client: int, node: _Node, report: RoundReport) -> None:
        with self._changed:
            node.report = report
            if not report.failure:
                node.states.add(report.round + 1)
            self._changed.notify_all()
        if report.failure:
            self.plane.give_up(client, quoted(report.failure), node.round_index)


def _receive(node: _Node, parts: Mapping[str, bytes]) -> None:
    """Hand a device's frames to its stream, as a stream would."""
    if node.stream is None:
        raise DeploymentError("adapters came that were not asked for")
    try:
        for name in ("hello", "upload"):
            node.stream.receive(parts[name])
    except RefusedError as refused:
        node.stream.fail(refused.sentence, refused.reason)
        raise DeploymentError(refused.sentence) from refused


def _collect(node: _Node) -> None:
    """Take what the servers answered: to the hello, and with the mixture unless the device was given up."""
    stream, node.stream = node.stream, None
    if stream is None:
        return
    with contextlib.suppress(RefusedError):
        stream.next_answer()
        node.download = stream.next_answer()
