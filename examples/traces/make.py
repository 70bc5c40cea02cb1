"""Write `phones.csv`: throughputs of three made-up phones, as a logging app would write them. Nothing here is measured.

Client 0 walks towards the mast, client 1 stays, client 2 walks away; each shadowed by 4 dB that changes slowly, and
logged over 10 MHz of uplink every second for two minutes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SECONDS, BANDWIDTH_HZ, MOST_BIT_PER_S_PER_HZ = 120, 10e6, 7.4


def main() -> None:
    """Write the file beside this script."""
    draw = np.random.default_rng(7)
    seconds = np.arange(SECONDS)
    distance_m_TK = np.stack([220 - 1.2 * seconds, 90 + 0 * seconds, 60 + 1.2 * seconds], axis=1)
    shadow_db_TK = np.zeros((SECONDS, 3))
    for t in range(SECONDS):
        before = shadow_db_TK[t - 1] if t else draw.normal(0, 4, 3)
        shadow_db_TK[t] = 0.95 * before + np.sqrt(1 - 0.95**2) * draw.normal(0, 4, 3)
    snr_db_TK = 62 - 36 * np.log10(distance_m_TK / 20) + shadow_db_TK - 20
    efficiency_TK = np.minimum(0.6 * np.log2(1 + 10 ** (snr_db_TK / 10)), MOST_BIT_PER_S_PER_HZ)
    lines = [f"{t},{k},{efficiency_TK[t, k] * BANDWIDTH_HZ / 1e6:.2f}" for t in range(SECONDS) for k in range(3)]
    text = "\n".join(["time_s,client,uplink_mbit_per_s", *lines]) + "\n"
    Path(__file__).with_name("phones.csv").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
