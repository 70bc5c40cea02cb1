import re
import shlex
from pathlib import Path

import pytest

from wavetune import recipes
from wavetune.sweep.axis import QUANTITIES, axis_of
from wavetune.sweep.methods import METHODS

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "figures.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?m)^wavetune sweep .*$", PAGE + (DOCS / "cli.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", COMMANDS)
def test_command_names_a_recipe_and_values_that_exist(command):
    words = shlex.split(command)
    axis_of(words[words.index("--over") + 1], recipes.get(words[2]))


@pytest.mark.parametrize("field", QUANTITIES)
def test_every_quantity_has_its_figure_table_and_command(field):
    assert f"(figures/{field}.svg)" in PAGE
    assert f"wavetune sweep sflllm --over {field}=" in PAGE
    rows = (DOCS / "figures" / f"{field}.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith(f"{field},method,seeds,planned,")
    assert "<svg" in (DOCS / "figures" / f"{field}.svg").read_text(encoding="utf-8")


def test_every_method_is_explained():
    for method in METHODS.values():
        assert f"| {method.title} | {method.note} |" in PAGE
