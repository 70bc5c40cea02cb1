"""Mistakes that are found before anything large is imported."""

import os
import subprocess
import sys

import pytest

from helpers.command_line import assert_refused, wavetune

REFUSED = {
    "data": (["run", "sflllm", "--data", "/nonexist"], "an existing folder or file"),
    "data file": (["run", "sflllm", "--data", "data/mine.jsonl"], "an existing folder or file"),
    "model": (["run", "sflllm", "--model", "tny"], "did you mean 'tiny'"),
    "cuda": (["run", "sflllm", "--device", "cuda"], "no CUDA device"),
    "cut": (["run", "sflllm", "--model", "tiny", "--set", "method.topology.cut=99"], "between 1 and 4"),
    "recipe": (["run", "sfllm"], "did you mean 'sflllm'"),
    "resume": (["run", "--resume", "--out", "none"], "holds no run"),
    "generate": (["generate", "none", "--prompt", "x"], "holds no run"),
    "report": (["report", "none"], "none"),
    "device": (["device", "127.0.0.1:1", "--certificates", "none"], "cannot read none"),
    "serve": (["serve", "sflllm", "--certificates", "none"], "cannot read none"),
    "compare": (["compare", "sflllm", "--data", "/nonexist"], "an existing folder or file"),
    "deploy": (["deploy", "sflllm", "--model", "tny"], "did you mean 'tiny'"),
    "measure": (["measure-ranks", "sflllm", "--model", "tny"], "did you mean 'tiny'"),
    "reward": (["train-reward", "--kind", "helpful", "--model", "tny"], "did you mean 'tiny'"),
    "time": (["run", "sflllm", "--quiet", "--verbose"], "exclude each other"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_a_sentence_and_leaves_nothing_behind(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.path.exists", lambda path, real=os.path.exists: "/dev/" not in str(path) and real(path))
    arguments, words = REFUSED[case]
    assert_refused(wavetune(*arguments), words)
    assert list(tmp_path.iterdir()) == []


def test_no_mistake_waits_for_torch(tmp_path):
    """All cases in one process, in which importing torch is an error."""
    script = f"""
import builtins, sys
sys.modules.update(dict.fromkeys(["torch", "transformers", "peft", "scipy"]))
from wavetune.cli import main
for case in {[arguments for arguments, _ in REFUSED.values()]!r}:
    sys.argv = ["wavetune", *case]
    try:
        main()
    except SystemExit as end:
        assert end.code == 2, case
"""
    answer = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("wavetune: ") == len(REFUSED)


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(wavetune("run", "sflllm", "--out", tmp_path / "file" / "run"), "cannot write", "not a directory")
    assert_refused(wavetune("run", "sflllm", "--out", "/proc/nothing/run"), "cannot write")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("name", "words"), [("mine.yaml", "base: sflllm"), ("folder", "a folder, not a recipe")])
def test_a_recipe_that_is_no_json_file_is_named_as_what_it_is(name, words, tmp_path):
    (tmp_path / "mine.yaml").write_text("run: {rounds: 2}\n")
    (tmp_path / "folder").mkdir()
    assert_refused(wavetune("run", tmp_path / name), words)
    assert_refused(wavetune("show", tmp_path / name), words)
