"""Bits, seconds and joules predicted before a round are those that the round records, and the bits are those sent."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.runs import PAPER, small, told
from wavetune.allocation.delay import Phases
from wavetune.allocation.instance import plan_to_json
from wavetune.reporting.accounts import CHANGING, critical_s
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import build
from wavetune.runtimes.world import planner_of

MIXED = ("method.topology.cut=[1,4,2]", "method.lora.rank=[2,8,1]")
AT_CLIENT = "method.topology.labels=client"
DIFFERENT = (
    "method.planner.cut_per_client=true",
    "method.planner.time_limit_s=0.3",  # whatever plan it is that is charged
    "world.scenario.server.flop_per_s=1e10",
    "world.scenario.population.clock_hz=[1e6,3e7]",
    "world.scenario.bands.main.subchannel_hz=5e6",
)


def codecs(activation, gradient, adapter):
    return tuple(
        f"method.{name}_codec.kind={kind}"
        for name, kind in (("activation", activation), ("gradient", gradient), ("adapter", adapter))
    )


METHODS = {
    "split_fp32": small("sflllm", *codecs("fp32", "fp32", "fp32")),
    "split_bf16": small("sflllm", *codecs("bf16", "bf16", "bf16")),
    "split_int8": small("sflllm", *codecs("int8", "int8", "int8")),
    "split_int8_without_outliers": small(
        "sflllm", *codecs("int8", "bf16", "fp32"), "method.activation_codec.outlier_channels=0"
    ),
    "split_int8_all_outliers": small(
        "sflllm", *codecs("int8", "fp32", "int8"), "method.adapter_codec.outlier_channels=500"
    ),
    "mixed_cuts_and_ranks": small("sflllm", *MIXED, *codecs("bf16", "int8", "int8")),
    "mixed_product": small("sflllm", *MIXED, "method.mixing.kind=average_product"),
    "mixed_frozen_a": small("sflllm", *MIXED, "method.mixing.kind=frozen_a", *codecs("int8", "bf16", "bf16")),
    "labels_at_clients": small("sflllm", AT_CLIENT, *codecs("int8", "bf16", "fp32")),
    "labels_at_clients_mixed": small("sflllm", AT_CLIENT, *MIXED, *codecs("bf16", "int8", "int8")),
    "labels_at_clients_frozen_a": small("sflllm", AT_CLIENT, "method.mixing.kind=frozen_a"),
    "sequential": small("split_lora_sequential", *codecs("int8", "int8", "bf16")),
    "federated": small("fedavg_lora", *codecs("bf16", "bf16", "int8")),
    "federated_frozen_a": small("fedavg_lora", "method.lora.rank=[1,2,3]", "method.mixing.kind=frozen_a"),
    "one_factor_kept": small("fedavg_lora", "method.sharing.factors=A", *codecs("bf16", "bf16", "int8")),
    "gpt2": small("sflllm", "world.model=tiny-gpt2", *MIXED, *codecs("int8", "int8", "int8")),
    "central": small("centralised_lora"),
    **{name: small(name) for name in ("sparse_dp", "stfl", "osafl")},
    "bottlenecks_shared_lora_personal": small(
        "fedavg_lora",
        "method.bottleneck.width=8",
        'method.sharing.shared=["bottleneck"]',
        "method.lora.rank=[1,2,3]",
        "method.adapter_codec.kind=bf16",
    ),
    "top_layers_shared_sparsely": small(
        "fedavg_lora", "method.sharing.shared_layers=2", "method.adapter_codec.kind=top_k", "method.proximal=0.5"
    ),
    "uploads_lost": small(
        "fedavg_lora", "method.link.kind=outage", "method.link.loss_probability=0.6", "method.link.lost=reuse"
    ),
    "uploads_in_outage": small(
        "sflllm",
        *PAPER,
        "method.planner.kind=all_random",
        "method.link.kind=outage",
        "method.link.min_rate_bit_per_s=5e7",
    ),
    "fastest_clients": small("sflllm", "method.selection.kind=fastest", "method.selection.count=2"),
    "clients_within_a_deadline": small(
        "fedavg_lora", *PAPER, "method.selection.kind=deadline", "method.selection.round_deadline_s=0.004"
    ),
    "clients_differ": small(
        "sflllm", *DIFFERENT, "method.planner.rank_per_client=true", "method.planner.rank_slack=0.1"
    ),
    "shares_of_the_server": small("sflllm", *DIFFERENT, "method.server_shares=optimal"),
    "shares_with_energy_and_fewer_clients": small(
        "sflllm",
        *DIFFERENT,
        "method.server_shares=optimal",
        "method.planner.energy_weight_s_per_j=0.5",
        "method.selection.kind=fastest",
        "method.selection.count=2",
    ),
    "least_energy_above_outage": small(
        "fedavg_lora",
        *PAPER,
        "method.link.kind=outage",
        "method.link.min_rate_bit_per_s=4e7",
        "method.planner.minimise=energy",
        "method.planner.round_deadline_s=0.01",
        "method.selection.kind=fastest",
        "method.selection.count=2",
    ),
    "energy_within_budgets": small(
        "sflllm", *PAPER, "method.planner.energy_weight_s_per_j=0.5", "method.planner.energy_budget_j=0.005"
    ),
}


class Wire:
    """Carries payloads as bytes, as a transport would, and weighs them."""

    def __init__(self):
        self.bits = Counter()

    def carry(self, kind, _client, payload):
        for tensor in payload.values():
            self.bits[kind] += 8 * len(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return payload


@pytest.fixture(scope="module", params=METHODS)
def played(request):
    """Session, record and weighed bits of a method's first round, priced both ways where adapters cross the air."""
    recipe = METHODS[request.param]
    priced = not recipe.method.topology.pooled
    session = build(replace(recipe, method=replace(recipe.method, price_downlink=priced)))
    wire = Wire()
    session.door.carry = wire.carry
    return session, told(train_round(session, 0, lambda *_: None)), dict(wire.bits)


