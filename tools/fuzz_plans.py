"""Random plan instances through `wavetune plan` and through all planners, none of which may fail: --seed N --count N.

Every instance keeps the format, or all but keeps it: one to eight clients, one to 24 subchannels a band, plausible
numbers or some over a hundred orders of magnitude, equal or fading gains, dead subchannels, caps and costs of zero.
`plan INSTANCE` is the command; `planner INSTANCE SETTINGS` is what a recipe makes of the same cell: a planner with its
settings and, of the problem, a shared server, a priced way back and energies; then the plan of a changed channel.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fuzz
import numpy as np

from wavetune.allocation.feasibility import require_feasible
from wavetune.allocation.instance import read_instance
from wavetune.allocation.plan import Plan
from wavetune.allocation.problem import Problem
from wavetune.cli import main
from wavetune.errors import WavetuneError
from wavetune.federation.planning import Planner
from wavetune.recipe import with_settings
from wavetune.recipes import get

Random = np.random.Generator
PLANNERS = ("optimal",) * 9 + ("paper_greedy", "uniform_power", "random_subchannels", "all_random", "fedsllm")


def commands(seed: int, count: int, first: int = 0) -> Iterator[list[str]]:
    """`count` commands of a seed from the `first` on, each on an instance that was just drawn."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            g = np.random.default_rng([seed, number])
            path = Path(folder) / f"instance-{seed}-{number}.json"
            path.write_text(json.dumps(instance(g)), encoding="utf-8")
            if g.random() < 0.4:
                yield ["plan", str(path), *_options(g, folder)]
            else:
                yield ["planner", str(path), json.dumps(_settings(g))]
            path.unlink()


def instance(g: Random) -> dict[str, Any]:
    """A plan instance as it stands in a file."""
    orders = float(g.choice([0.5, 0.5, 3, 12, 25, 100]))  # of magnitude, either way, of every quantity

    def some(usual: float, *size: int) -> Any:
        """Numbers around a usual one: all the same, or each its own."""
        drawn = usual * 10 ** g.uniform(-orders, orders, size if g.random() < 0.7 else (1,) * len(size))
        return np.broadcast_to(drawn, size).tolist()

    def some_0(usual: float, *size: int) -> Any:
        """The same, now and then with zeros among them."""
        return (np.array(some(usual, *size)) * (g.random(size) >= g.choice([0, 0, 0, 0.3]))).tolist()

    K, L = int(g.integers(1, 9)), int(g.integers(1, 7))
    costs = {
        "forward_flop": some_0(1e9, L), "backward_flop": some_0(2e9, L), "lora_forward_flop_per_rank": some_0(1e6, L),
        "lora_backward_flop_per_rank": some_0(2e6, L), "activation_bits": some_0(1e6, L),
        "lora_bits_per_rank": some_0(1e5, L),
    }  # fmt: skip
    client = {"flop_per_s": some(1e12, K), "num_samples": some_0(100, K), "tx_power_max_w": some_0(0.2, K)}
    if g.random() < 0.4:
        costs |= {"memory_bytes": some_0(1e8, L), "memory_bytes_per_rank": some_0(1e5, L)}
        client["memory_bytes"] = some_0(2e9, K)
    ranks = g.choice([1, 2, 3, 4, 8, 16, 64, 10**5], int(g.integers(1, 5)), replace=False)
    return {
        "local_steps": int(g.choice([1, 2, 12, 10**6])),
        "batch_size": int(g.choice([1, 16, 10**6])),
        "rounds_to_target": {str(rank): some(50, 1)[0] for rank in ranks},
        "cuts": g.choice(np.arange(1, L + 1), int(g.integers(1, L + 1)), replace=False).tolist(),
        "costs": costs,
        "server": {"flop_per_s": some(1e14, 1)[0]},
        "clients": [dict(zip(client, values, strict=True)) for values in zip(*client.values(), strict=True)],
        "bands": {name: _band(g, K, some) for name in ("main", "fed")},
    }


def _band(g: Random, num_clients: int, some: Any) -> dict[str, Any]:
    """A band: fading, flat over the subchannels or the same for all; all alive, some or most of it dead."""
    K, M = num_clients, int(g.integers(max(1, num_clients - 1), 25))
    kind = g.choice(["fading", "flat", "equal", "wide"])
    gain_KM = 1e-11 * 10 ** g.uniform(-2, 2, (K, 1) if kind != "equal" else (1, 1)) * np.ones((K, M))
    gain_KM = gain_KM * {"fading": g.exponential(size=(K, M)), "wide": np.array(some(1, K, M))}.get(kind, 1.0)
    gain_KM = gain_KM * (g.random((K, M)) >= g.choice([0, 0, 0, 0.3, 0.6, 0.9]))
    hz, psd, total_w = (some(usual, 1)[0] for usual in (5e5, 4e-21, 0.5 * K))
    return {"subchannel_hz": hz, "noise_psd_w_per_hz": psd, "total_power_max_w": total_w, "gain": gain_KM.tolist()}


