import json
import math

import pytest

from wavetune.errors import RunFolderError
from wavetune.records.reading import FILES, read_run
from wavetune.reporting.html import write_report


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_whole_run_reads_back_what_was_written_without_problems(make_run):
    folder = make_run(clients=3, rounds=4)
    run = read_run(folder)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert run.problems == ()
    assert [one.charged.delay_s for one in run.rounds] == [line["charged"]["delay_s"] for line in lines]
    assert [list(one.allocation.fed.owner) for one in run.rounds] == [
        line["allocation"]["fed"]["owner"] for line in lines
    ]
    assert run.rounds[1].charged.step.uplink_s == tuple(lines[1]["charged"]["step"]["uplink_s"])
    assert run.rounds[1].metered_bits == lines[1]["metered_bits"]
    assert run.summary.plan.baselines == json.loads((folder / "summary.json").read_text())["plan"]["baselines"]
    assert [device.name for device in run.world.devices] == ["device 0", "device 1", "device 2"]
    assert run.samples[0].domain == "restaurants"


@pytest.mark.parametrize("kept", [0.05, 0.3, 0.5, 0.77, 0.999])
def test_a_torn_last_line_costs_only_that_round(make_run, kept):
    folder = make_run(clients=2, rounds=4)
    path = folder / "rounds.jsonl"
    *whole, last = path.read_text().splitlines()
    path.write_text("\n".join(whole) + "\n" + last[: max(1, int(len(last) * kept))])
    run = read_run(folder)
    assert [one.round for one in run.rounds] == [0, 1, 2]
    assert run.problems == ("rounds.jsonl: the last line is torn; left out.",)


def test_a_damaged_line_in_the_middle_is_named_by_its_number(make_run):
    folder = make_run(clients=2, rounds=3)
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    (folder / "rounds.jsonl").write_text("\n".join([lines[0], "{oops", '{"train_loss": 1}', lines[2]]) + "\n")
    run = read_run(folder)
    assert [one.round for one in run.rounds] == [0, 2]
    assert "line 2 is not JSON" in run.problems[0]
    assert "line 3 is not a round (round: Field required)" in run.problems[1]


def test_a_round_written_twice_counts_once_as_written_last(make_run):
    folder = make_run(clients=2, rounds=3)
    with (folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 1, "train_loss": 9.5}\n')
    run = read_run(folder)
    assert [one.round for one in run.rounds] == [0, 1, 2]
    assert run.rounds[1].train_loss == 9.5


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_and_the_rest_is_read(make_run, name):
    folder = make_run(clients=2, rounds=2)
    (folder / name).unlink()
    run = read_run(folder)
    assert run.problems == (f"{name} is missing.",)
    assert bool(run.rounds) == (name != "rounds.jsonl")
    assert bool(run.samples) == (name != "samples.json")


def test_a_field_of_the_wrong_type_costs_only_that_field(make_run):
    folder = make_run(clients=2, rounds=2)
    edit(folder / "summary.json", lambda summary: summary.update(versions={"torch": [1]}, seed="many"))
    run = read_run(folder)
    assert run.summary.versions == {}
    assert run.summary.seed is None
    assert run.summary.status == "finished"
    assert len(run.problems) == 1
    assert run.problems[0].startswith("summary.json: ")


def test_the_same_bad_field_in_many_lines_is_said_once(make_run):
    folder = make_run(clients=2, rounds=5)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line | {"tokens": "few"}) + "\n" for line in lines))
    run = read_run(folder)
    assert len(run.rounds) == 5
    assert len(run.problems) == 1
    assert "in 5 lines" in run.problems[0]


def test_null_is_unknown(make_run):
    folder = make_run(clients=2, rounds=2)
    line = {"round": 0, "validation_loss": None, "train_loss_K": [1.0, None], "straggler": None, "charged": None}
    (folder / "rounds.jsonl").write_text(json.dumps(line) + "\n")
    run = read_run(folder)
    record = run.rounds[0]
    assert run.problems == ()
    assert math.isnan(record.validation_loss)
    assert math.isnan(record.train_loss_K[1])
    assert record.straggler is None
    assert math.isnan(record.charged.delay_s)


def test_unknown_fields_are_ignored(make_run):
    folder = make_run(clients=2, rounds=2)
    edit(folder / "world.json", lambda world: world.update(weather="rain"))
    assert read_run(folder).problems == ()


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_a_folder_without_records_is_refused_with_its_name(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match=f"{name} holds no run records"):
        read_run(tmp_path / name)


@pytest.mark.parametrize("value", [1.7e308, -1.7e308, 7.9e307])
def test_a_run_with_a_number_that_no_axis_holds_is_reported_without_it(make_run, tmp_path, value):
    folder = make_run(clients=2, rounds=3)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    lines[1]["train_loss"], lines[1]["train_loss_K"][0] = value, value
    lines[1]["charged"]["energy_j"] = value
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(folder)
    assert math.isnan(run.rounds[1].train_loss)
    assert run.rounds[2].train_loss == lines[2]["train_loss"]
    assert "a number is beyond 1e+100" in run.problems[0]
    assert "<svg" in write_report([folder], tmp_path / "report.html").read_text()