def test_predicted_bits_are_the_metered_ones_and_those_on_the_wire(played):
    session, record, on_the_wire = played
    assert record["planned"]["bits"] == record["charged"]["bits"] == record["metered_bits"] == on_the_wire
    assert bool(on_the_wire) != session.central


def test_planned_seconds_and_joules_are_the_charged_ones(played):
    _, record, _ = played
    assert record["planned"] == record["charged"]
    assert record["charged"]["delay_s"] > 0
    assert record["charged"]["energy_j"] > 0


def test_charged_delay_is_the_slowest_client_of_every_phase_written_out(played):
    """The objective once more, as loops over the record: bits over rates, waits for the slowest, sums over steps."""
    session, record, _ = played
    if session.central:
        phases = record["charged"]["phases"]
        assert record["charged"]["delay_s"] == pytest.approx(phases["server_forward_s"] + phases["server_backward_s"])
        return
    step, clients = record["charged"]["step"], range(3)
    up = max(step["client_forward_s"][k] + step["uplink_s"][k] for k in clients)
    down = max(step["downlink_s"][k] + step["client_backward_s"][k] for k in clients)
    if session.recipe.method.server_shares == "optimal":
        names = [name for name in step if not name.startswith("fed")]
        first = max(sum(step[name][k] for name in names) for k in clients if record["active_K"][k])
    else:
        first = up + step["server_forward_s"] + step["server_backward_s"] + down
    fed = max(step["fed_upload_s"]) + max(step["fed_download_s"])
    phases = record["charged"]["phases"]
    everything = sum(np.sum(value) for name, value in phases.items() if not name.startswith("fed"))
    assert first + fed < record["charged"]["delay_s"] <= everything + fed + 1e-12
    if session.recipe.method.topology.kind == "federated":
        assert not any(step["uplink_s"])


def test_adapter_airtime_is_each_clients_bits_over_its_rate(played):
    session, record, _ = played
    if session.central:
        assert record["metered_bits"] == {}
        return
    bits_K = [session.accountant.adapter_bits(c, r) for c, r in zip(record["cut_K"], record["rank_K"], strict=True)]
    up_K, down_K = np.array(bits_K).T
    up_K[[entry["client"] for entry in record["lost"] if entry["why"] == "outage"]] = 0
    up_K *= record["active_K"]
    rate_K = np.where(record["active_K"], record["rate_bit_per_s"]["fed"], 1.0)
    np.testing.assert_allclose(record["charged"]["phases"]["fed_upload_s"], up_K / rate_K)
    assert sum(up_K) == record["metered_bits"].get("adapters_up", 0)
    assert sum(down_K) == record["metered_bits"]["adapters_down"]


@pytest.mark.parametrize("name", ["gossip", "hierarchical", "over_the_air"])
def test_what_crosses_links_of_its_own_is_predicted_and_charged_beside_the_phases(name):
    session = build(small(name, "run.local_steps=1"))
    outcome = train_round(session, 0, lambda *_: None)
    assert outcome.planned.bits == outcome.charged.bits == outcome.metered_bits
    assert outcome.planned.delay_s == outcome.charged.delay_s
    fed = session.planned(0)[0].fed
    link_s = session.accountant.link_s([True] * 3, 0, fed.subchannel_hz * len(outcome.plan.fed.owner_M))
    phases = outcome.charged.phases
    last = max(phases.fed_upload_s) + max(phases.fed_download_s)
    assert link_s > 0
    compute_s = np.add(phases.client_forward_s, phases.client_backward_s).max()
    assert outcome.charged.delay_s == pytest.approx(compute_s + last + link_s)


