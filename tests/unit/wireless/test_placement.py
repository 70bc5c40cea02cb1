import numpy as np
import pytest

from wavetune.seeds import stream
from wavetune.wireless.placement import FixedPositions, Hotspot, UniformDisc

IDS = range(4000)


def draw(placement, ids=IDS):
    return placement.draw_m(ids, [stream(3, "placement", 0, k) for k in ids], 10.0, 200.0)


def test_a_uniform_disc_is_uniform_over_the_ring():
    distance_m = np.hypot(*draw(UniformDisc()).T)
    assert distance_m.min() >= 10
    assert distance_m.max() <= 200
    # Uniform over area: the squared distance is uniform between the squared radii, and the angle is uniform.
    quantiles_m2 = np.quantile(distance_m**2, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quantiles_m2, 100 + np.array([0.25, 0.5, 0.75]) * (200**2 - 100), rtol=0.06)
    np.testing.assert_allclose(draw(UniformDisc()).mean(axis=0), 0, atol=6)


def test_a_hotspot_holds_its_fraction_of_devices_and_the_rest_is_uniform():
    hotspot = Hotspot(center_m=(0.0, 100.0), radius_m=20.0, fraction=0.7)
    inside = np.hypot(*(draw(hotspot) - [0.0, 100.0]).T) <= 20
    by_chance = 0.3 * 20**2 / (200**2 - 10**2)
    assert inside.mean() == pytest.approx(0.7 + by_chance, abs=0.03)
    np.testing.assert_array_equal(draw(Hotspot(fraction=0.0)), draw(UniformDisc()))


def test_fixed_positions_follow_the_identity_of_the_client():
    fixed = FixedPositions(positions_m=((10.0, 0.0), (20.0, 5.0), (30.0, 0.0)))
    np.testing.assert_array_equal(draw(fixed, ids=[2, 1]), [[30.0, 0.0], [20.0, 5.0]])


@pytest.mark.parametrize("placement", [UniformDisc(), Hotspot()])
def test_vectorised_positions_equal_a_loop(placement):
    positions_m = draw(placement, ids=range(20))
    for k in range(20):
        u, v, w = stream(3, "placement", 0, k).random(3)
        center, inner, outer = (0.0, 0.0), 10.0, 200.0
        if isinstance(placement, Hotspot) and w < placement.fraction:
            center, inner, outer = placement.center_m, 0.0, placement.radius_m
        radius = (inner**2 + u * (outer**2 - inner**2)) ** 0.5
        expected = center[0] + radius * np.cos(2 * np.pi * v), center[1] + radius * np.sin(2 * np.pi * v)
        np.testing.assert_allclose(positions_m[k], expected)
