"""A deployed run's seconds and bytes beside those of its plan."""

import json
import re
from html import unescape

from wavetune.reporting import read_run, write_report
from wavetune.reporting.format import DASH

PAYLOAD = {"activations_up": 3000, "labels_up": 200, "gradients_down": 1600, "adapters_up": 100, "adapters_down": 100}


def deploy(folder, **changes):
    """Give every round of a run of two clients what a deployed run measures, and accounts to lay it beside."""
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        for account in (line["planned"], line["charged"]):
            account["phases"] |= {"uplink_s": [2.0, 4.0], "downlink_s": [0.0, 0.0], "server_forward_s": 0.5}
            account |= {"delay_s": 10.0, "bits": {kind: 8 * n for kind, n in PAYLOAD.items()}}
            account |= {"bits_up_K": [8 * 1100, 8 * 2200], "bits_down_K": [8 * 800, 8 * 900]}
        zeros = {"client_backward_s": [0.0, 0.0], "fed_upload_s": [0.0, 0.0], "fed_download_s": [0.0, 0.0]}
        line["measured"] = {
            "wall_s": 12.0,
            "phases": {"client_forward_s": [0.1, 0.3], "uplink_s": [2.5, 5.0], "downlink_s": [0.25, 0.75],
                       "server_forward_s": 2.0, "server_backward_s": 1.0, **zeros},
            "payload_bytes": PAYLOAD, "framing_bytes": 50, "frame_bytes_up_K": [1111, 2222],
            "frame_bytes_down_K": [816, 901],
        } | changes  # fmt: skip
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def rows_of(folder):
    """Rows of the tables of the section by their captions, each from its first cell to the others."""
    page = write_report([folder], folder / "report.html").read_text(encoding="utf-8")
    section = page[page.index('id="run0-measured"') :].partition("</section>")[0]
    found = {}
    for table in re.findall(r"<table.*?</table>", section, re.S):
        caption = re.search(r"<caption><span>(.*?)</span>", table)[1]
        rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?</tr>", table, re.S)]
        found[caption] = [[unescape(cell) for cell in row] for row in rows]
    return found


def test_seconds_of_all_rounds_stand_beside_each_other_by_phase_and_client(make_run):
    rows = rows_of(deploy(make_run(clients=2, rounds=3, names=["one", "two"])))["Seconds by phase and client"]
    assert rows[1] == ["whole rounds", "30.0 s", "30.0 s", "36.0 s", "1.20"]
    uplink = rows.index(["uplink, mean", "9.00 s", "9.00 s", "11.2 s", "1.25"])
    assert rows[uplink + 1] == ["one", "6.00 s", "6.00 s", "7.50 s", "1.25"]
    assert rows[uplink + 2] == ["two", "12.0 s", "12.0 s", "15.0 s", "1.25"]
    assert ["server forward", "1.50 s", "1.50 s", "6.00 s", "4.00"] in rows
    assert ["two", "0 s", "0 s", "2.25 s", DASH] in rows  # a downlink without a price


def test_bytes_stand_beside_each_other_by_kind_and_client(make_run):
    tables = rows_of(deploy(make_run(clients=2, rounds=2, names=["one", "two"])))
    kinds = tables["Bytes by kind"]
    assert ["payload", "✓ equal", "10.0 kB", "10.0 kB", "10.0 kB"] in kinds
    assert ["uplink labels", "✓ equal", "400 B", "400 B", "400 B"] in kinds
    assert ["framing", DASH, DASH, DASH, "100 B"] in kinds
    assert tables["Bytes by client"][1:] == [
        ["uplink, all clients", "6.60 kB", "6.60 kB", "6.67 kB", "+1.0 %"],
        ["one", "2.20 kB", "2.20 kB", "2.22 kB", "+1.0 %"],
        ["two", "4.40 kB", "4.40 kB", "4.44 kB", "+1.0 %"],
        ["downlink, all clients", "3.40 kB", "3.40 kB", "3.43 kB", "+1.0 %"],
        ["one", "1.60 kB", "1.60 kB", "1.63 kB", "+2.0 %"],
        ["two", "1.80 kB", "1.80 kB", "1.80 kB", "+0.1 %"],
    ]


def test_a_byte_that_was_not_predicted_is_found(make_run):
    rows = rows_of(deploy(make_run(clients=2, rounds=1), payload_bytes=PAYLOAD | {"labels_up": 201}))["Bytes by kind"]
    assert [row[0] for row in rows if row[1].startswith("✗")] == ["payload", "uplink labels"]


def test_server_that_its_clients_share_counts_until_the_last_is_served(make_run):
    folder = deploy(make_run(clients=2, rounds=1))
    text = (folder / "rounds.jsonl").read_text()
    (folder / "rounds.jsonl").write_text(text.replace('"server_forward_s": 0.5', '"server_forward_s": [0.5, 0.25]'))
    assert ["server forward", "500 ms", "500 ms", "2.00 s", "4.00"] in rows_of(folder)["Seconds by phase and client"]


def test_many_clients_are_shown_by_their_means_and_sums(make_run):
    rows = rows_of(deploy(make_run(clients=20, rounds=1)))
    assert {row[0] for row in rows["Bytes by client"][1:]} == {"uplink, all clients", "downlink, all clients"}
    assert not any(row[0].startswith("device") for row in rows["Seconds by phase and client"])


def test_run_that_measured_nothing_has_no_such_section(make_run):
    folder = make_run(rounds=2)
    page = write_report([folder], folder / "report.html").read_text(encoding="utf-8")
    assert "run0-measured" not in page
    assert read_run(folder).problems == ()


def test_rounds_that_measured_nothing_are_left_out_and_said_so(make_run):
    folder = deploy(make_run(clients=2, rounds=3))
    first, *others = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    del first["measured"]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (first, *others)))
    assert ["whole rounds", "20.0 s", "20.0 s", "24.0 s", "1.20"] in rows_of(folder)["Seconds by phase and client"]
    assert "measured: 2 of 3 rounds" in (folder / "report.html").read_text()
