"""What the cells around this one send into it: see `Neighbours`."""

from collections.abc import Sequence

import numpy as np

from wavetune.seeds import stream
from wavetune.units import Array, db_to_linear
from wavetune.wireless.large_scale import large_scale, streams
from wavetune.wireless.neighbours import Neighbours
from wavetune.wireless.scenario import Band, Device, Scenario


def sent_to_server(
    neighbours: Neighbours, scenario: Scenario, name: str, band: Band, seed: int, round_index: int
) -> Array:
    """[M] what the neighbours' devices send to this cell's base station in a round, W."""
    total_w_M = np.zeros(band.num_subchannels)
    for c, site_m_2 in enumerate(neighbours.site_m_C2):
        power_w_K, gain_K = _devices(scenario, c, site_m_2, seed)
        generator = stream(seed, f"neighbours/{name}/owners", round_index, c)
        owner_M = generator.permutation(np.arange(band.num_subchannels) % len(power_w_K))
        count_K = np.bincount(owner_M, minlength=len(power_w_K))
        total_w_M += (power_w_K * gain_K)[owner_M] / count_K[owner_M]
    return neighbours.activity * total_w_M


def sent_to_devices(
    neighbours: Neighbours, scenario: Scenario, band: Band, ids: Sequence[int], position_m_K2: Array, seed: int
) -> Array:
    """[K] what the neighbours' base stations send to devices at these positions on each subchannel, W."""
    gain_K = np.zeros(len(ids))
    for c, site_m_2 in enumerate(neighbours.site_m_C2):
        gain_K += _gain(scenario, seed, ids, position_m_K2 - site_m_2, f"neighbour {c}/down/")
    return neighbours.activity * band.downlink_power_w / band.num_subchannels * gain_K


def _devices(scenario: Scenario, c: int, site_m_2: Array, seed: int) -> tuple[Array, Array]:
    """[K] of a neighbour's devices: their power, W, and their gain to this cell's base station."""
    ids = range(scenario.population.num_clients)
    own_m_K2 = scenario.placement.draw_m(
        ids, streams(seed, f"neighbour {c}/placement", 0, ids), scenario.min_distance_m, scenario.cell_radius_m
    )
    own_loss_db_K = -10 * np.log10(_gain(scenario, seed, ids, own_m_K2, f"neighbour {c}/own/"))
    return (
        scenario.tx_power_max_w(own_loss_db_K, np.full(len(ids), scenario.population.tx_power_max_dbm)),
        _gain(scenario, seed, ids, own_m_K2 + site_m_2, f"neighbour {c}/up/"),
    )


def seed_of_cell(seed: int, c: int) -> int:
    """The seed of the world of a cell: the run's own for cell 0, others for those around it."""
    return seed if c == 0 else int(stream(seed, "neighbours/seed", 0, c).integers(2**31))


def gains_between_cells(
    scenario: Scenario, neighbours: Neighbours, devices_C: Sequence[Sequence[Device]], seed: int
) -> Array:
    """[C, C, K] linear gain, without fading, between device k of cell a and the base station of cell b; 0 in its own.

    Cell 0 stands at the origin; devices' positions are relative to their own base station.
    """
    site_m_C2 = np.vstack([np.zeros((1, 2)), neighbours.site_m_C2])
    gain_CCK = np.zeros((len(site_m_C2), len(site_m_C2), len(devices_C[0])))
    for a, devices in enumerate(devices_C):
        ids, own_m_K2 = [d.client_id for d in devices], np.array([d.position_m for d in devices])
        for b in {*range(len(site_m_C2))} - {a}:
            from_b_m_K2 = own_m_K2 + site_m_C2[a] - site_m_C2[b]
            gain_CCK[a, b] = _gain(scenario, seed_of_cell(seed, a), ids, from_b_m_K2, f"cell {a} to {b}/")
    return gain_CCK


def _gain(scenario: Scenario, seed: int, ids: Sequence[int], from_site_m_K2: Array, link: str) -> Array:
    """[K] linear gains without fading between a base station and devices at places relative to it.

    Who is farther away than the path loss holds is taken to be as far as it does.
    """
    distance_m_K = np.hypot(from_site_m_K2[:, 0], from_site_m_K2[:, 1])
    distance_m_K = np.minimum(distance_m_K, scenario.path_loss.distance_limits_m[1])
    drawn = large_scale(scenario, seed, ids, distance_m_K, from_site_m_K2, link)
    return db_to_linear(-scenario.coupling_loss_db(drawn.path_loss_db_K + drawn.shadowing_db_K))
