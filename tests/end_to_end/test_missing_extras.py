"""A command whose extra is not installed says which one it needs."""

import json
import subprocess
import sys

COMMANDS = [
    ["deploy", "sflllm", "--model", "tiny"],
    ["serve", "sflllm", "--model", "tiny"],
    ["device", "edge.example.org:7443", "--certificates", "device-00"],
    ["certificates", "certificates", "--devices", "1"],
]
PROGRAM = """
import json, sys
sys.modules["grpc"] = None  # as where it is not installed
from wavetune.cli import main
for sys.argv in json.loads(sys.argv[1]):
    try:
        main()
    except SystemExit as end:
        print(end.code)
"""


def test_what_is_deployed_names_its_extra_and_leaves_nothing_behind(tmp_path):
    given = json.dumps([["wavetune", *command] for command in COMMANDS])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, given], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["2"] * len(COMMANDS), done.stderr
    assert done.stderr.count("wavetune[deploy]") == len(COMMANDS)
    assert not list(tmp_path.iterdir())
