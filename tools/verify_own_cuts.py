"""Check a plan with a cut of each client's own and its bound: verify_own_cuts.py [INSTANCE.json] PLAN.json PROOF.json.

Claim: a round of I steps takes I (U + sum of work_k + D) + F + G, with the last activations at U, the last backward
pass D after the server, and adapters F up and G down. For weights w, v >= 0 of both bands' subchannels and total powers
and prices l >= 0 of each client's four times, no round is shorter than

    min over U, D, F, G of [(I - sum l_kU) U + ...] - sum w - sum v
        + sum_k min over cuts [I work_k + min_S (w(S) + l_kU up + l_kD down) + min_T (v(T) + l_kF up + l_kG down)],

as disjoint sets within the power pay at most all of w and v, and no client is later than the last. A set's least weight
is bounded by multipliers as in `verify_plan`; a rate r for b bits costs l b / r besides, least at r = sqrt(l b / nu).
A proof of a rank is a tree. What prices say holds in all that is below them: no shorter round has a cut that costs more
than is left, and where nothing is left, the part is closed. Seconds, a client's cut or an owner tell parts apart. What
both bands take at least for the cuts of a part may be proved as in `verify_plan`, where work and seconds are their sum.
Together with `verify_plan` this needs NumPy and nothing of wavetune; sums are rounded outwards.
"""

import sys
from functools import partial

import numpy as np
import verify_plan
from verify_plan import EPS, Band, parts, require


class Rate:
    """A rate of at least `least`, in whose stead more can be had, as slowness costs `slow` / rate up to `most`."""

    def __init__(self, least, most, slow):
        self.least, self.most, self.slow = least, most, slow

    def __rmul__(self, price):
        """The least of price times rate and the cost of its slowness."""
        best = np.sqrt(self.slow / price) if price > 0 else np.inf
        rate = max(self.least, min(self.most, best)) if self.slow > 0 else self.least
        return (price * rate if price > 0 else 0.0) + (self.slow / rate if self.slow > 0 else 0.0)


def tables(instance, cuts, rank):
    """Of each client and cut: whether it fits the memory, its work in a step, and starts and bits [4, K, C]."""
    clients, nothing = instance["clients"], [0.0, 0.0, 0.0, (0.0, 0.0), 0.0]
    found = [[parts({**instance, "clients": [one]}, cut, rank) for cut in cuts] for one in clients]
    fits = np.array([[part is not None for part in row] for row in found])
    rows = [[part or nothing for part in row] for row in found]

    def table(of):
        return np.array([[float(np.sum(of(part))) for part in row] for row in rows])

    adapters = table(lambda part: part[4])
    starts = np.array([table(lambda part: part[0]), table(lambda part: part[2]), 0 * adapters, 0 * adapters])
    bits = np.array([table(lambda part: part[3][0]), table(lambda part: part[3][1]), adapters, adapters])
    return fits, table(lambda part: part[1]), starts, bits


