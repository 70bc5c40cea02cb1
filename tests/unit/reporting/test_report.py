import json
import re
import subprocess
import sys

import pytest
from markupsafe import Markup

from helpers.page import HOSTILE, Page, drawings, edit_summary, page_of, rewrite_rounds
from wavetune.errors import ConfigError, RunFolderError
from wavetune.records.reading import FILES
from wavetune.reporting import write_report
from wavetune.reporting.chart import Figure
from wavetune.reporting.format import DASH
from wavetune.reporting.sections.section import paired
from wavetune.reporting.svg import text_width


def test_the_page_is_one_well_formed_file_that_needs_no_network(make_run, tmp_path):
    text = page_of([make_run(rounds=3)], tmp_path)
    page = Page(text)
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?://|url\(|@import", text)
    assert "default-src 'none'" in text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_every_chart_says_what_it_shows_and_every_table_has_a_caption(make_run, tmp_path):
    text = page_of([make_run(rounds=3)], tmp_path)
    for drawing in drawings(text):
        assert drawing.get("aria-hidden") == "true" or drawing.get("aria-label")
    assert text.count("<table") == text.count("<caption") > 2
    assert '<html lang="en">' in text


def test_headlines_are_said_in_words(make_run, tmp_path):
    words = " ".join(Page(page_of([make_run()], tmp_path)).words)
    assert "gpt2 was fine-tuned on E2E NLG over 5 clients for 12 rounds of 12 local steps" in words
    assert "cut after layer 2 with LoRA rank 4" in words
    assert "Perplexity fell from 30.6 to" in words
    assert "The largest part of the delay was uplink" in words
    assert "they are not the original checkpoint" in words
    assert "wavetune run sflllm --seed 1" in words
    assert "this plan is within 7.5 % of it" in words


@pytest.mark.parametrize(("counted", "said"), [(3.5, True), (2.0, False), (None, False)])
def test_delays_of_a_plan_that_counts_other_rounds_than_the_run_has_say_of_how_many_they_are(
    counted, said, make_run, tmp_path
):
    folder = make_run(rounds=2)
    edit_summary(folder, plan={"delay_s": 7.0, "lower_bound_s": 1.0, **({"rounds": counted} if counted else {})})
    words = " ".join(Page(page_of([folder], tmp_path)).words)
    assert ("Delays are of 3.50 rounds, as many as the plan counts." in words) == said
    assert ("Delays are of" in words) == said


def test_what_a_round_takes_beside_its_plan_is_told_and_nobody_was_waited_for_then(make_run, tmp_path):
    folder = make_run(rounds=2)
    assert "Beside the plan" not in " ".join(Page(page_of([folder], tmp_path)).words)

    def linked(lines):
        for line in lines:
            for account in (line["planned"], line["charged"]):
                account["phases"]["link_s"] = 9 * account["delay_s"]
                account["delay_s"] *= 10

    rewrite_rounds(folder, linked)
    words = " ".join(Page(page_of([folder], tmp_path)).words)
    assert "Beside the plan a round takes: other links" in words
    assert "The largest part of the delay was other links (90.0 %)." in words


@pytest.mark.parametrize(
    ("active", "said"),
    [
        ([[1, 1, 1], [1, 1, 1]], ""),
        ([[1, 1, 1], [1, 0, 0]], "2.00 of 3 clients took part in a round on average."),
        ([[1, 0, 1], [1, 0, 0]], "1.50 of 3 clients took part in a round on average, device 1 in none."),
    ],
)
def test_how_many_clients_took_part_is_said_where_it_was_not_always_all(active, said, make_run, tmp_path):
    folder = make_run(rounds=2, clients=3)
    rewrite_rounds(
        folder, lambda lines: [line.update(active_K=[*map(bool, a)]) for line, a in zip(lines, active, strict=True)]
    )
    words = " ".join(Page(page_of([folder], tmp_path)).words)
    assert said in words
    assert bool(said) == ("took part" in words)


