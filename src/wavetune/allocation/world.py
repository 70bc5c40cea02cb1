"""The planning problem of a drawn world: devices, channel and layer costs brought together.

Shape suffixes: K clients, M subchannels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wavetune.allocation.problem import Draw, Problem, RadioBand
from wavetune.costs.layer_costs import LayerCosts
from wavetune.wireless.channel import Channel, LinkState
from wavetune.wireless.scenario import Band, Device, Scenario


def problem_from_world(
    scenario: Scenario,
    devices: Sequence[Device],
    channel: Channel,
    layer_costs: LayerCosts,
    rounds_to_target: Mapping[int, float],
    cuts: Sequence[int],
    local_steps: int,
    batch_size: int,
    num_samples_K: Sequence[float] | None = None,
    price_downlink: bool = False,
) -> Problem:
    """Planning problem of one round's channel.

    Args:
        scenario: bands and server.
        devices: K drawn devices.
        channel: one draw of the gains for these devices.
        layer_costs: costs per sample over L layers.
        rounds_to_target: rank -> rounds to the target loss.
        cuts: allowed cuts, 1 to L.
        local_steps: local steps of a round.
        batch_size: samples per step and client.
        num_samples_K: samples per client, weights in averaging; None for equal ones.
        price_downlink: whether the way back takes time.
    """
    return Problem(
        local_steps=local_steps,
        batch_size=batch_size,
        rounds_to_target=dict(rounds_to_target),
        cuts=tuple(cuts),
        costs=layer_costs,
        server_flop_per_s=scenario.server.flop_per_s,
        client_flop_per_s_K=np.array([device.flop_per_s for device in devices]),
        num_samples_K=np.ones(len(devices)) if num_samples_K is None else np.asarray(num_samples_K, dtype=np.float64),
        tx_power_max_w_K=np.array([device.tx_power_max_w for device in devices]),
        memory_bytes_K=np.array([device.memory_bytes for device in devices]),
        main=_radio_band(scenario, scenario.bands.main, channel.main),
        fed=_radio_band(scenario, scenario.bands.fed, channel.fed),
        price_downlink=price_downlink,
        client_energy_j_per_flop_K=np.array([device.energy_j_per_flop for device in devices]),
        server_energy_j_per_flop=scenario.server.energy_j_per_flop,
        draw=Draw(
            scenario.population.amplifier_efficiency,
            scenario.server.amplifier_efficiency,
            scenario.population.circuit_power_w,
            scenario.population.receive_power_w,
            scenario.population.idle_power_w,
        ),
    )


def _radio_band(scenario: Scenario, band: Band, link: LinkState) -> RadioBand:
    return RadioBand(
        gain_KM=link.uplink_gain_KM,
        subchannel_hz=band.subchannel_hz,
        noise_psd_w_per_hz=scenario.noise_w_per_hz(band, uplink=True),
        downlink_noise_psd_w_per_hz=scenario.noise_w_per_hz(band, uplink=False),
        total_power_max_w=band.total_power_max_w,
        interference_w_M=link.interference_w_M,
        downlink_gain_KM=link.downlink_gain_KM,
        downlink_interference_w_KM=link.downlink_interference_w_KM,
        downlink_power_w=band.downlink_power_w,
        rate=scenario.rate,
    )
