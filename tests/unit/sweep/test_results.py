import pytest

from helpers.sweeps import record
from wavetune.errors import RunFolderError
from wavetune.sweep.results import Results

IDENTITY = {"recipe": {"name": "sflllm"}, "field": "num_clients", "version": "1"}
LINES = [record(2, 0, "greedy", 1.25), record(2.0, 1, "greedy", None, reason="too tight")]


@pytest.fixture
def folder(tmp_path):
    results = Results.open(tmp_path / "deep" / "sweep", IDENTITY)
    for line in LINES:
        results.add(line)
    return results.folder


def test_cells_are_found_again_however_their_number_is_written(folder):
    records = Results.open(folder, IDENTITY).records
    assert list(records.values()) == LINES
    assert len({key[0] for key in records}) == 1


def test_torn_last_line_is_dropped_and_planned_again(folder):
    path = folder / "results.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole[:30])
    results = Results.open(folder, IDENTITY)
    assert list(results.records.values()) == LINES
    results.add(record(4, 0, "greedy", 2.5))
    assert len(Results.open(folder, IDENTITY).records) == 3


@pytest.mark.parametrize("changed", ["recipe", "field", "version"])
def test_folder_of_another_sweep_is_refused_and_left_alone(folder, changed):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RunFolderError, match=f"another {changed}; choose another --out"):
        Results.open(folder, {**IDENTITY, changed: "other"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["sweep.json", "results.jsonl"])
@pytest.mark.parametrize("text", ["{\n", "[1, 2]\n", "5\n", '{"value": 2}x\n', "\xff\n"])
def test_damaged_folder_is_refused(folder, name, text):
    (folder / name).write_text(text, encoding="latin-1")
    with pytest.raises(RunFolderError, match="cannot continue the sweep"):
        Results.open(folder, IDENTITY)


def test_place_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="file"):
        Results.open(tmp_path / "file", IDENTITY)
    assert (tmp_path / "file").read_text() == "mine"
