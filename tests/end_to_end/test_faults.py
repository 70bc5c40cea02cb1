"""Servers in a process of their own meet devices that fail, die or do not keep to the protocol, and full disks.

Every fault meets a run without a cut and one with it.
"""

import contextlib
import multiprocessing
import os
import re
import resource
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import mortal_device
from helpers.deployment import nothing
from helpers.runs import EXACT, count_rounds, read_rounds, small
from wavetune.data_plane.certificates import device_name, read_identity, write_certificates
from wavetune.data_plane.client import Stream, connect
from wavetune.federation.door import Door
from wavetune.recipe import save
from wavetune.runtimes import device
from wavetune.runtimes.device import take_part
from wavetune.runtimes.forked import Fork
from wavetune.runtimes.session import build

LONG_S = 400.0
DEADLINES_S = (3.0, 60.0)  # a machine on which devices of no fault are too slow for the first is given the other
HEARD_S = (0.3, 10.0)  # and likewise where the servers have not heard of a device within so long
BOTH = pytest.mark.parametrize("system", ["uncut", "split"])


def recipe_of(system, num_clients, rounds):
    """Rounds of one local step each."""
    changes = (
        *EXACT,
        f"world.scenario.population.num_clients={num_clients}",
        f"run.rounds={rounds}",
        "run.local_steps=1",
        "run.samples=0",
        "method.screening.quarantine_after=2",
    )
    return small("fedavg_lora", *changes) if system == "uncut" else small("sflllm", *changes, "method.topology.cut=2")


class Servers:
    """`wavetune serve` as a process, and devices that attend in threads of this one."""

    def __init__(self, folder):
        self.folder, self.out, self.port, self.log = folder, folder / "run", folder / "port", folder / "said.txt"
        self.threads = []

    def start(self, recipe, port=0, deadline_s=LONG_S):
        """Start a run, or go on with it where no recipe is given; returns the port."""
        start = ["--resume"]
        if recipe is not None:
            write_certificates(self.folder / "certificates", recipe.world.scenario.population.num_clients)
            save(recipe, self.folder / "recipe.json")
            start = [self.folder / "recipe.json"]
        common = ("--address", f"127.0.0.1:{port}", "--certificates", self.folder / "certificates" / "server")
        command = ["serve", *start, *common, "--out", self.out, "--port-file", self.port, "--deadline", deadline_s]
        with self.log.open("wb") as said:
            self.process = Fork([*map(str, command)], said, {})
        until = time.monotonic() + LONG_S
        while not self.port.exists() and self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        return int(self.port.read_text())

    def identity(self, client):
        return read_identity(self.folder / "certificates" / device_name(client))

    def attend(self, port, client):
        arguments = (f"127.0.0.1:{port}", self.identity(client), None, LONG_S, nothing)
        self.threads.append(threading.Thread(target=take_part, args=arguments, daemon=True))
        self.threads[-1].start()

    def wait(self):
        """The code that they end with, and what they said."""
        return self.process.wait(LONG_S), self.log.read_text()

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


@contextlib.contextmanager
def serving(folder):
    folder.mkdir(exist_ok=True)
    started = Servers(folder)
    try:
        yield started
    finally:
        started.stop()
        for thread in started.threads:
            thread.join(LONG_S if started.process.returncode == 0 else 0.0)


@pytest.fixture
def servers(tmp_path):
    with serving(tmp_path) as started:
        yield started


def in_process(recipe, records):
    """The mixture of the run in one process, from which whatever the records name is missing.

    An update that was rejected, or whose device could not write its state, was sent; the device goes on from the round.
    One that did not report had sent it too. All other lost ones had not; both go on from their moments before.
    """
    session, run = build(recipe), recipe.run
    optimiser, server, weights = session.cohort.optimiser, session.server, session.cohort.placement.weight_K
    for record in records:
        active, why = record["active_K"], {lost["client"]: lost["why"] for lost in record["lost"]}
        rejected = {k for k, reason in why.items() if reason.startswith("rejected: ")}
        back = {k for k, reason in why.items() if k not in rejected and "cannot write" not in reason}
        sent = [on and (k not in back or "did not report" in why[k]) for k, on in enumerate(active)]
        before = optimiser.client_moments(back)
        factor = recipe.method.optimiser.factor(record["round"], run.rounds)
        session.cohort.step(session.data.train, session.step_rows(record["round"]), factor, active)
        arrived = [on and k not in rejected for k, on in enumerate(sent)]
        mixed = server.exchange(weights, Door(), active, sent, arrived)
        after = optimiser.client_moments(back)
        optimiser.load_client_moments(back, {n: before.get(n, torch.zeros_like(t)) for n, t in after.items()})
    return mixed.factors


