"""Planning problems for tests: random ones over the whole range of inputs, and the best plan by brute force."""

import itertools

import numpy as np

from wavetune.allocation.delay import load_of
from wavetune.allocation.feasibility import check_feasible
from wavetune.allocation.plan import make_plan
from wavetune.allocation.power import allocate_power
from wavetune.allocation.problem import Problem, RadioBand
from wavetune.costs.layer_costs import LayerCosts


def layer_costs(num_layers, flop=1e9, lora_flop=1e6, activation_bits=1e6, lora_bits=1e5, memory_bytes=0.0):
    """The same costs for every layer."""

    def each(value):
        return np.full(num_layers, float(value))

    return LayerCosts(
        each(flop), each(flop), each(lora_flop), each(lora_flop), each(activation_bits), each(lora_bits),
        each(memory_bytes), each(0.0),
    )  # fmt: skip


def cell_problem(num_clients, num_subchannels, seed=0, fading=True, **changes):
    """Clients in a cell of 200 m with Rayleigh fading, or with flat gains, and a GPT-2 sized model."""
    generator, K = np.random.default_rng(seed), num_clients
    distance_km = 0.2 * np.sqrt(generator.uniform(0.01, 1, K))
    mean_gain_K = 10 ** (1 - (128.1 + 37.6 * np.log10(distance_km) + 8 * generator.normal(size=K)) / 10)

    def band():
        fade_KM = generator.exponential(size=(K, num_subchannels)) if fading else np.ones((K, num_subchannels))
        return RadioBand(mean_gain_K[:, None] * fade_KM, 5e5, 4e-21, 0.5 * K)

    values = {
        "local_steps": 12,
        "batch_size": 16,
        "rounds_to_target": {1: 64.0, 2: 52.0, 4: 46.0, 6: 44.0, 8: 43.0},
        "cuts": tuple(range(1, 12)),
        "costs": layer_costs(12, 8.05e9, 3.1e6, 12582912.0, 98304.0),
        "server_flop_per_s": 1.64e14,
        "client_flop_per_s_K": generator.uniform(1e12, 1.6e12, K),
        "num_samples_K": np.ones(K),
        "tx_power_max_w_K": np.full(K, 1.5),
        "memory_bytes_K": np.full(K, np.inf),
        "main": band(),
        "fed": band(),
    }
    return Problem(**(values | changes))


def wild_problem(seed, most_clients=3, most_subchannels=6):
    """Anything the format allows: gains over 18 orders of magnitude, zero gains, flat gains, binding and loose caps."""
    g = np.random.default_rng(seed)
    K = int(g.integers(1, most_clients + 1))

    def log_uniform(low, high, size=None):
        return 10 ** g.uniform(low, high, size)

    def band():
        M = int(g.integers(max(1, K - (g.random() < 0.1)), most_subchannels + 1))
        kind = g.integers(4)
        if kind == 0:
            gain_KM = log_uniform(-18, 0, (K, M))
        elif kind == 1:
            gain_KM = log_uniform(-15, 0, (K, 1)) * log_uniform(-3, 0, (K, M))
        elif kind == 2:
            gain_KM = log_uniform(-12, -6) * log_uniform(-1, 1, (K, 1)) * g.exponential(size=(K, M))
        else:
            gain_KM = np.repeat(log_uniform(-12, -7, (K, 1)), M, axis=1)
        if g.random() < 0.3:
            gain_KM = gain_KM * (g.random((K, M)) < 0.7)
        return RadioBand(gain_KM, log_uniform(4, 7), log_uniform(-21, -19), log_uniform(-2, 1.5))

    def sometimes_zero(cost_L):
        return cost_L * (g.random(len(cost_L)) < 0.8)

    L = int(g.integers(1, 4))
    costs = LayerCosts(
        log_uniform(8, 10, L), log_uniform(8, 10, L), log_uniform(5, 7, L), log_uniform(5, 7, L),
        sometimes_zero(log_uniform(4, 8, L)), sometimes_zero(log_uniform(3, 7, L)),
        log_uniform(5, 8, L), log_uniform(3, 5, L),
    )  # fmt: skip
    ranks = (1, 2, 4)[: g.integers(1, 4)]
    return Problem(
        local_steps=int(g.integers(1, 20)),
        batch_size=int(g.integers(1, 20)),
        rounds_to_target=dict(zip(ranks, sorted(g.uniform(10, 100, len(ranks)), reverse=True), strict=True)),
        cuts=tuple(range(1, L + 1)),
        costs=costs,
        server_flop_per_s=log_uniform(10, 14),
        client_flop_per_s_K=log_uniform(9, 12, K),
        num_samples_K=np.ones(K),
        tx_power_max_w_K=log_uniform(-2, 1, K),
        memory_bytes_K=np.where(g.random(K) < 0.3, log_uniform(6, 9, K), np.inf),
        main=band(),
        fed=band(),
    )


def absurd_problem(seed):
    """What the format lets through and no world holds: every quantity anywhere over fifty orders of magnitude."""
    g = np.random.default_rng(seed)
    K, L = int(g.integers(1, 6)), int(g.integers(1, 4))

    def anything(*size):
        return 10 ** g.uniform(-25, 25, size)

    def band():
        M = int(g.integers(K, 10))
        gain_KM = anything(K, M) * (g.random((K, M)) < 0.8)
        return RadioBand(gain_KM, float(anything()), float(anything()), float(anything()))

    return Problem(
        local_steps=int(g.integers(1, 20)),
        batch_size=int(g.integers(1, 20)),
        rounds_to_target={rank: float(anything()) for rank in (1, 2, 4)[: g.integers(1, 4)]},
        cuts=tuple(range(1, L + 1)),
        costs=LayerCosts(*(anything(L) * (g.random(L) < 0.8) for _ in range(8))),
        server_flop_per_s=float(anything()),
        client_flop_per_s_K=anything(K),
        num_samples_K=np.ones(K),
        tx_power_max_w_K=anything(K),
        memory_bytes_K=np.full(K, np.inf),
        main=band(),
        fed=band(),
    )


def brute_force_delay_s(problem):
    """Least delay over every cut, rank and way to hand out the subchannels, with optimal powers; infinite if none."""
    best_s = np.inf
    for cut, rank in check_feasible(problem).pairs:
        load = load_of(problem, cut, rank)
        ready_s_K = load.client_forward_flop_IK[0] / problem.client_flop_per_s_K
        main = _best_allocation(problem, problem.main, ready_s_K, load.uplink_bits_IK[0])
        fed = _best_allocation(problem, problem.fed, 0 * ready_s_K, load.fed_upload_bits_K)
        best_s = min(best_s, make_plan(problem, cut, rank, main, fed).delay_s)
    return best_s


def _best_allocation(problem, band, ready_s_K, bits_K):
    K, M = band.gain_KM.shape
    owners = [np.array(o) for o in itertools.product(range(K), repeat=M)] if np.any(bits_K > 0) else [np.full(M, -1)]
    tried = [allocate_power(band, owner_M, ready_s_K, bits_K, problem.tx_power_max_w_K) for owner_M in owners]
    return min(tried, key=lambda outcome: outcome[1])[0]
