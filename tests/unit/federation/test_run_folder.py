import errno
import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from wavetune.errors import NumericsError, RunFolderError
from wavetune.federation.run_folder import ELSEWHERE, RunFolder, explained, write_whole
from wavetune.runtimes import state_folder
from wavetune.runtimes.saved import RewardStep


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder.create(tmp_path / "deep" / "run")
    folder.write_json("recipe.json", {"name": "x"})
    return folder


def tensors(value):
    return {"a": torch.full((2, 3), float(value)), "step": torch.tensor(float(value))}


def test_a_folder_with_a_run_is_opened_and_never_created_again(folder):
    with pytest.raises(RunFolderError, match="already holds a run; continue it with --resume"):
        RunFolder.create(folder.path)
    assert RunFolder.open(folder.path) == folder
    with pytest.raises(RunFolderError, match="holds no run"):
        RunFolder.open(folder.path / "checkpoints")


def test_a_start_that_was_killed_before_its_recipe_was_written_can_be_started_again(tmp_path):
    RunFolder.create(tmp_path / "run")
    RunFolder.create(tmp_path / "run")


def test_json_is_read_as_written_and_missing_is_none(folder):
    value = {"x": [1, 2.5, None, "ü"], "y": 0.1 + 0.2}
    folder.write_json("a.json", value)
    assert folder.read_json("a.json") == value
    assert folder.read_json("b.json") is None
    (folder.path / "a.json").write_bytes(b'{"\xff')
    with pytest.raises(RunFolderError, match=r"cannot read .*a\.json"):
        folder.read_json("a.json")


def test_nothing_that_is_not_json_is_written(folder):
    folder.write_json("a.json", 1)
    for value in (float("nan"), {"deep": [float("inf")]}):
        with pytest.raises(NumericsError, match=r"a\.json would hold a number that is not finite"):
            folder.write_json("a.json", value)
        with pytest.raises(NumericsError, match=r"rounds\.jsonl would hold"):
            folder.append_round({"round": value})
    assert folder.read_json("a.json", Any) == 1
    assert folder.read_rounds() == []


def test_a_write_that_fails_leaves_the_old_content(folder, monkeypatch):
    folder.write_json("a.json", "old")

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RunFolderError, match=r"cannot write .*a\.json: no space left on device; what was saved"):
        folder.write_json("a.json", "new")
    monkeypatch.undo()
    assert folder.read_json("a.json", Any) == "old"


def test_a_half_written_part_is_never_taken_for_the_file(folder):
    (folder.path / "a.json.part").write_text('{"ha')
    assert folder.read_json("a.json", Any) is None
    folder.write_json("a.json", 5)
    assert folder.read_json("a.json", Any) == 5
    assert not (folder.path / "a.json.part").exists()


def test_rounds_are_appended_read_and_cut_back(folder):
    assert folder.read_rounds() == []
    for index in range(3):
        folder.append_round({"round": index, "loss": 0.1 * index})
    before = folder.read_rounds()
    assert [record["round"] for record in before] == [0, 1, 2]
    folder.keep_rounds(2)
    assert folder.read_rounds() == before[:2]
    folder.keep_rounds(5)
    assert folder.read_rounds() == before[:2]


