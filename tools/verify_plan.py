"""Check a plan, its delay and its lower bound from the instance alone: NumPy and nothing of wavetune.

    python tools/verify_plan.py [INSTANCE.json] PLAN.json CERTIFICATE.json    # a recipe's has the instance too

Claim: weights w_i >= 0 on a band's subchannels and w >= 0 on its total power P prove that no allocation ends by a delay
t if the clients' cheapest ways to do so cost more than sum w_i + w together, a watt costing mu = w / P. Client k's way
is bounded from below with multipliers nu on its rate r and alpha on its cap p: a set S of subchannels costs at least
    nu r - alpha p + sum over S of c_i,  c_i = w_i - max_q [nu log2(1 + q h_i) - (mu + alpha) q];
with two pairs of multipliers the sets of at most `count` subchannels and the larger ones are bounded apart; with one, a
value `least` is confirmed by listing every set whose bound is below it. All sums are rounded outwards.
"""

import json
import sys
from pathlib import Path

import numpy as np

EPS = 1e-11  # relative error allowed to every sum of products and logarithms; doubles have 1e-16
LN2 = float(np.log(2.0))


class RefusedError(Exception):
    """What is wrong with a plan or a certificate, in words."""


def require(holds, what):
    """Refuse where a condition does not hold."""
    if not bool(holds):
        raise RefusedError(what)


def parts(instance, cut, rank):
    """Seconds before sending, bits to send and seconds afterwards, of one cut and rank."""
    costs, batch = instance["costs"], instance["batch_size"]
    speed = np.array([c["flop_per_s"] for c in instance["clients"]])

    def flop(base, per_rank, side):
        return batch * (np.sum(np.array(costs[base])[side]) + rank * np.sum(np.array(costs[per_rank])[side]))

    near, far = slice(None, cut), slice(cut, None)
    forward, backward = ("forward_flop", "lora_forward_flop_per_rank"), ("backward_flop", "lora_backward_flop_per_rank")
    server = len(speed) * (flop(*forward, far) + flop(*backward, far)) / instance["server"]["flop_per_s"]
    adapters = rank * float(np.sum(np.array(costs["lora_bits_per_rank"])[near]))
    after = server + float(np.max(flop(*backward, near) / speed))
    return flop(*forward, near) / speed, batch * float(costs["activation_bits"][cut - 1]), after, adapters


def fits(instance, cut, rank):
    """Whether a cut and a rank fit every client's memory."""
    fixed, per_rank = (instance["costs"].get(name, [0.0])[:cut] for name in ("memory_bytes", "memory_bytes_per_rank"))
    need = float(np.sum(fixed)) + rank * float(np.sum(per_rank))
    return all(c.get("memory_bytes") is None or need <= c["memory_bytes"] for c in instance["clients"])


def link(band):
    """Ratio per watt over the gap, hertz that carry log2(1 + ratio), and the most bit/s/Hz, of Shannon's rate."""
    rate = band.get("wavetune:rate", {})
    require(rate.get("kind", "shannon") == "shannon", "a rate other than Shannon's is not known here")
    share = (1 - rate.get("uplink_overhead", 0.0)) * rate.get("uplink_share", 1.0)
    noise = band["noise_psd_w_per_hz"] * band["subchannel_hz"] * 10 ** (rate.get("snr_gap_db", 0.0) / 10)
    most = float(rate.get("max_bit_per_s_per_hz") or "inf")
    return np.array(band["gain"], dtype=float) / noise, share * band["subchannel_hz"], most


def airtime(band, caps, used, bits, name):
    """Seconds that each client sends under the plan's owners and powers, which must keep all limits."""
    owner, power = np.array(used["owner"]), np.array(used["power_w"], dtype=float)
    (h, hertz, most), K = link(band), len(caps)
    require(owner.shape == power.shape == (h.shape[1],), f"{name}: owner and power_w must have {h.shape[1]} entries")
    require(np.all((owner >= -1) & (owner < K) & (owner == owner.astype(int))), f"{name}: an owner is no client")
    require(np.all(power >= 0) and np.all(power[owner < 0] == 0), f"{name}: a power is negative or nobody's")
    require(np.sum(power) <= band["total_power_max_w"] * (1 + 1e-9), f"{name}: the total power is exceeded")
    seconds = np.zeros(K)
    for k in range(K):
        mine = owner == k
        require(np.sum(power[mine]) <= caps[k] * (1 + 1e-9), f"{name}: client {k} exceeds its power")
        rate = hertz * float(np.sum(np.minimum(np.log1p(power[mine] * h[k, mine]) / LN2, most)))
        require(bits == 0 or rate > 0, f"{name}: client {k} has bits and no rate")
        seconds[k] = bits / rate if bits > 0 else 0.0
    return seconds


