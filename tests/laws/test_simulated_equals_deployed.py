"""Devices and servers that talk over streams end with the adapters, losses and bits of the run in one process.

Here the devices are threads; tests/end_to_end/test_deploy.py starts processes.
"""

import numpy as np
import pytest
import torch

from helpers.deployment import deployed, nothing, play
from helpers.runs import EXACT, PAPER, small, told
from wavetune.data_plane.messages_pb2 import Frame
from wavetune.data_plane.server import DeviceStream
from wavetune.federation.round_planner import RoundPlanner
from wavetune.models.lora import Matrices
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import build, client_factors

MIXED = ("method.topology.cut=[1,4,2]", "method.lora.rank=[2,8,1]")
UPPER = ("method.sharing.trained_layers=2", "method.topology.cut=[1,3,2]", "method.lora.rank=[4,4,4]")
AT_CLIENT = "method.topology.labels=client"
INT8 = ("method.activation_codec.kind=int8", "method.gradient_codec.kind=int8")
OUTAGE = (
    *PAPER,
    "method.planner.kind=all_random",  # so that rates differ
    "method.link.kind=outage",
    "method.link.min_rate_bit_per_s=5e7",
    "method.link.loss_probability=0.3",
    "method.link.lost=reuse",
)
CLIPPED = ("method.optimiser.max_grad_norm=1e-3",)
ALONE = ("run.tokens_per_pass=1",)  # products of the same sizes in both, so of the same rounding
METHODS = {
    "sflllm": small("sflllm", *EXACT),
    "u_shape_nothing_trained_before_some_cuts": small("sflllm", *EXACT, AT_CLIENT, *UPPER),
    "mixed_cuts_and_ranks": small("sflllm", *EXACT, *MIXED, "run.tokens_per_pass=120"),
    "nothing_trained_before_some_cuts": small("sflllm", *EXACT, *UPPER),
    "u_shape": small(
        "sflllm", *EXACT, AT_CLIENT, "method.activation_codec.kind=fp32", "method.gradient_codec.kind=fp32"
    ),
    "u_shape_mixed_int8": small("sflllm", *EXACT, AT_CLIENT, *MIXED, *INT8, "world.model=tiny-gpt2"),
    "sparse_updates": small("sflllm", *EXACT, "method.adapter_codec.kind=top_k", "method.proximal=0.1"),
    "frozen_a_product_of_bf16": small("sflllm", "method.mixing.kind=frozen_a", "run.precision=bf16", *ALONE),
    "u_shape_of_int8_weights": small("sflllm", AT_CLIENT, "run.precision=int8", *ALONE),
    "sequential": small("split_lora_sequential", *EXACT, "method.mixing.kind=average_product"),
    "uncut": small("fedavg_lora", *EXACT),
    "uncut_product_of_ranks": small(
        "fedavg_lora", *EXACT, "method.mixing.kind=average_product", "method.lora.rank=[2,8,1]"
    ),
    "uncut_sparse_near_the_broadcast": small(
        "fedavg_lora", *EXACT, "method.adapter_codec.kind=top_k", "method.proximal=0.1"
    ),
    "uncut_lost_updates_stand_in": small("fedavg_lora", *EXACT, *OUTAGE),
    "outage": small("sflllm", *EXACT, *OUTAGE),
    "clipped_where_cuts_differ": small("sflllm", *EXACT, *MIXED, *CLIPPED),
    "clipped_uncut": small("fedavg_lora", *EXACT, *CLIPPED),
    "edges_that_score_and_blend": small(
        "stfl", *EXACT, "method.exchange.kind=hierarchical", "method.exchange.edges=2", "method.filters=scores"
    ),
    "changes_since_a_rounded_broadcast": small("fedavg_lora", *EXACT, 'method.adapter_codec=["bf16", "random_sparse"]'),
    "cut_changes_since_a_rounded_broadcast": small("sflllm", *EXACT, 'method.adapter_codec=["random_sparse", "int8"]'),
    "kept_factor_beside_changes_that_stand_in_and_are_scored": small(
        "fedavg_lora",
        *EXACT,
        "method.sharing.factors=A",
        'method.adapter_codec=["random_sparse", "fp64"]',
        "method.filters=scores",
        'method.link={"kind":"outage","loss_probability":0.5,"lost":"reuse"}',
    ),
    "random_and_fed_back": small("fedavg_lora", *EXACT, 'method.adapter_codec=["random_sparse", "fp64"]'),
}
TWO = ("method.planner.kind=all_random", "method.selection.kind=fastest", "method.selection.count=2")
TOLERANCE, OF_FP32 = 1e-9, 1e-7  # of factors around 0.1 that cross in fp64, or whose values cross in fp32


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return tmp_path_factory.mktemp("deployed") / "certificates"


