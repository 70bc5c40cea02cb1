"""What the pages for those who come from elsewhere show of wavetune runs, and what they show of Flower exists."""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

import wavetune as wt

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(DOCS.glob("coming-from-*.md"))


def programs(page):
    return re.findall(r"(?ms)^```python[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"))


OURS = [(page.stem, program) for page in PAGES for program in programs(page) if "import wavetune" in program]
SMALL = (
    '"run.rounds=1", "run.local_steps=1", "run.samples=0", "world.data.train_samples=60", "world.data.max_tokens=64", '
)


def at_smallest_size(program):
    """The program with the tiny model and one round."""
    program = re.sub(r'model="[^"]*"', 'model="tiny"', program)
    program = re.sub(r'"run\.(rounds|local_steps)=\d+"', r'"run.\1=1"', program)
    return re.sub(r'("fedavg_lora", )', rf"\1{SMALL}", program)


def test_each_page_shows_a_program_of_ours():
    assert len({page for page, _ in OURS}) == len(PAGES) == 3


@pytest.mark.parametrize(("page", "program"), OURS)
def test_what_a_page_shows_of_wavetune_runs(page, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    takes = inspect.signature(wt.deploy)  # which starts processes: test_examples.py and test_tutorials.py do so
    monkeypatch.setattr(wt, "deploy", lambda *a, **k: takes.bind(*a, **k) and wt.load_run("runs/one-process"))
    rows = [{"prompt": f"say {i}", "completion": f"it is {i}"} for i in range(12)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    exec(compile(at_smallest_size(program), page, "exec"), {"__name__": "__main__"})


def test_what_a_page_imports_of_flower_is_there():
    for program in programs(DOCS / "coming-from-flower.md"):
        for line in ast.walk(ast.parse(program)):
            if isinstance(line, ast.ImportFrom) and line.module and line.module.startswith("flwr"):
                module = importlib.import_module(line.module)
                assert all(hasattr(module, name.name) for name in line.names)
