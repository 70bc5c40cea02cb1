"""Check a plan, its delay and its bound, NumPy alone: verify_plan.py [INSTANCE.json] PLAN.json CERTIFICATE.json.

Claim: weights w_i >= 0 on a band's subchannels and w >= 0 on its total power P prove that in no allocation everybody is
heard by a time and done by another after the answer if the clients' cheapest ways to both cost more than sum w_i + w
together, a watt costing mu = w / P. By multipliers nu on a client's rate r, alpha on its cap p, delta on its rate q of
the way back, a set S costs at least nu r - alpha p + delta q + sum over S of c_i, and c_i is w_i - delta q_i less the
most of nu rate_i(x) - (mu + alpha) x over powers x. Sets may be proved apart by size or a subchannel they have or lack.
"""

import json
import sys
from pathlib import Path

import numpy as np

EPS, LN2 = 1e-11, float(np.log(2.0))  # relative error allowed to every sum of products and logarithms


class RefusedError(Exception):
    """What is wrong with a plan or a certificate, in words."""


def require(holds, what):
    """Refuse where a condition does not hold."""
    if not bool(holds):
        raise RefusedError(what)


class Link:
    """One way of a band: h [K, M], ratios per watt over the rate's gap, and what a subchannel carries at a ratio."""

    def __init__(self, band, way):
        here, rate = band["wavetune:downlink"] if way == "downlink" else band, band.get("wavetune:rate", {})
        share = (1 - rate.get(f"{way}_overhead", 0.0)) * rate.get(f"{way}_share", 1.0)
        told = {**rate, "share": share, "gap": 10 ** (rate.get("snr_gap_db", 0.0) / 10)}
        if rate.get("kind", "shannon") != "shannon":
            told = band.get("wavetune:carries", {}).get(way)
            require(told, "what this rate carries must stand in the instance in numbers, as in the certificate's own")
        noise = here.get("noise_psd_w_per_hz", band["noise_psd_w_per_hz"]) * band["subchannel_hz"]
        noise = (noise + np.array(here.get("wavetune:interference_w", 0.0), dtype=float)) * told["gap"]
        self.h, self.least = np.array(here["gain"], dtype=float) / noise, told.get("least_snr", 0.0)
        self.hertz, self.most = band["subchannel_hz"] * told["share"], float(told.get("max_bit_per_s_per_hz") or "inf")
        self.snr, self.rate = (np.array([0.0, *told.get(name, [])], dtype=float) for name in ("snr", "bit_per_s"))
        right = np.all(self.h >= 0) and self.hertz > 0 and np.all(np.diff([self.snr, self.rate]) > 0)
        require(right, "gains, widths or steps of a rate make no sense")

    def carried(self, snr):
        """Rates at ratios over the gap, bit/s."""
        smooth = np.where(snr >= self.least, self.hertz * np.minimum(np.log1p(snr) / LN2, self.most), 0.0)
        return smooth if len(self.snr) == 1 else self.rate[np.searchsorted(self.snr, snr, side="right") - 1]

    def worth(self, h, nu, watt):
        """The most that nu times a rate less `watt` times its power can be on each subchannel, rounded up."""
        inverse = 1 / np.maximum(h, 1e-30)
        if len(self.snr) > 1:
            best = np.argmax(nu * self.rate - watt * self.snr * inverse[:, None], axis=1)
            rate, power = self.rate[best], self.snr[best] * inverse
        else:
            power = np.clip(nu * self.hertz / (watt * LN2) - inverse, 0.0, (2.0 ** min(self.most, 900.0) - 1) * inverse)
            rate = self.hertz * np.log1p(power / inverse) / LN2
        return np.maximum(nu * rate - watt * power, 0.0) + np.where(rate > 0, EPS * (nu * rate + watt * power), 0.0)


