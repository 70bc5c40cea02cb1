"""A run that is watched: what the page says at every moment of a run, and to whom."""

import json
import os
import re
import signal
import socket
import threading
import time
from http.client import HTTPConnection

import pytest
from browser import browser, executable

from helpers.command_line import assert_refused, wavetune
from helpers.page import HOSTILE, rewrite_rounds
from wavetune.errors import ConfigError, DeploymentError
from wavetune.federation.folder_lock import is_held, locked
from wavetune.local_http import served
from wavetune.records.devices import Devices, SeenDevice
from wavetune.records.fields import as_json
from wavetune.reporting.watch import Watch
from wavetune.runtimes.flower.launch import free_ports


def answer(address, path="/", method="GET", **headers):
    host = address.removeprefix("http://").rstrip("/")
    connection = HTTPConnection(host, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode(), dict(response.getheaders())
    finally:
        connection.close()


def unfinished(folder, rounds_done=3):
    """Leave of a finished run what it had after some rounds."""
    for name in ("summary.json", "samples.json"):
        (folder / name).unlink(missing_ok=True)
    rewrite_rounds(folder, lambda lines: lines.__delitem__(slice(rounds_done, None)))
    return folder


def see(folder, *devices, **fields):
    (folder / "devices.json").write_text(json.dumps(as_json(Devices(devices=devices, **fields))))


def test_a_run_that_has_not_begun_is_waited_for_and_shown_once_it_has(make_run, tmp_path):
    with served(Watch(tmp_path / "run").pages(), 0) as address:
        status, page, _ = answer(address)
        before = json.loads(answer(address, "/live")[1])
        assert status == 200
        assert "not begun" in page
        assert "as soon as there are records" in page
        make_run("run", rounds=2)
        after = json.loads(answer(address, "/live")[1])
        assert before["version"] != after["version"]
        assert "finished" in after["html"]
        assert "Perplexity fell" in answer(address)[1]


def test_a_run_that_goes_on_tells_how_far_it_is_and_how_long_it_still_takes(make_run):
    folder = unfinished(make_run(rounds=12), 3)
    rewrite_rounds(folder, lambda lines: [line.update(wall_s=10.0) for line in lines])
    with locked(folder):
        live, run = Watch(folder).look()
    assert run is not None
    assert (live.state, live.done, live.total) == ("running", 3, 12)
    assert dict(live.facts)["Left"] == "about 1 min 30 s"
    assert live.phases_title == "Where the simulated time goes: mean of 3 rounds"
    assert sum(share for _, _, share in live.phases) == pytest.approx(1.0)
    stopped = Watch(folder).look()[0]
    assert stopped.state == "stopped"
    assert "nothing is at work" in stopped.words
    assert "Left" not in dict(stopped.facts)


def test_who_is_here_and_who_is_lost_is_told_of_a_deployed_run(make_run):
    folder = unfinished(make_run(clients=3, rounds=3), 2)
    here, away = (
        SeenDevice(0, "device-00", True),
        SeenDevice(1, "device-01", False, "2020-01-01T00:00:00+00:00", 1, "left"),
    )
    see(folder, here, away, SeenDevice(2, "device-02"))
    phases = {name: [1.0, 3.0] for name in ("client_forward_s", "uplink_s", "downlink_s", "client_backward_s")}
    phases |= {
        "fed_upload_s": [0.0, 0.5],
        "fed_download_s": [0.0, 0.0],
        "server_forward_s": 0.5,
        "server_backward_s": 1.0,
    }
    rewrite_rounds(folder, lambda lines: [line.update(measured={"wall_s": 20.0, "phases": phases}) for line in lines])
    with locked(folder):
        live = Watch(folder).look()[0]
    assert [(one.name, one.here) for one in live.devices] == [
        ("device-00", True),
        ("device-01", False),
        ("device-02", False),
    ]
    assert live.devices[1].state.startswith("away for")
    assert live.devices[1].lost == "round 2: left"
    assert live.devices[2].state == "has not come"
    assert dict(live.facts)["Left"] == "about 20.0 s"
    shares = {name: (seconds, share) for name, seconds, share in live.phases}
    assert shares["waiting and the rest"] == ("6.00 s", pytest.approx(0.3))
    assert shares["uplink"] == ("3.00 s", pytest.approx(0.15))
    assert Watch(folder).look()[0].devices[0].state == "the servers are not running"


@pytest.mark.parametrize("damage", ["{", "[]", '{"devices": 3}', '{"devices": [{"client": "x"}]}'])
def test_what_cannot_be_read_is_left_out_of_the_page(make_run, damage):
    folder = make_run(rounds=2)
    (folder / "devices.json").write_text(damage)
    assert Watch(folder).look()[0].devices == ()
    (folder / "recipe.json").write_text("{")
    assert Watch(folder).look()[0].state == "damaged"
    with served(Watch(folder).pages(), 0) as address:
        assert answer(address)[0] == 200


def test_only_two_paths_are_answered_and_no_file_of_the_folder(make_run):
    folder = make_run(rounds=1)
    (folder / "secret.txt").write_text("a secret")
    with served(Watch(folder).pages(), 0) as address:
        for path in (
            "/secret.txt",
            "/recipe.json",
            "/../run/secret.txt",
            "//etc/passwd",
            "/%2e%2e/run/secret.txt",
            "/live/",
        ):
            status, body, _ = answer(address, path)
            assert (status, "secret" in body) == (404, False)
        assert answer(address, "/?from=bookmark")[0] == 200


@pytest.mark.parametrize("host", ["evil.example:80", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", ""])
def test_who_asks_for_another_host_reads_nothing(make_run, host):
    with served(Watch(make_run(rounds=1)).pages(), 0) as address:
        status, body, _ = answer(address, Host=host)
        assert (status, "Perplexity" in body) == (421, False)
        port = address.rstrip("/").rpartition(":")[2]
        assert answer(address, Host=f"LOCALHOST:{port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_but_reading_is_allowed(make_run, method):
    with served(Watch(make_run(rounds=1)).pages(), 0) as address:
        status, _, headers = answer(address, "/", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        status, body, headers = answer(address, "/", "HEAD")
        assert (status, body) == (200, "")
        assert int(headers["Content-Length"]) > 1000
        assert headers["X-Frame-Options"] == "DENY"


def test_names_of_others_stay_text_in_what_goes_on(make_run):
    folder = unfinished(make_run(clients=2, rounds=2), 1)
    see(folder, SeenDevice(0, HOSTILE, False, "", 0, HOSTILE))
    html = json.loads(Watch(folder).now().body)["html"]
    assert "&lt;script&gt;steal()" in html
    assert not re.search(r"<(script|img)", html)


def test_a_port_that_is_taken_or_none_is_refused_in_a_sentence(make_run):
    pages = Watch(make_run(rounds=1)).pages()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(DeploymentError, match="it is in use; choose another --port"),
            served(pages, taken.getsockname()[1]),
        ):
            pass
    with pytest.raises(ConfigError, match="--port is 70000"), served(pages, 70000):
        pass


def test_ctrl_c_ends_a_watch_and_frees_its_port(make_run, tmp_path):
    (port,) = free_ports(1)

    def press():
        end, ready = time.monotonic() + 30.0, False
        while not ready and time.monotonic() < end:
            try:
                ready = answer(f"http://127.0.0.1:{port}/")[0] == 200
            except OSError:
                time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    told = wavetune("watch", make_run(rounds=1), "--port", port)
    pressing.join()
    assert (told.code, told.err) == (0, "")
    assert f"http://127.0.0.1:{port}/ until Ctrl-C" in told.out
    with served({}, port):
        pass
    (tmp_path / "file").touch()
    assert_refused(wavetune("watch", tmp_path / "file"), "is a file")


def test_a_lock_tells_who_is_at_work_and_one_left_over_does_not(tmp_path):
    assert not is_held(tmp_path)
    with locked(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)
    for left in (
        json.dumps({"pid": 99999999999, "host": socket.gethostname()}),
        json.dumps({"pid": "x", "host": socket.gethostname()}),
        "{",
    ):
        (tmp_path / ".lock").write_text(left)
        assert not is_held(tmp_path)
    (tmp_path / ".lock").write_text(json.dumps({"pid": os.getpid(), "host": "another machine"}))
    assert is_held(tmp_path)


@pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on this machine")
def test_in_a_browser_the_page_renews_itself_and_keeps_what_is_open(make_run):
    folder = make_run(clients=3, rounds=6)
    lines = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)
    unfinished(folder, 2)
    with browser() as seen, served(Watch(folder).pages(), 0) as address, locked(folder):
        seen.show(address, 390, 844)
        assert seen.value("document.documentElement.scrollWidth") == 390
        assert seen.until("document.querySelector('#live').textContent.includes('2 of 6')")
        seen.value("document.querySelector('#run0-delay details').open = true")
        (folder / "rounds.jsonl").write_text("".join(lines[:4]))
        assert seen.until("document.querySelector('#live').textContent.includes('4 of 6')")
        assert seen.until("document.querySelector('.lead').textContent.includes('4 rounds')")
        assert seen.value("document.querySelector('#run0-delay details').open")
        assert seen.value("document.querySelectorAll('#main svg title').length") == 0
        assert seen.complaints() == []
