"""The wheel holds all that the package needs, and works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def call(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the unpacked wheel of a copy of this checkout."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    call(sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('..')", cwd=tree)
    [wheel] = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    shutil.rmtree(tree)
    return folder / "site"


def test_all_files_of_the_package_are_in_the_wheel(installed):
    there = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    files = [
        path for path in (ROOT / "src" / "wavetune").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    wanted = {path.relative_to(ROOT / "src") for path in files if path.suffix != ".proto"}  # its Python is there
    assert wanted <= there, sorted(map(str, wanted - there))
    [entry] = installed.glob("*.dist-info/entry_points.txt")
    assert "wavetune = wavetune.cli:main" in entry.read_text()


def test_the_wheel_plans_without_a_checkout_and_serves_an_example(installed, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "PYTHONWARNINGS": "ignore",
        "NUMBA_DISABLE_JIT": "1",
    }  # nothing is compiled there yet
    shutil.copy(ROOT / "examples" / "plan_your_cell.py", tmp_path)
    program = (
        "import sys, wavetune, plan_your_cell; from wavetune.cli import main; print(wavetune.__file__);"
        "sys.argv = ['wavetune', 'plan', 'cre', '--model', 'tiny', '--json', 'plan.json',"
        "'--set', 'world.scenario.population.num_clients=2', '--set', 'world.data.train_samples=20']; main()"
    )
    told = call(sys.executable, "-c", program, cwd=tmp_path, env=environment)
    assert told.splitlines()[0].startswith(str(installed))
    assert (tmp_path / "plan.json").exists()