TRAINING_SERVER = ('method.server_steps={"steps": 2}', "world.data.server_samples=6")


@pytest.mark.parametrize(("name", "settings"), [("gossip", ()), ("over_the_air", ()), ("fedavg_lora", TRAINING_SERVER)])
def test_clients_draw_idle_power_all_through_a_round_whatever_it_takes(name, settings):
    alone = [
        f"world.scenario.population.{what}_power_w={w}" for what, w in (("circuit", 0), ("receive", 0), ("idle", 2))
    ]
    charged = train_round(build(small(name, *settings, *alone)), 0, lambda *_: None).charged
    assert (charged.phases.link_s or 0) + (charged.phases.server_steps_s or 0) > 0
    np.testing.assert_allclose(charged.energy.client_standby_j, 2 * charged.delay_s)


EQUAL_ROWS = [f'{{"prompt": "{i:04d}", "completion": "{i * 7:05d}", "domain": "d{i % 3}"}}' for i in range(40)]


@pytest.mark.parametrize(
    "settings",
    [
        codecs("fp32", "fp32", "fp32"),
        codecs("bf16", "bf16", "bf16"),
        (*codecs("int8", "int8", "fp32"), "method.mixing.kind=frozen_a"),
        (AT_CLIENT, *codecs("int8", "bf16", "fp32")),
        ("method.topology.kind=federated",),
        MIXED,
        (*DIFFERENT, "method.server_shares=optimal", *codecs("int8", "bf16", "fp32")),
    ],
    ids=["fp32", "bf16", "int8_frozen_a", "labels_at_clients", "federated", "mixed", "shares"],
)
def test_where_all_rows_have_one_length_the_plan_itself_predicts_the_charge(settings, tmp_path):
    """Otherwise it predicts for the average row."""
    (tmp_path / "train.jsonl").write_text("\n".join(EQUAL_ROWS))
    recipe = small("sflllm", f"world.data.source={tmp_path}", "world.data.train_samples=null", *settings)
    session = build(recipe)
    record = told(train_round(session, 0, lambda *_: None))
    assert session.plan.phases.round_s == pytest.approx(record["charged"]["delay_s"], rel=1e-9)
    assert session.plan.energy.total_j == pytest.approx(record["charged"]["energy_j"], rel=1e-9)


def test_planning_without_a_model_gives_the_plan_that_the_run_follows():
    recipe = METHODS["split_bf16"]
    planner, how = planner_of(recipe)
    alone, running = planner.first_plan(), build(recipe).plan
    assert how == "counted exactly"
    assert (alone.delay_s, alone.cut_K.tolist(), alone.rank_K.tolist()) == (
        running.delay_s,
        running.cut_K.tolist(),
        running.rank_K.tolist(),
    )
    assert alone.main.owner_M.tolist() == running.main.owner_M.tolist()
    assert alone.main.power_w_M.tolist() == running.main.power_w_M.tolist()


def test_plan_round_and_record_follow_the_same_objective(monkeypatch):
    """There is one: where a step takes a second more, it does so in the plan, the prediction and the charge."""
    recipe = METHODS["split_bf16"]
    before = build(recipe)
    record, round_s = told(train_round(before, 0, lambda *_: None)), before.plan.phases.round_s
    step_s = Phases.step_s.func
    monkeypatch.setattr(Phases, "step_s", property(lambda phases: step_s(phases) + 1.0))
    after = build(recipe, plan_to_json(before.plan))
    changed = told(train_round(after, 0, lambda *_: None))
    steps = recipe.run.local_steps
    assert after.plan.phases.round_s == pytest.approx(round_s + steps)
    for account in ("planned", "charged"):
        assert changed[account]["delay_s"] == pytest.approx(record[account]["delay_s"] + steps)


@pytest.mark.parametrize(
    "settings",
    [
        ("sflllm",),
        ("sflllm", "method.server_shares=optimal"),
        ("gossip",),
        ("hierarchical",),
        ("over_the_air",),
        ("fedavg_lora", "method.server_steps.steps=2", "world.data.server_samples=6"),
        ("fedsp", "method.client_model.distil=null"),
    ],
    ids=" ".join,
)
def test_every_second_of_a_round_of_one_step_has_the_name_of_a_phase(settings):
    charged = train_round(build(small(*settings, "run.local_steps=1")), 0, lambda *_: None).charged
    parts_s = critical_s(charged)
    assert parts_s.pop(CHANGING) == 0.0
    assert sum(parts_s.values()) == pytest.approx(charged.delay_s, rel=1e-12)
