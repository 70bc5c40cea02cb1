"""A synthetic run folder whose numbers agree with each other: geometry -> gains -> rates -> seconds -> joules."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

LOCAL_STEPS, BATCH, TOKENS, WIDTH, LAYERS = 12, 16, 128, 768, 12
SERVER_FLOP_PER_S = 5e9 * 32768
SUBCHANNEL_HZ, NOISE_W = 500e3, 10 ** (-17.4) * 1e-3 * 500e3
FLOP_PER_BLOCK = BATCH * TOKENS * (24 * WIDTH**2 + 4 * TOKENS * WIDTH)
CODE = ("activations_up", "labels_up", "gradients_down", "adapters_up", "adapters_down")
SAMPLES = [
    {
        "prompt": "name[The Eagle], eatType[coffee shop], food[Japanese], priceRange[less than £20]",
        "reference": "The Eagle is a low-priced coffee shop that serves Japanese food.",
        "before": "The Eagle, The Eagle, the coffee shop is a place to eat at the price. Name of the Eagle is",
        "after": "The Eagle is a coffee shop that serves Japanese food for less than £20.",
        "domain": "restaurants",
    },
    {
        "prompt": "name[Hotel Aurora], area[riverside], stars[4], breakfast[included]",
        "reference": "Hotel Aurora is a four-star hotel by the river, breakfast included.",
        "before": "Hotel Aurora is Hotel Aurora is a hotel is the area, and stars",
        "after": "Hotel Aurora is a four-star hotel on the riverside with breakfast included.",
        "domain": "hotels",
    },
    {
        "prompt": "name[Flight BA 117], from[London], to[New York], status[delayed]",
        "reference": "Flight BA 117 from London to New York is delayed.",
        "before": "Flight BA 117, the flight, from the airport of London and then to the",
        "after": "Flight BA 117 from London to New York has been delayed.",
        "domain": "flights",
    },
]


def _owners(gain_KM: np.ndarray) -> np.ndarray:
    """Give each client its best subchannel, then the rest to whoever is slowest."""
    K, M = gain_KM.shape
    owner = np.full(M, -1)
    for k in range(min(K, M)):
        free = np.flatnonzero(owner < 0)
        owner[free[np.argmax(gain_KM[k, free])]] = k
    rate = np.array([np.log2(1 + 0.1 * gain_KM[k, owner == k] / NOISE_W).sum() for k in range(K)])
    for m in np.flatnonzero(owner < 0):
        k = int(np.argmin(rate))
        owner[m] = k
        rate[k] += np.log2(1 + 0.1 * gain_KM[k, m] / NOISE_W)
    return owner


def _band(rng: np.random.Generator, path_gain_K: np.ndarray, M: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    gain_KM = path_gain_K[:, None] * rng.exponential(size=(len(path_gain_K), M))
    owner = _owners(gain_KM)
    own_gain = gain_KM[owner, np.arange(M)]
    share = own_gain**0.15
    power = 5.0 * share / share.sum()
    power *= np.minimum(1.0, 1.5 / np.bincount(owner, weights=power)[owner])
    rate_M = SUBCHANNEL_HZ * np.log2(1 + power * own_gain / NOISE_W)
    return owner, power, np.bincount(owner, weights=rate_M, minlength=len(path_gain_K))


def _round(r: int, rng: np.random.Generator, loss: tuple[float, float], world: dict, cut: int, rank: int) -> dict:
    devices = world["devices"]
    K, flop = len(devices), np.array([d["flop_per_s"] for d in devices])
    path_gain = 10 ** (-np.array([d["path_loss_db"] + d["shadowing_db"] - 10 for d in devices]) / 10)
    main_owner, main_power, main_rate = _band(rng, path_gain, world["bands"]["main"]["num_subchannels"])
    fed_owner, fed_power, fed_rate = _band(rng, path_gain, world["bands"]["fed"]["num_subchannels"])
    up_bits, label_bits = BATCH * TOKENS * WIDTH * 8, BATCH * TOKENS * 16
    adapter_bits = cut * rank * 4 * WIDTH * 16
    step = {
        "client_forward_s": cut * FLOP_PER_BLOCK / flop,
        "uplink_s": (up_bits + label_bits) / main_rate,
        "server_forward_s": K * (LAYERS - cut) * FLOP_PER_BLOCK / SERVER_FLOP_PER_S,
        "server_backward_s": K * (LAYERS - cut) * FLOP_PER_BLOCK / SERVER_FLOP_PER_S,
        "downlink_s": up_bits / np.full(K, 90e6),
        "client_backward_s": cut * FLOP_PER_BLOCK / flop,
        "fed_upload_s": adapter_bits / fed_rate,
        "fed_download_s": np.zeros(K),
    }
    ready = step["client_forward_s"] + step["uplink_s"]
    back = step["downlink_s"] + step["client_backward_s"]
    step_s = ready.max() + step["server_forward_s"] + step["server_backward_s"] + back.max()
    per_round = {key: value * (1 if key.startswith("fed") else LOCAL_STEPS) for key, value in step.items()}
    radio_w = np.bincount(main_owner, weights=main_power, minlength=K)
    fed_w = np.bincount(fed_owner, weights=fed_power, minlength=K)
    busy_flop = LOCAL_STEPS * 2 * cut * FLOP_PER_BLOCK
    energy = {
        "client_compute_j": [1e-26 * (f / 1024) ** 2 / 1024 * busy_flop for f in flop],
        "client_radio_j": list(radio_w * per_round["uplink_s"] + fed_w * step["fed_upload_s"]),
        "server_compute_j": LOCAL_STEPS * 2 * K * (LAYERS - cut) * FLOP_PER_BLOCK * 1.1e-12,
        "server_radio_j": 20.0 * float(per_round["downlink_s"].max()),
    }
    bits = dict(zip(CODE, (up_bits, label_bits, up_bits, adapter_bits, adapter_bits), strict=True))
    bits = {key: int(value * K * (1 if key.startswith("adapters") else LOCAL_STEPS)) for key, value in bits.items()}
    account = {
        "delay_s": float(LOCAL_STEPS * step_s + step["fed_upload_s"].max()),
        "local_steps": LOCAL_STEPS,
        "phases": per_round,
        "step": step,
        "energy_j": float(sum(np.sum(value) for value in energy.values())),
        "energy": energy,
        "bits": bits,
    }
    slow = int(np.argmax(ready))
    return {
        "round": r,
        "cut_K": [cut] * K,
        "rank_K": [rank] * K,
        "train_loss": loss[0],
        "train_loss_K": list(loss[0] + rng.normal(0, 0.06, K)),
        "validation_loss": loss[1],
        "samples": K * BATCH * LOCAL_STEPS,
        "tokens": K * BATCH * LOCAL_STEPS * TOKENS,
        "learning_rate": 2e-4 * (1 - r / 100),
        "planned": account,
        "charged": account,
        "metered_bits": bits,
        "straggler": {"client": slow, "phase": "uplink"},
        "allocation": {
            "main": {"owner": main_owner.tolist(), "power_w": main_power.tolist()},
            "fed": {"owner": fed_owner.tolist(), "power_w": fed_power.tolist()},
        },
        "rate_bit_per_s": {"main": main_rate.tolist(), "fed": fed_rate.tolist()},
        "aggregation_error": 0.08 / math.sqrt(r + 1),
        "lost": [],
        "wall_s": 41.0 + rng.normal(),
        "tokens_per_s": 7200.0,
    }


def _world(rng: np.random.Generator, K: int, M: int, names: list[str] | None) -> dict:
    devices = []
    for k in range(K):
        radius, angle = 200 * math.sqrt(rng.uniform(0.02, 1)), rng.uniform(0, 2 * math.pi)
        devices.append(
            {
                "client_id": k,
                "name": names[k] if names else f"device {k}",
                "position_m": [radius * math.cos(angle), radius * math.sin(angle)],
                "flop_per_s": 1024 * rng.uniform(1e9, 1.6e9),
                "tx_power_max_w": 1.5,
                "path_loss_db": 128.1 + 37.6 * math.log10(radius / 1000),
                "shadowing_db": rng.normal(0, 6),
                "is_los": bool(rng.random() < 0.5),
                "num_samples": int(rng.integers(400, 1200)),
                "domains": {"restaurants": 300, "hotels": int(rng.integers(100, 900))},
            }
        )
    band = {"num_subchannels": M, "subchannel_hz": SUBCHANNEL_HZ}
    return {"cell_radius_m": 200.0, "devices": devices, "bands": {"main": band, "fed": band},
            "server": {"flop_per_s": SERVER_FLOP_PER_S}}  # fmt: skip


def _total(records: list[dict]) -> dict:
    charged = [record["charged"] for record in records]
    return {
        "delay_s": sum(account["delay_s"] for account in charged),
        "energy_j": sum(account["energy_j"] for account in charged),
        "bits": {key: sum(account["bits"][key] for account in charged) for key in CODE},
        "phases": {},
        "tokens": sum(record["tokens"] for record in records),
        "wall_s": sum(record["wall_s"] for record in records),
    }


def _summary(records: list[dict], K: int, seed: int, recipe: str, first_loss: float, cut: int, rank: int) -> dict:
    last, total = records[-1]["validation_loss"], _total(records)
    delay = total["delay_s"]
    return total | {
        "status": "finished",
        "recipe": recipe,
        "method": "Split federated LoRA with optimised subchannels, power, cut and rank",
        "seed": seed,
        "model": {
            "name": "gpt2",
            "note": "Weights went through Q4_1 quantisation and back; they are not the original checkpoint.",
            "parameters": 124_439_808,
        },
        "data": {"name": "E2E NLG", "train_samples": 4200, "validation_samples": 256, "partition": "Dirichlet(0.5)"},
        "rounds": len(records),
        "local_steps": LOCAL_STEPS,
        "num_clients": K,
        "precision": "bfloat16",
        "device": "cpu",
        "validation_loss": {"before": first_loss, "after": last},
        "perplexity": {"before": math.exp(first_loss), "after": math.exp(last)},
        "plan": {
            "delay_s": delay,
            "lower_bound_s": delay * 0.93,
            "cut_K": [cut] * K,
            "rank_K": [rank] * K,
            "method": "SflLLM",
            "baselines": {
                "all random": delay * 2.31,
                "random subchannels": delay * 1.72,
                "uniform power": delay * 1.04,
                "random cut": delay * 1.19,
                "random rank": delay * 1.15,
            },
        },
        "aggregation": {"name": "FedAvg of A and B", "error": records[-1]["aggregation_error"]},
        "tokens_per_s": 7200.0,
        "peak_memory_bytes": 2.9e9,
        "trainable_parameters": {"client": cut * rank * 4 * WIDTH, "server": (LAYERS - cut) * rank * 4 * WIDTH},
        "versions": {"wavetune": "0.1.0", "torch": "2.9.1", "transformers": "5.23.0", "python": "3.11.9"},
        "command": f"wavetune run {recipe} --seed {seed} --set world.scenario.population.num_clients={K}",
    }


def write_run(
    folder: Path,
    clients: int = 5,
    subchannels: int = 20,
    rounds: int = 12,
    seed: int = 1,
    names: list[str] | None = None,
    recipe: str = "sflllm",
    cut: int = 2,
    rank: int = 4,
    samples: list[dict] = SAMPLES,
) -> Path:
    """Write a complete run folder."""
    rng = np.random.default_rng(seed)
    world = _world(rng, clients, subchannels, names)
    first = 3.42
    fall = [first * math.exp(-0.088 * (r + 1)) * 0.55 for r in range(rounds)]
    losses = [(part + 1.35 + rng.normal(0, 0.02), part + 1.42 + rng.normal(0, 0.01)) for part in fall]
    records = [_round(r, rng, losses[r], world, cut, rank) for r in range(rounds)]
    folder.mkdir(parents=True, exist_ok=True)
    recipe_json = {"name": recipe, "run": {"seed": seed, "rounds": rounds}, "method": {"cut": cut, "rank": rank}}

    def dump(value: object) -> str:
        return json.dumps(value, default=lambda item: item.tolist())

    (folder / "recipe.json").write_text(dump(recipe_json))
    (folder / "world.json").write_text(dump(world))
    (folder / "samples.json").write_text(dump(samples))
    (folder / "rounds.jsonl").write_text("".join(dump(record) + "\n" for record in records))
    (folder / "summary.json").write_text(dump(_summary(records, clients, seed, recipe, first, cut, rank)))
    return folder


@pytest.fixture
def make_run(tmp_path: Path):
    """Return a writer of synthetic runs: make_run("name", clients=3, ...)."""
    return lambda name="run", **options: write_run(tmp_path / name, **options)
