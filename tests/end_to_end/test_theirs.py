"""Somebody else's package with a filter, a mixing rule and a recipe, named by its path wherever wavetune's own are."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.command_line import assert_refused, settings, wavetune
from helpers.deployment import deployed, nothing, play, run_deployed
from helpers.runs import EXACT, SMALL, Silent, assert_same_run, read_rounds, told, train
from helpers.workers import train_in_workers, workers_here
from wavetune import recipes
from wavetune.data import given_rows
from wavetune.errors import ConfigError, ModelError
from wavetune.federation.nodes import _UNHEARD
from wavetune.federation.run_folder import RunFolder
from wavetune.models.restore import load_adapted
from wavetune.recipe import load, with_settings
from wavetune.runtimes.device_permission import Allowed, options_of
from wavetune.runtimes.round import train_round
from wavetune.runtimes.scoring import perplexity
from wavetune.runtimes.session import build

PACKAGE = Path(__file__).parents[2] / "examples" / "theirs"
MINE = "theirs.recipes:mine"
CUT = ('method.topology={"kind":"split","cut":2}',)


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """What pip does with a package of pure Python: its folder stands on the path."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE / "theirs", site / "theirs", ignore=shutil.ignore_patterns("__pycache__"))
    sys.path.insert(0, str(site))
    yield
    sys.path.remove(str(site))
    for name in [name for name in sys.modules if name.partition(".")[0] == "theirs"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    answer = wavetune("run", MINE, *settings(), "--out", out)
    assert answer.code == 0, answer.err
    return out


def test_it_runs_and_its_record_names_it_by_its_path(whole):
    recipe = load(whole / "recipe.json")
    kinds = [part.kind for part in (*recipe.method.filters, recipe.method.mixing)]
    assert (recipe.name, kinds) == (MINE, ["theirs.filters:Scores", "theirs.mixing:Damped"])
    assert json.loads((whole / "summary.json").read_text())["aggregation"]["name"] == "theirs.mixing:Damped"
    assert (whole / "report.html").exists()


def test_it_is_continued_to_the_same_end(whole, tmp_path):
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    (max((out / "checkpoints").iterdir()) / "state.safetensors").write_bytes(b"damaged")
    (out / "summary.json").unlink()
    answer = wavetune("run", MINE, "--resume", "--out", out)
    assert answer.code == 0, answer.err
    assert_same_run(out, whole)


def test_it_is_shown_planned_and_swept(whole, tmp_path):
    shown = wavetune("show", MINE, "--set", "method.mixing.rate=0.5", "--set", "method.filters.chi=3")
    assert json.loads(shown.out)["method"]["mixing"] == {"kind": "theirs.mixing:Damped", "rate": 0.5, "momentum": 0.5}
    assert json.loads(shown.out)["method"]["filters"][0]["chi"] == 3.0
    assert wavetune("plan", MINE, *settings()).code == 0
    over = ("--over", "method.mixing.rate=0.5,1", "--seeds", 1, "--methods", "greedy", "--jobs", 1)
    swept = wavetune("sweep", MINE, *settings(), *over, "--out", tmp_path / "sweep")
    assert swept.code == 0, swept.err


def test_an_objective_of_theirs_is_minimised(tmp_path):
    chosen = ("--set", "method.objective=theirs.objectives:Unsure", "--set", "method.objective.beta=0.5")
    answer = wavetune("run", "fedavg_lora", *settings("run.rounds=1"), *chosen, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    mine, plain = (read_rounds(folder)[0] for folder in (tmp_path / "run", train_plainly(tmp_path / "plain")))
    assert mine["train_loss"] < plain["train_loss"] - 1  # half of an entropy near that of a uniform distribution


PHASE = ("--set", "method.phases=theirs.phases:Interpolate", "--set", "method.phases.shares=[0.25,1.0,0.5]")


@pytest.fixture(scope="module")
def phased(tmp_path_factory):
    out = tmp_path_factory.mktemp("phased") / "run"
    answer = wavetune("run", MINE, *settings("run.rounds=1"), *PHASE, "--out", out)
    assert answer.code == 0, answer.err
    return out


def test_a_phase_of_theirs_follows_the_federated_rounds(phased):
    tried = read_rounds(phased, "interpolation.jsonl")
    assert [line["share"] for line in tried] == [0.25, 1.0, 0.5]
    assert tried[1]["loss"] == pytest.approx(read_rounds(phased)[-1]["validation_loss"])
    found = json.loads((phased / "summary.json").read_text())["further"]["theirs.phases:Interpolate"]
    best = min(tried, key=lambda line: line["loss"])
    assert found == {"share": best["share"], "validation_loss": best["loss"]}


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_run_stopped_in_a_phase_of_theirs_is_continued_to_the_same_end(phased, done, tmp_path):
    out = Path(shutil.copytree(phased, tmp_path / "run"))
    (out / "summary.json").unlink()
    folder = RunFolder(out)
    state = folder.load_checkpoint()[1]
    shutil.rmtree(out / "checkpoints")
    (out / "checkpoints").mkdir()
    folder.save_checkpoint(done, state)  # as it stood then: this phase changes no adapter
    answer = wavetune("run", MINE, "--resume", "--out", out)
    assert answer.code == 0, answer.err
    assert_same_run(out, phased)
    assert read_rounds(out, "interpolation.jsonl") == read_rounds(phased, "interpolation.jsonl")


def test_a_phase_of_theirs_is_swept_and_refused_where_it_cannot_be(tmp_path):
    over = ("--over", "method.mixing.rate=0.5,1", "--seeds", 1, "--methods", "greedy", "--jobs", 1)
    swept = wavetune("sweep", MINE, *settings(), *PHASE, *over, "--out", tmp_path / "sweep")
    assert swept.code == 0, swept.err
    personal = ("--set", "method.bottleneck.width=4", "--set", 'method.sharing.shared=["bottleneck"]')
    assert_refused(
        wavetune("run", MINE, *settings(), *PHASE, *personal, "--out", tmp_path / "run"), "one model of all clients"
    )


def test_a_phase_of_theirs_follows_rounds_on_devices(tmp_path):
    recipe = with_settings(recipes.get(MINE), [*SMALL, *EXACT, "run.rounds=1", PHASE[1], PHASE[3]])
    run_deployed(recipe, tmp_path / "run", tmp_path / "certificates", Silent(), allowed=Allowed(others=("theirs",)))
    tried = read_rounds(tmp_path / "run", "interpolation.jsonl")
    assert tried[1]["loss"] == pytest.approx(read_rounds(tmp_path / "run")[-1]["validation_loss"])


def test_an_exchange_of_theirs_gives_each_client_adapters_of_its_own_and_ends_so_on_devices(tmp_path):
    chosen = ("method.exchange=theirs.exchanges:Alike", "method.exchange.clients=3", "method.proximal=0.1")
    recipe = with_settings(recipes.get("fedavg_lora"), [*SMALL, *EXACT, "run.rounds=2", *chosen])
    train(recipe, tmp_path / "here")
    run_deployed(recipe, tmp_path / "there", tmp_path / "certificates", Silent(), allowed=Allowed(others=("theirs",)))
    one, other = (adapters_of(tmp_path / name) for name in ("here", "there"))
    assert one.keys() == other.keys()
    for name, tensors in one.items():
        for matrix, values in tensors.items():
            torch.testing.assert_close(other[name][matrix], values, rtol=1e-6, atol=1e-9)
    clients = [torch.cat([t.flatten() for t in one[f"client-{k:02d}"].values()]) for k in range(3)]
    assert (clients[0] - clients[1]).norm() > 1e-3
    assert all(record["lost"] == [] for record in read_rounds(tmp_path / "there"))


ADAALTER = ("method.optimiser=theirs.scales:Scaled", "method.mixing=theirs.scales:Scales")
SCAFFOLD = ("method.optimiser=theirs.scaffold:Corrected", "method.mixing=theirs.scaffold:Variates")
FEDNOVA = ('method.topology={"kind":"theirs.nova:Passes","passes":0.2}', "method.filters=theirs.nova:Normalised")
METHODS = {
    "adaalter_of_mixed_ranks_and_factors_in_turn": (
        *ADAALTER,
        "method.lora.rank=[2,4,1]",
        "method.exchange=theirs.turns:Turns",
    ),
    "adaalter_of_some_at_edges_whose_uploads_are_lost": (
        *ADAALTER,
        'method.selection={"kind":"at_random","count":2}',
        'method.exchange={"kind":"hierarchical","edges":2}',
        'method.link={"kind":"outage","loss_probability":0.4,"lost":"reuse"}',
        "method.adapter_codec=bf16",
    ),
    "fednova_of_some": (
        *FEDNOVA,
        "run.local_steps=3",
        'method.selection={"kind":"at_random","count":2}',
        'method.link={"kind":"outage","loss_probability":0.4,"lost":"reuse"}',
    ),
    "fednova_of_edges_in_bf16_beside_scaffold": (
        *FEDNOVA,
        *SCAFFOLD,
        "run.local_steps=3",
        'method.exchange={"kind":"hierarchical","edges":2}',
        "method.adapter_codec=bf16",
    ),
    "feddyn": ("method.optimiser=theirs.optimisers:Dynamic", "method.mixing=theirs.optimisers:DynamicServer"),
    "feddyn_in_turn_behind_a_cut": (
        "method.optimiser=theirs.optimisers:Dynamic",
        "method.mixing=theirs.optimisers:DynamicServer",
        'method.topology={"kind":"split","cut":2,"schedule":"sequential"}',
        "method.activation_codec=fp64",
        "method.gradient_codec=fp64",
    ),
    "rolora": ("method.exchange=theirs.turns:Turns",),
    "scaffold_of_factors_in_turn": (
        *SCAFFOLD,
        "method.optimiser.learning_rate=1",
        "method.exchange=theirs.turns:Turns",
    ),
    "scaffold": (*SCAFFOLD, "method.optimiser.learning_rate=1"),
    "scaffold_of_some_at_edges_in_bf16": (
        *SCAFFOLD,
        'method.selection={"kind":"at_random","count":2}',
        'method.exchange={"kind":"hierarchical","edges":2}',
        "method.adapter_codec=bf16",
    ),
    "rolora_behind_a_cut_in_bf16": ("method.exchange=theirs.turns:Turns", "method.adapter_codec=bf16", *CUT),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_theirs_pays_what_was_planned_and_ends_alike_continued_in_workers_and_on_devices(name, tmp_path):
    rounds = 3 if "_of_some" in name else 2  # a client that sat out comes back
    alone = ("run.tokens_per_pass=1", f"run.rounds={rounds}", "run.checkpoint_every=1")
    recipe = with_settings(recipes.get("fedavg_lora"), [*SMALL, *EXACT, *alone, *METHODS[name]])
    train(recipe, tmp_path / "here")
    for record in read_rounds(tmp_path / "here"):
        assert record["planned"] == record["charged"]
    out = Path(shutil.copytree(tmp_path / "here", tmp_path / "again"))
    (max((out / "checkpoints").iterdir()) / "state.safetensors").write_bytes(b"damaged")
    (out / "summary.json").unlink()
    train(load(out / "recipe.json"), out, resume=True)
    assert_same_run(out, tmp_path / "here")
    train_in_workers(recipe, tmp_path / "workers", workers_here(2))
    assert_same_run(tmp_path / "workers", tmp_path / "here")
    run_deployed(recipe, tmp_path / "there", tmp_path / "certificates", Silent(), allowed=Allowed(others=("theirs",)))
    one, other = (adapters_of(tmp_path / name)["global"] for name in ("here", "there"))
    for matrix, values in one.items():
        torch.testing.assert_close(other[matrix], values, rtol=1e-6, atol=1e-9)
    for mine, theirs in zip(*(read_rounds(tmp_path / name) for name in ("here", "there")), strict=True):
        sent, metered = ({k: 8 * n for k, n in theirs["measured"]["payload_bytes"].items()}, mine["metered_bits"])
        if not all(mine["active_K"]):  # who sits out hears the broadcast when it joins again
            sent.pop("adapters_down"), metered.pop("adapters_down")
        assert sent == {kind: n for kind, n in metered.items() if kind != "backhaul"}


@pytest.mark.parametrize("own", [(), ("run.local_steps=3", "method.topology.steps=[3,2,3]")])
def test_control_variates_are_mean_gradients_and_the_servers_is_their_mean(own):
    equal = ("world.data.partition.kind=iid", "run.tokens_per_pass=1", *own)
    session = build(with_settings(recipes.get("fedavg_lora"), [*SMALL, *EXACT, *equal, *METHODS["scaffold"]]))
    bank, optimiser, server = session.cohort.bank, session.cohort.optimiser, session.server
    for index in range(3):
        record = train_round(session, index, nothing).record()
        assert record.metered_bits["adapters_down"] == 2 * record.metered_bits["adapters_up"]
        for client in range(3):
            told, moments = optimiser.told(client), optimiser.client_moments([client])
            for site, own in bank.local.items():
                for name in own:
                    kept = server.states["fed|mixing"][f"c.{site}.{name}"]
                    mean = sum(optimiser.client_moments([k])[f"{site}.{name}.mean"][0] for k in range(3)) / 3
                    torch.testing.assert_close(told[f"c.{site}.{name}"], kept, rtol=0, atol=0)
                    torch.testing.assert_close(kept, mean, rtol=0, atol=1e-12)
                    assert (moments[f"{site}.{name}.own"] != 0).any() == (index > 0)


def test_fednova_moves_by_the_mean_step_of_each_client_times_the_mean_number_of_steps():
    settings = (*FEDNOVA, "run.local_steps=6", "run.rounds=1", "method.optimiser.schedule=linear")
    session, found = build(with_settings(recipes.get("fedavg_lora"), [*SMALL, *EXACT, *settings])), []
    bank, weights = session.cohort.bank, np.array([len(rows) for rows in session.rows_by_client])
    steps, start = session.steps_K, bank.copies(0)
    rates = [session.recipe.method.optimiser.factor(step, 6) for step in range(6)]
    assert steps == tuple(min(math.ceil(0.2 * n / 2), 6) for n in weights)
    assert len({*steps}) > 1
    train_round(session, 0, nothing, lambda: found.extend(bank.copies(k) for k in range(3)))
    weights, paths = weights / sum(weights), np.array([sum(rates[:n]) for n in steps])
    for site, own in session.server.current.items():
        for name, values in own.items():
            x, *y_K = (one[f"{site}.{name}"].numpy() for one in (start, *found))
            d_K = [(x - y) / path for y, path in zip(y_K, paths, strict=True)]
            wanted = x - (weights @ paths) * sum(p * d for p, d in zip(weights, d_K, strict=True))
            np.testing.assert_allclose(values.numpy(), wanted, rtol=0, atol=1e-14)


def test_batches_in_proportion_to_rows_have_all_clients_pass_through_them_as_often():
    alike = ("method.topology=theirs.batches:Proportional", "world.data.batching.batch_size=8", "run.rounds=1")
    session = build(with_settings(recipes.get("fedavg_lora"), [*SMALL, *EXACT, *alike]))
    rows_K, sizes = [len(rows) for rows in session.rows_by_client], session.batch_size_K
    assert sizes == tuple(max(1, round(8 * n / max(rows_K))) for n in rows_K)
    assert len({*sizes}) > 1
    record = train_round(session, 0, nothing).record()
    assert record.planned == record.charged
    assert record.samples == session.recipe.run.local_steps * sum(sizes)


@pytest.mark.parametrize("codec", ["fp64", "bf16"])
def test_what_clients_tell_is_beside_their_updates_paid_for_and_known_to_the_rule(codec):
    own = ("world.data.partition.kind=iid", "method.price_downlink=true", f"method.adapter_codec={codec}")
    session = build(with_settings(recipes.get("fedavg_lora"), [*SMALL, *EXACT, *own, *ADAALTER]))
    bank, optimiser, server = session.cohort.bank, session.cohort.optimiser, session.server
    plain = build(with_settings(recipes.get("fedavg_lora"), [*SMALL, *EXACT, *own]))
    close = {"rtol": 0, "atol": 1e-12} if codec == "fp64" else {"rtol": 0.01, "atol": 0}
    for index in range(2):
        record = train_round(session, index, nothing).record()
        other = train_round(plain, index, nothing).record()
        assert record.planned == record.charged
        assert record.metered_bits == {kind: 2 * bits for kind, bits in other.metered_bits.items()}
        told = [optimiser.tells(client) for client in range(3)]
        for name, b in server.states["fed|mixing"].items():
            mean = sum(one[f"s{name.removeprefix('b')}"] for one in told) / 3
            torch.testing.assert_close(b, mean, **close)
            assert (mean > 0).all() or index == 0  # B is zero at first, so that A has no gradient
    costs, without = (one.planned(2)[0].costs for one in (session, plain))
    np.testing.assert_allclose(costs.lora_bits_per_rank_L, 2 * without.lora_bits_per_rank_L)
    assert costs.download_share == without.download_share
    assert len(told[0]) == sum(len(own) for own in bank.local.values())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("method.exchange=gossip", "a server that updates are sent to"),
        ("method.exchange=over_the_air", "every client's update by itself"),
        ("method.adapter_codec=top_k", "updates sent as the values themselves"),
        ("method.privacy.noise_multiplier=0.5", "updates of clients to be all that is learned"),
        (*CUT, "the whole model on every client"),
        ("method.mixing=theirs.scaffold:Variates", "method.optimiser"),
    ],
)
def test_what_clients_tell_is_refused_where_nobody_could_hear_it(other, words, tmp_path):
    answer = wavetune("run", "fedavg_lora", *settings(), *asked(*ADAALTER, other), "--out", tmp_path / "run")
    assert_refused(answer, words)


def test_who_tells_what_is_not_finite_is_left_out_and_the_rule_is_not_blamed():
    session = build(with_settings(recipes.get("fedavg_lora"), [*SMALL, *EXACT, *ADAALTER]))
    ask = session.server.ask
    session.server.ask = lambda k: {name: t * (math.nan if k == 1 else 1) for name, t in ask(k).items()}
    record = train_round(session, 0, nothing).record()
    assert [(one.client, one.why) for one in record.lost] == [(1, f"rejected: {_UNHEARD}")]
    assert all(b.isfinite().all() for b in session.server.states["fed|mixing"].values())


@pytest.mark.parametrize(
    ("heard", "told", "words"),
    [
        (("s",), (), "hears s beside updates and method.optimiser theirs.scales:Scaled tells nothing"),
        (("sums",), ("sums",), "tells 'sums', which it does not remember"),
    ],
)
def test_what_is_heard_is_what_clients_tell_and_remember(heard, told, words, monkeypatch):
    scales = importlib.import_module("theirs.scales")
    monkeypatch.setattr(scales.Scales, "hears", heard)
    monkeypatch.setattr(scales.Scaled, "tells", told)
    assert_refused(wavetune("plan", "fedavg_lora", *settings(), *asked(*ADAALTER)), words)


def test_a_client_is_told_no_more_than_the_components_of_its_rank():
    rank_K = [2, 4, 1]
    chosen = [*SMALL, *EXACT, *METHODS["scaffold"], f"method.lora.rank={rank_K}"]
    session = build(with_settings(recipes.get("fedavg_lora"), chosen))
    for index in range(2):
        train_round(session, index, nothing)
    for client, rank in enumerate(rank_K):
        for own in (session.cohort.optimiser.told(client), session.cohort.bank.copies(client)):
            for name, t in own.items():
                components = t.T if name.endswith(".A") else t
                assert components[rank:].count_nonzero() == 0, name
                assert components[:rank].count_nonzero() > 0, name


def test_what_is_told_to_clients_is_refused_beside_a_main_server_that_trains_too(tmp_path):
    answer = wavetune("run", "fedavg_lora", *settings(), *asked(*SCAFFOLD, *CUT), "--out", tmp_path / "run")
    assert_refused(answer, "method.mixing theirs.scaffold:Variates needs the whole model on every client")


@pytest.mark.parametrize("half", SCAFFOLD)
def test_one_half_of_a_method_whose_server_tells_values_is_refused_alone(half, tmp_path):
    answer = wavetune("run", "fedavg_lora", *settings(), *asked(half), "--out", tmp_path / "run")
    assert_refused(answer, "beside its broadcast", "method.mixing", "method.optimiser", "belong together")


@pytest.mark.parametrize("mixing", ["average_factors", "server_adam"])
def test_of_factors_in_turn_one_alone_is_trained_mixed_sent_and_planned_in_each_round(mixing):
    chosen = [*SMALL, *EXACT, *METHODS["rolora"], f"method.mixing={mixing}"]
    session = build(with_settings(recipes.get("fedavg_lora"), chosen))
    bank, sent = session.cohort.bank, []
    for index, turn in enumerate("BAB"):
        places = (bank.local, session.server.current)
        before = [{site: {n: t.clone() for n, t in own.items()} for site, own in place.items()} for place in places]
        record = train_round(session, index, nothing).record()
        for old, now in zip(before, (bank.local, session.server.current), strict=True):
            assert {n for site, own in now.items() for n, t in own.items() if (t != old[site][n]).any()} == {turn}
        assert record.frozen == ("AB".replace(turn, ""),)
        assert record.aggregation_error < 1e-7  # a mean of products is exact where one factor is the same
        sent.append(record.metered_bits["adapters_up"])
    sizes = {n: sum(64 * t.numel() for own in bank.local.values() for k, t in own.items() if k == n) for n in "AB"}
    assert sent == [sizes[turn] for turn in "BAB"]
    problem = session.planned(2)[0]
    assert problem.costs.lora_bits_per_rank_L.sum() * sum(session.rank_K) == sizes["B"]


@pytest.mark.parametrize(
    "other", ["method.mixing=average_product", "method.mixing=frozen_a", "method.server_steps.steps=1"]
)
def test_factors_in_turn_are_refused_beside_what_needs_both(other, tmp_path):
    answer = wavetune("run", "fedavg_lora", *settings(), *asked(*METHODS["rolora"], other), "--out", tmp_path / "run")
    assert_refused(answer, "both factors of LoRA trained and sent in every round", "method.exchange")


def adapters_of(folder):
    return {path.parent.name: load_file(path) for path in (folder / "adapters").rglob("adapter_model.safetensors")}


def test_an_exchange_of_theirs_for_other_clients_is_refused(tmp_path):
    chosen = ("--set", "method.exchange=theirs.exchanges:Alike", "--out", tmp_path / "run")
    assert_refused(wavetune("run", "fedavg_lora", *settings(), *chosen), "method.exchange.clients is 5 but there are 3")


def test_a_planner_of_theirs_is_swept_beside_others_and_plans_runs(tmp_path):
    over = ("--over", "num_clients=2", "--seeds", 1, "--jobs", 1, "--methods", "proposed,theirs.planners:Middle")
    answer = wavetune("sweep", "sflllm", *settings(), *over, "--out", tmp_path / "sweep")
    assert answer.code == 0, answer.err
    assert "below Middle" in answer.out
    swept = json.loads((tmp_path / "sweep" / "summary.json").read_text())
    assert swept["methods"]["theirs.planners:Middle"].startswith("What somebody takes who does not look at the delay")
    planned = wavetune("plan", "sflllm", *settings(), "--set", "method.planner=theirs.planners:Middle", "--json", "-")
    assert (json.loads(planned.out)["status"], json.loads(planned.out)["rank"]) == ("ok", 4)
    for name, words in (("theirs.planners:Muddle", "has no name 'Muddle'"), ("theirs.filters:Scores", "no frozen")):
        asked = ("--over", "num_clients=2", "--methods", name, "--out", tmp_path / "other")
        assert_refused(wavetune("sweep", "sflllm", *settings(), *asked), words)


def test_two_phases_that_write_one_file_are_refused(tmp_path):
    twice = json.dumps([{"kind": "theirs.phases:Interpolate"}] * 2)
    asked = ("--set", f"method.phases={twice}", "--out", tmp_path / "run")
    assert_refused(wavetune("run", MINE, *settings(), *asked), "write their records into interpolation.jsonl")


def train_plainly(out):
    wavetune("run", "fedavg_lora", *settings("run.rounds=1"), "--out", out)
    return out


def test_it_is_compared_with_baselines_of_its_own(tmp_path):
    out = tmp_path / "comparison"
    answer = wavetune("compare", MINE, *settings("run.rounds=1"), "--seeds", 1, "--jobs", 1, "--out", out)
    assert answer.code == 0, answer.err
    assert set(json.loads((out / "comparison.json").read_text())["methods"]) >= {"proposed", "plain averaging"}


def test_devices_run_it_where_they_were_told_they_may(tmp_path):
    recipe = with_settings(recipes.get(MINE), [*SMALL, *EXACT])
    assert options_of(recipe) == ["--allow", "theirs"]
    alone = build(recipe)
    wanted = [train_round(alone, index, nothing) for index in range(2)]
    allowed = dict.fromkeys(range(3), Allowed(others=("theirs",)))
    with deployed(recipe, tmp_path / "certificates", allowed=allowed) as servers:
        found = play(servers, 2)
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(told(mine)["train_loss_K"], told(theirs)["train_loss_K"], rtol=1e-9)
        for name, pair in theirs.mixed.factors.items():
            for one, other in zip(mine.mixed.factors[name].values(), pair.values(), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-9)


SCALE = ("method.adapters=theirs.adapters:Scale", "method.lora.rank=0", "method.optimiser.learning_rate=0.1")


def asked(*chosen):
    return (word for one in chosen for word in ("--set", one))


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    """A run that trains adapters of theirs alone, which are no pair of matrices."""
    out = tmp_path_factory.mktemp("scaled") / "run"
    answer = wavetune(
        "run", "fedavg_lora", *settings(), *(word for one in SCALE for word in ("--set", one)), "--out", out
    )
    assert answer.code == 0, answer.err
    return out


def test_adapters_of_theirs_are_trained_and_cost_what_they_declare(scaled):
    summary, records = json.loads((scaled / "summary.json").read_text()), read_rounds(scaled)
    assert summary["validation_loss"]["after"] < summary["validation_loss"]["before"] - 0.01
    values = 4 * (32 + 32 + 64)  # of k_proj, v_proj and down_proj in every block
    assert summary["trainable_parameters"]["client"] == values
    for record in records:
        assert record["planned"] == record["charged"]
        assert record["metered_bits"] == {"adapters_up": 3 * 32 * values, "adapters_down": 3 * 32 * values}


def test_a_run_with_adapters_of_theirs_is_continued_to_the_same_end(scaled, tmp_path):
    out = Path(shutil.copytree(scaled, tmp_path / "run"))
    (max((out / "checkpoints").iterdir()) / "state.safetensors").write_bytes(b"damaged")
    (out / "summary.json").unlink()
    answer = wavetune("run", "fedavg_lora", "--resume", "--out", out)
    assert answer.code == 0, answer.err
    assert_same_run(out, scaled)


def test_adapters_of_theirs_are_restored_in_the_stock_model_by_whoever_knows_them(scaled):
    recipe, folder = load(scaled / "recipe.json"), scaled / "adapters" / "global"
    session = build(recipe)
    model = load_adapted(session.model.folder, folder, recipe.method.adapters)
    after = json.loads((scaled / "summary.json").read_text())["validation_loss"]["after"]
    assert perplexity(model, session.data.validation) == pytest.approx(np.exp(after), rel=1e-4)
    with pytest.raises(ModelError, match="what adapters of the kind 'scale' compute is not known"):
        load_adapted(session.model.folder, folder)
    assert wavetune("generate", scaled, "--prompt", "hello", "--max-new-tokens", 2).code == 0


def test_adapters_of_theirs_are_swept_and_trained_on_devices_behind_a_cut(tmp_path):
    over = ("--over", "method.lora.rank=0,2", "--seeds", 1, "--methods", "greedy", "--jobs", 1)
    swept = wavetune("sweep", "fedavg_lora", *settings(), *asked(*SCALE[::2]), *over, "--out", tmp_path / "sweep")
    assert swept.code == 0, swept.err
    recipe = with_settings(recipes.get("sflllm"), [*SMALL, *EXACT, SCALE[0], "method.lora.rank=2", "run.rounds=1"])
    assert options_of(recipe) == ["--allow", "theirs"]
    wanted = train_round(build(recipe), 0, nothing)
    allowed = dict.fromkeys(range(3), Allowed(others=("theirs",)))
    with deployed(recipe, tmp_path / "certificates", allowed=allowed) as servers:
        (found,) = play(servers, 1)
    assert found.metered_bits == wanted.metered_bits
    for name, own in wanted.mixed.factors.items():
        for matrix, t in own.items():
            np.testing.assert_allclose(found.mixed.factors[name][matrix], t, atol=1e-9)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (['method.adapters.maps=["nowhere"]'], "nothing would be trained"),
        (['method.sharing.shared=["scales"]'], "did you mean 'scale'"),
        (['method.adapters=[{"kind":"theirs.adapters:Scale"},{"kind":"theirs.adapters:Scale"}]'], "called 'scale'"),
        (["method.adapters=scale"], "method.adapters.kind is 'scale'"),
    ],
)
def test_adapters_that_cannot_be_are_refused_in_a_sentence(chosen, words, tmp_path):
    assert_refused(
        wavetune("run", "fedavg_lora", *settings(), *asked(*SCALE, *chosen), "--out", tmp_path / "run"), words
    )