def test_totals_are_those_of_the_rounds(make_run, tmp_path):
    folder = make_run(rounds=2)

    def charge(lines):
        for line in lines:
            line["charged"]["delay_s"], line["charged"]["energy_j"] = 3000.0, 40e3
            line["charged"]["bits"] = {"activations_up": 1_500_000_000, "gradients_down": 250_000_000}

    rewrite_rounds(folder, charge)
    words = " ".join(Page(page_of([folder], tmp_path)).words)
    assert "1 h 40 min of simulated time, 80.0 kJ and 3.50 Gbit over the air" in words


def test_the_client_table_shows_what_each_client_was_given(make_run, tmp_path):
    folder = make_run(clients=2, rounds=1, subchannels=3)

    def give(lines):
        lines[0]["allocation"]["main"] = {"owner": [1, 0, 1], "power_w": [0.5, 0.25, 0.5]}
        lines[0]["allocation"]["fed"] = {"owner": [0, 0, -1], "power_w": [0.001, 0.001, 0.0]}
        lines[0] |= {"cut_K": [2, 3], "rank_K": [4, 8]}
        lines[0]["rate_bit_per_s"]["main"] = [2e6, 3e6]
        lines[0]["charged"]["phases"]["uplink_s"] = [7.0, 90.0]
        lines[0]["charged"]["energy"] |= {"client_compute_j": [1.0, 2.0], "client_radio_j": [0.5, 40.0]}

    rewrite_rounds(folder, give)
    text = page_of([folder], tmp_path)
    table = text[text.index('id="run0-clients"') :]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)]
    head, first, second = rows[:3]
    assert (len(head), head[0], head[-1]) == (len(first), "Client", "Energy")
    assert first[2:8] == ["2", "4", "1 + 2", "250 mW\n24.0 dBm", "2.00 mW\n3.0 dBm", "2.00 Mbit/s"]
    assert second[2:8] == ["3", "8", "2 + 0", "1.00 W\n30.0 dBm", f"0 W\n{DASH}", "3.00 Mbit/s"]
    assert (first[-1], second[-1]) == ("1.50 J", "42.0 J")
    assert second[head.index("Uplink")] == "1 min 30 s"


def test_a_chart_without_a_neighbour_takes_the_whole_row():
    def spans(*given):
        return [one.span for one in paired([Figure("", Markup(), Markup(), span=span) for span in given])]

    assert spans("half", "half", "half") == ["half", "half", "solo"]
    assert spans("half", "full", "half", "half") == ["solo", "full", "half", "half"]
    assert spans("tall", "half", "half", "full") == ["tall", "half", "half", "full"]


def test_hostile_text_stays_text(make_run, tmp_path):
    sample = dict.fromkeys(("prompt", "reference", "before", "after", "domain"), HOSTILE)
    folder = make_run(clients=2, rounds=2, names=[HOSTILE, "ok"], recipe=HOSTILE, samples=[sample])
    edit_summary(folder, method=HOSTILE, model={"name": HOSTILE, "note": HOSTILE}, versions={HOSTILE: HOSTILE})
    (folder / "recipe.json").write_text(json.dumps({"name": HOSTILE}))
    text = page_of([folder], tmp_path)
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert " ".join(page.words).count("<script>steal()</script>") >= 12
    assert "{{ 7 * 7 }}" in text
    drawings(text)


@pytest.mark.parametrize("name", FILES)
def test_a_run_that_lacks_a_file_is_reported_and_says_so(make_run, tmp_path, name):
    folder = make_run(clients=3, rounds=2)
    (folder / name).unlink()
    assert f"{name} is missing." in page_of([folder], tmp_path)


def partial(folder, kind):
    """Take things away from a complete run."""
    if kind == "only a recipe":
        for name in FILES[1:]:
            (folder / name).unlink()
    elif kind == "bare rounds":
        (folder / "rounds.jsonl").write_text('{"round": 0}\n{"round": 1, "train_loss": 2.0}\n')
        (folder / "summary.json").write_text("{}")
        (folder / "world.json").write_text("{}")
    elif kind == "nulls":
        rewrite_rounds(folder, lambda lines: [line.update(dict.fromkeys(list(line)[1:])) for line in lines])
        edit_summary(folder, plan=None, validation_loss={"before": None, "after": None}, delay_s=None)
    elif kind == "not finite":
        edit_summary(folder, validation_loss={"before": float("inf"), "after": float("nan")}, wall_s=float("nan"))
        rewrite_rounds(
            folder, lambda lines: [line.update(train_loss=float("nan"), validation_loss=1e5) for line in lines]
        )
    elif kind == "zeros":
        rewrite_rounds(
            folder, lambda lines: [line.update(charged={"delay_s": 0, "bits": {}}, rank_K=[]) for line in lines]
        )
    elif kind == "shorter lists":
        (folder / "world.json").unlink()
        rewrite_rounds(folder, lambda lines: [line.update(train_loss_K=[1.0], cut_K=[1]) for line in lines])


