import pytest

from helpers.sweeps import QUICK
from wavetune import recipes
from wavetune.errors import ConfigError
from wavetune.recipe import with_settings
from wavetune.runtimes.world import planner_of
from wavetune.sweep.axis import QUANTITIES, axis_of

BASE = recipes.get("sflllm")


def at(over):
    axis = axis_of(over, BASE)
    return axis.recipe(BASE, axis.values[0]).world.scenario


def test_bandwidth_is_that_of_each_whole_band():
    bands = at("bandwidth_hz=8e6").bands
    for band in (bands.main, bands.fed):
        assert band.num_subchannels * band.subchannel_hz == pytest.approx(8e6)
        assert band.num_subchannels == BASE.world.scenario.bands.main.num_subchannels


def test_maximum_power_takes_the_caps_on_the_sums_along():
    old, new = BASE.world.scenario, at("tx_power_max_dbm=20")
    less_db = old.population.tx_power_max_dbm - 20
    assert new.population.tx_power_max_dbm == 20
    for name in ("main", "fed"):
        before, after = (getattr(s.bands, name).total_power_max_dbm for s in (old, new))
        assert before - after == pytest.approx(less_db)


def test_client_compute_is_the_mean_over_the_range_of_clocks():
    population = at("client_flop_per_s=3e12").population
    low, high = (hz / population.cycles_per_flop for hz in population.clock_hz)
    assert (low + high) / 2 == pytest.approx(3e12)
    old = BASE.world.scenario.population.clock_hz
    assert high / low == pytest.approx(old[1] / old[0])


def test_server_clients_and_radius_are_the_fields_of_those_names():
    assert at("server_flop_per_s=3e13").server.flop_per_s == 3e13
    assert at("num_clients=7").population.num_clients == 7
    assert at("cell_radius_m=70").cell_radius_m == 70


@pytest.mark.parametrize("field", QUANTITIES)
def test_quantity_reaches_the_planning_problem(field):
    few = {"tx_power_max_dbm": (10, 20), "num_clients": (2, 4), "cell_radius_m": (50, 90)}
    low, high = few.get(field, (1e11, 1e12))
    small = with_settings(BASE, QUICK)
    axis = axis_of(f"{field}={low},{high}", small)
    one, other = (repr(planner_of(axis.recipe(small, value))[0].problem(0)) for value in axis.values)
    assert one != other


def test_values_are_sorted_where_numeric_and_never_taken_twice():
    assert axis_of("num_clients=8,2,2,4", BASE).values == (2, 4, 8)
    assert axis_of("world.model=tiny,gpt2,tiny", BASE).values == ("tiny", "gpt2")
    assert axis_of("world.scenario.population.clock_hz=[1e9,2e9],[2e9,3e9]", BASE).values == ([1e9, 2e9], [2e9, 3e9])


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ("bandwith_hz=1e6", ["'bandwith_hz'", "did you mean 'bandwidth_hz'"]),
        ("run.rouns=1,2", ["--over run.rouns=1", "did you mean 'rounds'"]),
        ("world.scenario.bands.man.subchannel_hz=1", ["did you mean 'main'"]),
        ("bandwidth_hz", ["FIELD=v1,v2"]),
        ("=1,2", ["FIELD=v1,v2"]),
        ("bandwidth_hz=", ["has no values"]),
        ("bandwidth_hz=wide", ["takes numbers", "'wide'"]),
        ("bandwidth_hz=5e6,true", ["takes numbers", "True"]),
        ("bandwidth_hz=1e6,0", ["--over bandwidth_hz=0", "subchannel_hz"]),
        ("bandwidth_hz=NaN", ["finite"]),
        ("bandwidth_hz=1e999", ["finite"]),
        ("num_clients=2.5", ["num_clients is 2.5", "integer"]),
        ("num_clients=0", ["num_clients is 0"]),
        ("cell_radius_m=5", ["cell_radius_m"]),
        ("run.rounds=ten", ["run.rounds is 'ten'"]),
        ("method.planner.kind=best", ["'best'"]),
        ("run.seed=1,2", ["--seeds"]),
    ],
)
def test_what_cannot_be_swept_is_refused_in_a_sentence(over, words):
    with pytest.raises(ConfigError) as refused:
        axis_of(over, BASE)
    for word in words:
        assert word in str(refused.value)