SUMS = "theirs.rows:sums"


@pytest.fixture(scope="module")
def trained_on_sums(tmp_path_factory):
    out = tmp_path_factory.mktemp("sums") / "run"
    answer = wavetune("run", "fedavg_lora", *settings("world.data.train_samples=null"), "--data", SUMS, "--out", out)
    assert answer.code == 0, answer.err
    return out


def test_rows_that_a_function_returns_are_trained_on_and_scored(trained_on_sums, tmp_path):
    assert f"200 training and 4 validation rows of {SUMS}" in wavetune("run", *again(trained_on_sums, tmp_path)).err
    world = json.loads((trained_on_sums / "world.json").read_text())
    assert {domain for device in world["devices"] for domain in device["domains"]} == {f"{n} digits" for n in (1, 2, 3)}
    scored = wavetune("evaluate", trained_on_sums, "--prompts", 2, "--max-new-tokens", 2, "--metrics", "exact_match")
    assert f"2 prompts of {SUMS}" in scored.err + scored.out


def test_a_run_is_not_continued_when_a_function_returns_other_rows(trained_on_sums, tmp_path, monkeypatch):
    rows = importlib.import_module("theirs.rows")
    monkeypatch.setattr(rows, "sums", lambda: [{"prompt": str(i), "completion": "1"} for i in range(200)])
    given_rows._returned.cache_clear()
    answer = wavetune("run", *again(trained_on_sums, tmp_path))
    given_rows._returned.cache_clear()
    assert_refused(answer, f"rows of {SUMS} have changed")