class Band:
    """A band of an instance: what a plan takes in it, and what a proof refutes."""

    def __init__(self, instance, name):
        band, self.name = instance["bands"][name], f"{name} band"
        self.up, self.total_w, down = Link(band, "uplink"), band["total_power_max_w"], band.get("wavetune:downlink")
        self.caps, (self.K, self.M) = np.array([c["tx_power_max_w"] for c in instance["clients"]]), self.up.h.shape
        self.back, self.returns = np.zeros((self.K, self.M)), 0.0  # rates of the way back, and the share of bits on it
        if down:
            self.back = (way := Link(band, "downlink")).carried(down["power_w"] / self.M * way.h)
            self.returns = instance["costs"].get("wavetune:download_share", 1.0) if name == "fed" else 1.0

    def airtimes(self, used, bits):
        """Seconds of each client's way there and back under a plan's owners and powers, which must keep all limits."""
        owner, power, name = np.array(used["owner"]), np.array(used["power_w"], dtype=float), self.name
        require(owner.shape == power.shape == (self.M,), f"{name}: owner and power_w must have {self.M} entries")
        require(np.all((owner >= -1) & (owner < self.K) & (owner % 1 == 0)), f"{name}: an owner is no client")
        require(np.all(power >= 0) and np.all(power[owner < 0] == 0), f"{name}: a power is negative or nobody's")
        mine, forgiven = owner == np.arange(self.K)[:, None], 1 + 1e-9
        within = np.all(mine @ power <= self.caps * forgiven) and np.sum(power) <= self.total_w * forgiven
        require(within, f"{name}: a client or all of them exceed their power")
        ways = (bits[0], self.up.carried(power * self.up.h)), (bits[1] * self.returns, self.back)
        sums = [(sent, np.sum(mine * rate_KM, axis=1)) for sent, rate_KM in ways]
        require(all(np.all((sent == 0) | (rate > 0)) for sent, rate in sums), f"{name}: a client has bits and no rate")
        return [sent / np.where(rate > 0, rate, 1.0) for sent, rate in sums]

    def cheapest(self, k, given, proof, may, must, least=1, most=10**9):
        """Lower bound on what client k pays for `least` to `most` subchannels, all of `must` and others of `may`."""
        if "subchannel" in proof:
            at = np.arange(self.M) == int(proof["subchannel"])
            has = self.cheapest(k, given, proof["has"], may, must | at, least, most)
            return min(has, self.cheapest(k, given, proof["lacks"], may & ~at, must, least, most))
        if "count" in proof:
            few = self.cheapest(k, given, proof["few"], may, must, least, min(most, proof["count"]))
            return min(few, self.cheapest(k, given, proof["many"], may, must, max(least, proof["count"] + 1), most))
        rates, asks, w, mu = given
        nu, alpha, delta = map(float, proof["multipliers"])
        require(min(nu, alpha, delta) >= 0 and nu + alpha + delta < np.inf, "a multiplier is negative or no number")
        worth, back = self.up.worth(self.up.h[k], nu, mu + alpha), self.back[k]
        c = np.where(may, w - delta * back - worth - EPS * (w + delta * back), 1e100)
        rest, first, last = np.sort(c[~must]), max(least - np.sum(must), 0), max(most - np.sum(must), 0)
        terms = [*c[must], *rest[:first], *np.minimum(rest[first : max(first, last)], 0.0)]
        terms += [nu * rates[k], delta * asks[k], -alpha * self.caps[k]]
        value = float(np.sum(terms) - EPS * np.sum(np.abs(terms)))
        require(np.all(np.isfinite([*c, value])), "numbers are too large")
        return value

    def refuted(self, rates, asks, proof, may):
        """Whether a proof shows that no allocation gives every client its rates on subchannels that it may have."""
        w, power, none = np.array(proof["subchannels"], dtype=float), float(proof["power"]), np.zeros(self.M, bool)
        require(w.shape == none.shape and np.all(w >= 0) and power > 0, "prices must be positive")
        given, clients = (rates, asks, w, power / self.total_w), enumerate(proof["clients"])
        pays = [self.cheapest(k, given, c, may[k], none) for k, c in clients if rates[k] > 0 or asks[k] > 0]
        return float(np.sum(pays)) * (1 - EPS) > (float(np.sum(w)) + power) * (1 + EPS)

    def earliest(self, ready, after, bits, listed):
        """The least sum of the last arrival and the last end after the answer (s) that is not refuted."""
        start_up, start_down, seen = float(np.max(ready)), float(np.max(after)), []
        for part in listed:
            up, down = float(part["up_s"]), np.inf if part["down_s"] is None else float(part["down_s"])
            require(up > start_up and down > start_down, f"{self.name}: a proof must be for times after the last start")
            rates, asks = bits[0] / (up - ready) * (1 - EPS), bits[1] / (down - after) * (1 - EPS)
            require(self.refuted(rates, asks, part["proof"], self.up.h + self.back > 0), f"{self.name}: a proof fails")
            seen.append((up, down))
        return min(e + max([start_up, *(u for u, d in seen if d > e)]) for e in [start_down, *(d for _, d in seen)])


