"""A device opens what it was told it may, not what its servers name."""

from dataclasses import replace

import pytest

from helpers.runs import ALIGNED, REWARDS, small
from wavetune.errors import ConfigError
from wavetune.federation.rewards import EmbeddedReward, HubClassifier, PythonReward, TrainedReward
from wavetune.runtimes.device_permission import Allowed, options_of

TRUE = PythonReward(function="wavetune.data.concierge_truth:helpful")


def with_rewards(helpful, safe=TRUE):
    recipe = small("pwff", *ALIGNED)
    assert recipe.method.alignment is not None
    alignment = replace(recipe.method.alignment, helpful=helpful, safe=safe)
    return replace(recipe, method=replace(recipe.method, alignment=alignment))


def test_what_wavetune_brings_along_needs_no_permission():
    for recipe in (
        small("sflllm"),
        small("fedavg_lora", "world.data.source=concierge"),
        with_rewards(EmbeddedReward()),
    ):
        assert Allowed().applied(recipe) == recipe
        assert options_of(recipe) == []


def test_data_are_the_devices_own_or_none(tmp_path):
    recipe = small("sflllm", f"world.data.source={tmp_path}/theirs")
    with pytest.raises(ConfigError, match=r"open data at '.*theirs'.*--data PATH"):
        Allowed().applied(recipe)
    assert Allowed(data="mine").applied(recipe).world.data.source == "mine"
    assert options_of(recipe) == ["--data", f"{tmp_path}/theirs"]


def test_a_model_on_this_disk_is_the_devices_own_or_none(tmp_path):
    recipe = small("sflllm", f"world.model={tmp_path}")
    with pytest.raises(ConfigError, match=r"open the model at .*--model PATH"):
        Allowed().applied(recipe)
    assert Allowed(model="/my/model").applied(recipe).world.model == "/my/model"
    assert Allowed().applied(small("sflllm", "world.model=organisation/of-the-hub")).world.model.startswith("organ")


def test_a_model_that_is_not_here_is_refused_in_the_same_words_as_one_that_is(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ConfigError, match=r"open the model at .*--model PATH"):
            Allowed().applied(small("sflllm", f"world.model={path}"))


def test_a_device_takes_part_only_in_what_it_requires():
    noisy = small("fedavg_lora", "method.privacy.noise=secure", "method.privacy.noise_multiplier=2")
    required = ("method.privacy.noise=secure", "method.privacy.noise_multiplier=2", "method.topology.kind=federated")
    allowed = Allowed(required=required)
    assert allowed.applied(noisy) == noisy
    for change in ("method.privacy=null", "method.privacy.noise=seeded", "method.privacy.noise_multiplier=0.1"):
        with pytest.raises(ConfigError, match=r"this device requires method\.privacy\.noise"):
            allowed.applied(noisy.with_settings(change))
    with pytest.raises(ConfigError, match=r"this device requires method\.topology"):
        Allowed(required=required[2:]).applied(small("sflllm"))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (PythonReward(function=f"{REWARDS}:helpful"), str(REWARDS)),
        (PythonReward(function="os:system"), "os"),
        (PythonReward(function="builtins:exec"), "builtins"),
        (PythonReward(function="wavetune.seeds:stream"), "wavetune.seeds"),
        (TrainedReward(path="rewards/helpful"), "rewards/helpful"),
        (HubClassifier(model="."), "."),
    ],
)
def test_rewards_are_imported_and_opened_only_if_named(part, name):
    recipe = with_rewards(part)
    with pytest.raises(ConfigError, match="--allow"):
        Allowed().applied(recipe)
    assert Allowed(others=(name,)).applied(recipe) == recipe
    assert options_of(recipe) == ["--allow", name]
