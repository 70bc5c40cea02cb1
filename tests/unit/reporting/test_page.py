"""The page as a reader meets it: answers first, the rest folded, nothing that says nothing, everything to take away."""

import csv
import io
import json
import math
from urllib.parse import unquote

import pytest
from browser import browser, executable

from helpers.page import HOSTILE, Page, edit_summary, page_of, rewrite_rounds
from wavetune.records.reading import read_run
from wavetune.reporting import story
from wavetune.reporting.bars import Bar, numbers_of_bars
from wavetune.reporting.chart import Axis
from wavetune.reporting.lines import Series, numbers_of_lines
from wavetune.reporting.next_steps import next_in_report
from wavetune.reporting.numbers import Numbers
from wavetune.reporting.sections import run_sections

needs_browser = pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on this machine")


def saved(page, name):
    """The content of a file that the page offers."""
    link = next(link for file, link in page.files if file == name)
    return unquote(link.split(",", 1)[1])


def bar(*values):
    return Bar("a", tuple(("", str(index), value) for index, value in enumerate(values)))


def test_answers_stand_before_everything_that_is_folded(make_run, tmp_path):
    text = page_of([make_run(rounds=3)], tmp_path)
    first = text.index('<details class="fold"')
    for words in ("Perplexity fell", "Simulated time", "What to do next", "Loss against rounds", "About the model"):
        assert text.index(words) < first
    assert text.count('<details class="fold"') == len(run_sections(read_run(make_run(rounds=3)))) + 2


def test_the_next_step_of_a_run_without_an_end_is_to_go_on_with_it(make_run):
    folder = make_run(rounds=2)
    (folder / "summary.json").unlink()
    (folder / "state.json").write_text(json.dumps({"command": "wavetune deploy sflllm --devices 3"}))
    commands = [step.command for step in next_in_report(read_run(folder))]
    assert commands == [f"wavetune watch {folder}", f"wavetune deploy --resume --out {folder}"]


@pytest.mark.parametrize("damage", ["{}", '{"status": "finished"}', '{"status": "finished", "personal": 3, "plan": 1}'])
def test_a_folder_that_somebody_changed_advises_nothing_rather_than_failing(make_run, tmp_path, damage):
    folder = make_run(rounds=2)
    (folder / "summary.json").write_text(damage)
    page_of([folder], tmp_path)


def test_every_chart_offers_its_values(make_run, tmp_path):
    folder = make_run(clients=3, rounds=3)
    page = Page(page_of([folder], tmp_path))
    delays = list(csv.DictReader(io.StringIO(saved(page, "delay-of-each-round.csv"))))
    charged = [round.charged.delay_s for round in read_run(folder).rounds]
    of_round = sum(float(row["value (s)"]) for row in delays if row["what"] == "Round 2")
    assert of_round == pytest.approx(charged[1])
    losses = list(csv.DictReader(io.StringIO(saved(page, "loss-against-rounds.csv"))))
    assert {row["curve"] for row in losses} >= {"training", "validation"}
    titles = [figure.numbers for section in run_sections(read_run(folder)) for figure in section.figures]
    assert all(titles)


def test_rounds_and_run_are_saved_from_the_page_alone(make_run, tmp_path):
    folder = make_run(clients=3, rounds=3)
    rewrite_rounds(folder, lambda lines: lines[1].update(train_loss=float("nan")))
    page = Page(page_of([folder], tmp_path))
    rounds = list(csv.DictReader(io.StringIO(saved(page, "rounds.csv"))))
    assert [row["round"] for row in rounds] == ["0", "1", "2"]
    assert rounds[1]["train_loss"] == ""
    assert float(rounds[2]["charged.delay_s"]) == pytest.approx(read_run(folder).rounds[2].charged.delay_s)
    assert json.loads(saved(page, "run.json"))["summary"]["model"]["name"] == "gpt2"


def test_no_saved_table_holds_a_formula():
    rows = ("=cmd()", 1.0), ("+1", 2), ("@x", -0.5), ("-1", 0.0), ("plain", float("inf"))
    read = list(csv.reader(io.StringIO(Numbers(("who", "value"), rows).csv())))
    assert [row[0] for row in read[1:]] == ["'=cmd()", "'+1", "'@x", "'-1", "plain"]
    assert [row[1] for row in read[1:]] == ["1", "2", "-0.5", "0", ""]


MOVES, RESTS = Series("a", "", [(0, 2.0), (1, 3.0)]), Series("b", "", [(0, 1.0), (1, 1.0)])