class Rounds:
    """Rounds of some cuts and a rank, to show that none of them is shorter than `round_s`."""

    ways = (0, 1, 2, 3)  # to which of the seconds that count each way of both bands counts

    def __init__(self, instance, cuts, rank, round_s):
        self.fits, served, self.starts, self.bits = tables(instance, cuts, rank)
        self.bands, self.cuts, self.round_s = [Band(instance, n) for n in ("main", "fed")], cuts, round_s
        self.times = np.array([instance["local_steps"], instance["local_steps"], 1.0, 1.0])
        alone = [(band.up.carried(band.caps[:, None] * band.up.h), band.back) for band in self.bands]
        self.most = np.array([np.sum(way_KM, axis=1) for ways in alone for way_KM in ways])  # [4, K]
        self.bits[1::2] *= np.array([band.returns for band in self.bands])[:, None, None]
        rate = np.maximum(self.most[:, :, None], 1e-300)
        self.alone = np.where(self.bits > 0, self.bits / rate * (1 - EPS), 0.0)
        self.work, self.first = instance["local_steps"] * served, self.starts + self.alone  # over at the soonest

    def closed(self, proof):
        """Refuse where the proof leaves a part open."""
        may = [band.up.h + band.back > 0 for band in self.bands]
        self.part_closed(proof, self.fits, np.array([[0.0, np.inf]] * len(self.times)), may, ())

    def asked(self, proof, cuts, edges, late):
        """Cuts that can be, their costs without sets, what is paid; seconds of all ways: what is free, what is left."""
        return cuts, self.work, 0.0, edges[:, 0, None, None], edges[:, 1, None, None] - self.starts

    def priced(self, proof, cuts, edges, may):
        """What seconds cost besides at a proof's prices, what is paid for everything, and what each cut costs."""
        late = np.array(proof["late"], dtype=float)
        right = late.shape == (len(cuts), len(edges)) and np.all(late >= 0) and np.sum(late) < np.inf
        require(right, "prices of seconds are negative, missing or no numbers")
        cuts, value, paid, low, left = self.asked(proof, cuts, edges, late)
        late_s, sends = late.T[self.ways, :, None], self.bits > 0
        possible = cuts & np.all((left > 0) | ((left == 0) & ~sends), axis=0)
        value = value + np.sum(late_s * np.where(sends, self.starts, np.maximum(self.starts, low)), axis=0)
        least = np.where(sends, self.bits / left * (1 - EPS), 0.0)
        most = np.where(sends & (low > self.starts), self.bits / (low - self.starts), np.inf)
        most = np.minimum(most, self.most[:, :, None] * (1 + EPS))
        slow = late_s * self.bits
        for b, (band, ways) in enumerate(zip(self.bands, (slice(0, 2), slice(2, 4)), strict=True)):
            w, power = np.array(proof[band.name.split()[0]]["subchannels"], dtype=float), None
            power = float(proof[band.name.split()[0]]["power"])
            require(w.shape == (band.M,) and np.all(w >= 0) and power > 0, "weights must be positive")
            paid += float(np.sum(w)) + power
            for k, c in np.argwhere(possible & np.any(sends[ways], axis=0)):
                one = proof["clients"][k].get(str(self.cuts[c]), {}).get(band.name.split()[0])
                up, back = ({k: Rate(least[t, k, c], most[t, k, c], slow[t, k, c])} for t in range(4)[ways])
                if one is not None:  # else sets cost nothing
                    none = np.zeros(band.M, bool)
                    value[k, c] += band.cheapest(k, (up, back, w, power / band.total_w), one, may[b][k], none)
        require(np.all(np.isfinite(value[possible])) and paid < np.inf, "numbers are too large")
        value = np.where(possible, value - EPS * np.abs(value), np.inf)
        return self.times - np.sum(late, axis=0), paid * (1 + EPS), value

    def part_closed(self, proof, cuts, edges, may, known):
        """Refuse where rounds with these cuts, seconds [4, 2] and possible owners are left open."""
        low = np.maximum(edges[:, 0], np.max(np.min(np.where(cuts, self.first, np.inf), axis=2), axis=1))
        soonest = (self.times @ low + np.sum(np.min(np.where(cuts, self.work, np.inf), axis=1))) * (1 - EPS)
        high = np.minimum(edges[:, 1], (low + (self.round_s - soonest) / self.times) * (1 + EPS))
        if soonest >= self.round_s or np.any(low > high):
            return
        for slope, paid, value in known:
            least = np.min(np.where(cuts, value, np.inf), axis=1)
            terms = [*np.minimum(slope * low, slope * high), *least, -paid]
            total = np.sum(terms) - EPS * np.sum(np.abs(terms))
            if total >= self.round_s or np.any(least == np.inf):
                return
            cuts = cuts & ~(value - least[:, None] > (self.round_s - total) * (1 + EPS))
        edges = np.stack((low, high), axis=1)
        if "late" in proof:
            known = (*known, self.priced(proof, cuts, edges, may))
            self.part_closed(proof["then"], cuts, edges, may, known)
            return
        if "apart" in proof:
            require(self.apart(proof["apart"], cuts) >= self.round_s, "bands apart leave a part open")
            return
        require("has" in proof, "a part is left open")
        for name, one in zip(("has", "lacks"), self.divided(proof, cuts, edges, may), strict=True):
            self.part_closed(proof[name], *one, known)

    def apart(self, proof, cuts):
        """No round of these cuts is shorter (s): both bands told apart, each with the least that any cut asks."""
        starts, bits = (np.min(np.where(cuts, of, np.inf), axis=2) for of in (self.starts, self.bits))
        total = np.sum(np.min(np.where(cuts, self.work, np.inf), axis=1))
        for t, band in zip((0, 2), self.bands, strict=True):
            listed = proof[band.name.split()[0]]
            total += self.times[t] * band.earliest(starts[t], starts[t + 1], bits[t : t + 2], listed)
        return total * (1 - EPS)

    def divided(self, proof, cuts, edges, may):
        """Two parts which hold all together."""
        has, lacks = [cuts, edges.copy(), list(may)], [cuts, edges.copy(), list(may)]
        if "time" in proof:
            t, at_s = int(proof["time"]), float(proof["at_s"])
            require(np.isfinite(at_s), "seconds are no number")
            has[1][t, 1] = lacks[1][t, 0] = at_s
            return has, lacks
        client = (np.arange(len(cuts)) == int(proof["client"]))[:, None]
        if "cut" in proof:
            cut = np.array(self.cuts) == int(proof["cut"])
            has[0], lacks[0] = cuts & (cut | ~client), cuts & ~(cut & client)
        else:
            b = ("main", "fed").index(proof["band"])
            at = np.arange(self.bands[b].M) == int(proof["subchannel"])
            has[2][b], lacks[2][b] = may[b] & ~(at & ~client), may[b] & ~(at & client)
        return has, lacks


