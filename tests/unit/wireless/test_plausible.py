import pytest

from wavetune import recipes
from wavetune.errors import ConfigError
from wavetune.recipe import from_dict, with_settings
from wavetune.recipes import names

LAW = "world.scenario.path_loss.kind=log_distance"


def changed(*settings):
    return with_settings(recipes.get("sflllm"), [f"world.scenario.{s}" if s != LAW else s for s in settings])


DOUBTS = [
    (["bands.main.noise_psd_dbm_per_hz=-70"], "main.noise_psd_dbm_per_hz is -70, 104 dB above thermal noise: -174 dBm"),
    (["bands.fed.noise_psd_dbm_per_hz=-117"], "bands.fed.noise_psd_dbm_per_hz is -117"),
    (["population.tx_power_max_dbm=0.2"], "tx_power_max_dbm is 0.2, which looks like watts: 0.2 W are 23 dBm"),
    (["bands.main.downlink_power_dbm=0.5"], "bands.main.downlink_power_dbm is 0.5, which looks like watts"),
    (["bands.fed.total_power_max_dbm=0.75"], "bands.fed.total_power_max_dbm is 0.75, which looks like watts"),
    (["population.clock_hz=[1.0,1.6]"], "population.clock_hz is 1, which looks like MHz or GHz"),
    (["population.memory_bytes=8"], "population.memory_bytes is 8, which looks like MB or GB"),
    (["population.switched_capacitance=1"], "population.switched_capacitance is 1, and 1e-28 to 1e-26 are usual"),
    (["server.flop_per_s=164"], "server.flop_per_s is 164, which looks like GFLOP/s or TFLOP/s"),
    (["server.energy_j_per_flop=2.5"], "server.energy_j_per_flop is 2.5, which looks like pJ"),
    (["bands.main.subchannel_hz=180"], "bands.main.subchannel_hz is 180, which looks like kHz or MHz"),
    (["bands.fed.subchannel_hz=180"], "bands.fed.subchannel_hz is 180, which looks like kHz or MHz"),
    (["fading.delay_spread_s=0.3"], "fading.delay_spread_s is 0.3, which looks like ns or microseconds"),
    (["channel.kind=moving", "channel.speed_m_per_s=500"], "channel.speed_m_per_s is 500, faster than aircraft"),
    (['channel={"kind":"lost_devices","channel":{"kind":"moving","speed_m_per_s":500}}'], "l.channel.speed_m_per_s is"),
    (["population.tx_power_max_dbm=-40"], "tx_power_max_dbm is -40, less than a microwatt"),
    ([LAW, "path_loss.exponent=0"], "path_loss.exponent is 0, outside 1.2 to 8: free space has 2"),
    ([LAW, "path_loss.exponent=15"], "path_loss.exponent is 15"),
    ([LAW, "path_loss.reference_m=1e9"], "the path loss at min_distance_m = 10 is -173 dB"),
    ([LAW, "path_loss.intercept_db=-40"], "check path_loss.intercept_db, which is positive"),
]


@pytest.mark.parametrize(("settings", "sentence"), DOUBTS)
def test_a_value_that_looks_like_another_unit_is_asked_about_and_taken_where_it_is_meant(settings, sentence):
    with pytest.raises(ConfigError) as refused:
        changed(*settings)
    assert sentence in str(refused.value)
    assert str(refused.value).startswith("world.scenario: ")
    assert "world.scenario.unusual=true" in str(refused.value)
    assert changed(*settings, "unusual=true").world.scenario.unusual


@pytest.mark.parametrize(
    "settings",
    [
        ["population.tx_power_max_dbm=0"],
        ["population.tx_power_max_dbm=1"],
        ["population.tx_power_max_dbm=-30"],
        ["bands.main.noise_psd_dbm_per_hz=-130"],
        ["bands.main.interference_dbm_per_hz=-70"],
        ["population.clock_hz=[1e6,3e7]"],
        ["bands.fed.subchannel_hz=3750"],
        ["fading.kind=none"],
        [LAW, "path_loss.exponent=1.2"],
        [LAW, "path_loss.exponent=6"],
        [LAW, "min_distance_m=1"],
    ],
)
def test_what_is_rare_and_possible_is_taken(settings):
    assert changed(*settings)


def test_a_log_distance_law_is_not_asked_for_less_than_a_metre():
    with pytest.raises(ConfigError, match=r"min_distance_m is 0\.5 but must be in \[1, "):
        changed(LAW, "min_distance_m=0.5")


@pytest.mark.parametrize("name", names())
def test_no_recipe_is_asked_about(name):
    assert from_dict(recipes.get(name).to_dict())
