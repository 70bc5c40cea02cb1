"""Path loss, line-of-sight probability and shadowing against the TR 38.901 scenarios of Sionna.

Sionna's urban macro scenario draws the environment height; the test reads off which height it drew. Its probability of
line of sight may exceed 1 just beyond 18 m, as the standard's formula does; ours is cut off at 1.
"""

from dataclasses import replace

import numpy as np
import pytest

from wavetune.wireless.line_of_sight import urban_macro_environment_height_m
from wavetune.wireless.path_loss import IndoorFactory, IndoorHotspot, RuralMacro, UrbanMacro, UrbanMicro

pytestmark = pytest.mark.filterwarnings("ignore")  # the oracle's own warnings are not ours

NUM_DEVICES = 300
HEIGHTS_M = (1.5, 7.5, 13.0, 16.5, 22.5)


def models():
    for line_of_sight in ("always", "never"):
        for height_m in HEIGHTS_M:
            yield UrbanMacro(line_of_sight=line_of_sight, device_height_m=height_m)
            yield UrbanMicro(line_of_sight=line_of_sight, device_height_m=height_m)
        for office in ("open", "mixed"):
            yield IndoorHotspot(office=office, line_of_sight=line_of_sight)
            yield IndoorHotspot(office=office, line_of_sight=line_of_sight, server_height_m=2.5, device_height_m=1.4)


def oracle_of(model, carrier_hz):
    tr38901 = pytest.importorskip("sionna.phy.channel.tr38901")
    array = tr38901.PanelArray(
        num_rows_per_panel=1,
        num_cols_per_panel=1,
        polarization="single",
        polarization_type="V",
        antenna_pattern="omni",
        carrier_frequency=carrier_hz,
        precision="double",
    )
    arrays = {"ut_array": array, "bs_array": array, "direction": "uplink", "precision": "double"}
    if isinstance(model, RuralMacro):
        around = {
            "average_building_height": model.building_height_m, "average_street_width": model.street_width_m,
        }  # fmt: skip
        return tr38901.RMaScenario(carrier_hz, **arrays, **around)
    if isinstance(model, IndoorFactory):
        clutter = dict.fromkeys(("clutter_density", "clutter_size", "clutter_height"))
        clutter = {name: getattr(model, name if name in vars(model) else f"{name}_m") for name in clutter}
        return tr38901.InFScenario(carrier_hz, f"{model.clutter[0]}{model.server[0]}", **arrays, **clutter)
    if isinstance(model, IndoorHotspot):
        return tr38901.InHScenario(carrier_hz, model.office, **arrays)
    scenario = tr38901.UMaScenario if isinstance(model, UrbanMacro) else tr38901.UMiScenario
    return scenario(carrier_hz, "low", **arrays)


def place(oracle, model, distance_2d_m, angle):
    """Set the oracle's topology; return the environment heights it drew, if it draws any."""
    import torch

    x, y = distance_2d_m * np.cos(angle), distance_2d_m * np.sin(angle)
    device_m = np.stack([x, y, np.full_like(x, model.device_height_m)], axis=1)[None]
    zeros = torch.zeros(1, NUM_DEVICES, 3, dtype=torch.float64)
    heights_m = []
    if isinstance(model, UrbanMacro):
        draw = oracle._sample_environment_height

        def spy(*args):
            heights_m.append(draw(*args))
            return heights_m[-1]

        oracle._sample_environment_height = spy
    oracle.set_topology(
        ut_loc=torch.as_tensor(device_m),
        bs_loc=torch.tensor([[[0.0, 0.0, model.server_height_m]]], dtype=torch.float64),
        ut_orientations=zeros,
        bs_orientations=zeros[:, :1],
        ut_velocities=zeros,
        in_state=torch.full((1, NUM_DEVICES), isinstance(model, IndoorHotspot | IndoorFactory)),
        los=model.line_of_sight == "always",
    )
    return heights_m[-1].numpy()[0, 0] if heights_m else None


def uniform_for(distance_2d_m, device_height_m, environment_height_m):
    """A draw that makes our model choose each of the given environment heights."""
    candidates = np.linspace(0, 1, 20_001)[:-1, None]
    ours_m = urban_macro_environment_height_m(distance_2d_m, device_height_m, candidates)
    matches = ours_m == environment_height_m
    assert matches.any(axis=0).all()
    return candidates[matches.argmax(axis=0), 0]


