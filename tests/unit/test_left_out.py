"""What a package is imported without is imported in use only, and is there afterwards."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wavetune.left_out import Finder


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "lt_heavy").mkdir()
    (tmp_path / "lt_heavy" / "__init__.py").write_text("")
    (tmp_path / "lt_heavy" / "tools.py").write_text("class Tool:\n    size = 3\n\ndef double(x):\n    return 2 * x\n")
    (tmp_path / "lt_core.py").write_text(
        "import lt_heavy\nfrom lt_heavy.tools import Tool, double\n"
        "def is_tool(x: Tool | None):\n    return isinstance(x, Tool)\n"
    )
    (tmp_path / "lt_eager.py").write_text(
        "from lt_heavy.tools import Tool, double\nclass Own(Tool):\n    pass\nSIX = double(3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [Finder(["lt_core", "lt_eager"], ["lt_heavy"]), *sys.meta_path])
    yield
    for name in [name for name in sys.modules if name.startswith("lt_")]:
        del sys.modules[name]


@pytest.mark.usefixtures("packages")
def test_what_is_left_out_is_imported_in_use_only_and_then_in_earnest() -> None:
    core = importlib.import_module("lt_core")
    assert not core.is_tool(3)
    assert "lt_heavy" not in sys.modules
    assert core.double(4) == 8
    assert core.Tool.size == 3
    assert core.is_tool(importlib.import_module("lt_heavy.tools").Tool())
    assert not core.is_tool(3)


@pytest.mark.usefixtures("packages")
def test_what_the_core_itself_uses_while_it_is_imported_is_there() -> None:
    eager = importlib.import_module("lt_eager")
    assert eager.SIX == 6
    assert eager.Own.size == 3


@pytest.mark.usefixtures("packages")
def test_what_is_imported_already_is_used_as_it_is() -> None:
    tools = importlib.import_module("lt_heavy.tools")
    assert importlib.import_module("lt_core").Tool is tools.Tool


SEARCHES = """
import sys
import numpy as np
import wavetune.cli
from scipy import optimize
from scipy.optimize import _remove_redundancy

LEFT_OUT = (
    "numpy.f2py", "numpy.ma", "numpy.testing", "scipy.special", "scipy.spatial", "scipy.linalg.interpolative"
)
print([name for name in LEFT_OUT if name in sys.modules])
for search in (optimize.shgo, optimize.dual_annealing):
    print(search(lambda x: ((x - 1) ** 2).sum(), [(0.0, 3.0)] * 2).x.round(2).tolist())
print(_remove_redundancy.interp_decomp(np.ones((3, 2)), 1)[0].shape)
print(np.ma.array([1, 2], mask=[True, False]).count(), np.testing.__name__, np.f2py.__name__)
print([name for name in LEFT_OUT if name not in sys.modules])
"""


def test_commands_leave_out_of_scipy_what_plans_do_not_need_and_all_of_it_can_be_used() -> None:
    done = subprocess.run([sys.executable, "-c", SEARCHES], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[]", "[1.0, 1.0]", "[1.0, 1.0]", "(2,)", "1 numpy.testing numpy.f2py", "[]"
    ]  # fmt: skip