@pytest.mark.parametrize("kind", ["only a recipe", "bare rounds", "nulls", "not finite", "zeros", "shorter lists"])
def test_a_partial_run_shows_no_broken_number(make_run, tmp_path, kind):
    folder = make_run(clients=3, rounds=2)
    partial(folder, kind)
    text = page_of([folder], tmp_path)
    words = " ".join(Page(text).words)
    assert not re.search(r"\b(nan|NaN|None|inf|Infinity)\b", words)
    for drawing in drawings(text):
        for node in drawing.iter():
            assert not re.search(
                r"nan|inf", " ".join(node.get(key, "") for key in ("d", "x", "y", "width", "height", "cx"))
            )


def test_an_interrupted_run_says_how_far_it_came(make_run, tmp_path):
    folder = make_run(clients=2, rounds=3)
    edit_summary(folder, status="interrupted", rounds=40)
    assert "This run was interrupted after 3 of 40 rounds." in page_of([folder], tmp_path)
    (folder / "summary.json").unlink()
    assert "This run is still going or was interrupted, after" in page_of([folder], tmp_path)


def test_losses_that_blew_up_lost_clients_and_unequal_accounts_are_pointed_out(make_run, tmp_path):
    folder = make_run(clients=3, rounds=3)

    def harm(lines):
        lines[1]["train_loss"] = float("nan")
        lines[2]["lost"] = [{"client": 0}, {"client": 2}]
        lines[0]["planned"]["bits"]["adapters_up"] -= 8

    rewrite_rounds(folder, harm)
    words = " ".join(Page(page_of([folder], tmp_path)).words)
    assert "The training loss of round 2 is not finite." in words
    assert "2 client updates did not arrive, in 1 round." in words
    assert "Planned, charged and metered amounts differ for all bits and uplink adapters." in words
    assert words.count("✗ unequal") == 2


LONG = ["A very long device name that somebody typed by hand", "设备名称很长的一个测试设备", "W" * 60, "x"]


@pytest.mark.parametrize(
    "options",
    [
        {"clients": 1, "rounds": 1, "subchannels": 1},
        {"clients": 4, "names": LONG},
        {"clients": 32, "subchannels": 200, "rounds": 3},
        {"clients": 3, "rounds": 150},
    ],
    ids=["smallest", "long names", "many clients", "many rounds"],
)
def test_no_text_leaves_its_chart(make_run, tmp_path, options):
    for drawing in drawings(page_of([make_run(**options)], tmp_path)):
        if drawing.get("aria-hidden"):
            continue
        _, _, width, height = map(float, drawing.attrib["viewBox"].split())
        for node in drawing.iter("text"):
            words = (node.text or "") + "".join(child.tail or "" for child in node)
            css = node.attrib["class"]
            length = text_width(words, 10.5 if "small" in css else 11 if "place" in css else 12)
            start = float(node.attrib["x"]) - length * {"middle": 0.5, "end": 1.0}.get(node.get("text-anchor", ""), 0.0)
            assert start >= -1, words
            assert start + length <= width + 1, words
            assert 0 <= float(node.attrib["y"]) <= height, words


def test_long_runs_and_big_cells_stay_small_pages(make_run, tmp_path):
    assert len(page_of([make_run("long", clients=3, rounds=400)], tmp_path)) < 750_000
    assert len(page_of([make_run("big", clients=32, subchannels=200, rounds=3)], tmp_path)) < 900_000


def test_the_same_records_give_the_same_page(make_run, tmp_path):
    folder = make_run(clients=2, rounds=2)
    assert page_of([folder], tmp_path / "a") == page_of([folder], tmp_path / "b")