def plan_delay(instance, plan):
    """Total delay of the plan, rounded up."""
    ranks, cuts, rank = instance["rounds_to_target"], plan["cut"], plan["rank"]
    cuts = cuts if isinstance(cuts, list) else [cuts] * len(instance["clients"])
    allowed = len(cuts) == len(instance["clients"]) and set(cuts) <= {*instance["cuts"]} and str(rank) in ranks
    require(allowed, f"cuts {cuts}, rank {rank}: not allowed")
    at = np.arange(len(cuts)), [instance["cuts"].index(cut) for cut in cuts]
    fits, work, starts, bits = (table[..., *at] for table in tables(instance, instance["cuts"], rank))
    require(np.all(fits), f"cuts {cuts}, rank {rank}: a client lacks memory")
    main, fed = (Band(instance, n).airtimes(plan["bands"][n], bits[i : i + 2]) for n, i in (("main", 0), ("fed", 2)))
    step_s = np.max(starts[0] + main[0]) + np.sum(work) + np.max(starts[1] + main[1])
    round_s = instance["local_steps"] * step_s + np.max(fed[0]) + np.max(fed[1])
    return float(ranks[str(rank)] * round_s * (1 + EPS))


def bound(instance, certificate):
    """The lower bound, if the certificate proves it of every rank."""
    proofs, claimed_s = {p["rank"]: p["proof"] for p in certificate["ranks"]}, float(certificate["lower_bound_s"])
    require(claimed_s < np.inf, "the bound is no number")
    for rank, rounds in instance["rounds_to_target"].items():
        Rounds(instance, instance["cuts"], int(rank), claimed_s / rounds).closed(proofs[int(rank)])
    return claimed_s


main = partial(verify_plan.main, plan_delay=plan_delay, bound=bound)

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
