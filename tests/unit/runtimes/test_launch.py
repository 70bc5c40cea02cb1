"""The processes that a deployed run starts."""

import stat
import sys

from wavetune.console import COMMAND, given_command
from wavetune.runtimes.launch import Party


def test_a_process_that_was_started_knows_the_users_command_and_only_its_owner_reads_its_log(tmp_path, monkeypatch):
    monkeypatch.delenv(COMMAND, raising=False)
    monkeypatch.setattr(sys, "argv", ["/somewhere/wavetune", "deploy", "sflllm", "--out", "a folder"])
    program = "from wavetune.console import given_command; print(given_command())"
    party = Party("a device", ["device"], tmp_path / "log.txt", (sys.executable, "-c", program))
    party.start()
    party.process.wait()
    party.stop()
    assert (tmp_path / "log.txt").read_text() == "wavetune deploy sflllm --out 'a folder'\n" == given_command() + "\n"
    assert stat.S_IMODE((tmp_path / "log.txt").stat().st_mode) == 0o600
