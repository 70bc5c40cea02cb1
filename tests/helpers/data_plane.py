"""A data plane on loopback and devices that keep to the protocol, or do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from wavetune.data_plane import PROTOCOL_VERSION
from wavetune.data_plane.certificates import read_identity, write_certificates
from wavetune.data_plane.client import Stream, connect
from wavetune.data_plane.contract import Contract
from wavetune.data_plane.messages_pb2 import Hello, Layout, Loss
from wavetune.data_plane.server import DataPlane, serve
from wavetune.federation.codecs import Bf16, Fp32
from wavetune.federation.messages import Field

WIDTH, CUT, PATIENCE_S, LIMIT_BYTES = 8, 2, 20.0, 1 << 20
X = torch.arange(5 * WIDTH, dtype=torch.float32).view(5, WIDTH)  # a batch of 5 tokens
LABELS = {"ids": torch.tensor([3, 4], dtype=torch.int32)}
LAYOUT = Layout(lengths=[3, 2], label_positions=[2, 4])
ADAPTER = torch.ones(2, 6)
CHAIN, DECLARED = (Fp32(),), {"a": Field((2, 6))}
ADAPTERS_UP = {"a|values": ADAPTER}


def contract(client: int = 0, u_shape: bool = False, local_steps: int = 2) -> Contract:
    return Contract(client, u_shape, local_steps, WIDTH, CUT, 4, 16, 300, Bf16(), Bf16(), CHAIN, DECLARED)


def hello(token: bytes, client: int = 0, round_index: int = 0, **changes: object) -> Hello:
    values = {"version": PROTOCOL_VERSION, "run": "a run", "round": round_index, "client": client, "token": token}
    return Hello(**(values | {"width": WIDTH, "cut": CUT} | changes))


class Party:
    """A data plane with the certificates of its devices."""

    def __init__(self, folder: Path, num_devices: int = 3) -> None:
        write_certificates(folder, num_devices)
        self.folder, self.plane = folder, DataPlane("a run")
        self.server, self.port = serve(
            "127.0.0.1:0", read_identity(folder / "server"), [self.plane.handler()], 64, LIMIT_BYTES
        )
        self.channels = []

    def channel(self, name: str = "device-00"):
        self.channels.append(connect(f"localhost:{self.port}", read_identity(self.folder / name)))
        return self.channels[-1]

    def stream(self, token: bytes, client: int = 0, **changes: object) -> Stream:
        name = f"device-{client:02d}"
        return Stream(self.channel(name), hello(token, client, **changes))

    def close(self) -> None:
        self.plane.close_round("the test is over")
        for channel in self.channels:
            channel.close()
        self.server.stop(0).wait()


@contextmanager
def party(folder: Path, num_devices: int = 3) -> Iterator[Party]:
    opened = Party(folder, num_devices)
    try:
        yield opened
    finally:
        opened.close()


def up(x: torch.Tensor = X, labels=LABELS):
    return [("activations_up", Bf16().encode(x)), ("labels_up", labels)]


LOSS = Loss(nll=1.5, labelled=2)
