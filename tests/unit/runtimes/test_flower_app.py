"""The app that `wavetune flower-app` writes, and what a node and a server make of their configuration."""

import inspect
import re
import runpy
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from flwr.cli.install import install_from_fab
from flwr.common.config import get_fused_config_from_dir
from flwr.supernode import start_client_internal

from helpers.command_line import assert_refused, settings, wavetune
from wavetune.cli.flower_app import _begun_as
from wavetune.errors import ConfigError
from wavetune.federation.folder_lock import locked
from wavetune.models import light_imports
from wavetune.recipe import load, with_settings
from wavetune.recipes import get
from wavetune.runtimes import flower, state_folder
from wavetune.runtimes.flower import process
from wavetune.runtimes.flower.app import PACKAGE, write_app
from wavetune.runtimes.flower.device import client_of
from wavetune.runtimes.flower.launch import _await, free_ports
from wavetune.runtimes.flower.servers import FlowerSettings


@pytest.fixture
def app(tmp_path):
    answer = wavetune(
        "flower-app", "sflllm", *settings(), "--out", tmp_path / "app", "--public", "edge.example.org:7443"
    )
    assert answer.code == 0, answer
    return tmp_path / "app"


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # Flower asks for what pathspec 1 deprecates
def test_flower_takes_the_app_and_carries_its_recipe(app, tmp_path):
    _, warnings = load_and_validate(app / "pyproject.toml")
    assert warnings == []
    installed = install_from_fab(build_fab_from_disk(app), tmp_path / "home", skip_prompt=True)
    recipe = load(installed / PACKAGE / "recipe.json")
    assert recipe == with_settings(get("sflllm"), settings()[1::2])


@pytest.mark.parametrize(
    "name", ["theirs.recipes:mine", 'a "quoted" name of more than thirty-two letters', "Größe \\ 1"]
)
def test_flower_takes_the_app_of_a_recipe_of_any_name(name, tmp_path):
    write_app(tmp_path / "app", replace(get("fedavg_lora"), name=name), {})
    config, _ = load_and_validate(tmp_path / "app" / "pyproject.toml")
    assert re.fullmatch(r"wavetune-[a-zA-Z0-9-]{1,23}", config["project"]["name"])
    assert name in config["project"]["description"]


def test_a_devices_process_leaves_out_what_it_does_not_need_before_it_imports_the_rest(app, monkeypatch):
    device, imported = "wavetune.runtimes.flower.device", []
    monkeypatch.setattr(flower, "device", flower.device)  # so that it is again what it was
    monkeypatch.delitem(sys.modules, device)
    monkeypatch.setattr(process, "end_with_parent", lambda: None)
    monkeypatch.setattr(light_imports, "install", lambda: imported.append(device in sys.modules))
    assert type(runpy.run_path(str(app / PACKAGE / "client_app.py"))["app"]).__name__ == "ClientApp"
    assert imported == [False]


INTRODUCED = """
import sys
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from wavetune.data_plane.messages_pb2 import Attend
from wavetune.runtimes.flower.device import introduce
from wavetune.runtimes.flower.messages import unpack

TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
query = Message(RecordDict(), 7, MessageType.QUERY)
reply = introduce(query, Context(1, 7, {"partition-id": 2, "state": sys.argv[1]}, RecordDict(), {}, 0))
attend = Attend.FromString(unpack(reply.content)["attend"])
print(attend.client, attend.run, list(attend.states), len(attend.process), "torch" in sys.modules)
"""


def test_a_device_says_who_it_is_and_what_it_kept_without_pytorch(tmp_path):
    states = {done: {"t": torch.ones(1)} for done in (2, 3)}
    for done in states:
        state_folder.write(tmp_path, "aa01", done, states)
    process = subprocess.run([sys.executable, "-c", INTRODUCED, tmp_path], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["2", "aa01", "[2,", "3]", "8", "False"]


def test_configuration_is_what_flower_reads_with_what_the_run_overrides(app):
    found = FlowerSettings.of(get_fused_config_from_dir(app, {"deadline": 30, "out": "elsewhere"}))
    assert (found.public_address, found.deadline_s, str(found.out)) == ("edge.example.org:7443", 30.0, "elsewhere")
    assert not found.emulate


@pytest.mark.parametrize(
    ("config", "words"),
    [({"deadline": "soon"}, "deadline"), ({"deadline": True}, "deadline"), ({"public-address": "edge"}, "HOST:PORT")],
)
def test_wrong_settings_are_named(config, words):
    with pytest.raises(ConfigError, match=words):
        FlowerSettings.of(config)


@pytest.mark.parametrize("config", [{}, {"partition-id": "0"}, {"partition-id": -1}])
def test_a_node_that_does_not_say_which_client_it_is_learns_how_to(config):
    with pytest.raises(ConfigError, match="--node-config"):
        client_of(Context(1, 2, config, RecordDict(), {}))


def test_an_app_does_not_replace_another_folder(tmp_path):
    (tmp_path / "thesis.md").write_text("years of work")
    assert_refused(wavetune("flower-app", "sflllm", *settings(), "--out", tmp_path), "holds no app")


def test_ports_for_processes_that_start_later_are_none_that_a_connection_may_take_before():
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first_of_connections = int(given.read_text().split()[0]) if given.exists() else 32_768
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        assert 1024 <= port < first_of_connections
        socket.create_server(("127.0.0.1", port)).close()


def test_an_app_goes_on_in_the_run_of_its_own_recipe_whose_template_may_say_more_and_in_no_other():
    asked = get("sflllm")
    kept = with_settings(asked, ["world.data.template=plain", "world.data.template.separator=\n"])
    assert _begun_as(kept, asked)
    for other in ("run.seed=5", "world.data.template=instruction", "world.data.template.separator=:"):
        assert not _begun_as(kept, with_settings(asked, [other]))


def test_an_app_waits_until_the_one_before_has_let_go_of_the_folder(tmp_path):
    waited = threading.Event()
    waiting = threading.Thread(target=lambda: (_await(tmp_path), waited.set()))
    with locked(tmp_path):
        waiting.start()
        assert not waited.wait(0.3)
    waiting.join(60)
    assert waited.is_set()


def test_a_supernode_of_this_machine_asks_for_a_message_again_soon(monkeypatch):
    assert "time.sleep(3)" in inspect.getsource(start_client_internal)
    waits = []
    monkeypatch.setattr(start_client_internal, "time", time)
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setenv("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "1")
    process.ask_often()
    for seconds in (3, 0.1):
        start_client_internal.time.sleep(seconds)
    assert waits == [0.5, 0.1]
