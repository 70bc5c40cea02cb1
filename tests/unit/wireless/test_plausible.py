import pytest

from wavetune import recipes
from wavetune.errors import ConfigError
from wavetune.recipe import from_dict, to_dict, with_settings
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
    assert from_dict(to_dict(recipes.get(name)))
