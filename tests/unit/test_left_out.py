"""What a package is imported without is imported in use only, and is there afterwards."""

from __future__ import annotations

import importlib
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