@pytest.mark.parametrize("name", ["sflllm", "fedavg_lora"])
def test_the_limit_on_gradients_is_felt_where_it_should_be(name):
    one, other = (build(small(name, *EXACT, *limit)) for limit in (CLIPPED, ()))
    clipped, free = (train_round(session, 0, nothing).mixed.factors for session in (one, other))
    assert max((clipped[site]["B"] - free[site]["B"]).abs().max() for site in free) > 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_a_deployed_run_ends_where_the_run_in_one_process_ends(method, certificates):
    recipe, personal = METHODS[method], {}
    sent = {one.kind for one in recipe.method.adapter_codec}
    tolerance = TOLERANCE if sent == {"fp64"} else OF_FP32
    with deployed(recipe, certificates) as servers:
        found = play(servers, 2, lambda: keep(personal, "deployed", servers.session.cohort.bank))
    session = build(recipe)
    wanted = [
        train_round(session, index, nothing, lambda: keep(personal, "simulated", session.cohort.bank))
        for index in range(2)
    ]
    assert wanted[-1].mixed.factors.keys() == found[-1].mixed.factors.keys()
    for name, pair in wanted[-1].mixed.factors.items():
        close(found[-1].mixed.factors[name], pair, name, tolerance)
    exact = sent <= {"fp32", "fp64"}  # of others the servers see what they were sent
    exact &= recipe.method.link.kind == "reliable"  # and nothing of those in an outage
    for client in range(3) if exact else ():
        for name, pair in personal["simulated"][client].items():
            close(personal["deployed"][client][name], pair, f"client {client} {name}", tolerance)
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(told(mine)["train_loss_K"], told(theirs)["train_loss_K"], rtol=tolerance)
        for name in ("planned", "charged", "metered_bits", "lost", "active_K"):
            assert told(mine)[name] == told(theirs)[name], name
        bytes_sent = told(mine)["measured"]["payload_bytes"]
        wanted_bits = {
            kind: bits for kind, bits in told(theirs)["metered_bits"].items() if kind != "backhaul"
        }  # among the servers
        assert {kind: 8 * count for kind, count in bytes_sent.items()} == wanted_bits


def test_who_was_not_chosen_joins_with_what_was_broadcast_meanwhile(certificates):
    recipe = small("fedavg_lora", *EXACT, *TWO)
    with deployed(recipe, certificates) as servers:
        found = play(servers, 2)
    session = build(recipe)
    wanted = [train_round(session, index, nothing) for index in range(2)]
    first_K, then_K = (told(outcome)["active_K"] for outcome in wanted)
    assert any(now and not before for before, now in zip(first_K, then_K, strict=True))  # who joins
    for name, pair in wanted[-1].mixed.factors.items():
        close(found[-1].mixed.factors[name], pair, name)
    for mine, theirs in zip(found, wanted, strict=True):
        for name in ("planned", "charged", "metered_bits", "lost", "active_K"):
            assert told(mine)[name] == told(theirs)[name], name


@pytest.mark.parametrize("own", ["factors=A", "factors=B", "shared_layers=2"])
def test_what_a_client_keeps_to_itself_is_still_there_when_it_joins_again(own, certificates):
    chosen = ("method.selection.kind=at_random", "method.selection.count=2", "run.rounds=3")
    recipe = small("fedavg_lora", *EXACT, *chosen, f"method.sharing.{own}")
    with deployed(recipe, certificates) as servers:
        found = [told(outcome) for outcome in play(servers, 3)]
    session = build(recipe)
    wanted = [told(train_round(session, index, nothing)) for index in range(3)]
    assert (True, False, True) in zip(*(record["active_K"] for record in wanted), strict=True)
    for mine, theirs in zip(found, wanted, strict=True):
        losses = (np.array(record["train_loss_K"], float) for record in (mine, theirs))  # none of who sits out
        np.testing.assert_allclose(*losses, rtol=TOLERANCE)


