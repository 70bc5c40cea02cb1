"""Servers in a process of their own meet devices that do not keep to the protocol, and a disk that is full."""

import resource
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from safetensors.torch import load_file

from helpers.deployment import nothing
from helpers.runs import read_rounds, small
from wavetune.data_plane.certificates import device_name, read_identity, write_certificates
from wavetune.data_plane.client import Stream, connect
from wavetune.data_plane.contract import PROTOCOL_VERSION
from wavetune.data_plane.control import attend
from wavetune.data_plane.messages_pb2 import Hello, RoundReport
from wavetune.federation.door import Door
from wavetune.recipe import save
from wavetune.runtimes import local_round
from wavetune.runtimes.device import Agent
from wavetune.runtimes.session import build

SERVE = [sys.executable, "-c", "from wavetune.cli import main; main()", "serve"]
DEADLINE_S, LONG_S = 15.0, 400.0
ROUNDS = 4
RECIPE = small(
    "fedavg_lora",
    "world.scenario.population.num_clients=4",
    f"run.rounds={ROUNDS}",
    "run.local_steps=1",
    "run.samples=0",
    "method.screening.quarantine_after=2",
)
FAULTS = {2: ("nan", "duplicate", "late"), 3: ("exploding", "exploding")}  # of a client, round by round


class Device(Agent):
    """A device that does as the client library does, but for the faults of its first rounds."""

    faults: tuple[str, ...] = ()
    over = threading.Event()  # the round for which a late device was too slow

    def _round(self, order):
        if order.round >= len(self.faults):
            return super()._round(order)
        fault, device = self.faults[order.round], self._ready(order)
        hello = Hello(version=PROTOCOL_VERSION, run=order.run, round=order.round, client=self.client, token=order.token,
                      width=device.cohort.backbone.model.config.hidden_size, cut=order.cuts[self.client])  # fmt: skip
        stream = Stream(self._channel(order.address or self.server), hello)
        upload = local_round.train(device, order)
        factor = {"nan": float("nan"), "exploding": 1e4}.get(fault, 1.0)
        parts = [(local_round.UP, {"values": factor * payload["values"]}) for payload in upload.payloads]
        if fault == "duplicate":
            stream._sequence = 0
        if fault == "late":
            assert self.over.wait(LONG_S)
        local_round.receive(device, stream.ask(parts, losses=upload.losses))
        self._keep(order, device.state())
        return RoundReport(round=order.round)


class Servers:
    """`wavetune serve` as a process, and devices that attend in threads of this one."""

    def __init__(self, folder):
        self.folder, self.out, self.port, self.threads = folder, folder / "run", folder / "port", []
        write_certificates(folder / "certificates", 4)
        save(RECIPE, folder / "recipe.json")

    def start(self, *arguments, port=0, **options):
        common = ("--address", f"127.0.0.1:{port}", "--certificates", self.folder / "certificates" / "server")
        command = [*SERVE, *arguments, *common, "--out", self.out, "--port-file", self.port, "--deadline", DEADLINE_S]
        self.process = subprocess.Popen(
            [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        until = time.monotonic() + LONG_S
        while not self.port.exists() and self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        return int(self.port.read_text())

    def attend(self, port, client, faults=()):
        identity = read_identity(self.folder / "certificates" / device_name(client))
        agent = Device(client, f"127.0.0.1:{port}", identity)
        agent.faults = faults
        arguments = (connect(agent.server, identity), agent.introduce, agent.handle, LONG_S, nothing)
        self.threads.append(threading.Thread(target=attend, args=arguments, daemon=True))
        self.threads[-1].start()

    def wait(self):
        out, err = self.process.communicate(timeout=LONG_S)
        return self.process.returncode, out, err

    def stop(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def servers(tmp_path):
    started = Servers(tmp_path)
    yield started
    started.stop()
    for thread in started.threads:
        thread.join(LONG_S if started.process.returncode == 0 else 0.0)


def in_process(records):
    """The mixture of the run in one process, from which whatever the records name is missing."""
    session = build(RECIPE)
    for record in records:
        run, active = session.recipe.run, record["active_K"]
        refused = {lost["client"] for lost in record["lost"] if lost["why"].startswith("rejected: ")}
        arrived = [on and k not in refused for k, on in enumerate(active)]
        factor = session.recipe.method.optimiser.factor(record["round"], run.rounds)
        session.cohort.step(session.data.train, session.step_rows(record["round"]), factor, active)
        mixed = session.server.exchange(session.cohort.placement.weight_K, Door(), active, active, arrived)
    return mixed.factors


def assert_right_model(out):
    records = read_rounds(out)
    assert [record["round"] for record in records] == list(range(ROUNDS))
    found = load_file(out / "adapters" / "global" / "adapter_model.safetensors")
    for name, pair in in_process(records).items():
        for letter, factor in zip("AB", pair, strict=True):
            mine = found[f"base_model.model.{name}.lora_{letter}.weight"].t()
            np.testing.assert_allclose(mine, factor.detach(), rtol=0, atol=1e-6, err_msg=f"{name} {letter}")
    return records


def test_what_faulty_devices_send_is_named_and_left_out_and_the_model_is_the_one_without_it(servers):
    """NaN, a frame twice, ten times too late with the answer after all; a norm that explodes, until it is not heard."""
    port = servers.start(servers.folder / "recipe.json")
    for client in range(4):
        servers.attend(port, client, FAULTS.get(client, ()))
    until = time.monotonic() + LONG_S
    while not (servers.out / "rounds.jsonl").exists() or len(read_rounds(servers.out)) < 3:
        assert servers.process.poll() is None, servers.wait()
        assert time.monotonic() < until
        time.sleep(0.1)
    Device.over.set()
    code, _, err = servers.wait()
    assert code == 0, err
    why = [{lost["client"]: lost["why"] for lost in record["lost"]} for record in assert_right_model(servers.out)]
    assert "adapters_up of client 2: holds values that are not finite" in why[0][2]
    assert "frame 0 of client 2 came where 1 was due" in why[1][2]
    assert "client 2 did not answer within" in why[2][2]
    assert "within" in why[3].get(2, "within")  # it is back, or this machine is too busy for the deadline
    assert ["times the median" in entry[3] for entry in why] == [True, True, False, False]
    assert ["quarantined after 2 rejections" in entry[3] for entry in why] == [False, False, True, True]


def test_servers_whose_disk_is_full_say_so_in_a_sentence_and_go_on_from_there(servers):
    """Nothing of the size of a checkpoint can be written; the devices wait until the servers are back."""

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))

    port = servers.start(servers.folder / "recipe.json", preexec_fn=little_room)
    for client in range(4):
        servers.attend(port, client)
    code, out, err = servers.wait()
    assert code == 2, (code, out, err)
    (sentence,) = err.strip().splitlines()
    assert sentence.startswith("wavetune: ")
    assert "run" in sentence
    assert "Traceback" not in out + err
    servers.port.unlink()
    servers.start("--resume", port=port)
    code, _, err = servers.wait()
    assert code == 0, err
    assert all(record["lost"] == [] for record in assert_right_model(servers.out))
