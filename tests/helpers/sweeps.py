"""Small sweeps, and records of sweeps that were never run."""

from __future__ import annotations

from wavetune import recipes
from wavetune.recipe import with_settings
from wavetune.sweep.axis import axis_of
from wavetune.sweep.methods import methods_of
from wavetune.sweep.run import Sweep

QUICK = (
    "world.data.train_samples=60",
    "world.data.validation_samples=8",
    "world.scenario.population.num_clients=3",
    "method.topology.cuts=[1,9]",
)
SUBCHANNELS = "world.scenario.bands.main.num_subchannels"


def sweep_of(over, num_seeds=2, methods="proposed,greedy,bound", *settings):
    recipe = with_settings(recipes.get("sflllm"), [*QUICK, *settings])
    return Sweep(recipe, axis_of(over, recipe), num_seeds, methods_of(methods))


def record(value, seed, method, delay_s, lower_bound_s=0.0, reason="", wall_s=0.5, cpu_s=0.25):
    found = delay_s is not None
    return {
        "value": value,
        "seed": seed,
        "method": method,
        "status": "ok" if found else "infeasible",
        "reason": reason,
        "delay_s": delay_s,
        "lower_bound_s": lower_bound_s if found else None,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "samples": "counted exactly",
    }


def without_times(records):
    return [{name: value for name, value in r.items() if name not in ("wall_s", "cpu_s")} for r in records]