def keep(personal, where, bank):
    personal[where] = [client_factors(bank, client) for client in range(3)]


def close(found: Matrices, wanted: Matrices, what: str, tolerance: float = TOLERANCE) -> None:
    for mine, theirs in zip(found.values(), wanted.values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance, msg=lambda m: f"{what}: {m}")


@pytest.mark.parametrize("at_client", [True, False], ids=["labels_at_clients", "labels_at_server"])
def test_where_labels_stay_with_the_clients_no_token_id_label_or_position_is_in_the_stream(
    at_client, certificates, monkeypatch
):
    """All that arrives is captured; with labels at the server the same search finds them."""
    captured: list[bytes] = []
    receive = DeviceStream.receive

    def tapped(stream, content):
        captured.append(content)
        receive(stream, content)

    monkeypatch.setattr(DeviceStream, "receive", tapped)
    with deployed(small("sflllm", *([AT_CLIENT] if at_client else [])), certificates) as servers:
        play(servers, 1)
    session, stream = servers.session, b"".join(captured)
    tokens = session.data.train
    labels, inputs = [], []
    for step in range(session.recipe.run.local_steps):
        for rows in session.step_rows(step):
            own = [tokens.row(int(row)) for row in rows]
            answers = [r[tokens.label_start[row] :] for r, row in zip(own, rows, strict=True)]
            labels += [np.concatenate(answers)]
            inputs += own

    def told(ids, kind):
        return ids[:6].astype(kind).tobytes() in stream

    kinds = (np.int8, np.int16, np.int32, np.int64)
    assert any(told(ids, np.int32) for ids in labels) != at_client
    assert not any(told(ids, kind) for ids in inputs for kind in kinds)
    if at_client:
        assert not any(told(ids, kind) for ids in labels for kind in kinds)
    frames = [Frame.FromString(content) for content in captured]
    kinds_sent = {part.kind for frame in frames for part in frame.parts}
    wanted = {"activations_up", "adapters_up", "gradients_up" if at_client else "labels_up"}
    assert kinds_sent == wanted
    assert any(frame.layout.label_positions for frame in frames) != at_client


def test_framing_costs_little_and_is_reported_apart_from_the_payload(certificates):
    with deployed(small("sflllm"), certificates) as servers:
        measured = told(play(servers, 1)[0])["measured"]
    payload = sum(measured["payload_bytes"].values())
    on_the_wire = sum(measured["frame_bytes_up_K"]) + sum(measured["frame_bytes_down_K"])
    assert on_the_wire == payload + measured["framing_bytes"]
    assert 0 < measured["framing_bytes"] < 0.05 * payload


def test_planner_is_asked_once_a_round(certificates, monkeypatch):
    asked, plan = [], RoundPlanner.plan
    monkeypatch.setattr(RoundPlanner, "plan", lambda self, *given: asked.append(given[0]) or plan(self, *given))
    with deployed(small("sflllm", *TWO), certificates, emulate=True) as servers:
        play(servers, 2)
    assert asked == [0, 1]


def test_emulated_radio_holds_every_upload_back_to_its_planned_rate(certificates, tmp_path):
    """A slow cell by its trace, so that the pace outweighs everything else."""
    (tmp_path / "slow.csv").write_text("round,client_0,client_1,client_2\n0,90,120,150\n")
    slow = (f"file={tmp_path / 'slow.csv'}", "quantity=throughput", "unit=kbit/s")
    channel = [f"world.scenario.channel.{setting}" for setting in ("kind=trace", *slow)]
    recipe = small("sflllm", *channel, "run.rounds=1", "run.local_steps=1")
    with deployed(recipe, certificates, emulate=True) as servers:
        record = told(play(servers, 1)[0])
    for phase in ("uplink_s", "fed_upload_s"):
        planned, measured = record["charged"]["phases"][phase], record["measured"]["phases"][phase]
        assert max(planned) > 0.02
        assert all(real >= 0.99 * asked for real, asked in zip(measured, planned, strict=True)), phase
