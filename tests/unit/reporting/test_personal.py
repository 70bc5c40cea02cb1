"""Personal models and alignment in the page, beside numbers that are known."""

import json
import re

import pytest

from wavetune.estimate import Estimate
from wavetune.records.rounds import Lost
from wavetune.reporting import read_run, write_report
from wavetune.reporting.chart import Axis
from wavetune.reporting.compare import compare
from wavetune.reporting.front import Move, front_chart
from wavetune.reporting.sections import run_sections
from wavetune.reporting.story import lead, tiles

LAMBDAS = [0.0, 0.5, 1.0]


def judged(own, foreign, accuracy=True):
    found = {"loss": own[0], "own_loss_K": own, "foreign_loss_K": foreign}
    if accuracy:
        found |= {"accuracy": own[1], "own_accuracy_K": own, "foreign_accuracy_K": foreign}
    return found


def edit(folder, **fields):
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def personal(folder, accuracy=True):
    evaluation = {
        "before": judged([0.1, 0.2, 0.3], [0.3, 0.2, None], accuracy),
        "after": judged([0.7, 0.8, 0.9], [0.4, 0.4, None], accuracy),
    }
    sizes = {"upload_bits_K": [100.0] * 3, "all_adapters_bits_K": [160.0] * 3, "full_model_bits": 10000}
    edit(folder, personal=True, evaluation=evaluation, bits={"adapters_up": 300, "adapters_down": 300}, **sizes)
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    ends = [json.dumps(one | {"evaluation": evaluation["after"]}) + "\n" for one in rounds]
    (folder / "rounds.jsonl").write_text("".join(ends))
    return folder


def answers(helpful, safe):
    each = {"prompts": ["Which bus?", "When?"], "answers": ["bus <7>", f"at {helpful}"]}
    scores = {"helpful": [helpful, helpful + 0.2], "safe": [safe, safe], "true_helpful": [helpful, helpful + 0.2]}
    return each | {"scores": scores | {"true_safe": [safe, safe]}}


