"""The last lines of a run say of its cost what its report says."""

import pytest

from helpers.runs import read_json, small, train
from wavetune.records.reading import read_run
from wavetune.reporting.farewell import last_lines
from wavetune.reporting.format import bits
from wavetune.reporting.story import tiles

ONE_STEP = ("run.local_steps=1", "run.rounds=1")
PERSONAL = ("method.bottleneck.width=4", 'method.sharing.shared=["bottleneck"]')
ONE_OF_THREE = ("method.selection.kind=fastest", "method.selection.count=1")


def told(tmp_path, *settings):
    """The last lines of a run, its summary and its folder."""
    folder = tmp_path / "run"
    train(small(*settings, *ONE_STEP), folder)
    summary = read_json(folder / "summary.json")
    return "\n".join(last_lines(folder, summary, folder / "report.html")), summary, folder


def test_an_upload_is_one_clients_whoever_takes_part(tmp_path):
    words, summary, folder = told(tmp_path, "fedavg_lora", *PERSONAL, *ONE_OF_THREE)
    assert f"An upload is {bits(summary['upload_bits_K'][0])}, " in words
    assert bits(summary["upload_bits_K"][0]) in [t.value for t in tiles(read_run(folder)) if t.label == "An upload"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("fedavg_lora", "method.sharing.shared=[]"), "with 0 bit over the air."),
        (("centralised_lora",), "moving the data to one place is not charged."),
        (("gossip",), "bit over other links."),
        (("hierarchical",), "bit over the air and "),
    ],
    ids=["nothing_shared", "central", "gossip", "hierarchical"],
)
def test_what_crossed_the_air_is_told_apart_from_what_did_not(settings, said, tmp_path):
    assert said in told(tmp_path, *settings)[0]
