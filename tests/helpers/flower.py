"""A Flower Grid whose nodes are threads of this process: messages cross as the bytes that Flower's objects write."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from wavetune.runtimes.flower.device import client_app


def crossed(message: Message) -> Message:
    """A message after it was written as bytes and read again."""
    written = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    name = message.object_id
    read = inflate_object_from_contents(name, written)
    assert isinstance(read, Message)
    read.metadata.__dict__["_message_id"] = name
    return read


class ThreadGrid(Grid):
    """SuperLink and SuperNodes in one process. A node does one message at a time, and none while it is `away`."""

    def __init__(self, states: Path, num_nodes: int) -> None:
        self.contexts = {
            100 + k: Context(1, 100 + k, {"partition-id": k, "state": str(states / str(k))}, RecordDict(), {}, 0)
            for k in range(num_nodes)
        }
        self.app, self.away = client_app(), set[int]()
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self._replies = dict[str, Message]()
        self._turns = {node: threading.Lock() for node in self.contexts}

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise AssertionError("deprecated")

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in self.contexts if node not in self.away]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = [crossed(message) for message in messages]
        for message in sent:
            threading.Thread(target=self._answer, args=(message,), daemon=True).start()
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in list(message_ids) if name in self._replies]

    def send_and_receive(self, *_: Any, **__: Any) -> Iterable[Message]:
        raise AssertionError("orders are sent and reports pulled apart")

    def _answer(self, message: Message) -> None:
        with self._turns[message.metadata.dst_node_id]:
            reply = self._reply(message)
        self._replies[message.metadata.message_id] = reply

    def _reply(self, message: Message) -> Message:
        try:
            return crossed(self.app(message, self.contexts[message.metadata.dst_node_id]))
        except Exception as error:
            return crossed(Message(Error(1, str(error)), reply_to=message))


class LateGrid(ThreadGrid):
    """Its SuperNodes were left with a message of an app that died: each sends an answer when the next message comes."""

    def __init__(self, states: Path, num_nodes: int) -> None:
        super().__init__(states, num_nodes)
        self._kept = dict[int, tuple[str, Message]]()

    def _answer(self, message: Message) -> None:
        node, name = message.metadata.dst_node_id, message.metadata.message_id
        with self._turns[node]:
            if node in self._kept:
                earlier, reply = self._kept.pop(node)
                self._replies[earlier] = reply
            self._kept[node] = (name, self._reply(message))
