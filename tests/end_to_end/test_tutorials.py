"""The tutorials' notebooks run, and what they hold as output is what their cells print."""

import json
import math
import re
from pathlib import Path

import notebooks
import pytest

TUTORIALS = sorted((Path(__file__).resolve().parents[2] / "docs" / "tutorials").glob("*.ipynb"))
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def shown(outputs):
    """Texts and kinds of pictures of a cell's outputs."""
    kinds = [kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]
    texts = [output.get("text", output.get("data", {}).get("text/plain", [])) for output in outputs]
    return "".join(line for lines in texts for line in lines), kinds


def assert_alike(printed, stored):
    """The same words, and numbers that differ by no more than other processors' rounding makes of a training."""
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", stored).split()
    for one, other in zip(NUMBER.findall(printed), NUMBER.findall(stored), strict=True):
        assert math.isclose(float(one.replace(",", "")), float(other.replace(",", "")), rel_tol=0.02), (one, other)


def test_there_is_a_tutorial_for_each_kind_of_user():
    assert len(TUTORIALS) == 3


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks by the old name
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_the_cells_of_a_tutorial_print_what_it_shows(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = read(path)
    for cell, outputs in zip(notebooks.code_cells(notebook), notebooks.run(notebook, path.stem), strict=True):
        (printed, kinds), (stored, stored_kinds) = shown(outputs), shown(cell["outputs"])
        assert kinds == stored_kinds
        assert_alike(printed, stored)
