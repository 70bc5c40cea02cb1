"""Draw the devices of a scenario and the channel of a round.

Every draw comes from a stream of its own, keyed by (seed, purpose, round, client). Device k and its channel are thus
the same whatever the number or order of clients, and whatever happens in the other band.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wavetune.seeds import stream
from wavetune.units import Array, db_to_linear
from wavetune.wireless.channels.channel_model import Cell
from wavetune.wireless.energy import energy_j_per_flop
from wavetune.wireless.interference import sent_to_devices, sent_to_server
from wavetune.wireless.large_scale import large_scale, streams
from wavetune.wireless.movement import Ring
from wavetune.wireless.scenario import Band, Device, Scenario


@dataclass(frozen=True, eq=False)
class LinkState:
    """One band in one round: K clients, M subchannels.

    Gains are linear power ratios with antenna gain, path loss, shadowing and fading; interference is in watts per
    subchannel at the server, and at each device, where it is as at the server unless it is given.
    """

    uplink_gain_KM: Array
    downlink_gain_KM: Array
    interference_w_M: Array
    downlink_interference_w_KM: Array | None = None


@dataclass(frozen=True, eq=False)
class Channel:
    """Both bands in one round."""

    main: LinkState
    fed: LinkState


def draw_devices(scenario: Scenario, seed: int) -> tuple[Device, ...]:
    """Draw every device of the population: position, speed, line of sight, path loss and shadowing.

    Args:
        scenario: the cell.
        seed: of the run.

    Returns:
        num_clients devices; device k depends on (scenario, seed, k) alone.

    >>> from wavetune.wireless.scenario import Population, Scenario
    >>> few, many = (draw_devices(Scenario(population=Population(num_clients=n)), seed=1) for n in (2, 7))
    >>> few == many[:2]
    True
    """
    population, ids = scenario.population, range(scenario.population.num_clients)
    position_m_K2 = scenario.placement.draw_m(
        ids, streams(seed, "placement", 0, ids), scenario.min_distance_m, scenario.cell_radius_m
    )
    for k, device in enumerate(population.devices):
        position_m_K2[k] = device.position_m(position_m_K2[k])
    distance_m_K = np.hypot(position_m_K2[:, 0], position_m_K2[:, 1])
    drawn_hz_K = np.array([g.uniform(*population.clock_hz) for g in streams(seed, "clock", 0, ids)])
    clock_hz_K = population.known("clock_hz", drawn_hz_K)
    cycles_K = population.known("cycles_per_flop", population.cycles_per_flop)
    capacitance_K = population.known("switched_capacitance", population.switched_capacitance)
    energy_K = energy_j_per_flop(capacitance_K, clock_hz_K, cycles_K)
    is_los_K, path_loss_db_K, shadowing_db_K = large_scale(scenario, seed, ids, distance_m_K, position_m_K2)
    most_dbm_K = population.known("tx_power_max_dbm", population.tx_power_max_dbm)
    power_w_K = scenario.tx_power_max_w(scenario.coupling_loss_db(path_loss_db_K + shadowing_db_K), most_dbm_K)
    return tuple(
        Device(
            client_id=k,
            position_m=(float(position_m_K2[k, 0]), float(position_m_K2[k, 1])),
            flop_per_s=float(clock_hz_K[k] / cycles_K[k]),
            energy_j_per_flop=float(energy_K[k]),
            tx_power_max_w=float(power_w_K[k]),
            memory_bytes=population.memory_bytes_of(k),
            is_los=bool(is_los_K[k]),
            path_loss_db=float(path_loss_db_K[k]),
            shadowing_db=float(shadowing_db_K[k]),
        )
        for k in ids
    )


def draw_channel(scenario: Scenario, devices: Sequence[Device], seed: int, round_index: int) -> Channel:
    """The gains of one round, as the scenario's channel model makes them of the devices' large-scale gains.

    Formula: gain_km = 10^(min(G - PL_k - X_k, -MCL) / 10) |h_km|^2 with the antenna gains of both ends G, path loss PL,
    shadowing X, minimum coupling loss MCL, fading h; a trace may say other gains. Where devices move, PL and X are
    those of where they are in the round.

    Args:
        scenario: the cell.
        devices: [K] devices, in the order wanted for the rows.
        seed: of the run.
        round_index: the round, from 0.

    Returns:
        Gains [K, M] and interference [M] of both bands.

    Ignores: the distance between the main and the federated server (both stand at the origin).
    """
    devices = devices_in_round(scenario, devices, seed, round_index)
    loss_db_K = np.array([device.path_loss_db + device.shadowing_db for device in devices], np.float64)
    position_m_K2 = np.array([device.position_m for device in devices], np.float64).reshape(-1, 2)

    def link(name: str, band: Band) -> LinkState:
        cell = Cell(
            band=name,
            client_ids=[device.client_id for device in devices],
            num_clients=scenario.population.num_clients,
            num_subchannels=band.num_subchannels,
            subchannel_hz=band.subchannel_hz,
            carrier_hz=scenario.carrier_hz,
            mean_gain_K=db_to_linear(-scenario.coupling_loss_db(loss_db_K)),
            is_los_K=np.array([device.is_los for device in devices], np.bool_),
            uplink_power_w_K=np.array([device.tx_power_max_w for device in devices]),
            downlink_power_w=band.downlink_power_w,
            noise_w=scenario.noise_w_per_hz(band, uplink=True) * band.subchannel_hz,
            device_noise_w=scenario.noise_w_per_hz(band, uplink=False) * band.subchannel_hz,
            rate=scenario.rate,
            fading=scenario.fading,
            reciprocal=scenario.reciprocal,
        )
        gains = scenario.channel.gains(cell, seed, round_index)
        if scenario.neighbours is None or scenario.neighbours.schedule == "plans":
            return LinkState(*gains, band.interference_w_M)
        at_server_w_M = sent_to_server(scenario.neighbours, scenario, name, band, seed, round_index)
        at_devices_w_K = sent_to_devices(scenario.neighbours, scenario, band, cell.client_ids, position_m_K2, seed)
        return LinkState(*gains, band.interference_w_M + at_server_w_M, band.interference_w_M + at_devices_w_K[:, None])

    return Channel(link("main", scenario.bands.main), link("fed", scenario.bands.fed))


def devices_in_round(scenario: Scenario, devices: Sequence[Device], seed: int, round_index: int) -> Sequence[Device]:
    """The devices where they are in a round, with the line of sight, path loss and shadowing of there.

    Model: shadowing X is a normal process along the way, X_t = a_t X_{t-1} + sqrt(1 - a_t^2) W_t with
    a_t = exp(-|way of round t| / decorrelation), times the deviation of where the device is.
    """
    ids, ring = [device.client_id for device in devices], Ring(scenario.min_distance_m, scenario.cell_radius_m)
    start_m_K2 = np.array([device.position_m for device in devices], np.float64).reshape(-1, 2)
    path_m_KT2 = scenario.channel.paths_m(start_m_K2, ids, seed, round_index, ring)
    if path_m_KT2 is None or not round_index:
        return devices
    distance_m_K = np.hypot(path_m_KT2[:, -1, 0], path_m_KT2[:, -1, 1])
    is_los_K, path_loss_db_K, at_start_db_K = large_scale(scenario, seed, ids, distance_m_K, path_m_KT2[:, 0])
    way_m_KT = np.hypot(*np.moveaxis(np.diff(path_m_KT2, axis=1), -1, 0))
    kept_KT = np.exp(-way_m_KT / scenario.channel.decorrelation_m)
    draw_KT = np.array([stream(seed, "shadowing/way", 0, k).standard_normal(round_index) for k in ids])
    new_K = np.zeros(len(ids))
    for kept_K, draw_K in zip(kept_KT.T, draw_KT.T, strict=True):
        new_K = kept_K * new_K + np.sqrt(1 - kept_K**2) * draw_K
    std_db_K = scenario.path_loss.shadowing_std_db(is_los_K) if scenario.shadowing else np.zeros(len(ids))
    shadowing_db_K = kept_KT.prod(axis=1) * at_start_db_K + std_db_K * new_K
    most_dbm_K = scenario.population.known("tx_power_max_dbm", scenario.population.tx_power_max_dbm)[ids]
    power_w_K = scenario.tx_power_max_w(scenario.coupling_loss_db(path_loss_db_K + shadowing_db_K), most_dbm_K)
    return [
        replace(
            device,
            position_m=(float(path_m_KT2[i, -1, 0]), float(path_m_KT2[i, -1, 1])),
            is_los=bool(is_los_K[i]),
            path_loss_db=float(path_loss_db_K[i]),
            shadowing_db=float(shadowing_db_K[i]),
            tx_power_max_w=float(power_w_K[i]),
        )
        for i, device in enumerate(devices)
    ]


def known_channel(scenario: Scenario, devices: Sequence[Device], seed: int, round_index: int) -> Channel:
    """The gains that are known when a round is planned: as old and as uncertain as the scenario's knowledge is.

    Arguments and shapes are those of `draw_channel`, whose gains these are where knowledge is perfect.
    """
    knowledge = scenario.knowledge
    channel = draw_channel(scenario, devices, seed, knowledge.known_round(round_index))
    ids = [device.client_id for device in devices]

    def known(name: str, link: LinkState) -> LinkState:
        uplink_KM, downlink_KM = (
            knowledge.estimated(gain_KM, ids, f"{name}/{way}", seed, round_index)
            for way, gain_KM in (("uplink", link.uplink_gain_KM), ("downlink", link.downlink_gain_KM))
        )
        return replace(link, uplink_gain_KM=uplink_KM, downlink_gain_KM=downlink_KM)

    return channel if knowledge.perfect else Channel(known("main", channel.main), known("fed", channel.fed))
