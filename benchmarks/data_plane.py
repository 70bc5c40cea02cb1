"""The data plane: exchanges beside a bare TLS stream, deployed steps beside steps in one process, bytes on the wire.

    python benchmarks/data_plane.py [--repeats 30] [--model tiny --devices 3 --rounds 6] [--set PATH=VALUE ...]
    python benchmarks/data_plane.py --before CHECKOUT [--repeats 30] [--turns 3]

- exchange: a device sends bf16 activations and gets as many bytes of gradients back, all checks included; the other end
  is another process. The bare streams send and receive the same bytes over one TLS socket, and over a gRPC stream with
  the same TLS, and do nothing else. All take turns, so that a machine whose speed drifts treats them alike.
- steps: the median round of `wavetune deploy`, real processes, over its local steps; and of the same recipe in process.
- before: exchanges alone, beside those of another checkout (`git worktree add CHECKOUT COMMIT`), each by its own copy
  of this file in processes of its own, which take turns; medians over the turns, and the ratio turn by turn.
- bytes: what was predicted, what the frames' payloads held, the frames, and what crossed a proxy between the devices
  and the servers (with TLS and HTTP/2).
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
import torch

from wavetune import recipes
from wavetune.data_plane import PROTOCOL_VERSION
from wavetune.data_plane.certificates import read_identity, write_certificates
from wavetune.data_plane.client import Stream, connect
from wavetune.data_plane.contract import Contract
from wavetune.data_plane.frames import frame_bytes
from wavetune.data_plane.messages_pb2 import Frame, Hello, Layout
from wavetune.data_plane.payloads import check_values, num_bytes, pack, spec_like, unpack
from wavetune.data_plane.server import DataPlane, serve
from wavetune.federation.codecs import Bf16, Payload
from wavetune.recipe import Recipe, with_settings

if TYPE_CHECKING:
    from wavetune.runtimes.engine import Observer

# what trains is imported where it is timed: the other end of an exchange starts without transformers
WIDTH, ROW_TOKENS = 576, 256
ECHO = "/wavetune.Benchmark/Echo"
LABELS = {"ids": torch.ones(1, dtype=torch.int32)}


def receive_all(stream: Any, count: int) -> None:
    """Read that many bytes."""
    left = count
    while left:
        left -= len(stream.recv(min(left, 1 << 20)))


def other_end(folder: Path, sizes: list[int], repeats: int) -> None:
    """The servers' process: answers exchanges and echoes the bare stream, for one size after another."""
    identity = read_identity(folder / "server")
    plane = DataPlane("benchmark")
    rows = {size: max(1, size // (2 * WIDTH)) for size in sizes}
    echo = grpc.stream_stream_rpc_method_handler(lambda requests, _context: requests)
    bare_grpc = grpc.method_handlers_generic_handler(ECHO.split("/")[1], {ECHO.split("/")[2]: echo})
    server, port = serve("127.0.0.1:0", identity, [plane.handler(), bare_grpc], 4, 1 << 30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server" / "certificate.pem", folder / "server" / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    say(port=port, bare=listener.getsockname()[1])
    accepted, _ = listener.accept()
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bare = context.wrap_socket(accepted, server_side=True)
    for index, size in enumerate(sizes):
        contract = Contract(0, False, repeats, WIDTH, 1, 1 << 16, ROW_TOKENS, 2, Bf16(), Bf16(), (), {})
        say(token=plane.open_round(index, [contract])[0].hex())
        line, answer = plane.stream(0), b"x" * num_bytes(Bf16().encode(torch.zeros(rows[size], WIDTH)))
        for _ in range(repeats):
            arrived = line.take(600.0)
            assert arrived is not None, line.failure
            line.answer([("gradients_down", arrived.one("activations_up"))])
            receive_all(bare, len(answer))
            bare.sendall(answer)
    sys.stdin.read()  # until the other side is done
    server.stop(0).wait()


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def time_exchanges(sizes: list[int], repeats: int) -> list[dict[str, float]]:
    """Milliseconds of an exchange, of the bare stream, and of all that is done to both messages besides."""
    folder = Path(tempfile.mkdtemp())
    write_certificates(folder, 1)
    arguments = ["--other-end", str(folder), "--repeats", str(repeats), "--megabytes", *(str(s / 1e6) for s in sizes)]
    other = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    ports = json.loads(other.stdout.readline())
    context = ssl.create_default_context(cafile=str(folder / "server" / "authority.pem"))
    plain = socket.create_connection(("127.0.0.1", ports["bare"]))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bare = context.wrap_socket(plain, server_hostname="localhost")
    channel = connect(f"localhost:{ports['port']}", read_identity(folder / "device-00"))
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    replies = channel.stream_stream(ECHO)(iter(requests.get, None), wait_for_ready=True)
    found = []
    for index, size in enumerate(sizes):
        token = bytes.fromhex(json.loads(other.stdout.readline())["token"])
        hello = Hello(version=PROTOCOL_VERSION, run="benchmark", round=index, token=token, width=WIDTH, cut=1)
        stream = Stream(channel, hello)
        rows = max(1, size // (2 * WIDTH))
        x = torch.randn(rows, WIDTH)
        full, rest = divmod(rows, ROW_TOKENS)
        layout = Layout(lengths=[ROW_TOKENS] * full + [rest] * bool(rest), label_positions=[0])
        content = pack(Bf16().encode(x))[-2 * rows * WIDTH :]

        def exchange(x: torch.Tensor = x, stream: Stream = stream, layout: Layout = layout) -> None:
            payload = Bf16().encode(x)
            part = stream.ask([("activations_up", payload), ("labels_up", LABELS)], layout)
            assert part is not None
            Bf16().decode(unpack(part.tensors, spec_like(payload), "gradients_down"))

        def echo(content: bytes = content) -> None:
            bare.sendall(content)
            receive_all(bare, len(content))

        def echo_over_grpc(content: bytes = content) -> None:
            requests.put(content)
            next(replies)

        def copies(x: torch.Tensor = x) -> None:
            payload = Bf16().encode(x)
            arrived = unpack(written_and_read(payload), spec_like(payload), "a copy")
            check_values(arrived, Bf16(), (len(x), WIDTH), "a copy")
            Bf16().decode(unpack(written_and_read(arrived), spec_like(payload), "a copy"))

        times = take_turns([exchange, echo, echo_over_grpc, copies], repeats)
        names = ("exchange", "bare", "grpc", "codec")
        found.append({"bytes": len(content)} | {n: t for name, own in zip(names, times, strict=True) for n, t in
                     ((f"{name}_ms", statistics.median(own)), (f"{name}_least_ms", min(own)))})  # fmt: skip
        stream.close()
    requests.put(None)
    channel.close()
    bare.close()
    other.stdin.close()
    other.wait()
    other.stdout.close()
    shutil.rmtree(folder)
    return found


def written_and_read(payload: Payload) -> bytes:
    return Frame.FromString(frame_bytes(Frame(), [("a copy", payload)])).parts[0].tensors


def take_turns(contenders: list[Callable[[], None]], repeats: int) -> list[list[float]]:
    """Milliseconds of each, every time."""
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(repeats):
        for own, contender in zip(times, contenders, strict=True):
            started = time.perf_counter()
            contender()
            own.append(1e3 * (time.perf_counter() - started))
    return times


class Quiet:
    """An observer that says nothing."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_: None


def time_steps(recipe: Recipe, devices: int) -> tuple[float, float]:
    """Median milliseconds of a local step of the recipe, deployed and in process; the first round warms up."""
    from wavetune.runtimes.inprocess import run
    from wavetune.runtimes.launch import deploy

    folder = Path(tempfile.mkdtemp())
    code = deploy(recipe, folder / "deployed", devices, [], lambda _text: None)
    assert code == 0, code
    run(recipe, folder / "in-process", cast("Observer", Quiet()))
    found = []
    for name in ("deployed", "in-process"):
        records = [json.loads(line) for line in (folder / name / "rounds.jsonl").read_text().splitlines()]
        walls = [record.get("measured", record)["wall_s"] for record in records[1:]]
        found.append(1e3 * statistics.median(walls) / recipe.run.local_steps)
    shutil.rmtree(folder)
    return found[0], found[1]


class Proxy:
    """Forwards connections to a port and counts the bytes of both ways."""

    def __init__(self, target: int) -> None:
        self.target, self.bytes = target, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            ours, _ = self.listener.accept()
            theirs = socket.create_connection(("127.0.0.1", self.target))
            for source, sink in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while content := source.recv(1 << 16):
                self.bytes += len(content)
                sink.sendall(content)
        except OSError:
            pass
        sink.close()


def count_bytes(recipe: Recipe, devices: int) -> dict[str, int]:
    """Bytes of the second round at every level; its devices are threads behind a proxy."""
    from wavetune.runtimes.deployed import Deployment, opened
    from wavetune.runtimes.device import take_part
    from wavetune.runtimes.session import Session, build

    folder = Path(tempfile.mkdtemp())
    write_certificates(folder, devices)
    session = build(recipe)
    assert isinstance(session, Session), session.reason
    deployment = Deployment("127.0.0.1:0", read_identity(folder / "server"))
    with opened(session, deployment, "benchmark", lambda _text: None) as servers:
        proxy = Proxy(int(servers.address.rpartition(":")[2]))
        servers.address = f"127.0.0.1:{proxy.port}"
        for client in range(devices):
            identity = read_identity(folder / f"device-{client:02d}")
            arguments = (servers.address, identity, None, 60.0, lambda _text: None)
            threading.Thread(target=take_part, args=arguments, daemon=True).start()
        servers.train_round(session, 0, lambda *_: None)
        before = proxy.bytes
        record = servers.train_round(session, 1, lambda *_: None).record()
        wire = proxy.bytes - before
    shutil.rmtree(folder)
    measured = record.measured
    return {
        "predicted": int(sum(record.planned.bits.values())) // 8,
        "payload": int(sum(measured.payload_bytes.values())),
        "frames": int(sum(measured.frame_bytes_up_K) + sum(measured.frame_bytes_down_K)),
        "wire": wire,
    }


def exchanges_of(checkout: Path, megabytes: Sequence[float], repeats: int) -> list[float]:
    """Median milliseconds of an exchange of each size, as a checkout's own benchmark prints them."""
    asked = ["--only", "exchange", "--repeats", str(repeats), "--megabytes", *map(str, megabytes)]
    said = subprocess.run(
        [sys.executable, str(checkout.resolve() / "benchmarks" / "data_plane.py"), *asked],
        stdout=subprocess.PIPE, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(checkout.resolve() / "src")},
    ).stdout  # fmt: skip
    return [float(found) for found in re.findall(r"each way.*?exchange ([\d.]+) ", said)]


def compare(before: Path, megabytes: Sequence[float], repeats: int, turns: int) -> None:
    """Print exchanges of this checkout beside those of another."""
    sides = {"now": Path(__file__).parents[1], "before": before}
    times = [{name: exchanges_of(path, megabytes, repeats) for name, path in sides.items()} for _ in range(turns)]
    for index, size in enumerate(megabytes):
        now, then = ([turn[name][index] for turn in times] for name in sides)
        ratio = statistics.median(b / a for a, b in zip(now, then, strict=True))
        medians = f"now {statistics.median(now):.1f} ms, before {statistics.median(then):.1f} ms"
        print(f"{size:5.2f} MB each way, medians of {turns} turns: {medians}, {ratio:.2f} times as fast as before")


def of(row: dict[str, float], name: str) -> str:
    """Median and least milliseconds of a contender."""
    return f"{row[f'{name}_ms']:.1f} ({row[f'{name}_least_ms']:.1f}) ms"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.01, 0.1, 1.0, 4.0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", choices=["exchange", "steps", "bytes"])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help="a checkout of another commit, which takes turns"
    )
    parser.add_argument("--turns", type=int, default=3, help="of each checkout, with --before")
    parser.add_argument("--other-end", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    sizes = [int(1e6 * m) for m in options.megabytes]
    torch.set_num_threads(1)
    if options.other_end is not None:
        other_end(options.other_end, sizes, options.repeats)
        return
    if options.before is not None:
        compare(options.before, options.megabytes, options.repeats, options.turns)
        return
    if options.only in (None, "exchange"):
        for row in time_exchanges(sizes, options.repeats):
            names = {"exchange": "exchange", "bare TLS": "bare", "bare gRPC": "grpc", "encoding and checking": "codec"}
            told = ", ".join(f"{title} {of(row, name)}" for title, name in names.items())
            print(f"{row['bytes'] / 1e6:5.2f} MB each way, median (least): {told}")
    recipe = with_settings(
        recipes.get("sflllm"),
        [f"world.model={json.dumps(options.model)}", f"world.scenario.population.num_clients={options.devices}",
         f"run.rounds={options.rounds}", "run.samples=0", *options.settings],
    )  # fmt: skip
    if options.only in (None, "steps"):
        deployed, in_process = time_steps(recipe, options.devices)
        print(
            f"local step of {options.devices} devices: deployed {deployed:.1f} ms, in one process {in_process:.1f} ms"
        )
    if options.only in (None, "bytes"):
        counted = count_bytes(recipe, options.devices)
        print(f"bytes of a round: predicted {counted['predicted']:,}, payload {counted['payload']:,}, frames "
              f"{counted['frames']:,} (+{counted['frames'] / counted['payload'] - 1:.2%}), on the wire "
              f"{counted['wire']:,} (+{counted['wire'] / counted['payload'] - 1:.2%})")  # fmt: skip


if __name__ == "__main__":
    main()
