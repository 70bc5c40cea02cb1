"""Runs notebooks cell by cell in one Python process, without a kernel, and stores what their cells print and show.

python tools/notebooks.py docs/tutorials/*.ipynb
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Output = dict[str, Any]


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that run."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: dict[str, Any], name: str) -> Iterator[list[Output]]:
    """Run all code cells in order in one namespace; yields the outputs of each, as the notebook's format has them."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), 1):
        yield _outputs("".join(cell["source"]), f"{name}, cell {number}", number, names)


def _outputs(source: str, where: str, number: int, names: dict[str, Any]) -> list[Output]:
    lines, shown = ast.parse(source, where).body, None
    last = ast.Expression(lines.pop().value) if lines and isinstance(lines[-1], ast.Expr) else None  # type: ignore
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(lines, []), where, "exec"), names)
        if last is not None:
            shown = eval(compile(last, where, "eval"), names)
    outputs: list[Output] = []
    if printed.getvalue():
        outputs.append(
            {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}
        )
    if shown is not None:
        outputs.append(
            {
                "output_type": "execute_result",
                "execution_count": number,
                "metadata": {},
                "data": _representations(shown),
            }
        )
    return outputs


def _representations(value: Any) -> dict[str, Any]:
    """What a notebook shows of a value: a picture where it has one, else its text."""
    if hasattr(value, "_repr_png_"):
        return {"image/png": base64.b64encode(value._repr_png_()).decode()}
    return {"text/plain": repr(value).splitlines(keepends=True)}


def store(path: Path) -> None:
    """Run a notebook in a temporary folder and write its outputs into it."""
    notebook, here = json.loads(path.read_text(encoding="utf-8")), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for number, (cell, outputs) in enumerate(
                zip(code_cells(notebook), run(notebook, path.name), strict=True), 1
            ):
                cell["outputs"], cell["execution_count"] = outputs, number
        finally:
            os.chdir(here)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for given in sys.argv[1:]:
        store(Path(given))