def assert_right_model(recipe, out):
    records = read_rounds(out)
    assert [record["round"] for record in records] == list(range(recipe.run.rounds))
    found = load_file(out / "adapters" / "global" / "adapter_model.safetensors")
    for name, pair in in_process(recipe, records).items():
        for letter, factor in pair.items():
            mine = found[f"base_model.model.{name}.lora_{letter}.weight"].t()
            np.testing.assert_allclose(mine, factor.detach(), rtol=0, atol=1e-6, err_msg=f"{name} {letter}")
    return records


class Relay:
    """Carries bytes between a device and the servers, until it is told to stop in the middle of what goes up."""

    PASSED = 1000  # bytes

    def __init__(self, port):
        self.listener, self.server, self.stopping = socket.create_server(("127.0.0.1", 0)), port, threading.Event()
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._carry, daemon=True).start()

    def _carry(self):
        with self.listener:
            below, _ = self.listener.accept()
        above = socket.create_connection(("127.0.0.1", self.server))
        down = threading.Thread(target=self._pump, args=(above, below), daemon=True)
        down.start()
        with below, above:
            self._pump(below, above, self.stopping)
            for end in (below, above):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            down.join()

    def _pump(self, source, sink, stopping=None):
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                if stopping is not None and stopping.is_set():
                    sink.sendall(content[: self.PASSED])
                    return
                sink.sendall(content)


FAULTS = {  # of a client, round by round
    1: ("infinite", "wrong shape", "broken"),
    2: ("nan", "duplicate", "late"),
    3: ("exploding", "exploding"),
}
FACTORS = {"nan": float("nan"), "infinite": float("inf"), "exploding": 1e4}


class Faulty(Stream):
    """A stream with the fault of its client and round, in the first frame with values or in that of the adapters."""

    over: threading.Event  # the round for which a late device was too slow
    relay: Relay
    servers: Servers
    broken: int  # bytes of the frame in which a stream broke

    def __init__(self, channel, hello):
        self.fault = dict(enumerate(FAULTS.get(hello.client, ()))).get(hello.round)
        if self.fault == "broken":
            channel = connect(f"127.0.0.1:{self.relay.port}", self.servers.identity(hello.client))
        super().__init__(channel, hello)

    def ask(self, parts=(), *arguments, **keywords):
        in_adapters = self.fault in ("infinite", "exploding", "duplicate")
        if not parts or self.fault is None or (in_adapters and parts[0][0] != "adapters_up"):
            return super().ask(parts, *arguments, **keywords)
        fault, self.fault = self.fault, None
        if fault in FACTORS:
            parts = [(kind, {name: t * FACTORS[fault] for name, t in payload.items()}) for kind, payload in parts]
        elif fault == "wrong shape":
            kind, payload = parts[0]
            parts = [(kind, {name: t[:, 1:].contiguous() for name, t in payload.items()}), *parts[1:]]
        elif fault == "duplicate":
            self._sequence -= 1
        elif fault == "late":
            assert self.over.wait(LONG_S)
        sent = self.measured.frame_bytes["up"]
        if fault == "broken":
            self.relay.stopping.set()
        try:
            return super().ask(parts, *arguments, **keywords)
        finally:
            if fault == "broken":
                type(self).broken = self.measured.frame_bytes["up"] - sent


def met_by_faulty_devices(recipe, folder, deadline_s):
    """Why which client was lost in each round of a run with all faults."""
    with serving(folder) as servers:
        port = servers.start(recipe, deadline_s=deadline_s)
        Faulty.over, Faulty.relay, Faulty.servers = threading.Event(), Relay(port), servers
        for client in range(5):
            servers.attend(port, client)
        until = time.monotonic() + LONG_S
        while count_rounds(servers.out) < 3:
            assert servers.process.poll() is None, servers.wait()
            assert time.monotonic() < until
            time.sleep(0.1)
        Faulty.over.set()
        code, said = servers.wait()
    assert code == 0, said
    records = assert_right_model(recipe, servers.out)
    return [{lost["client"]: lost["why"] for lost in record["lost"]} for record in records]


def too_slow(why):
    """Whether anybody but the late client did not answer in time, in a round before the last."""
    early = {(index, client): text for index, lost in enumerate(why[:3]) for client, text in lost.items()}
    return any("within" in text for place, text in early.items() if place != (2, 2))


@BOTH
def test_what_faulty_devices_send_is_named_and_left_out_and_the_model_is_the_one_without_it(
    tmp_path, monkeypatch, system
):
    """Values that are no numbers or of another shape, a frame twice, a stream that breaks in a frame, ten times too
    late with the answer after all; a norm that explodes, until it is not heard."""
    recipe = recipe_of(system, num_clients=5, rounds=4)
    monkeypatch.setattr(device, "Stream", Faulty)
    for deadline_s in DEADLINES_S:
        why = met_by_faulty_devices(recipe, tmp_path / f"{deadline_s}", deadline_s)
        if not too_slow(why):
            break
    frame, last = ("adapters_up", 1) if system == "uncut" else ("activations_up", 2)
    assert "adapters_up of client 1: holds values that are not finite" in why[0][1]
    assert re.match(rf"(?s).*{frame} of client 1: tensor \S*values came as", why[1][1]), why[1][1]
    assert "broke" in why[2][1] or "UNAVAILABLE" in why[2][1]
    assert Faulty.broken > Relay.PASSED
    assert f"{frame} of client 2: holds values that are not finite" in why[0][2]
    assert f"frame {last - 1} of client 2 came where {last} was due" in why[1][2]
    assert "client 2 did not answer within" in why[2][2]
    for client in (1, 2):  # they are back, or this machine is too busy for the deadline
        assert "within" in why[3].get(client, "within")
    assert ["times the median" in entry[3] for entry in why] == [True, True, False, False]
    assert ["quarantined after 2 rejections" in entry[3] for entry in why] == [False, False, True, True]


