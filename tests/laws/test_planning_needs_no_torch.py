"""Planning imports NumPy and SciPy only, and the commands that plan or show answer where torch cannot be imported."""

import json
import os
import subprocess
import sys

import pytest

from helpers.command_line import settings
from helpers.runs import small, train
from helpers.training import folder_of

HEAVY = ("torch", "transformers", "peft")

BLOCKED = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocked())
"""

COMMANDS = """
import contextlib, io, json
from wavetune.cli import main

answers = []
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:], out = arguments, io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as end:
            answers.append((int(end.code or 0), out.getvalue()))
print(json.dumps(answers))
"""


def python(code, *arguments):
    """Standard output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planned") / "run"
    train(small("sflllm", "run.rounds=1", "run.samples=0"), folder)
    return folder


def test_commands_that_plan_show_or_explain_answer_without_torch(run_folder, tmp_path):
    folder_of("tiny")  # in the cache, so that its tokens are counted
    small_job = settings()
    int8 = {"activation": {"kind": "int8"}, "gradient": {"kind": "bf16"}, "rounds_factor": 1.1}
    (tmp_path / "codecs.json").write_text(json.dumps({"candidates": [int8]}))
    commands = [
        ["--help"],
        ["run", "--help"],
        ["recipes"],
        ["show", "sflllm"],
        ["plan", "sflllm", *small_job],
        ["plan", "sflllm", *small_job, "--json", "-"],
        ["plan", "sflllm", "--model", "qwen2.5-0.5b", "--set", "world.data.train_samples=100"],
        ["plan", "fedavg_lora", *small_job],
        ["plan", "centralised_lora", *small_job],
        ["plan", "split_lora_sequential", *small_job, "--set", "world.data.template.kind=instruction"],
        ["plan", str(run_folder / "instance.json")],
        ["plan", str(run_folder / "recipe.json"), "--json", str(tmp_path / "plan.json")],
        ["trade-off", "sflllm", *small_job, "--points", "3", "--out", str(tmp_path / "curve")],
        ["plan", "sflllm", *small_job, "--codec-table", str(tmp_path / "codecs.json")],
        ["report", str(run_folder), "--out", str(tmp_path / "report.html")],
    ]
    answers = json.loads(python(BLOCKED + COMMANDS, json.dumps(commands)))
    for command, (code, out) in zip(commands, answers, strict=True):
        assert code == 0, (command, out)
        assert out.strip(), command
    assert json.loads(answers[5][1])["status"] == "ok"
    planned = json.loads((tmp_path / "plan.json").read_text())
    followed = json.loads((run_folder / "plan.json").read_text())
    assert planned == followed


def test_the_block_itself_works():
    code = BLOCKED + "\ntry:\n    import torch\nexcept ImportError as error:\n    print(error)"
    assert python(code).strip() == "torch is blocked"


def test_every_module_of_the_planning_packages_imports_without_torch():
    code = f"""{BLOCKED}
import importlib, pkgutil
for name in ("wireless", "costs", "allocation"):
    package = importlib.import_module(f"wavetune.{{name}}")
    names = [m.name for m in pkgutil.walk_packages(package.__path__, f"wavetune.{{name}}.")]
    for module in names:
        importlib.import_module(module)
    assert len(names) > 3, name
print([m for m in ("pydantic", "rich", "typer", "pandas", "datasets") if m in sys.modules])
"""
    assert python(code).strip() == "[]"


def test_data_models_and_parts_of_methods_are_described_without_torch():
    """A recipe is read, a model is looked up and rewards and objectives are set where torch cannot be imported."""
    code = f"""{BLOCKED}
import wavetune.data.settings
print([m for m in ("datasets", "pydantic") if m in sys.modules])
import wavetune.runtimes.ray_worker  # which Ray imports before there can be light imports
import wavetune.federation.rewards, wavetune.models.resolve, wavetune.recipe
from wavetune.federation.objectives import Dpo, Grpo, Ppo
Ppo(), Grpo(), Dpo()
"""
    assert python(code).strip() == "[]"


def test_help_imports_nothing_heavy():
    code = "import sys\nfrom wavetune import cli\nprint([m for m in sys.modules if m.partition('.')[0] in " + repr(
        (*HEAVY, "numpy", "scipy", "numba", "pydantic", "matplotlib", "email", "zipfile")
    )
    assert python(code + "])").strip() == "[]"


def test_a_plan_imports_no_corpus_that_was_counted_and_no_channels_beside_that_of_its_recipe():
    beside = ("wavetune.data.concierge", "wavetune.data.restaurants", "wavetune.wireless.channels.trace")
    code = f"{BLOCKED}{COMMANDS}\nprint([m for m in {beside} if m in sys.modules])"
    command = json.dumps([["plan", "sflllm", *settings()]])
    python(code, command)  # which counts the rows and keeps the count
    planned, loaded = python(code, command).splitlines()
    assert "what would help" in planned
    assert loaded == "[]"