def test_a_line_that_was_cut_off_is_dropped(folder):
    folder.append_round({"round": 0})
    with (folder.path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 1, "lo')
    assert folder.read_rounds() == [{"round": 0}]
    folder.keep_rounds(1)
    folder.append_round({"round": 1})
    assert folder.read_rounds() == [{"round": 0}, {"round": 1}]


def test_a_link_where_a_file_is_begun_is_not_written_through(tmp_path):
    (tmp_path / "secret").write_text("kept")
    (tmp_path / "report.html.part").symlink_to(tmp_path / "secret")
    write_whole(tmp_path / "report.html", "a report")
    assert (tmp_path / "secret").read_text() == "kept"
    assert (tmp_path / "report.html").read_text() == "a report"


@pytest.mark.parametrize("damage", [b"{damaged\n", b"\xff\xfe\n"])
def test_a_whole_line_that_is_damaged_is_named(folder, damage):
    (folder.path / "rounds.jsonl").write_bytes(damage)
    with pytest.raises(RunFolderError, match=r"cannot read .*rounds\.jsonl"):
        folder.read_rounds()


def test_the_newest_checkpoint_comes_back_to_the_bit_and_two_are_kept(folder):
    assert folder.load_checkpoint() is None
    for rounds in (1, 2, 10):
        folder.save_checkpoint(rounds, tensors(rounds))
    rounds, saved = folder.load_checkpoint()
    assert rounds == 10
    assert saved.keys() == {"a", "step"}
    assert all(torch.equal(saved[name], value) for name, value in tensors(10).items())
    assert sorted(p.name for p in (folder.path / "checkpoints").iterdir()) == ["round-000002", "round-000010"]


def test_a_checkpoint_whose_values_are_not_those_that_were_written_is_named_and_passed_over(folder):
    for done in (1, 2):
        folder.save_checkpoint(done, tensors(done))
    said, path = [], folder.path / "checkpoints" / "round-000002" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert folder.load_checkpoint(said.append)[0] == 1
    assert len(said) == 1
    assert str(path.parent) in said[0]
    save_file(tensors(2), path)  # as it was, in another order or with other notes in its head
    path.with_name("state.sha256").unlink()  # as versions before wrote none
    assert folder.load_checkpoint()[0] == 2


def test_what_takes_the_place_of_a_file_is_on_the_disk_before_it_does(folder, monkeypatch):
    synced, replaced, fsync, replace = set[int](), list[str](), os.fsync, os.replace

    def syncing(descriptor):
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def replacing(part, path):
        assert {path.stat().st_ino for path in (part, *part.rglob("*"))} <= synced
        replaced.append(path.name)
        replace(part, path)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    folder.append_round({"round": 0})
    assert (folder.path / "rounds.jsonl").stat().st_ino in synced
    folder.save_checkpoint(1, tensors(1))
    state_folder.write(folder.path, "a run", 1, {1: tensors(1)})
    assert replaced == ["round-000001", "states.sha256", "state-000001.safetensors"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_cannot_wait_for_its_disk_is_let_be_and_a_disk_that_fails_is_told_of(
    folder, monkeypatch, code
):
    def fail(_descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    for write in (lambda: folder.append_round({"round": 0}), lambda: folder.save_checkpoint(1, tensors(1))):
        with pytest.raises(RunFolderError, match="input/output error") if code == errno.EIO else nullcontext():
            write()


def test_the_checkpoint_before_a_damaged_one_is_taken(folder):
    folder.save_checkpoint(1, tensors(1))
    folder.save_checkpoint(2, tensors(2))
    (folder.path / "checkpoints" / "round-000002" / "state.safetensors").write_bytes(b"half")
    assert folder.load_checkpoint()[0] == 1
    (folder.path / "checkpoints" / "round-000003.part").mkdir()  # by a killed process
    assert folder.load_checkpoint()[0] == 1
    folder.save_checkpoint(3, tensors(3))
    assert folder.load_checkpoint()[0] == 3
    newest = folder.path / "checkpoints" / "round-000003" / "state.safetensors"
    newest.unlink()
    os.mkfifo(newest)  # which would be waited for
    assert folder.load_checkpoint() is None


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left")]
)
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(folder, monkeypatch, failure):
    folder.save_checkpoint(1, tensors(1))

    def fail(_tensors, path, **_):
        Path(path).write_bytes(b"half")
        raise failure

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(RunFolderError, match=r"cannot write .*round-000002: no space left.*--resume"):
        folder.save_checkpoint(2, tensors(2))
    assert folder.load_checkpoint()[0] == 1


def test_tensors_of_any_layout_are_saved(folder):
    folder.save_checkpoint(1, {"view": torch.arange(6.0).view(2, 3).t(), "grad": torch.ones(2, requires_grad=True)})
    assert folder.load_checkpoint()[1]["view"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_explained_names_what_was_written_and_what_to_do_and_keeps_other_errors(tmp_path):
    with pytest.raises(RunFolderError, match="cannot write place: permission denied; free some space or choose"):  # noqa: SIM117
        with explained(Path("place"), ELSEWHERE):
            raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(RunFolderError, match=r"^as it is$"):  # noqa: SIM117
        with explained(Path("place")):
            raise RunFolderError("as it is")
    with pytest.raises(KeyError):  # noqa: SIM117
        with explained(Path("place")):
            raise KeyError
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="not a directory"):
        write_whole(tmp_path / "file" / "deep" / "a.json", "text", ELSEWHERE)


def test_text_is_written_into_folders_that_are_not_there_yet(tmp_path):
    write_whole(tmp_path / "a" / "b" / "c.json", json.dumps("ü"))
    assert (tmp_path / "a" / "b" / "c.json").read_text(encoding="utf-8") == '"\\u00fc"'


@pytest.mark.parametrize("text", ["null", "[1]", "5", '"x"'])
def test_a_file_that_holds_another_kind_of_json_is_refused(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"state\.json is damaged \("):
        RunFolder(tmp_path).read_json("state.json")


def test_a_file_of_records_that_lacks_what_is_needed_is_refused_with_the_place(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_round({"step": 1, "loss": 0.5, "validation_loss": 0.5, "validation_accuracy": 1, "seconds": 2})
    folder.append_round({"step": "two", "loss": 0.5, "validation_loss": 0.5, "validation_accuracy": 1, "seconds": 2})
    assert len(folder.read_rounds()) == 2
    with pytest.raises(RunFolderError, match=r"rounds\.jsonl is damaged \(\$\[1\]\.step: .*\); repair it or start"):
        folder.read_rounds(kind=RewardStep)


def test_a_folder_in_the_place_of_records_is_refused(tmp_path):
    (tmp_path / "rounds.jsonl").mkdir()
    with pytest.raises(RunFolderError, match=r"rounds\.jsonl: it is a folder"):
        RunFolder(tmp_path).read_rounds()


def test_what_is_no_checkpoint_is_neither_read_nor_removed(folder):
    folder.save_checkpoint(1, {"a": torch.zeros(1)})
    places = folder.path / "checkpoints"
    names = ["round--1", "round-", "round-x", "round-000009x", "round-\u0663", "round-000003.part", "other"]
    for name in names:
        shutil.copytree(places / "round-000001", places / name)
    for done in (2, 3, 1_000_000):
        folder.save_checkpoint(done, {"a": torch.full((1,), float(done))})
    done, state = folder.load_checkpoint()
    assert (done, float(state["a"])) == (1_000_000, 1e6)
    kept = {"round-000003", "round-1000000", *names} - {"round-000003.part"}
    assert {path.name for path in places.iterdir()} == kept


def test_states_that_are_one_tensor_are_each_kept(folder):
    one = torch.arange(6.0).view(2, 3)
    folder.save_checkpoint(1, {"first": one, "second": one, "row": one[0]})
    done, found = folder.load_checkpoint()
    assert done == 1
    for name, value in (("first", one), ("second", one), ("row", one[0])):
        assert torch.equal(found[name], value)