def parts(instance, cut, rank):
    """Of a cut and rank, if they fit the memories: seconds until sending, at the server, after receiving; bits."""
    costs, clients = instance["costs"], instance["clients"]
    batch = np.array([float(c.get("wavetune:batch_size") or instance["batch_size"]) for c in clients])
    near, far, speed = slice(None, cut), slice(cut, None), np.array([c["flop_per_s"] for c in clients])

    def total(side, fixed, per_rank):
        return float(np.sum(costs.get(fixed, [])[side]) + rank * np.sum(costs.get(per_rank, [])[side]))

    memory, adapters = ("memory_bytes", "memory_bytes_per_rank"), ("wavetune:adapter_bits", "lora_bits_per_rank")
    if any(c.get("memory_bytes") is not None and total(near, *memory) > c["memory_bytes"] for c in clients):
        return None
    forward, backward = ((f"{way}_flop", f"lora_{way}_flop_per_rank") for way in ("forward", "backward"))
    server = float(np.sum(batch)) * (total(far, *forward) + total(far, *backward)) / instance["server"]["flop_per_s"]
    there, back = costs["activation_bits"], costs.get("wavetune:gradient_bits", costs["activation_bits"])
    bits = batch * float(there[cut - 1]), batch * float(back[cut - 1])
    ready, after = (batch * total(near, *way) / speed for way in (forward, backward))
    return ready, server, after, bits, total(near, *adapters)


def plan_delay(instance, plan):
    """Total delay of the plan, rounded up."""
    ranks, cut, rank = instance["rounds_to_target"], plan["cut"], plan["rank"]
    found = cut in instance["cuts"] and str(rank) in ranks and parts(instance, cut, rank)
    require(found, f"cut {cut}, rank {rank}: not allowed, or a client lacks memory")
    ready, server, after, bits, adapters = found
    up, down = Band(instance, "main").airtimes(plan["bands"]["main"], bits)
    fed_s = np.sum(np.max(Band(instance, "fed").airtimes(plan["bands"]["fed"], (adapters, adapters)), axis=1))
    a_round = instance["local_steps"] * (np.max(ready + up) + server + np.max(down + after)) + fed_s
    return float(ranks[str(rank)] * a_round * (1 + EPS))


def bound(instance, certificate):
    """The lower bound that the certificate proves, over every allowed cut and rank that fits the memories."""
    main, fed, none, lowest = Band(instance, "main"), Band(instance, "fed"), np.zeros(len(instance["clients"])), np.inf
    fed_s = fed.earliest(none, none, (1.0, fed.returns), certificate["fed"])
    given = {(p["cut"], p["rank"]): p["refuted"] for p in certificate["pairs"]}
    for cut in instance["cuts"]:
        for rank, rounds in instance["rounds_to_target"].items():
            if found := parts(instance, cut, int(rank)):
                ready, server, after, bits, adapters = found
                step = main.earliest(ready, after, (bits[0], main.returns * bits[1]), given[cut, int(rank)]) + server
                lowest = min(lowest, rounds * (instance["local_steps"] * step + adapters * fed_s) * (1 - EPS))
    return float(lowest)


@np.errstate(all="ignore")
def main(*paths, plan_delay=plan_delay, bound=bound):
    """Print the proved gap; the exit code is 1 where something does not hold, 2 where the files are no such files."""
    try:
        require(2 <= len(paths) <= 3, "give the files of [INSTANCE.json] PLAN.json CERTIFICATE.json")
        *given, plan, first = (json.loads(Path(p).read_text()) for p in paths)
        instance, proofs = given[0] if given else first["instance"], [first, *first.get("beside", [])]
        if "active" in plan:  # those alone that take part, numbered as in the instance
            number = np.append(np.where(active := plan["active"], np.cumsum(active) - 1, 10**9), -1)
            plan |= {n: np.array(v)[np.array(active)].tolist() for n, v in plan.items() if isinstance(v, list)}
            plan["bands"] = {n: {**b, "owner": number[np.array(b["owner"])]} for n, b in plan["bands"].items()}
        bounds_s = [bound(instance if one is first else one["instance"], one) for one in proofs]
        delay_s, bound_s = plan_delay(instance, plan), min(bounds_s)
        require(bound_s <= delay_s <= plan["delay_s"] * (1 + 1e-9), f"the plan takes {delay_s:.9g} s, not what it says")
        require(bound_s >= min(p["lower_bound_s"] for p in proofs) * (1 - 1e-8), f"only {bound_s:.9g} s is proved")
    except Exception as error:  # a file can be wrong in many ways
        print(f"refused: {error if isinstance(error, RefusedError) else f'malformed or incomplete, {error!r:.200}'}")
        return 1 if isinstance(error, RefusedError) and 2 <= len(paths) <= 3 else 2
    print(f"plan {delay_s:.9g} s, no plan below {bound_s:.9g} s: proved gap {1 - bound_s / delay_s:.4%}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