@pytest.mark.parametrize(
    ("numbers", "alike"),
    [
        (numbers_of_bars([bar(2.0), bar(2.0 + 1e-13)]), True),
        (numbers_of_bars([bar(2.0), bar(3.0)]), False),
        (numbers_of_bars([bar(2.0, 3.0)]), True),
        (numbers_of_bars([bar(2.0)], "s", (1.5, "bound")), False),
        (numbers_of_bars([bar(2.0)], "s", (2.0, "bound")), True),
        (numbers_of_lines([RESTS, Series("c", "", [(0, 2.0)])], Axis("x"), Axis("y")), True),
        (numbers_of_lines([RESTS, MOVES], Axis("x"), Axis("y")), False),
    ],
)
def test_values_that_are_alike_are_known_as_such(numbers, alike):
    assert numbers.alike is alike


def test_a_run_in_which_all_clients_are_alike_has_no_chart_of_equal_values(make_run):
    folder = make_run(clients=3, rounds=2)

    def level(lines):
        for line in lines:
            one = json.loads(json.dumps(line["charged"]))
            for name in ("phases", "step"):
                one[name] = {k: [v[0]] * 3 if isinstance(v, list) else v for k, v in one[name].items()}
            one["energy"] = {k: [1.0] * 3 if isinstance(v, list) else 0.0 for k, v in one["energy"].items()}
            line |= {"charged": one, "straggler": {"client": 0, "phase": "uplink"}, "train_loss_K": [2.0] * 3}

    rewrite_rounds(folder, level)
    titles = {figure.title for section in run_sections(read_run(folder)) for figure in section.figures}
    assert not titles & {"Each client's own time", "Energy", "Stragglers", "Training loss by client"}
    assert "Delay by phase" in titles


def test_a_model_that_is_not_cut_has_no_column_of_cuts(make_run):
    folder = make_run(clients=3, rounds=2)

    def heads():
        section = next(one for one in run_sections(read_run(folder)) if one.short == "Clients")
        return section.tables[0].head

    assert "Cut" in heads()
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["method"]["topology"] = {"kind": "federated"}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    rewrite_rounds(folder, lambda lines: [line["rate_bit_per_s"].update(main=[]) for line in lines])
    assert not {"Cut", "Rate main"} & set(heads())


def test_one_trainer_with_all_data_uploads_nothing(make_run):
    folder = make_run(clients=3, rounds=2)
    edit_summary(folder, upload_bits_K=[229e3] * 3, bits={})
    assert story.upload_bits(read_run(folder))[0] == 229e3
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["method"]["topology"] = {"kind": "central"}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert math.isnan(story.upload_bits(read_run(folder))[0])


@needs_browser
def test_in_a_browser_the_page_is_short_unfolds_and_gives_its_charts_away(make_run, tmp_path):
    sample = dict.fromkeys(("prompt", "reference", "before", "after", "domain"), HOSTILE)
    folder = make_run(
        clients=8, rounds=12, names=[HOSTILE, *(f"client-{k:02d}" for k in range(1, 8))], samples=[sample]
    )
    edit_summary(folder, method=HOSTILE)
    page_of([folder], tmp_path)
    with browser() as seen:
        seen.show(f"file://{tmp_path}/out/report.html", 390, 844)
        assert seen.value("document.documentElement.scrollHeight") < 6000
        assert seen.value("document.documentElement.scrollWidth") == 390
        assert seen.value("document.querySelectorAll('details.fold[open]').length") == 0
        seen.value("document.querySelector('nav a[href$=cell]').click()")
        assert seen.until("document.querySelector('#run0-cell > details').open")
        seen.value("dispatchEvent(new Event('beforeprint'))")
        assert seen.value("document.querySelectorAll('details.fold:not([open])').length") == 0
        seen.value("dispatchEvent(new Event('afterprint'))")
        assert seen.value("document.querySelectorAll('details.fold[open]').length") == 1
        hover = """(() => { const one = document.querySelector('.front .narrow .hit[data-tip]');
            one.dispatchEvent(new PointerEvent('pointermove', {bubbles: true, clientX: 9, clientY: 9}));
            return document.getElementById('tip').textContent })()"""
        assert "training" in seen.value(hover)
        svg = """new Promise(done => { URL.createObjectURL = blob => { blob.text().then(done); return '#' };
            document.querySelector('button.svg').click() })"""
        drawing = seen.value(svg)
        assert drawing.startswith("<svg")
        assert "var(" not in drawing
        assert 'stroke="rgb(' in drawing
        assert seen.complaints() == []