@pytest.mark.parametrize("model", list(models()), ids=lambda m: f"{m.kind}-{m.line_of_sight}-{m.device_height_m}")
@pytest.mark.parametrize("carrier_hz", [0.7e9, 3.5e9, 60e9])
def test_tr38901_matches_sionna(model, carrier_hz):
    rng = np.random.default_rng(7)
    low_m, high_m = model.distance_limits_m
    distance_2d_m = np.exp(rng.uniform(np.log(max(low_m, 1.0)), np.log(high_m), NUM_DEVICES))
    oracle = oracle_of(model, carrier_hz)
    environment_m = place(oracle, model, distance_2d_m, rng.uniform(0, 2 * np.pi, NUM_DEVICES))
    uniform = 0.0 if environment_m is None else uniform_for(distance_2d_m, model.device_height_m, environment_m)
    is_los = model.line_of_sight == "always"

    path_loss_db = model.path_loss_db(distance_2d_m, is_los, carrier_hz, uniform)
    np.testing.assert_allclose(path_loss_db, oracle.basic_pathloss.numpy()[0, 0], atol=1e-9)
    law = replace(model, line_of_sight="random").los_probability(distance_2d_m)
    np.testing.assert_allclose(law, np.minimum(oracle.los_probability.numpy()[0, 0], 1.0), rtol=1e-12)
    assert float(model.shadowing_std_db(is_los)) == pytest.approx(float(oracle.get_param("sigmaSF")[0, 0, 0]))


def rural_and_factories():
    for line_of_sight in ("always", "never"):
        yield RuralMacro(line_of_sight=line_of_sight)
        for mast_m, building_m, street_m in ((10.0, 8.0, 5.0), (35.0, 10.0, 50.0), (150.0, 50.0, 8.0)):
            heights = {"server_height_m": mast_m, "building_height_m": building_m, "street_width_m": street_m}
            yield RuralMacro(line_of_sight=line_of_sight, device_height_m=4.0, **heights)
        for clutter in ("sparse", "dense"):
            yield IndoorFactory(clutter, "high", line_of_sight, server_height_m=8.5, clutter_density=0.4)
            yield IndoorFactory(clutter, "low", line_of_sight, server_height_m=1.5, clutter_density=0.4)


@pytest.mark.parametrize("model", list(rural_and_factories()), ids=lambda m: "-".join(str(v) for v in vars(m).values()))
@pytest.mark.parametrize("carrier_hz", [0.7e9, 28e9])
def test_rural_cells_and_factories_match_sionna(model, carrier_hz):
    rng = np.random.default_rng(8)
    low_m, high_m = model.distance_limits_m
    distance_2d_m = np.exp(rng.uniform(np.log(max(low_m, 1.0)), np.log(high_m), NUM_DEVICES))
    oracle = oracle_of(model, carrier_hz)
    place(oracle, model, distance_2d_m, rng.uniform(0, 2 * np.pi, NUM_DEVICES))
    path_loss_db = model.path_loss_db(distance_2d_m, model.line_of_sight == "always", carrier_hz)
    np.testing.assert_allclose(path_loss_db, oracle.basic_pathloss.numpy()[0, 0], atol=1e-9)
    law = replace(model, line_of_sight="random").los_probability(distance_2d_m)
    np.testing.assert_allclose(law, oracle.los_probability.numpy()[0, 0], rtol=1e-9)


def test_environment_height_is_one_metre_as_often_as_in_sionna():
    model = UrbanMacro(device_height_m=22.5)
    distance_2d_m = np.full(NUM_DEVICES, 300.0)
    oracle = oracle_of(model, 3.5e9)
    drawn_m = np.concatenate([place(oracle, model, distance_2d_m, np.zeros(NUM_DEVICES)) for _ in range(20)])
    ours_m = urban_macro_environment_height_m(300.0, 22.5, np.arange(60_000) / 60_000)
    for height_m in (1.0, 12.0, 15.0, 18.0, 21.0):
        assert np.mean(ours_m == height_m) == pytest.approx(np.mean(drawn_m == height_m), abs=0.03)
    assert set(ours_m) == set(drawn_m)