def _options(g: Random, folder: str) -> list[str]:
    found = [["--time-limit", str(g.choice([0.001, 0.1, 1]))], ["--json", "-"], ["--certificate", f"{folder}/proof"]]
    return [word for option in found if g.random() < 0.5 for word in option]


def _settings(g: Random) -> dict[str, Any]:
    """A planner and what a recipe may ask of the problem."""
    kind = str(g.choice(PLANNERS))
    planner: dict[str, Any] = {"kind": kind}
    if kind == "fedsllm":
        names = ("smoothness", "convexity", "step_size", "relaxation")
        planner["learning"] = {n: float(10 ** g.uniform(-9, 0.2)) for n in names if g.random() < 0.3}
    if kind == "optimal":
        found = {"time_limit_s": float(g.choice([0.01, 1])), "cut_per_client": True, "rank_per_client": True}
        planner |= {name: value for name, value in found.items() if g.random() < 0.5}
        planner["rank_slack"] = float(g.choice([0, 0.01, 1]))
        if g.random() < 0.3:
            planner |= {"energy_weight_s_per_j": float(10 ** g.uniform(-6, 6))}
            limits = ("energy_budget_j", "total_energy_budget_j", "round_deadline_s")
            planner |= {name: float(10 ** g.uniform(-2, 6)) for name in limits if g.random() < 0.3}
            planner |= {"minimise": "energy"} if "round_deadline_s" in planner and g.random() < 0.5 else {}
    problem = ("share_server", "price_downlink", "energy", "given")
    return {"planner": planner} | {name: bool(g.random() < 0.4) for name in problem}


def started() -> None:
    """The command of this process: wavetune's own, or `planner INSTANCE SETTINGS`, which ends as those do."""
    if sys.argv[1] != "planner":
        return main()
    try:
        status = _planned(read_instance(sys.argv[2]), json.loads(sys.argv[3]))
    except WavetuneError as error:
        print(f"wavetune: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if status == "ok" else 3)


def _planned(problem: Problem, settings: dict[str, Any]) -> str:
    """Status of the plan of a problem, which keeps all constraints and its own bound; planned again as in a run."""
    recipe = with_settings(get("sflllm"), [f"method.planner={json.dumps(settings['planner'])}"])
    planner = recipe.method.planner
    problem = planner.allowing(_with_more(problem, settings))
    if planner.chooses_local_steps:
        problem = replace(problem, local_steps=planner.schedule(problem).local_steps)
    if settings["given"]:
        g = np.random.default_rng(0)
        cut_K, rank_K = (g.choice(allowed, problem.num_clients) for allowed in (problem.cuts, problem.ranks))
        plan = _sound(problem, planner.plan_fixed(problem, cut_K, rank_K), planner)
    else:
        plan = _sound(problem, planner.plan(problem, 0), planner)
    if plan.status == "ok":
        bands = {name: _shifted(getattr(problem, name)) for name in ("main", "fed")}
        _sound(replace(problem, **bands), planner.replan(replace(problem, **bands), plan, 0), planner)
    return plan.status


def _with_more(problem: Problem, settings: dict[str, Any]) -> Problem:
    if settings["price_downlink"]:
        bands = {"main": problem.main, "fed": problem.fed}
        back = {n: replace(b, downlink_gain_KM=2 * b.gain_KM, downlink_power_w=20.0) for n, b in bands.items()}
        problem = replace(problem, price_downlink=True, **back)
    if settings["energy"]:
        joules = {"client_energy_j_per_flop_K": np.full(problem.num_clients, 1e-10), "server_energy_j_per_flop": 1e-11}
        problem = replace(problem, **joules)
    return replace(problem, share_server=settings["share_server"])


def _shifted(band: Any) -> Any:
    """The band with the gains of another moment."""
    back_KM = band.downlink_gain_KM
    back_KM = None if back_KM is None else np.roll(back_KM, 1, axis=1)
    return replace(band, gain_KM=np.roll(band.gain_KM, 1, axis=1), downlink_gain_KM=back_KM)


def _sound(problem: Problem, plan: Plan, planner: Planner) -> Plan:
    """The plan itself, if it is what a planner promises."""
    require_feasible(problem, plan)
    if plan.status == "ok":
        assert np.isfinite(plan.delay_s), plan.delay_s
        assert 0 <= plan.lower_bound_s <= plan.delay_s, (plan.lower_bound_s, plan.delay_s)
        assert not np.isnan(planner.cost(problem, plan))
    else:
        assert plan.reason, plan
    return plan


if __name__ == "__main__":
    fuzz.command("Random plan instances through the planners.", commands, started)
