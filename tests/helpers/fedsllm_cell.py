"""The cell that FedsLLM is usually evaluated in: the defaults of Yang et al. (arXiv 1911.02417), as remembered.

50 clients in a square of 500 m, 128.1 + 37.6 log10(d_km) dB with 8 dB of shadowing, -174 dBm/Hz, 20 MHz a band,
payloads of 28.1 kbit, 2 GHz clients at 10 dBm, 1e4 to 3e4 cycles a sample and 500 samples each. The client's share of
the work and the server's clock are ours, as no public value exists.
"""

from __future__ import annotations

import numpy as np

from wavetune.allocation.fedsllm.planner import FedsllmProblem
from wavetune.seeds import stream
from wavetune.units import db_to_linear, dbm_to_w
from wavetune.wireless.path_loss import LogDistance


def fedsllm_cell(
    seed: int,
    num_clients: int = 50,
    bandwidth_hz: float = 20e6,
    tx_power_dbm: float = 10.0,
    payload_bits: float = 28.1e3,
    client_share: float = 0.25,
    server_hz: float = 1e11,
) -> FedsllmProblem:
    """Draw the cell, both servers at its centre; c_k = A C_k D_k / f_k + (1 - A) sum_j C_j D_j / f_s.

    Args:
        seed: of the draw.
        num_clients: K.
        bandwidth_hz: B, of each band (Hz).
        tx_power_dbm: of every client, over its whole share of a band.
        payload_bits: activations, and as many bits of adapters.
        client_share: A, share of the work left on the clients.
        server_hz: f_s, clock of the main server (cycles/s).

    >>> fedsllm_cell(seed=0).bits_2K.shape
    (2, 50)
    """
    draw = stream(seed, "FedsLLM cell")
    law = LogDistance()
    distance_m_K = np.maximum(law.distance_limits_m[0], np.hypot(*draw.uniform(-250.0, 250.0, (2, num_clients))))
    loss_db_K = law.path_loss_db(distance_m_K, False, 2e9) + law.shadowing_db * draw.standard_normal(num_clients)
    cycles_K = 500 * draw.uniform(1e4, 3e4, num_clients)
    carrier_to_noise_hz_K = dbm_to_w(tx_power_dbm) * db_to_linear(-loss_db_K) / dbm_to_w(-174.0)
    return FedsllmProblem(
        iteration_s_K=client_share * cycles_K / 2e9 + (1 - client_share) * cycles_K.sum() / server_hz,
        bits_2K=np.full((2, num_clients), payload_bits),
        carrier_to_noise_hz_2K=np.stack([carrier_to_noise_hz_K, carrier_to_noise_hz_K]),
        bandwidth_hz_2=np.array([bandwidth_hz, bandwidth_hz]),
    )
