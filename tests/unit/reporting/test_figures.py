import json
import sys
from types import ModuleType
from xml.etree import ElementTree

import pytest

from helpers.command_line import wavetune
from wavetune.errors import ConfigError, RunFolderError
from wavetune.reporting import save_figures
from wavetune.reporting.tensorboard import write_tensorboard


def test_figures_are_saved_in_both_formats(make_run, tmp_path):
    paths = save_figures(make_run(rounds=3), tmp_path / "figures")
    assert sorted(path.name for path in paths) == [
        "delay.png", "delay.svg", "loss-rounds.png", "loss-rounds.svg", "loss-time.png", "loss-time.svg",
    ]  # fmt: skip
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG") if path.suffix == ".png" else ElementTree.fromstring(content) is not None


def test_the_same_run_gives_the_same_figures(make_run, tmp_path):
    folder = make_run(rounds=2)
    first, again = (save_figures(folder, tmp_path / name, formats=("svg",)) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_what_was_not_recorded_gives_no_figure(make_run, tmp_path):
    folder = make_run(rounds=2)
    (folder / "rounds.jsonl").write_text('{"round": 0, "train_loss": 2.0}\n{"round": 1, "train_loss": 1.0}\n')
    names = {path.stem for path in save_figures(folder, tmp_path / "figures", formats=("svg",))}
    assert "delay" not in names
    assert "loss-rounds" in names
    with pytest.raises(RunFolderError):
        save_figures(tmp_path / "nowhere", tmp_path)


@pytest.fixture
def written(monkeypatch):
    """What goes to a writer that stands in for TensorBoard's, which is an extra."""
    written = []

    class SummaryWriter:
        def __init__(self, log_dir):
            self.log_dir = log_dir

        def __enter__(self):
            return self

        def __exit__(self, *_):
            written.append("closed")

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

    module = ModuleType("torch.utils.tensorboard")
    monkeypatch.setattr(module, "SummaryWriter", SummaryWriter, raising=False)
    for name in ("torch", "torch.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return written


def test_tensorboard_gets_the_finite_scalars_of_each_round(make_run, tmp_path, written):
    folder = make_run(rounds=2)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    lines[0]["validation_loss"] = None
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_tensorboard(folder, tmp_path / "log")
    assert written.pop() == "closed"
    assert ("loss/training", lines[0]["train_loss"], 1) in written
    assert [step for name, _, step in written if name == "loss/validation"] == [2]
    assert ("bits/adapters_up", lines[1]["charged"]["bits"]["adapters_up"], 2) in written


def test_tensorboard_gets_the_means_of_each_step_of_alignment(make_run, tmp_path, written):
    folder = make_run(rounds=1)
    steps = [
        {"step": 0, "helpful": [1.0, 2.0], "kl": [0.5, None], "charged": {"delay_s": 3.0}},
        {"step": 1, "helpful": [2.0, 4.0], "evaluation": {"mixed_reward_K": [0.25, 0.75]}},
    ]
    (folder / "alignment.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    write_tensorboard(folder, tmp_path / "log")
    found = [entry for entry in written if entry[0].startswith(("alignment/", "held_out/"))]
    assert sorted(found) == [
        ("alignment/delay_s", 3.0, 1),
        ("alignment/helpful", 1.5, 1),
        ("alignment/helpful", 3.0, 2),
        ("alignment/kl", 0.5, 1),
        ("held_out/mixed_reward", 0.5, 2),
    ]


def test_without_tensorboard_the_remedy_is_named(make_run, tmp_path, monkeypatch):
    for name in ("torch", "torch.utils", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"wavetune\[tensorboard\]"):
        write_tensorboard(make_run(rounds=1), tmp_path / "log")


def test_runs_of_one_name_have_figures_of_their_own(make_run, tmp_path, monkeypatch):
    folders = [tmp_path / part / "sflllm" for part in ("a", "b")]
    for folder in folders:
        folder.parent.mkdir()
        make_run(rounds=2).rename(folder)
    monkeypatch.chdir(folders[0])
    answer = wavetune("report", ".", folders[1], "--figures", tmp_path / "figures", "--out", tmp_path / "page.html")
    assert answer.code == 0, answer.err
    saved = {path.name: {p.name for p in path.iterdir()} for path in (tmp_path / "figures").iterdir()}
    assert saved.keys() == {"sflllm", "sflllm-2"}
    assert saved["sflllm"] == saved["sflllm-2"]
    assert f"wrote figures into {tmp_path / 'figures' / 'sflllm-2'}" in answer.out