def plan_delay(instance, plan):
    """Total delay of the plan, rounded up."""
    cut, rank, ranks = plan["cut"], plan["rank"], instance["rounds_to_target"]
    require(cut in instance["cuts"] and str(rank) in ranks, f"cut {cut}, rank {rank}: not allowed")
    require(fits(instance, cut, rank), f"cut {cut}, rank {rank}: a client lacks memory")
    caps = np.array([c["tx_power_max_w"] for c in instance["clients"]])
    ready, bits, after, adapters = parts(instance, cut, rank)
    main = airtime(instance["bands"]["main"], caps, plan["bands"]["main"], bits, "main band")
    fed = airtime(instance["bands"]["fed"], caps, plan["bands"]["fed"], adapters, "fed band")
    a_round = instance["local_steps"] * (float(np.max(ready + main)) + after) + float(np.max(fed))
    return instance["rounds_to_target"][str(rank)] * a_round * (1 + EPS)


def reduced_costs(h, w, nu, watt, most):
    """c_i rounded down; infinite where the client hears nothing."""
    heard, inverse = h > 0, 1 / np.where(h > 0, h, 1.0)
    level = nu / (watt * LN2)
    above = np.log2(max(level, 1e-300)) - np.log2(inverse)
    gain = np.where(above > 0, nu * above - watt * (level - inverse), 0.0)
    logs = abs(np.log2(max(level, 1e-300))) + abs(np.log2(inverse))
    error = np.where(above > 0, nu * logs + watt * (level + inverse), 0)
    gain = np.where(above > most, nu * min(most, 1e300) - watt * (2.0 ** min(most, 900) - 1) * inverse, gain)
    return np.where(heard, w - gain - EPS * (w + error), np.inf)


def least_power(h, rate, most):
    """Least power for a rate on a set of subchannels, rounded down."""
    inverse, low, high = 1 / h, -1100.0, 1000.0  # the logarithm of the water level, whose lower end is too low
    for _ in range(60):
        level = 0.5 * (low + high)
        enough = np.sum(np.clip(level - np.log2(inverse), 0, most)) >= rate
        low, high = (low, level) if enough else (level, high)
    least = float(np.sum(np.clip(2.0**low - inverse, 0, (2.0**most - 1) * inverse) - EPS * 2.0**low))
    return np.inf if rate > most * len(h) * (1 + EPS) else max(least, 0.0)


def cheapest(h, w, mu, cap, rate, client, most):
    """Lower bound on what a client pays, confirmed with the certificate's multipliers."""
    nus, alphas = client["nu"], client["alpha"]
    require(min(*nus, *alphas) >= 0 and max(*nus, *alphas) < np.inf, "a multiplier is negative or no number")
    costs = [reduced_costs(h, w, nu, mu + alpha, most) for nu, alpha in zip(nus, alphas, strict=True)]
    free = [nu * rate - alpha * cap - EPS * (nu * rate + alpha * cap) for nu, alpha in zip(nus, alphas, strict=True)]
    if "least" not in client:
        n = int(client["count"])
        few, many = np.sort(costs[0])[:n], np.sort(costs[1])
        low = np.inf if n == 0 else free[0] + np.sum(np.minimum(few, 0.0)) * (1 + EPS)
        rest = np.inf if n >= len(many) else np.sum(many[: n + 1]) + np.sum(np.minimum(many[n + 1 :], 0.0))
        return min(low, free[1] + rest - EPS * np.sum(np.abs(many[np.isfinite(many)])))
    least, c, inside = float(client["least"]), costs[0], costs[0] < 0
    start = free[0] + float(np.sum(c[inside])) * (1 + EPS)
    order = [i for i in np.argsort(np.abs(c), kind="stable") if np.isfinite(c[i])]
    stack = [(0, start, inside)]
    while stack:  # every set whose bound is below `least`, as changes of the first one in ascending order of their cost
        place, bound, chosen = stack.pop()
        if bound < least and np.any(chosen):
            power = least_power(h[chosen], rate, most)
            pays = float(np.sum(w[chosen])) + mu * power
            require(power > cap or pays * (1 + EPS) >= least, "a client has a cheaper set than the certificate says")
        for later in range(place, len(order)):
            more, changed = bound + abs(float(c[order[later]])) * (1 - EPS), chosen.copy()
            if more >= least:
                break
            changed[order[later]] = not changed[order[later]]
            stack.append((later + 1, more, changed))
    return least


