"""`wavetune runs`: every folder that holds a run, where it is, and which are damaged."""

import json
import os

import pytest

from helpers.command_line import assert_refused, wavetune
from helpers.page import rewrite_rounds
from wavetune.federation.folder_lock import locked
from wavetune.reporting import run_state
from wavetune.reporting.run_state import run_states, state_of


def listed(folder):
    return {one.name: one for one in run_states(folder)}


def test_runs_are_listed_with_their_state_the_latest_first(make_run, tmp_path):
    old, stopped, going = make_run("old", rounds=2), make_run("deep/stopped", rounds=4), make_run("going", rounds=3)
    for folder in (stopped, going):
        (folder / "summary.json").unlink()
        rewrite_rounds(folder, lambda lines: lines.__delitem__(slice(1, None)))
    for path in old.rglob("*"):
        os.utime(path, (1e9, 1e9))
    with locked(going):
        found = listed(tmp_path)
    assert list(found)[-1] == "old"
    assert {name: one.state for name, one in found.items()} == {
        "old": "finished",
        "deep/stopped": "stopped",
        "going": "running",
    }
    assert (found["deep/stopped"].rounds_done, found["deep/stopped"].rounds) == (1, 4)
    assert found["old"].size_bytes == sum(path.stat().st_size for path in old.rglob("*"))
    assert found["old"].age_s > 1e8


def test_a_finished_run_that_was_given_more_rounds_is_not_finished(make_run):
    folder = make_run(rounds=2)
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["run"]["rounds"] = 5
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert state_of(folder).state == "stopped"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("recipe.json", b"{", "not JSON"),
        ("recipe.json", b"[]", "not an object"),
        ("recipe.json", None, "recipe.json"),
        ("summary.json", b"\xff\xff{", "summary.json"),
        ("rounds.jsonl", b"{}\nnonsense\n", "line 2 is not a record"),
        ("rounds.jsonl", b"x" * 10**6, "line 1 is longer than 100000 bytes"),
    ],
)
def test_a_damaged_folder_is_listed_as_such_and_says_why(make_run, tmp_path, monkeypatch, name, content, words):
    monkeypatch.setattr(run_state, "LONGEST_RECORDS", 10**5)
    folder = make_run("bad", rounds=1)
    make_run("good", rounds=1)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    found = listed(tmp_path)
    assert (found["bad"].state, found["good"].state) == ("damaged", "finished")
    assert words in found["bad"].why


def test_a_torn_last_line_is_no_damage(make_run):
    folder = make_run(rounds=2)
    with open(folder / "rounds.jsonl", "a") as file:
        file.write('{"round": 2, "tr')
    assert (state_of(folder).state, state_of(folder).rounds_done) == ("finished", 2)


def test_the_command_prints_a_line_a_run_or_json(make_run, tmp_path):
    make_run("one", rounds=2, recipe="evil\x1b[31m")
    told = wavetune("runs", tmp_path)
    assert told.code == 0
    head, line = told.out.splitlines()
    assert head.split() == ["run", "recipe", "model", "state", "rounds", "size", "age"]
    assert "evil\\x1b[31m" in line
    assert "2/2" in line
    asked = json.loads(wavetune("runs", tmp_path, "--json").out)
    assert [(one["name"], one["state"], one["rounds_done"]) for one in asked] == [("one", "finished", 2)]


def test_a_folder_without_runs_and_none_are_told_apart(tmp_path):
    assert "there is no run in" in wavetune("runs", tmp_path).out
    assert_refused(wavetune("runs", tmp_path / "none"), "is no folder")
