"""The image, the compose file and the units of deploy/ start what wavetune takes, without rights they do not need."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from helpers.printed_commands import parsed

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
UNITS = sorted(DEPLOY.glob("*.service"))


def lines(instruction):
    return [line.removeprefix(instruction).strip() for line in DOCKERFILE if line.startswith(f"{instruction} ")]


def with_values(text):
    """A text of the compose file with its variables at their defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_every_service_starts_a_command_that_wavetune_takes():
    for service in SERVICES.values():
        assert parsed([with_values(word) for word in service["command"]])
    assert {service["command"][0] for service in SERVICES.values()} == {"certificates", "serve", "device"}


def test_commands_of_compose_on_the_page_are_ones_that_wavetune_takes():
    shown = re.findall(r"`docker compose run --rm --use-aliases --service-ports servers ([^`]+)`", (
        ROOT / "docs" / "containers.md").read_text())  # fmt: skip
    assert shown
    for command in shown:
        assert parsed(shlex.split(command))


def test_services_have_no_rights_and_no_port_beyond_this_machine():
    for service in SERVICES.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["user"].startswith("${WAVETUNE_USER:?")
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_a_device_sees_its_own_keys_alone():
    for name, service in SERVICES.items():
        mounted = [place.split(":")[0] for place in service["volumes"] if "certificates" in place]
        assert mounted == (
            [f"./state/certificates/{name.replace('servers', 'server')}"] if name != "certificates" else []
        )


def test_the_image_is_of_a_named_version_runs_as_nobody_and_installs_what_is_pinned():
    assert all(re.fullmatch(r"python:3\.\d+-slim( AS \w+)?", image) for image in lines("FROM"))
    assert lines("USER") == ["10001"]
    assert DOCKERFILE.index("USER 10001") < DOCKERFILE.index('ENTRYPOINT ["wavetune"]')
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for run in lines("RUN"):
        if "pip" in run:
            assert "--no-cache-dir" in run
            assert "--no-deps" in run or "-c /wheels/constraints.txt" in run
            assert all(extra in extras for extra in re.findall(r"\)\[(\w+)\]", run))
    copied = [word for line in lines("COPY") if "--from" not in line for word in line.split()[:-1]]
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert all((ROOT / word).exists() and f"!{word}" in kept for word in copied)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_a_command_that_wavetune_takes_as_a_user_of_its_own(unit):
    text = unit.read_text().replace("\\\n", " ")
    [command] = re.findall(r"/opt/wavetune/bin/wavetune ([^'\n]+)", text)
    for given in ("--resume", re.search(r'RUN="(.*)"', text)[1]) if "$$@" in command else ("",):
        assert parsed(shlex.split(command.replace('"$$@"', given).replace("${SERVERS}", "edge:7443")))
    assert "User=wavetune" in text
    assert "NoNewPrivileges=yes" in text


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_the_unit(unit, tmp_path):
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        pytest.skip("systemd-analyze is not on this machine")
    installed = tmp_path / unit.name
    installed.write_text(unit.read_text().replace("/opt/wavetune/bin/wavetune", "/bin/true"))
    done = subprocess.run([verifier, "verify", "--man=no", installed], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
