"""Every part of every seam of a recipe is under the same laws as soon as it stands in its seam's folder."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.deployment import deployed, play
from helpers.every_part import BASE, choices, recipes_with_every_part
from helpers.runs import Silent, assert_same_run, read_rounds, small, told, train
from helpers.workers import train_in_workers, workers_here
from wavetune.errors import ConfigError
from wavetune.recipe import Recipe, load
from wavetune.runtimes.deployed import check_deployable
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.round import RoundOutcome, train_round
from wavetune.runtimes.session import build

RECIPES = recipes_with_every_part()
BETWEEN_SERVERS = frozenset({"backhaul"})  # they stand in one process
ALIKE = 1e-7  # of factors around 0.1, whose values may cross in fp32


class Weighing(Silent):
    """Weighs what crosses the air in each round, as bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bits, self.by_round = Counter[str](), list[dict[str, int]]()

    def started(self, session, rounds_done, before):
        session.door.carry = self.carry

    def carry(self, kind, _client, payload):
        for tensor in payload.values():
            self.bits[kind] += 8 * len(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return payload

    def round(self, record):
        self.by_round.append(dict(self.bits))
        self.bits.clear()


@dataclass(frozen=True)
class Played:
    recipe: Recipe
    folder: Path
    by_round: list[dict[str, int]]


@pytest.fixture(scope="module", params=RECIPES)
def played(request, tmp_path_factory):
    """A recipe, its run in one process, and the bits that crossed the air."""
    recipe, folder, scale = RECIPES[request.param], tmp_path_factory.mktemp("played") / "run", Weighing()
    run(recipe, folder, scale)
    return Played(recipe, folder, scale.by_round)


def test_every_part_stands_in_a_recipe():
    found = {(path, kind) for recipe in RECIPES.values() for path, kind in standing(recipe)}
    assert {(path, kind) for path, kind, _ in choices()} <= found


def standing(recipe):
    for path, kind, _ in choices():
        held = attrgetter(path)(recipe)
        for part in held if isinstance(held, tuple) else (held,):
            if kind in (getattr(part, "kind", ""), type(part).__name__.lower()):
                yield path, kind


def test_planned_is_charged_and_sent(played):
    records = read_rounds(played.folder)
    assert len(records) == played.recipe.run.rounds
    for record, on_the_wire in zip(records, played.by_round, strict=True):
        assert record["planned"] == record["charged"]
        assert record["charged"]["bits"] == record["metered_bits"]
        assert {k: n for k, n in record["metered_bits"].items() if k not in BETWEEN_SERVERS} == on_the_wire
        assert record["charged"]["delay_s"] > 0


def test_a_continued_run_ends_as_an_uninterrupted_one(played, tmp_path):
    out = Path(shutil.copytree(played.folder, tmp_path / "run"))
    (max((out / "checkpoints").iterdir()) / "state.safetensors").write_bytes(b"damaged")
    (out / "summary.json").unlink()
    train(load(out / "recipe.json"), out, resume=True)
    assert_same_run(out, played.folder)


def test_two_workers_end_as_one_process(played, tmp_path):
    if played.recipe.method.topology.pooled:
        pytest.skip("one trainer has no clients to spread")
    train_in_workers(played.recipe, tmp_path / "two", workers_here(2))
    assert_same_run(tmp_path / "two", played.folder)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return tmp_path_factory.mktemp("deployed") / "certificates"


def test_devices_end_where_one_process_ends(played, certificates):
    if played.recipe.method.topology.pooled:
        pytest.skip("one trainer has no devices")
    if why := played.recipe.method.simulated_only:
        with pytest.raises(ConfigError, match=f"{why}; choose another"):
            check_deployable(build(played.recipe))
        return
    with deployed(played.recipe, certificates) as servers:
        found = [told(outcome) for outcome in play(servers, played.recipe.run.rounds)]
    for mine, theirs in zip(found, read_rounds(played.folder), strict=True):
        losses = (np.array(record["train_loss_K"], float) for record in (mine, theirs))  # none of who sits out
        np.testing.assert_allclose(*losses, rtol=ALIKE)
        for name in ("planned", "charged", "metered_bits", "lost", "active_K"):
            assert mine[name] == theirs[name], name
        sent = {kind: 8 * n for kind, n in mine["measured"]["payload_bytes"].items()}
        late = BETWEEN_SERVERS  # what one process keeps to itself
        if not all(mine["active_K"]):
            late = late | {"adapters_down"}  # who sits out hears it when it joins again
        assert {k: n for k, n in sent.items() if k not in late} == {
            k: n for k, n in theirs["metered_bits"].items() if k not in late
        }


def first_round(*settings: str) -> RoundOutcome:
    return train_round(build(small("fedavg_lora", *BASE, *settings)), 0, lambda *_: None)


EQUAL = ("world.data.partition.kind=iid",)  # clients of equal weight


@pytest.fixture(scope="module")
def plain():
    return first_round(*EQUAL)


@pytest.mark.parametrize(
    "neutral",
    [
        'method.mixing={"kind":"trimmed_mean","fraction":0}',
        'method.mixing={"kind":"multi_krum","malicious":0,"keep":3}',
        'method.screening={"max_norm_ratio":1e9}',
        "method.link=outage",
        'method.adapter_codec={"kind":"top_k","fraction":1}',
        'method.selection={"kind":"fastest","count":3}',
        'method.selection={"kind":"deadline","round_deadline_s":1e6}',
        'method.privacy={"clip_norm":null,"noise_multiplier":0}',
    ],
)
def test_a_neutral_setting_is_as_if_the_part_were_not_there(neutral, plain):
    found = first_round(*EQUAL, neutral)
    for name, pair in plain.mixed.factors.items():
        for mine, theirs in zip(found.mixed.factors[name].values(), pair.values(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=ALIKE)