def aligned(folder):
    personal(folder, accuracy=False)
    for name, gain in (("before", 0.0), ("after", 0.5)):
        part = [answers(0.1 + gain * weight, 0.1 + gain * (1 - weight)) for weight in LAMBDAS]
        (folder / f"alignment_{name}.json").write_text(json.dumps({"own": part, "foreign": part}))
    scores = {"helpful_K": [0.2, 0.2, 0.2], "safe_K": [0.1, 0.1, 0.1], "true_mixed_K": [0.1, 0.2, 0.3]}
    gains = [{"mean": 0.5, "half_width_95": 0.2}, {"mean": 0.1, "half_width_95": 0.3}, {"mean": -0.2}]
    info = {"lambdas": LAMBDAS, "objective": "ppo", "steps": 2, "before": scores, "after": scores}
    edit(folder, alignment=info | {"mixed_gain_K": gains})
    steps = [
        {"step": n, "reward": [n, 2 * n, 3 * n], "kl": [0.1, 0.2, 0.3], "evaluation": scores if n else None}
        for n in range(2)
    ]
    (folder / "alignment.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    return folder


@pytest.fixture
def folder(make_run):
    return make_run(rounds=3, clients=3)


def sections(folder):
    return {section.title: section for section in run_sections(read_run(folder))}


def test_a_run_without_them_has_neither_section(folder):
    assert not {"Personal models", "Alignment"} & sections(folder).keys()


def test_accuracy_takes_the_place_of_perplexity_and_savings_are_stated(folder, tmp_path):
    run = read_run(personal(folder))
    assert run.problems == ()
    found = {tile.label: tile for tile in tiles(run)}
    assert "Perplexity" not in found
    assert (found["Accuracy"].value, found["Accuracy"].note) == ("80.0 %", "from 20.0 %")
    assert (found["An upload"].value, found["An upload"].note) == ("100 bit", "99.0 % less than the whole model")
    assert "Accuracy on the clients' own domains rose from 20.0 % to 80.0 %" in " ".join(lead(run))
    page = write_report([folder], tmp_path / "report.html").read_text()
    for words in (
        "160 bit: 37.5 % saved",
        "10.0 kbit: 99.0 % saved",
        "mean, own after: 80.0 %",
        "Accuracy against rounds",
    ):
        assert words in page
    table = sections(folder)["Personal models"].figures[0].table
    assert table.rows[2][1:] == ("30.0 %", "90.0 %", "–", "–")


def test_split_runs_state_no_upload_of_adapters_alone(folder):
    personal(folder)
    edit(folder, bits={"activations_up": 7, "adapters_up": 300})
    assert "An upload" not in {tile.label for tile in tiles(read_run(folder))}


def test_lost_updates_are_named_with_the_reason_where_there_is_one(folder):
    path = folder / "rounds.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["lost"], records[1]["lost"] = [{"client": 2}], [{"client": 1, "why": "outage"}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [record.lost for record in read_run(folder).rounds] == [(Lost(2),), (Lost(1, "outage"),), ()]
    table = sections(personal(folder))["Personal models"].tables[0]
    assert table.rows == (("Round 1", "device 2", "–"), ("Round 2", "device 1", "outage"))


def test_alignment_shows_every_client_its_gain_and_its_answers(folder, tmp_path):
    run = read_run(aligned(folder))
    assert run.problems == ()
    section = sections(folder)["Alignment"]
    titles = [figure.title for figure in section.figures]
    assert titles[0].startswith("Helpfulness and safety")
    assert "Mixed reward in training" in titles
    assert not {"Distance from the shared policy", "Helpful reward", "Safe reward"} & {*titles}  # nothing moved there
    rows = section.tables[0].rows
    assert [row[1] for row in rows] == ["0", "0.5", "1"]
    assert [row[2] for row in rows] == ["+0.500 ± 0.20", "+0.100 ± 0.30", "−0.200"]
    own = section.tables[0].head.index("True helpful, own")
    assert [row[own] for row in rows] == ["0.200 → 0.200", "0.200 → 0.450", "0.200 → 0.700"]
    assert "for 2 of 3 clients, for 1 of them beyond" in " ".join(lead(run))
    page = write_report([folder], tmp_path / "report.html").read_text()
    assert "bus &lt;7&gt;" in page
    assert "mean of the clients: 1.000 at step 2" not in page
    assert re.search("mean of the clients: 2.000 at step 2", page)


def test_torn_records_of_alignment_cost_only_themselves(folder):
    aligned(folder)
    with (folder / "alignment.jsonl").open("a") as lines:
        lines.write('{"step": 2, "rew')
    (folder / "alignment_after.json").write_text("{")
    run = read_run(folder)
    assert len(run.alignment) == 2
    assert len(run.problems) == 2
    assert "Alignment" in {section.title for section in run_sections(run)}


def test_side_by_side_marks_the_highest_accuracy_and_the_smallest_upload(make_run):
    runs = [personal(make_run(name, rounds=1, clients=3)) for name in "ab"]
    edit(runs[1], upload_bits_K=[50.0] * 3)
    summary = json.loads((runs[0] / "summary.json").read_text())
    summary["evaluation"]["after"]["accuracy"] = 0.99
    (runs[0] / "summary.json").write_text(json.dumps(summary))
    rows = {row[0]: row[1:] for row in compare([read_run(one) for one in runs], ["a", "b"]).tables[0].rows}
    assert rows["Accuracy"] == ("★ 99.0 %", "80.0 %")
    assert rows["Upload of a client and round"] == ("100 bit", "★ 50 bit")
    assert "Perplexity" not in rows


def test_personal_models_and_one_for_all_are_compared_on_own_domains_alone(make_run):
    runs = [personal(make_run(name, rounds=1, clients=3)) for name in "ab"]
    edit(runs[1], personal=False)
    section = compare([read_run(one) for one in runs], ["a", "b"])
    rows = {row[0]: row[1:] for row in section.tables[0].rows}
    assert not {"Accuracy", "Validation loss", "Perplexity"} & rows.keys()
    assert rows["Accuracy, own domains"] == ("80.0 %", "80.0 %")
    assert "own domains" in section.words[0]
    assert [figure.title for figure in section.figures] == [
        "Own-domain loss against rounds",
        "Own-domain loss against simulated time",
    ]


def test_a_front_leaves_out_who_has_no_scores():
    unknown, still, moved = Estimate.of(()), Estimate(0.0, 0.1, 9), Estimate(1.0, 0.1, 9)
    moves = [Move("λ 0", "cat-0", "a", (unknown, unknown), (unknown, unknown))]
    assert front_chart(moves, Axis("x"), Axis("y"), "front", 330) is None
    moves.append(Move("λ 1", "cat-1", "b", (still, still), (moved, Estimate(1.0, float("nan"), 1))))
    drawn = front_chart(moves, Axis("x"), Axis("y"), "front", 330)
    assert drawn.count("whisker") == 1
    assert "λ 0" not in drawn