class Patient(Stream):
    """A stream that sends its adapters once the mortal device lives and attends."""

    diary: Path
    heard_s: float  # that a device which lives has to be heard of

    def ask(self, parts=(), *arguments, **keywords):
        until = time.monotonic() + LONG_S
        while parts and parts[0][0] == "adapters_up" and not self._other_lives():
            assert time.monotonic() < until
            time.sleep(0.05)
        return super().ask(parts, *arguments, **keywords)

    def _other_lives(self):
        words = self.diary.read_text().split() if self.diary.exists() else []
        if words.count(mortal_device.BORN) <= words.count(mortal_device.DEAD):
            return False
        time.sleep(max(0.0, self.diary.stat().st_mtime + self.heard_s - time.time()))
        return True


def met_by_a_mortal_device(recipe, folder, heard_s):
    """The records of a run in which the last device lives all its lives, and the code with which it ended.

    The code is None where the servers did not wait for it, as they had not heard of it when the others had to go on.
    """
    with serving(folder) as servers:
        port, Patient.diary, Patient.heard_s = servers.start(recipe), folder / "diary", heard_s
        certificates = folder / "certificates" / device_name(2)
        arguments = (Patient.diary, f"127.0.0.1:{port}", "--certificates", certificates, "--state", folder / "state")
        forks = multiprocessing.get_context("forkserver")
        mortal = forks.Process(target=mortal_device.live_all, args=([*map(str, arguments)],), daemon=True)
        mortal.start()
        try:
            for client in range(2):
                servers.attend(port, client)
            code, said = servers.wait()
            assert code == 0, said
            mortal.join(30.0)
            ended = mortal.exitcode
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(mortal.pid, signal.SIGKILL)
            mortal.join()
    return assert_right_model(recipe, servers.out), ended


@BOTH
def test_a_device_that_dies_before_during_and_after_its_step_comes_back_and_goes_on_with_a_full_disk(
    tmp_path, monkeypatch, system
):
    """A process each time. That nobody reads its log and its state cannot be written costs the round nothing."""
    monkeypatch.setattr(device, "Stream", Patient)
    for heard_s in HEARD_S:
        folder = tmp_path / f"{heard_s}" / "state"
        records, ended = met_by_a_mortal_device(recipe_of(system, num_clients=3, rounds=10), folder.parent, heard_s)
        all_lost = ((record["round"], one) for record in records for one in record["lost"])
        lost = [(i, one["why"]) for i, one in all_lost if one["client"] == 2 and not one["why"].endswith("is away")]
        if (ended, len(lost)) == (0, len(mortal_device.LIVES)):
            break
    assert ended == 0
    assert len(lost) == len(mortal_device.LIVES), lost
    before, during, after, full = (records[index] for index, _ in lost)
    assert [record["active_K"][2] for record in (before, during, after, full)] == [False, system == "split", True, True]
    assert lost[2][1] == "client 2 did not report on the end of the round"
    words = f"cannot write {folder}: file too large; free some space, what it kept before is still there"
    assert lost[3][1] == f"client 2 reports: {words}"
    assert all(record["active_K"][2] for record in records[full["round"] :])
    assert full["measured"]["phases"]["client_forward_s"][2] > 0
    assert sorted(path.name for path in folder.glob("state-*")) == [f"state-0000{n}.safetensors" for n in ("09", "10")]


def test_servers_whose_disk_is_full_say_so_in_a_sentence_and_go_on_from_there(servers):
    """Nothing of the size of a checkpoint can be written; the devices wait until the servers are back."""
    recipe = recipe_of("uncut", num_clients=2, rounds=2)
    port = servers.start(recipe)
    resource.prlimit(servers.process.pid, resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))
    for client in range(2):
        servers.attend(port, client)
    code, said = servers.wait()
    assert code == 2, (code, said)
    *_, sentence = said.strip().splitlines()  # after the progress
    assert sentence.startswith("wavetune: ")
    assert "run" in sentence
    assert "Traceback" not in said
    servers.port.unlink()
    servers.start(None, port=port)
    code, said = servers.wait()
    assert code == 0, said
    assert all(record["lost"] == [] for record in assert_right_model(recipe, servers.out))