def again(folder, tmp_path):
    """Arguments that continue a finished run from its last round but one."""
    out = Path(shutil.copytree(folder, tmp_path / "again"))
    (max((out / "checkpoints").iterdir()) / "state.safetensors").write_bytes(b"damaged")
    (out / "summary.json").unlink()
    return "--resume", "--out", out


def test_servers_cannot_have_a_device_call_a_function_for_its_data():
    recipe = with_settings(recipes.get("fedavg_lora"), [f"world.data.source={SUMS}"])
    with pytest.raises(ConfigError, match="--data PATH"):
        Allowed().applied(recipe)
    assert options_of(recipe)[:2] == ["--data", SUMS]
    assert Allowed(data="theirs.rows:others").applied(recipe).world.data.source == "theirs.rows:others"


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("return 5", "what mine.py:rows returns: data 'train' is int"),
        ("return [1]", "what mine.py:rows returns: data, train row 0 is int"),
        ("raise KeyError('no network')", "the data 'mine.py:rows' failed: KeyError: 'no network'"),
        ("raise SystemExit(3)", "the data 'mine.py:rows' failed: SystemExit: 3"),
        ("return []", "no rows"),
    ],
)
def test_a_function_without_rows_is_one_sentence(returned, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given_rows._returned.cache_clear()
    Path("mine.py").write_text(f"def rows():\n    {returned}\n")
    assert_refused(wavetune("run", "fedavg_lora", *settings(), "--data", "mine.py:rows", "--out", "run"), words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("theirs.rows:minus", "theirs.rows has no function 'minus'"),
        ("theirs.nowhere:rows", "cannot import the data 'theirs.nowhere:rows'"),
        ("theirs.rows:random", "is module; name a function"),
        ("nothing.py:rows", "cannot import the data 'nothing.py:rows'"),
        ("os:getcwd", "Python's own library"),
    ],
)
def test_data_of_a_function_that_is_not_there_is_refused_before_anything_is_loaded(name, words, tmp_path):
    answer = wavetune("run", "fedavg_lora", *settings(), "--data", name, "--out", tmp_path / "run")
    assert_refused(answer, words)
    assert "loading" not in answer.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("theirs.recipes:yours", "theirs.recipes has no function 'yours'"),
        ("theirs.nowhere:mine", "cannot import the recipe 'theirs.nowhere:mine'"),
        ("theirs.recipes:Scores", "returned Scores, not a wavetune.recipe.Recipe"),
        ("theirs.recipes:replace", "the recipe 'theirs.recipes:replace' failed: TypeError"),
        ("theirs.recipes:", "is named module:function"),
        ("theirs", "name your own as package.module:function"),
        ("os:getcwd", "Python's own library"),
    ],
)
def test_what_is_no_recipe_is_refused(name, words):
    assert_refused(wavetune("show", name), words)
