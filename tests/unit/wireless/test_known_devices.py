"""A table of devices: what is known of each takes the place of what is drawn, and what is not stays as it was drawn."""

import math

import numpy as np
import pytest

from helpers.command_line import assert_refused, flatten, wavetune
from wavetune import recipes
from wavetune.recipe import from_dict, with_settings
from wavetune.units import dbm_to_w
from wavetune.wireless.channel import devices_in_round, draw_devices
from wavetune.wireless.energy import energy_j_per_flop
from wavetune.wireless.scenario import KnownDevice, Population, Scenario

ROWS = (
    KnownDevice(clock_hz=2.4e9, tx_power_max_dbm=20.0, memory_bytes=8e9, distance_m=40.0),
    KnownDevice(cycles_per_flop=1e-3, switched_capacitance=2e-26, x_m=-30.0, y_m=40.0),
    KnownDevice(),
)
TABLE = """clock_hz;tx_power_max_dbm;memory_bytes;distance_m;cycles_per_flop;switched_capacitance;x_m;y_m
2.4e9;20;8e9;40;;;;
;;;;1e-3;2e-26;-30;40
;23;;;;;;
"""
DEVICES, THREE = "world.scenario.population.devices=", "world.scenario.population.num_clients=3"


def test_what_is_known_of_a_device_is_what_it_has_and_all_else_is_as_it_was_drawn():
    plain = Scenario(Population(num_clients=3, memory_bytes=(1e9, 2e9, 3e9)))
    known = Scenario(Population(num_clients=3, memory_bytes=(1e9, 2e9, 3e9), devices=ROWS))
    drawn, (first, second, third) = draw_devices(plain, 5), draw_devices(known, 5)
    assert third == drawn[2]
    assert first.flop_per_s == 2.4e9 * 1024
    assert first.energy_j_per_flop == pytest.approx(float(energy_j_per_flop(1e-26, np.array(2.4e9), 1 / 1024)))
    assert (first.tx_power_max_w, first.memory_bytes) == (dbm_to_w(20.0), 8e9)
    assert math.hypot(*first.position_m) == pytest.approx(40.0)
    assert math.atan2(*first.position_m) == pytest.approx(math.atan2(*drawn[0].position_m))
    assert (second.position_m, second.memory_bytes, second.tx_power_max_w) == ((-30.0, 40.0), 2e9, dbm_to_w(23.0))
    clock_hz = drawn[1].flop_per_s / 1024
    assert second.flop_per_s == pytest.approx(clock_hz / 1e-3)
    assert second.energy_j_per_flop == pytest.approx(2e-26 * clock_hz**2 * 1e-3)


def test_devices_that_move_keep_the_power_that_is_known_of_each():
    moving = [THREE, 'world.scenario.channel={"kind":"moving","speed_m_per_s":1}']
    rows = DEVICES + '[{"tx_power_max_dbm":20},{},{"tx_power_max_dbm":10}]'
    scenario = with_settings(recipes.get("sflllm"), [*moving, rows]).world.scenario
    found = devices_in_round(scenario, draw_devices(scenario, 1), 1, 3)
    assert [device.tx_power_max_w for device in found] == [dbm_to_w(20.0), dbm_to_w(23.0), dbm_to_w(10.0)]


def test_a_table_is_the_list_of_its_rows_and_is_kept_in_the_recipe(tmp_path):
    file = tmp_path / "devices.csv"
    file.write_text(TABLE)
    found = with_settings(recipes.get("sflllm"), [THREE, f"{DEVICES}{file}"])
    assert found.world.scenario.population.devices == (*ROWS[:2], KnownDevice(tx_power_max_dbm=23.0))
    file.unlink()
    assert from_dict(found.to_dict()) == found
    changed = with_settings(found, ["world.scenario.population.devices.1.clock_hz=3e9"])
    assert changed.world.scenario.population.devices[1].clock_hz == 3e9


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("clock_hz\n1e9\n1e9\n", "has 2 rows for 3 clients"),
        ("clock_ghz\n1\n1\n1\n", "did you mean 'clock_hz'"),
        (
            "clock_hz\n1e9\n2.4\n1e9\n",
            "devices.csv:3: world.scenario: population.devices.1.clock_hz is 2.4, which looks like MHz or GHz",
        ),
        (
            "tx_power_max_dbm\n23\n23\n0.2\n",
            "devices.csv:4: world.scenario: population.devices.2.tx_power_max_dbm is 0.2, which looks like watts",
        ),
        ("distance_m\n50\n5000\n50\n", "devices.csv:3: world.scenario: the distance of Population.devices[1] is 5000"),
        ("x_m\n50\n50\n50\n", "x_m and y_m go together"),
        ("clock_hz\n", "devices.csv has no rows"),
        ("clok_hz\n1e9\n1e9\n1e9\n", "devices.csv:1 has a column 'clok_hz'; did you mean 'clock_hz'"),
        ("clock_hz\n1e9\n\n1e9\n-1\n", "devices.csv:5: world.scenario.population.devices.2.clock_hz is -1"),
        ("clock_hz\nfast\n1e9\n1e9\n", "devices.csv:2: world.scenario.population.devices.0.clock_hz is 'fast'"),
        ("clock_hz,\n1e9,1\n", "a column without a name"),
        ("clock_hz\n1e9,2\n", "2 cells for 1 columns"),
        (None, "no such file"),
    ],
)
def test_a_table_that_cannot_be_is_refused_in_a_sentence(table, words, tmp_path):
    file = tmp_path / "devices.csv"
    if table is not None:
        file.write_text(table)
    answer = wavetune("plan", "sflllm", "--model", "tiny", "--set", THREE, "--set", f"{DEVICES}{file}")
    assert_refused(answer, "devices", words)


def test_no_axis_of_a_sweep_varies_what_a_table_says_of_devices(tmp_path):
    chosen = ("--set", THREE, "--set", DEVICES + '[{"clock_hz":1e9},{},{}]', "--out", tmp_path)
    answer = wavetune("sweep", "sflllm", "--model", "tiny", *chosen, "--over", "client_flop_per_s=1e12,2e12")
    assert_refused(answer, "devices has clock_hz of their own")


def test_what_all_devices_have_of_their_own_is_not_set_beside_them_in_vain(tmp_path):
    clock, rows = "world.scenario.population.clock_hz=[2e9,3e9]", '[{"clock_hz":1e9},{"clock_hz":2e9},{"clock_hz":1e9}]'
    file, words, table = tmp_path / "cell.yaml", "population.clock_hz would change nothing", DEVICES + rows

    def shown(name, *chosen):
        return wavetune("show", name, *flatten(("--set", one) for one in (THREE, *chosen)))

    for chosen in ([clock, table], [table, clock]):
        assert_refused(shown("sflllm", *chosen), words)
    assert shown("sflllm", clock, table.replace("1e9", "null")).code == 0
    population = f"{{num_clients: 3, clock_hz: [2e9, 3e9], devices: {rows}}}"
    file.write_text(f"base: sflllm\nworld.scenario.population: {population}\n")
    assert_refused(shown(file), words)
    file.write_text(f"base: sflllm\n{clock.replace('=', ': ')}\n")
    assert shown(file, table).code == 0, "a table takes the place of what a file says of all"