def test_several_runs_are_compared_first_and_then_told_one_by_one(make_run, tmp_path):
    slow, fast = make_run("slow", rounds=3), make_run("fast", rounds=3, seed=2, recipe="other")
    rewrite_rounds(slow, lambda lines: [line["charged"].update(delay_s=100.0) for line in lines])
    rewrite_rounds(fast, lambda lines: [line["charged"].update(delay_s=50.0) for line in lines])
    text = page_of([slow, fast], tmp_path)
    page = Page(text)
    assert text.index('id="comparison"') < text.index('id="run0"') < text.index('id="run1"')
    row = re.search(r"Simulated time</th>(.*?)</tr>", text)
    assert row
    assert re.findall(r"<td[^>]*>(.*?)</td>", row[1]) == ["5 min", "★ 2 min 30 s"]
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    legend = text[text.index('id="comparison"') : text.index('id="run0"')]
    assert re.findall(r'class="line (cat-\d) (dash-\d)"', legend)[:2] == [("cat-0", "dash-0"), ("cat-1", "dash-1")]


def test_runs_of_one_recipe_are_told_apart_by_their_folders(make_run, tmp_path):
    words = Page(page_of([make_run("monday", rounds=1), make_run("friday", rounds=1)], tmp_path)).words
    assert {"sflllm · monday", "sflllm · friday"} <= set(words)


def test_the_time_to_a_common_loss_compares_runs_of_different_length(make_run, tmp_path):
    folders = [make_run("a", rounds=2, recipe="a"), make_run("b", rounds=3, recipe="b")]
    for folder, losses in zip(folders, ([2.5, 2.0], [2.2, 1.9, 1.5]), strict=True):

        def put(lines, losses=losses):
            for line, loss in zip(lines, losses, strict=True):
                line["validation_loss"], line["charged"]["delay_s"] = loss, 10.0

        rewrite_rounds(folder, put)
        edit_summary(folder, validation_loss={"before": 3.0, "after": losses[-1]})
    row = re.search(r"Simulated time to loss 2.000</th>(.*?)</tr>", page_of(folders, tmp_path))
    assert row
    assert re.findall(r"<td[^>]*>(.*?)</td>", row[1]) == ["20.0 s", "20.0 s"]


def test_misuse_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="at least one run folder"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(RunFolderError, match="nowhere"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_report_needs_neither_torch_nor_matplotlib(make_run, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['matplotlib'] = None\n"
        "from pathlib import Path; from wavetune.reporting import write_report\n"
        "write_report([Path(sys.argv[1])], Path(sys.argv[2]))"
    )
    out = tmp_path / "report.html"
    subprocess.run([sys.executable, "-c", code, str(make_run(rounds=1)), str(out)], check=True, timeout=120)
    assert out.stat().st_size > 10_000


def test_the_straggler_is_called_by_its_name_in_words_and_in_the_timelines_caption(make_run, tmp_path):
    folder = make_run(clients=3, rounds=3, names=["roof", "cellar", "gate"])

    def give_ids_and_stragglers(lines):
        for line, client, delay_s in zip(lines, (9, 4, 9), (1.0, 2.0, 3.0), strict=True):
            line["straggler"] = {"client": client, "phase": "uplink"}
            line["charged"]["delay_s"] = delay_s

    world = json.loads((folder / "world.json").read_text())
    for device, identity in zip(world["devices"], (7, 9, 4), strict=True):
        device["client_id"] = identity
    (folder / "world.json").write_text(json.dumps(world))
    rewrite_rounds(folder, give_ids_and_stragglers)
    text = page_of([folder], tmp_path)
    words = " ".join(Page(text).words)
    assert "the others waited most often for cellar in uplink, in 2 of 3 rounds" in words
    assert "Round 2, whose delay (2.00 s) is the median of the run. ▸ marks the straggler: gate, in uplink." in words
    assert "▸ gate" in text
    assert "▸ cellar" not in text
    (folder / "world.json").unlink()
    assert "waited most often for client 9" in " ".join(Page(page_of([folder], tmp_path)).words)
