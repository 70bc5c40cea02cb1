"""Check a plan with shares of the server and its bound: verify_shares.py [INSTANCE.json] PLAN.json CERTIFICATE.json.

Claim: a round of I steps takes I P + F + G, with P when the last client is through its own work, both ways and its work
at the server of which it has a share s, and adapters F up and G down. As in `verify_own_cuts`, with a weight u >= 0 of
the server and prices l >= 0 of each client's three times, no round is shorter than

    min over P, F, G of [(I - sum l_kP) P + ...] - sum w - sum v - u + sum_k min over cuts, sets and shares of
        [l_kP (ready + up + work / s + down + after) + w(S) + u s + l_kF up + l_kG down + v(T)],

as shares add up to one server at most. To be through by P, a client needs a share that leaves time for the least that
both ways take it alone in the band, and it has no more than the others' least shares leave. A proof is of a rank, where
cuts are the clients' own, or of a cut and rank of all, where what adapters take is proved by itself. It needs
`verify_plan`, `verify_own_cuts` and NumPy alone.
"""

import sys
from functools import partial

import numpy as np
import verify_plan
from verify_own_cuts import Rate, Rounds, tables
from verify_plan import EPS, Band, require


class SharedRounds(Rounds):
    """Rounds in which every client has a share of the server."""

    ways = (0, 0, 1, 2)

    def __init__(self, instance, cuts, rank, round_s):
        super().__init__(instance, cuts, rank, round_s)
        self.served, self.times = tables(instance, cuts, rank)[1], self.times[1:]
        self.beside = np.sum(self.first[:2], axis=0)
        self.work, self.first = 0 * self.served, np.array([self.beside + self.served, *self.first[2:]])

    def asked(self, proof, cuts, edges, late):
        """Cuts that can be, their costs without sets, what is paid; seconds of all ways: what is free, what is left."""
        weight, left = float(proof["server"]), edges[0, 1] * (1 + EPS) - self.beside
        require(weight >= 0, "the weight of the server is negative")
        least = np.where(left > 0, self.served / np.maximum(left, 1e-300) * (1 - EPS), np.inf)
        needed = np.minimum(np.min(np.where(cuts, least, np.inf), axis=1, keepdims=True), 1e9)
        most = np.clip((1 + EPS) * (1 + needed) - np.sum(needed) * (1 - EPS), 0.0, 1.0)
        cuts, value = cuts & (least <= most), np.zeros(cuts.shape)
        for k, c in np.argwhere(cuts):
            value[k, c] = weight * Rate(least[k, c], most[k, 0], late[k, 0] * self.served[k, c])
        low, high = edges[self.ways, 0, None, None], edges[self.ways, 1, None, None]
        low[:2], left = 0.0, high * (1 + EPS) - self.starts
        left[:2] -= (self.starts[1::-1] + self.alone[1::-1] + self.served / np.maximum(most, 1e-300)) * (1 - EPS)
        return cuts, value, weight, low, left

    def told_apart(self, listed):
        """Take adapters out if it is proved how long they take both ways, as one cut ties them to nothing."""
        if listed is not None and len(self.cuts) == 1 and np.all(self.fits):
            nothing = np.zeros(self.fits.shape[0])
            fed_s = self.bands[1].earliest(nothing, nothing, self.bits[2:, :, 0], listed) * (1 - EPS)
            self.bits[2:], self.first[1], self.first[2] = 0.0, fed_s, 0.0

    def apart(self, proof, cuts):
        """Nothing: the server's work ties both ways."""
        return 0.0


def plan_delay(instance, plan):
    """Total delay of the plan, rounded up."""
    ranks, cuts, rank, K = instance["rounds_to_target"], plan["cut"], plan["rank"], len(instance["clients"])
    cuts, share = cuts if isinstance(cuts, list) else [cuts] * K, np.array(plan["server_share"], dtype=float)
    allowed = len(cuts) == K and set(cuts) <= {*instance["cuts"]} and str(rank) in ranks
    require(allowed, f"cuts {cuts}, rank {rank}: not allowed")
    at = np.arange(K), [instance["cuts"].index(cut) for cut in cuts]
    fits, work, starts, bits = (table[..., *at] for table in tables(instance, instance["cuts"], rank))
    require(np.all(fits), f"cuts {cuts}, rank {rank}: a client lacks memory")
    right = share.shape == (K,) and np.all((share > 0) | ((share == 0) & (work == 0))) and np.sum(share) <= 1 + 1e-9
    require(right, "shares of the server are more than all of it, or one is missing")
    main, fed = (Band(instance, n).airtimes(plan["bands"][n], bits[i : i + 2]) for n, i in (("main", 0), ("fed", 2)))
    step_s = np.max(starts[0] + main[0] + work / np.where(share > 0, share, 1.0) + main[1] + starts[1])
    round_s = instance["local_steps"] * step_s + np.max(fed[0]) + np.max(fed[1])
    return float(ranks[str(rank)] * round_s * (1 + EPS))


def bound(instance, certificate):
    """The lower bound, if the certificate proves it of every rank, or of every cut and rank of all clients."""
    own, claimed_s = "ranks" in certificate, float(certificate["lower_bound_s"])
    proofs = {(p.get("cut"), p["rank"]): p for p in certificate["ranks" if own else "pairs"]}
    require(claimed_s < np.inf, "the bound is no number")
    for rank, rounds in instance["rounds_to_target"].items():
        for cuts in [instance["cuts"]] if own else [[cut] for cut in instance["cuts"]]:
            proof = proofs.get((None if own else cuts[0], int(rank)), {})
            one = SharedRounds(instance, cuts, int(rank), claimed_s / rounds)
            one.told_apart(proof.get("fed"))
            one.closed(proof.get("proof", {}))
    return claimed_s


main = partial(verify_plan.main, plan_delay=plan_delay, bound=bound)

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
