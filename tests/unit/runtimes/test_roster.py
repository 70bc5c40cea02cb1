"""Who is here: what servers write of their devices while they run, what probes are told, and what nobody is told."""

import json
import logging
import re
import socket
import time
from contextlib import ExitStack
from http.client import HTTPConnection

import pytest

from helpers.command_line import assert_refused, settings, wavetune
from helpers.deployment import run_deployed
from helpers.runs import Silent, small
from wavetune import local_http
from wavetune.data_plane.certificates import Authority, write_certificates
from wavetune.federation.folder_lock import locked
from wavetune.local_http import served
from wavetune.logs import LOG
from wavetune.reporting.live import read_devices
from wavetune.runtimes import roster as looks
from wavetune.runtimes.flower.launch import free_ports
from wavetune.runtimes.roster import Roster, Sight


def told(roster, path):
    answer = roster.pages()[path]()
    return answer.status, json.loads(answer.body)


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def test_a_roster_remembers_when_a_device_left_and_why_it_was_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(looks, "_LOOK_S", 0.02)
    sights = [Sight()]
    roster = Roster()
    assert told(roster, "/ready") == (503, {"ready": False})
    assert told(roster, "/live") == (200, {"live": True})
    with roster.kept(tmp_path, "127.0.0.1:7443", 2, 5, lambda: sights[-1]):
        assert until(lambda: read_devices(tmp_path) is not None)
        sights.append(Sight(frozenset({0, 1}), 0))
        assert until(lambda: all(one.connected for one in read_devices(tmp_path).devices))
        assert told(roster, "/ready")[1]["devices"] == {"connected": 2, "of": 2}
        sights.append(Sight(frozenset({1}), 3, {0: "client 0 left"}, ("device-07: unknown",)))
        assert until(lambda: not read_devices(tmp_path).devices[0].connected)
        sights.append(Sight(frozenset({0, 1}), 4, {}, ("device-07: unknown",)))
        assert until(lambda: read_devices(tmp_path).round == 4)
        first, second = read_devices(tmp_path).devices
        assert (first.certificate, first.lost_in_round, first.lost_why) == ("device-00", 3, "client 0 left")
        assert first.connected
        assert first.last_seen
        assert (second.lost_in_round, second.last_seen) == (None, "")
        assert read_devices(tmp_path).refused == ("device-07: unknown",)
        with served(roster.pages(), 0) as address:
            assert address.startswith("http://127.0.0.1:")
        assert "device" not in re.sub('"devices"', "", roster.pages()["/ready"]().body)
    assert not any(one.connected for one in read_devices(tmp_path).devices)
    assert told(roster, "/ready")[0] == 503


def test_a_roster_on_a_full_disk_does_not_stop_the_servers(tmp_path):
    (tmp_path / "devices.json").mkdir()
    with Roster().kept(tmp_path, "here", 1, 1, Sight):
        pass


@pytest.fixture(scope="module")
def served_run(tmp_path_factory):
    """A deployed run, what was said meanwhile at every level, and the folder of its certificates."""
    folder, lines = tmp_path_factory.mktemp("roster"), []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(f"{record.getMessage()} {vars(record)}")
    level = LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.DEBUG)
    try:
        run_deployed(small("sflllm"), folder / "run", folder / "certificates", Silent())
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
    return folder, lines


def test_servers_write_who_came_and_the_command_says_it(served_run):
    folder, _ = served_run
    asked = json.loads(wavetune("devices", folder / "run", "--json").out)
    assert asked["servers_running"] is False
    assert [one["certificate"] for one in asked["devices"]] == ["device-00", "device-01", "device-02"]
    assert all(one["last_seen"] for one in asked["devices"])
    with locked(folder / "run"):
        words = wavetune("devices", folder / "run").out
    assert "servers at 127.0.0.1:" in words
    assert re.search(r"device-00  away for \d", words)
    assert "servers not running" in wavetune("devices", folder / "run").out


def test_neither_log_nor_file_holds_a_secret(served_run):
    folder, lines = served_run
    secrets = [
        line
        for path in (folder / "certificates").rglob("*key*.pem")
        for line in path.read_text().splitlines()
        if not line.startswith("-----")
    ]
    said = "\n".join(lines) + (folder / "run" / "devices.json").read_text()
    assert "device-00 is here" in said
    assert len(secrets) > 10
    assert not [secret for secret in secrets if secret in said]
    assert "PRIVATE KEY" not in said


def test_serve_answers_probes_on_this_machine_before_anything_is_loaded(tmp_path, monkeypatch):
    (port,) = free_ports(1)
    answers = []

    def probe(*_):
        for path in ("/ready", "/live", "/devices"):
            connection = HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path)
            answers.append(connection.getresponse().status)
            connection.close()

    monkeypatch.setattr("wavetune.cli.serve.train", probe)
    write_certificates(tmp_path / "c", 3)
    own = ("--certificates", tmp_path / "c" / "server", "--address", "127.0.0.1:0", "--out", tmp_path / "run")
    told = wavetune("serve", "sflllm", *settings(), *own, "--health", port)
    assert (told.code, answers) == (0, [503, 200, 404]), told.err
    assert f"health at http://127.0.0.1:{port}/live" in told.err
    assert_refused(wavetune("serve", "sflllm", *settings(), *own, "--health", 70000), "--health is 70000")
    assert_refused(wavetune("serve", "sflllm", *settings(), *own, "--health", "a:b"), "not an address")


def test_a_run_without_devices_and_a_folder_without_a_run_are_refused(tmp_path):
    assert_refused(wavetune("devices", tmp_path), "no servers have written in", "wavetune serve")


def test_a_device_is_revoked_and_another_let_in_while_servers_run(tmp_path):
    """As an operator does it: the authority revokes and adds, the list lies in the servers' folder."""
    from cryptography.x509 import load_pem_x509_certificate

    from wavetune.data_plane.certificates import Revoked, read_identity

    write_certificates(tmp_path / "c", 2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pem")}
    identity = read_identity(tmp_path / "c" / "server")
    revoked = Revoked(tmp_path / "c" / "server", load_pem_x509_certificate(identity.authority))
    old = load_pem_x509_certificate(read_identity(tmp_path / "c" / "device-01").certificate).serial_number
    assert not revoked(old)
    authority = Authority.read(tmp_path / "c")
    authority.revoke("device-01")
    authority.renew("device-01")
    new = load_pem_x509_certificate(read_identity(tmp_path / "c" / "device-01").certificate).serial_number
    assert until(lambda: revoked(old))
    assert not revoked(new)
    others = {path: content for path, content in before.items() if "device-01" not in str(path)}
    assert {path: path.read_bytes() for path in others} == others


def test_connections_that_say_nothing_do_not_keep_a_probe_from_its_answer(monkeypatch):
    """Of too many the oldest end, so that who holds thousands holds no more threads and files than a few."""
    monkeypatch.setattr(local_http._Handler, "timeout", 60.0)
    with served(Roster().pages(), 0) as address, ExitStack() as held:
        host, port = address.removeprefix("http://").removesuffix("/").split(":")
        silent = [held.enter_context(socket.create_connection((host, int(port)), 20.0)) for _ in range(33)]
        assert silent[0].recv(1) == b""
        probe = HTTPConnection(host, int(port), timeout=20.0)
        probe.request("GET", "/live")
        assert probe.getresponse().status == 200
        probe.close()