def refuted(band, caps, ready, bits, delay, proof):
    """Whether a proof shows that no allocation of a band ends by a delay."""
    (h, hertz, most), w, power = link(band), np.array(proof["subchannels"], dtype=float), float(proof["power"])
    require(np.all(np.isfinite(w)) and np.all(w >= 0) and power > 0 and len(w) == h.shape[1], "prices must be positive")
    require(np.all(delay > ready), "a proof must be for a delay after the last start")
    mu, total = power / band["total_power_max_w"], 0.0
    for k, client in enumerate(proof["clients"]):
        rate = bits / (hertz * (delay - ready[k])) * (1 - EPS)
        total += min(cheapest(h[k], w, mu, caps[k], rate, client, most), 1e6 * (np.sum(w) + power))
    return total * (1 - EPS) > (float(np.sum(w)) + power) * (1 + EPS)


def bound(instance, certificate):
    """The lower bound that the certificate proves, over every allowed cut and rank that fits the memories."""
    caps = np.array([c["tx_power_max_w"] for c in instance["clients"]])
    fed_s, proof, K = float(certificate["fed_s_per_bit"]), certificate["fed_proof"], len(caps)
    fed = instance["bands"]["fed"]
    require(fed_s == 0 or refuted(fed, caps, np.zeros(K), 1.0, fed_s, proof), "fed band: the proof does not hold")
    given, lowest = {(p["cut"], p["rank"]): p for p in certificate["pairs"]}, np.inf
    for cut in instance["cuts"]:
        for rank in map(int, instance["rounds_to_target"]):
            if not fits(instance, cut, rank):
                continue
            require((cut, rank) in given, f"cut {cut}, rank {rank}: not in the certificate")
            ready, bits, after, adapters = parts(instance, cut, rank)
            pair, main, main_s = given[cut, rank], instance["bands"]["main"], float(given[cut, rank]["main_s"])
            shown = main_s <= np.max(ready) or (bits > 0 and refuted(main, caps, ready, bits, main_s, pair["proof"]))
            require(shown, f"cut {cut}, rank {rank}: the proof does not hold")
            a_round = instance["local_steps"] * (main_s + after) + adapters * fed_s
            lowest = min(lowest, instance["rounds_to_target"][str(rank)] * a_round * (1 - EPS))
    return float(lowest)


def main(*paths):
    """Print the proved gap; the exit code is 1 where something does not hold."""
    *given, plan, certificate = (json.loads(Path(p).read_text()) for p in paths)
    instance = given[0] if given else certificate["instance"]
    try:
        delay_s, bound_s = plan_delay(instance, plan), bound(instance, certificate)
        require(delay_s <= plan["delay_s"] * (1 + 1e-9), f"the plan takes {delay_s:.9g} s, not {plan['delay_s']:.9g} s")
        require(bound_s >= certificate["lower_bound_s"] * (1 - 1e-8), f"no more than {bound_s:.9g} s is proved")
    except (RefusedError, KeyError, TypeError, ValueError, IndexError) as error:
        print(f"refused: {error if isinstance(error, RefusedError) else 'malformed, ' + repr(error)}")
        return 1
    print(f"plan {delay_s:.9g} s, no plan below {bound_s:.9g} s: proved gap {max(0.0, 1 - bound_s / delay_s):.4%}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
