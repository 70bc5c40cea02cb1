"""Over-the-air aggregation: all clients send at once, the channel adds, and the server sees the noisy weighted sum.

Of client k's change D_k less its mean, x_k has variance v_k in units of a common nu^2 = sum_k w_k var_k. It is sent
with amplitude c_k, at most sqrt(P / v_k) |h_k| at the receiver, and

    y = sum_k c_k x_k + n,   estimate = nu y / sqrt(eta) + sum_k w_k mean_k,   n ~ N(0, 1), P the signal-to-noise ratio

whose mean squared error is nu^2 (sum_k (c_k / sqrt(eta) - w_k)^2 v_k + 1 / eta). Means and variances, of A and B apart,
cross as numbers. Source: reconstruction of arXiv 2310.05076; truncated inversion as in 1812.11494. Ignores: phase
errors, peaks of single symbols, and the energy of what is sent.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch leave parts of their types open)

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from wavetune.federation.codecs import Tensors
from wavetune.federation.codecs.codec import Context
from wavetune.federation.exchanges.exchange import SERVER, Exchange, Held, Hop, Mix
from wavetune.federation.facts import ADAPTERS, INDIVIDUAL, ONE_RANK, WHOLE_MODEL
from wavetune.federation.updates import Inbox, Node, Update
from wavetune.seeds import stream, torch_stream
from wavetune.units import Array


@dataclass(frozen=True)
class OverTheAir(Exchange):
    """All clients send on the whole federated band at once, at a mean `snr_db` under Rayleigh block fading.

    "optimal" chooses the amplitudes of least error, "inversion" aligns all to the weakest, "truncated" does so without
    clients whose power gain is below `threshold`, whose weight the others take over.
    """

    needs = (ADAPTERS, WHOLE_MODEL, ONE_RANK)
    removes = (INDIVIDUAL,)
    uncounted_j = "updates sent at once"
    simulated_only = "updates that add up on the air need radios that send amplitudes in step, and no connection does"
    snr_db: Annotated[float, Ge(-200)] = 20.0
    policy: Literal["optimal", "inversion", "truncated"] = "optimal"
    threshold: Annotated[float, Ge(0)] = 0.2

    def hops(self, clients: Sequence[int], active: Sequence[int], round_index: int) -> tuple[Hop, ...]:
        """All at once up, and down again to all."""
        return Hop("analog_up", tuple((k, (SERVER,)) for k in active)), Hop(
            "adapters_down", ((SERVER, tuple(clients)),)
        )

    def take(self, hop: Hop, node: Node, own: Held, inbox: Inbox, mix: Mix, context: Context) -> Held:
        """What the air adds up, as one update."""
        draws = [stream(context.seed, "over the air", context.round, int(u.sender)) for u in inbox.updates]
        gain_K = np.array([draw.exponential() for draw in draws])  # of the channels' power, 1 on average
        heard = gain_K >= self.threshold if self.policy == "truncated" else gain_K > 0
        updates = [u for u, on in zip(inbox.updates, heard, strict=True) if on]
        if not updates:
            return Held(mix(replace(inbox, updates=())))
        summed = self.superposed(updates, gain_K[heard], context)
        return Held(mix(replace(inbox, updates=(replace(updates[0], sender="air").moved(summed),))))

    def superposed(self, updates: Sequence[Update], gain_K: Array, context: Context) -> Tensors:
        """The estimate of the weighted mean change, of updates whose channels have these power gains."""
        import torch

        weight_K = np.array([u.weight for u in updates])
        weight_K, found = weight_K / weight_K.sum(), dict[str, "torch.Tensor"]()
        snr = 10 ** (self.snr_db / 10) if self.snr_db < 3000 else math.inf
        reach_K = np.sqrt(snr * gain_K)  # largest amplitudes there, in units of the noise
        changes, generator = [u.change for u in updates], torch_stream(context.seed, "receiver noise", context.round)
        for matrix in sorted({name.rpartition(".")[2] for name in changes[0]}):
            names = sorted(name for name in changes[0] if name.endswith(f".{matrix}"))
            flat = torch.stack([torch.cat([change[name].flatten().double() for name in names]) for change in changes])
            mean_K, var_K = flat.mean(1), flat.var(1, correction=0).numpy()
            nu = math.sqrt(float(weight_K @ var_K))
            estimate = (torch.from_numpy(weight_K) * mean_K).sum().repeat(flat.shape[1])
            if nu:
                amplitude_K, root_eta = amplitudes(weight_K, np.sqrt(var_K) / nu, reach_K, self.policy)
                sent = (torch.from_numpy(amplitude_K)[:, None] * (flat - mean_K[:, None]) / nu).sum(0)
                noise = torch.randn(flat.shape[1], generator=generator, dtype=torch.float64)
                estimate = estimate + nu * (sent + noise * math.isfinite(self.snr_db)) / root_eta
            for name, part in zip(names, estimate.split([changes[0][n].numel() for n in names]), strict=True):
                found[name] = part.reshape(changes[0][name].shape).to(changes[0][name])
        return {name: found[name] for name in changes[0]}

    def link_s(self, hop: Hop, values: float, bits: float, band_hz: float) -> float:
        """Seconds of one message on the whole band, two real values a channel use, however many clients send it."""
        return values / 2 / band_hz if hop.kind == "analog_up" and hop.ways else 0.0


def amplitudes(weight_K: Array, deviation_K: Array, reach_K: Array, policy: str) -> tuple[Array, float]:
    """Amplitudes that clients send with, [K], and the receiver's scale sqrt(eta).

    With "optimal" the mean squared error sum_k (c_k / s - w_k)^2 v_k + 1 / s^2 is least: in the order of reach over
    w sqrt(v), the least over prefixes of (1 + sum reach^2) / (sum w sqrt(v) reach) is s.

    Args:
        weight_K: weights w, summing to 1.
        deviation_K: standard deviations sqrt(v) of what is sent, in units of the common one.
        reach_K: largest amplitudes at the receiver of a signal of deviation 1.
        policy: "optimal"; any other aligns all clients to the weakest.

    >>> amplitudes(np.array([0.5, 0.5]), np.ones(2), np.array([1.0, 4.0]), "inversion")
    (array([1., 1.]), 2.0)
    """
    wanted_K = weight_K * deviation_K
    senders = np.flatnonzero(wanted_K > 0)
    order = senders[np.argsort(reach_K[senders] / wanted_K[senders], kind="stable")]
    if policy == "optimal":
        scale = float(np.min((1 + np.cumsum(reach_K[order] ** 2)) / np.cumsum(wanted_K[order] * reach_K[order])))
    else:
        scale = float(np.min(reach_K[order] / wanted_K[order]))
    sent_K = np.minimum(reach_K, wanted_K * scale)
    return np.divide(sent_K, deviation_K, out=np.zeros_like(sent_K), where=deviation_K > 0), scale
