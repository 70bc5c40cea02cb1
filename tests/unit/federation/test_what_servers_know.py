"""What rules of a server are told of a round beside the updates: losses, what they remember, and the round's record."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.adapters import lora_site, pair_of
from helpers.deployment import run_deployed
from helpers.runs import EXACT, Silent, read_rounds, small, train
from wavetune.federation.filters.filter import Filter
from wavetune.federation.mixing import Mixing
from wavetune.federation.nodes import Nodes
from wavetune.federation.selection import Selection
from wavetune.models.lora import AdapterBank
from wavetune.runtimes.device_permission import Allowed

OWN = __name__.partition(".")[0]


@dataclass(frozen=True)
class Fair(Filter):
    """Clients of a larger loss count for more (q-FFL, arXiv 1905.10497)."""

    def take(self, inbox, state, context):
        told = {f"{u.sender}|loss": torch.tensor(u.loss, dtype=torch.float64) for u in inbox.updates}
        return replace(inbox, updates=tuple(replace(u, weight=u.weight * u.loss**3) for u in inbox.updates)), told


@dataclass(frozen=True)
class Worst(Selection):
    """The client whose loss was largest when it last took part."""

    def init(self, num_clients):
        return {"loss": np.full(num_clients, 1e9)}

    def choose(self, problem, lone_s_K, plan_of, state, draw):
        chosen = [int(np.argmax(state["loss"]))]
        return chosen, plan_of(chosen)

    def settle(self, state, done):
        loss_K = np.array(done.train_loss_K, dtype=float)
        return {"loss": np.where(np.isfinite(loss_K), loss_K, state["loss"])}


@dataclass(frozen=True)
class Momentum(Mixing):
    """As far again as in the round before, halved."""

    def step(self, mixture, held, state, context):
        moves = {name: t - held[name] + 0.5 * state.get(name, t - t) for name, t in mixture.items()}
        return {name: held[name] + move for name, move in moves.items()}, {**state, **moves}


def recipe_of(name, *settings, **parts):
    recipe = small(name, *EXACT, "run.tokens_per_pass=1", *settings)
    return replace(recipe, method=replace(recipe.method, **parts))


def state_of(folder):
    return load_file(max((folder / "checkpoints").iterdir()) / "state.safetensors")


@pytest.mark.parametrize(
    ("name", "settings"),
    {
        "fedavg_lora": (),
        "sflllm": ("method.topology.cut=[1,2,3]", "method.topology.labels=client", "method.lora.rank=4"),
    }.items(),
)
def test_a_server_knows_the_losses_that_the_record_has_on_devices_as_here(name, settings, tmp_path):
    recipe = recipe_of(name, *settings, filters=(Fair(),))
    train(recipe, tmp_path / "here")
    run_deployed(recipe, tmp_path / "there", tmp_path / "certificates", Silent(), allowed=Allowed(others=(OWN,)))
    states = [state_of(tmp_path / where) for where in ("here", "there")]
    losses = read_rounds(tmp_path / "here")[-1]["train_loss_K"]
    for state in states:
        told = [float(state[key]) for k in range(3) for key in state if key.endswith(f"filter|1.{k}|loss")]
        assert told == pytest.approx(losses, rel=1e-9)
    for key, values in states[0].items():
        if ".held." in key or key.startswith("held."):
            torch.testing.assert_close(states[1][key], values, rtol=1e-7, atol=1e-12)


def test_a_selection_is_told_of_the_round_that_is_over_and_continued_goes_on_from_it(tmp_path):
    recipe = recipe_of("fedavg_lora", "run.rounds=4", selection=Worst())
    train(recipe, tmp_path / "run")
    active = [np.flatnonzero(record["active_K"]).tolist() for record in read_rounds(tmp_path / "run")]
    assert sorted(active[:3]) == [[0], [1], [2]]  # nobody's loss was known
    losses = [record["train_loss_K"][one[0]] for record, one in zip(read_rounds(tmp_path / "run"), active, strict=True)]
    assert active[3] == active[int(np.argmax(losses[:3]))]


def test_a_mixing_rule_goes_on_from_the_mixture_by_what_it_remembers():
    site = lora_site("a", 0, 3, 2)
    bank = AdapterBank((site,), np.array([[True]]), 1.0, {"a": pair_of(torch.zeros(1, 3, 1), torch.zeros(1, 1, 2))}, {})
    nodes, found = Nodes(bank, (1,), Momentum()), []
    for _ in range(3):
        bank.local["a"]["A"] += 1.0  # what every round trains
        nodes.load_state({name: t.clone() for name, t in nodes.state().items()})  # as a continued run does
        nodes.exchange((1.0,), None)
        found.append(float(nodes.current["a"]["A"][0, 0]))
    assert found == [1.0, 2.5, 4.25]
