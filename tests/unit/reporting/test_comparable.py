"""What is ranked with what, and what a run in one place does not have."""

import json

from helpers.page import edit_summary
from wavetune.records.reading import read_run
from wavetune.reporting.compare import BEST, compare
from wavetune.reporting.sections import run_sections
from wavetune.reporting.story import lead, notices, tiles


def edit(folder, name, change):
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))
    return folder


def topology(folder, kind):
    return edit(folder, "recipe.json", lambda recipe: recipe.setdefault("method", {}).update(topology={"kind": kind}))


def table_of(folders):
    section = compare([read_run(folder) for folder in folders], [str(i) for i in range(len(folders))])
    return {row[0]: row[1:] for row in section.tables[0].rows}, section


def test_runs_that_are_alike_are_ranked_and_drawn(make_run):
    rows, section = table_of([make_run("run1", rounds=3), make_run("run2", rounds=5)])
    assert any(cell.startswith(BEST) for cell in rows["Simulated time"])
    assert section.figures
    assert "differ in" not in section.words[0]


def test_unlike_runs_are_named_as_such_and_never_starred_or_drawn_together(make_run):
    other = edit(make_run("run3", rounds=5), "summary.json", lambda s: s["data"].update(name="AG News"))
    rows, section = table_of([make_run("run4", rounds=3), other])
    assert rows["Data"][1] == "AG News"
    assert {"Model", "Task", "Clients", "Rounds"} <= rows.keys()
    assert not any(cell.startswith(BEST) for row in rows.values() for cell in row)
    assert not section.figures
    assert "These runs differ in data" in section.words[0]


def test_of_three_runs_the_two_that_are_alike_are_ranked(make_run):
    other = edit(make_run("run5", rounds=2), "summary.json", lambda s: s["model"].update(name="another"))
    rows, section = table_of([make_run("run6", rounds=3), make_run("run7", rounds=5), other])
    assert [cell.startswith(BEST) for cell in rows["Simulated time"]] == [True, False, False]
    assert section.figures


def test_a_run_in_one_place_has_no_cell_no_stragglers_and_no_bands(make_run):
    run = read_run(topology(make_run("run8", rounds=3), "central"))
    words = " ".join(lead(run))
    assert "in one place" in words
    assert not any(part in words for part in ("over 5 clients", "waited", "cut after"))
    assert not {"Cell", "Delay", "Plan", "Clients"} & {section.short for section in run_sections(run)}
    assert "Plan gap" not in {tile.label for tile in tiles(run)}


def test_the_price_of_a_run_in_one_place_is_never_the_best(make_run):
    central = topology(make_run("run9", rounds=1), "central")
    rows, section = table_of([make_run("run10", rounds=3), make_run("run11", rounds=5), central])
    for name in ("Simulated time", "Energy"):
        assert [cell.startswith(BEST) for cell in rows[name]] == [True, False, False]
    assert rows["Planned delay"][2] == "–"
    assert "moving all data there is not charged" in section.words[0]


def test_a_planned_delay_beside_others_has_what_its_rounds_take_beside_the_plan(make_run):
    folder = make_run("run13", rounds=2)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    lines[0]["planned"]["phases"]["link_s"] = 30.0
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for rounds, shown in ((2.5, "1 min 22 s"), (None, "–")):  # 7.5 s + 2.5 * 30 s
        edit_summary(folder, plan={"delay_s": 7.5, **({"rounds": rounds} if rounds else {})})
        rows, _ = table_of([folder, make_run(f"run14-{rounds}", rounds=2)])
        assert rows["Planned delay"][0].removeprefix(BEST).strip() == shown


def test_clients_that_were_waited_for_equally_often_are_not_told_apart(make_run):
    folder = make_run("run12", clients=3, rounds=3)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for k, line in enumerate(lines):
        line["straggler"] = {"client": k, "phase": "uplink"}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(folder)
    assert "no client was waited for more often than all others" in " ".join(lead(run))
    assert "Stragglers" not in [figure.title for section in run_sections(run) for figure in section.figures]


def test_figures_that_show_equal_values_are_left_out(make_run):
    folder = make_run("run13", rounds=2)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line["train_loss_K"] = [5.54 + 0.01 * k for k in range(len(line["train_loss_K"]))]
        line["allocation"]["main"] = {"owner": [-1, -1], "power_w": [0.0, 0.0]}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    titles = [figure.title for section in run_sections(read_run(folder)) for figure in section.figures]
    assert not {"Training loss by client", "Main band", "Adapters sent up in each round"} & {*titles}


def test_an_unfinished_run_says_where_it_is_and_how_to_repeat_it(make_run):
    folder = edit(
        make_run("run14", rounds=3), "recipe.json", lambda recipe: recipe.setdefault("run", {}).update(rounds=10)
    )
    (folder / "summary.json").unlink()
    assert "after round 3 of 10" in notices(read_run(folder))[0]
    (folder / "rounds.jsonl").write_text("")
    assert "before the end of its first round of 10" in notices(read_run(folder))[0]
