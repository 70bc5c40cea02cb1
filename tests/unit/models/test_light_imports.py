"""Transformers is opened without what no model here needs, and what was left out can be imported afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wavetune.models import import_names
from wavetune.models.import_names import kept_names

HEAVY = [
    "accelerate",
    "peft",
    "scipy.optimize",
    "sympy",
    "torch._decomp",
    "torch._dynamo",
    "torch.distributed._functional_collectives",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
]


def test_a_fork_opens_a_model_without_compilers_and_optimisers_that_can_be_imported_afterwards() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _OPEN.format(heavy=HEAVY)], capture_output=True, text=True, timeout=300, check=False
    )
    assert said.stdout.splitlines() == ["as it is", "[]", "[0, 0, 0, 0]", "[1, 0]", "[1, 0]", "(3, 2)", "flipped 2"], (
        said
    )


def test_a_process_of_wavetune_alone_looks_for_garbage_less_often_and_not_at_its_end() -> None:
    code = "import gc; from wavetune.models import light_imports; {}print(gc.get_threshold()[0] > 10_000)\n"
    code += "class Cycle:\n    def __del__(self): print('collected')\none = Cycle(); one.itself = one"
    for installs, told in (("", ["False", "collected"]), ("light_imports.install(); ", ["True"])):
        said = subprocess.run(
            [sys.executable, "-c", code.format(installs)], capture_output=True, text=True, timeout=300, check=True
        )
        assert said.stdout.split() == told


_OPEN = """
import os
import sys
before = [*sys.meta_path]
from wavetune.models.resolve import resolve_model
from wavetune.models import light_imports
print("as it is" if sys.meta_path == before and "transformers.modeling_utils" not in sys.modules else "changed")
import wavetune.runtimes.loaded
from wavetune.models.stock import load_stock_model
load_stock_model(resolve_model("tiny").folder)
import torch
from wavetune.models.ragged import reach
reach(causal=False).seen(torch.arange(2)[:, None], torch.arange(3))
torch.Generator().manual_seed(1)  # which asks for what PyTorch's compiler sets
print([name for name in {heavy} if name in sys.modules])
def imported(name):
    if (child := os.fork()) == 0:
        __import__(name)
        os._exit(0)
    return os.waitpid(child, 0)[1]
print([imported(name) for name in light_imports.AFTER_IT])
import scipy.optimize
from transformers.loss import loss_for_object_detection
print(scipy.optimize.linear_sum_assignment([[2, 1], [1, 2]])[1].tolist())
print(loss_for_object_detection.linear_sum_assignment([[2, 1], [1, 2]])[1].tolist(), flush=True)
if os.fork() == 0:
    print(tuple(torch.broadcast_shapes((2,), (3, 1))), flush=True)  # which asks torch for one of them by its name
    os._exit(0)
os.wait()
from transformers import LlamaModel
build = LlamaModel.__init__
def build_with_a_flip(self, config):  # which has no kernel without storage outside of Python
    build(self, config)
    self.flipped = torch.ones(2).flip(0)
LlamaModel.__init__ = build_with_a_flip
model = load_stock_model(resolve_model("tiny").folder, thin=lambda _model: None)
print("flipped", len(model.model.flipped))
"""


def test_names_of_models_are_read_once_for_each_state_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "models"
    (folder / "llama").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "llama" / "modeling.py").write_text("first")
    names = {frozenset[str](): {"llama.modeling": {"A", "B"}}, frozenset({"torch"}): {"llama.other": {"C"}}}
    asked: list[str] = []

    def read(path: str) -> dict[frozenset[str], dict[str, set[str]]]:
        asked.append(path)
        return names

    def known() -> object:
        import_names._of.cache_clear()  # as another process begins
        under = kept_names(read, folder, prefix="models")
        assert list(under.values()) == [{"models.llama.modeling": {"A", "B"}}, {"models.llama.other": {"C"}}]
        under[frozenset()].clear()  # as transformers may: what it is given is its own
        return kept_names(read, folder / "__init__.py")

    assert known() == known() == names
    assert len(asked) == 1
    (folder / "llama" / "modeling.py").write_text("second, longer")
    assert known() == names
    assert len(asked) == 2
    for file in (tmp_path / "cache" / "model-names").iterdir():
        file.write_text("{")
    assert known() == names
    assert len(asked) == 3
