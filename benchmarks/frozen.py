"""Make the frozen benchmark of the planner, `benchmarks/instances/`: three worlds, thirty instances each.

python benchmarks/frozen.py                # all of it
python benchmarks/frozen.py --count 2      # the first two of each world, to look at

In each world something else keeps the best cut or rank from the ends of what is allowed. Every instance has the best
plan found, and the bound that its certificate proves as `tools/verify_plan.py` confirms it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wavetune.allocation.certificate import plan_with_certificate
from wavetune.allocation.instance import plan_to_json, problem_from_json

ROOT = Path(__file__).resolve().parents[1]
FOLDER, COUNT, DIGITS = ROOT / "benchmarks" / "instances", 30, 4
CLIENTS, SUBCHANNELS, LAYERS = 8, 24, 12
Json = dict[str, Any]


def loaded_server(seed: int, *, server_flop_per_s: float = 4e12, memory_gb: tuple[float, float] = (4.0, 10.0)) -> Json:
    """A server that many cells load: every block is slower there than on a device, and devices' memory ends it.

    The cut goes as deep as the smallest memory allows; a rank takes room as well, and a block less buys a higher one.
    """
    g = np.random.default_rng([1, seed])
    instance = _instance(g)
    instance["server"] = {"flop_per_s": server_flop_per_s}
    instance["costs"] |= {"memory_bytes": [1e9] * LAYERS, "memory_bytes_per_rank": [4e7] * LAYERS}
    for client, memory in zip(instance["clients"], g.uniform(*memory_gb, CLIENTS), strict=True):
        client["memory_bytes"] = float(round(memory, 2) * 1e9)
    return instance


def private_blocks(seed: int, *, floor: int = 4, fed_hz: float = 3750.0) -> Json:
    """A floor under the cut, as the first blocks' activations tell the text, and adapters over tones of NB-IoT.

    A fast server asks for the floor. A higher rank needs fewer rounds and more of a narrow band (3.75 kHz, TS 36.211,
    clause 10.1.2), the more so the deeper the cut: the best rank is neither the least nor the largest.
    """
    instance = _instance(np.random.default_rng([2, seed]))
    instance |= {"cuts": list(range(floor, LAYERS)), "local_steps": 6}
    instance["bands"]["fed"]["subchannel_hz"] = fed_hz
    return instance


def narrowing_model(seed: int, *, slower: float = 10.0) -> Json:
    """A model whose width halves every three blocks, on slow devices: what a deeper cut saves on the air it computes.

    The cut falls at the start of a stage; which one depends on the speed of the devices.
    """
    instance = _instance(np.random.default_rng([3, seed]))
    instance["costs"]["activation_bits"] = [5.0e7 / 2 ** (layer // 3) for layer in range(LAYERS)]
    for client in instance["clients"]:
        client["flop_per_s"] = _short(client["flop_per_s"] / slower)
    return instance


WORLDS: dict[str, Callable[..., Json]] = {
    "loaded-server": loaded_server,
    "private-blocks": private_blocks,
    "narrowing-model": narrowing_model,
}


def _instance(g: np.random.Generator) -> Json:
    """Eight clients in a cell of 200 m (128.1 + 37.6 log10 km, 8 dB of shadowing, Rayleigh), a model of GPT-2's size.

    The rounds to the target at each rank are assumed, not measured.
    """
    K, M, each = CLIENTS, SUBCHANNELS, [1.0] * LAYERS
    distance_km = 0.2 * np.sqrt(g.uniform(0.01, 1, K))
    mean_gain_K1 = 10 ** (1 - (128.1 + 37.6 * np.log10(distance_km) + 8 * g.normal(size=K)) / 10)[:, None]

    def band() -> Json:
        gain_KM = mean_gain_K1 * g.exponential(size=(K, M))
        gain = [[_short(x) for x in row] for row in gain_KM.tolist()]
        return {"subchannel_hz": 5e5, "noise_psd_w_per_hz": 4e-21, "total_power_max_w": 1.0, "gain": gain}

    return {
        "local_steps": 12,
        "batch_size": 16,
        "rounds_to_target": {"1": 64.0, "2": 52.0, "4": 46.0, "8": 43.0},
        "cuts": list(range(1, LAYERS)),
        "costs": {
            "forward_flop": [8.05e9 * x for x in each],
            "backward_flop": [8.05e9 * x for x in each],
            "lora_forward_flop_per_rank": [3.1e6 * x for x in each],
            "lora_backward_flop_per_rank": [3.1e6 * x for x in each],
            "activation_bits": [12582912.0 * x for x in each],
            "lora_bits_per_rank": [98304.0 * x for x in each],
        },
        "server": {"flop_per_s": 1.64e14},
        "clients": [
            {"flop_per_s": _short(speed), "num_samples": 100.0, "tx_power_max_w": 0.2}
            for speed in g.uniform(1e12, 1.6e12, K).tolist()
        ],
        "bands": {"main": band(), "fed": band()},
    }


def _short(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")


def solved(instance: Json) -> Json:
    """An instance with its best known plan and the bound that NumPy alone confirms."""
    from verify_plan import bound, plan_delay

    plan, certificate = plan_with_certificate(problem_from_json(instance))
    written = {name: value for name, value in plan_to_json(plan).items() if name in ("cut", "rank", "bands")}
    for band in written["bands"].values():
        band["power_w"] = [float(f"{power:.12g}") * (1 - 1e-11) for power in band["power_w"]]
    return {
        "instance": instance,
        "best_known_s": plan_delay(instance, written),
        "lower_bound_s": bound(instance, certificate),
        "plan": written,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a file a world, and print what was chosen and proved."""
    parser = argparse.ArgumentParser(description="Make the frozen benchmark of the planner.")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    print("| world | cuts chosen | ranks chosen | mean proved gap | largest |\n| --- | --- | --- | --- | --- |")
    for name, world in WORLDS.items():
        rows = [solved(world(seed)) for seed in range(chosen.count)]
        text = json.dumps({"world": name, "instances": rows}, separators=(",", ":"))
        (chosen.out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        gaps = [1 - row["lower_bound_s"] / row["best_known_s"] for row in rows]
        cuts, ranks = (sorted({row["plan"][what] for row in rows}) for what in ("cut", "rank"))
        listed = (", ".join(map(str, values)) for values in (cuts, ranks))
        print(f"| {name} | {' | '.join(listed)} | {np.mean(gaps):.3%} | {max(gaps):.3%} |", flush=True)


sys.path.insert(0, str(ROOT / "tools"))  # verify_plan, which knows nothing of wavetune

if __name__ == "__main__":
    main()
