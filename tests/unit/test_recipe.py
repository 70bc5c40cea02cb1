import dataclasses
import json
import types
from functools import reduce
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from wavetune import recipes
from wavetune.errors import ConfigError
from wavetune.parts import Part, kinds, seam_of
from wavetune.recipe import Recipe, from_dict, load, save, with_settings

ALL = {name: recipes.get(name) for name in recipes.names()}
SFLLLM = ALL["sflllm"]


def leaves(value: Any, path: str = ""):
    """Paths of all values of a recipe that are no parts, with the values."""
    if isinstance(value, dict) and value and not path.endswith("rounds_to_target"):
        for name, part in value.items():
            yield from leaves(part, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        yield from leaves(value[0], path)
    else:
        yield path, value


def parts(kind: Any = Recipe, path: str = "", chosen: tuple[str, ...] = ()):
    """Every dataclass that can stand somewhere in a recipe: path, class, and the settings that put it there."""
    if get_origin(kind) is Annotated:
        yield from parts(get_args(kind)[0], path, chosen)
    elif get_origin(kind) in (Union, types.UnionType):
        for choice in get_args(kind):
            yield from parts(choice, path, chosen)
    elif (
        get_origin(kind) is tuple
        and isinstance(get_args(kind)[0], type)
        and not dataclasses.is_dataclass(get_args(kind)[0])
    ):
        yield from parts(get_args(kind)[0], path, chosen)
    elif isinstance(kind, type) and issubclass(kind, Part) and not dataclasses.is_dataclass(kind):
        if len(chosen) > 1:  # parts may hold chains of parts
            return
        for name, choice in kinds(kind).items():
            own = f"{path}={json.dumps({'kind': name, **NEEDED.get(name, {})})}"
            yield from parts(choice, path, (*chosen, own))
    elif dataclasses.is_dataclass(kind):
        yield path, kind, chosen
        hints = get_type_hints(kind, include_extras=True)
        for name in (f.name for f in dataclasses.fields(kind)):
            yield from parts(hints[name], f"{path}.{name}".lstrip("."), chosen)


ANYWHERE = "world.scenario.cell_radius_m=145"  # which every path loss and placement admits
NEEDED = {
    "fixed": {"positions_m": [[50, 0], [0, 50], [-50, 0], [0, -50], [50, 50]]},
    "table": {"steps": [{"snr_db": 0, "bit_per_s_per_hz": 1}]},
}
PARTS = list(parts())
CHOICES = [part for part in PARTS if issubclass(part[1], Part) and seam_of(part[1]) is not None and part[2]]


def named(cases):
    return {
        "argnames": ("path", "part", "chosen"),
        "argvalues": cases,
        "ids": [f"{p}-{d.__name__}" for p, d, _ in cases],
    }


@pytest.mark.parametrize("name", ALL)
def test_recipe_survives_its_json(name, tmp_path):
    recipe = ALL[name]
    assert recipe.name == name
    assert from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    save(recipe, tmp_path / "recipe.json")
    assert load(tmp_path / "recipe.json") == recipe


@pytest.mark.parametrize("name", ALL)
def test_every_field_can_be_set_to_what_it_holds(name):
    recipe = ALL[name]
    found = list(leaves(recipe.to_dict()))
    assert len(found) > 80
    assert with_settings(recipe, [f"{path}={json.dumps(value)}" for path, value in found]) == recipe


@pytest.mark.parametrize(**named(CHOICES))
def test_every_kind_of_every_part_can_be_chosen_and_has_its_own_fields(path, part, chosen):
    recipe = with_settings(SFLLLM, [ANYWHERE, *chosen])
    value: Any = recipe
    for name in path.split("."):
        value = getattr(value, name)
        value = value[0] if isinstance(value, tuple) else value
    assert type(value) is part
    for field in dataclasses.fields(part):
        assert any(shown == f"{path}.{field.name}" or shown.startswith(f"{path}.{field.name}.")
                   for shown, _ in leaves(recipe.to_dict()))  # fmt: skip
    assert from_dict(recipe.to_dict()) == recipe
    before = reduce(lambda held, name: getattr(held, name, None), path.split("."), SFLLLM)
    if value.kind not in NEEDED and type(before) is not part:  # else it keeps what it holds
        assert with_settings(SFLLLM, [ANYWHERE, *chosen[:-1], f"{path}.kind={value.kind}"]) == recipe


def test_there_are_choices_at_every_joint_of_a_recipe():
    joints = {path for path, _, _ in CHOICES}
    assert {
        "method.topology",
        "method.mixing",
        "method.planner",
        "method.activation_codec",
        "method.gradient_codec",
        "method.adapter_codec",
        "world.data.partition",
        "world.data.template",
        "world.scenario.path_loss",
        "world.scenario.fading",
        "world.scenario.placement",
    } <= joints


def test_changing_the_kind_takes_the_new_parts_defaults_and_keeping_it_keeps_its_fields():
    eight = with_settings(SFLLLM, ["method.activation_codec.kind=int8", "method.activation_codec.outlier_channels=3"])
    assert eight.method.activation_codec.outlier_channels == 3
    assert with_settings(eight, ["method.activation_codec.kind=int8"]) == eight
    back = with_settings(eight, ["method.activation_codec.kind=bf16", "method.activation_codec.kind=int8"])
    assert back.method.activation_codec.outlier_channels == 8


def test_values_are_read_as_json_where_they_parse_else_as_text():
    recipe = with_settings(
        SFLLLM,
        [
            "run.rounds = 7",
            "method.lora.rank=[1,2,4,8,8]",
            'method.lora.targets=["q_proj"]',
            "method.topology.cut=None",
            "method.price_downlink=True",
            "world.model=some/model",
            "world.data.source=a folder with spaces",
            "method.rounds_to_target.16=12.5",
            "run.tokens_per_pass=null",
            "world.scenario.bands.main.subchannel_hz=1e6",
        ],
    )
    assert recipe.run.rounds == 7
    assert recipe.method.lora.rank == (1, 2, 4, 8, 8)
    assert recipe.method.lora.targets == ("q_proj",)
    assert recipe.method.topology.cut is None
    assert recipe.method.price_downlink is True
    assert recipe.world.model == "some/model"
    assert recipe.world.data.source == "a folder with spaces"
    assert recipe.method.rounds_to_target[16] == 12.5
    assert recipe.run.tokens_per_pass is None
    assert recipe.world.scenario.bands.main.subchannel_hz == 1e6


def alone(value):
    """The one entry of a list of one."""
    return value[0] if isinstance(value, list) and value else value


@pytest.mark.parametrize(**named(PARTS[1:]))
def test_a_slip_in_any_fields_name_is_refused_with_the_nearest_name(path, part, chosen):
    values = with_settings(SFLLLM, [ANYWHERE, *chosen]).to_dict()
    *parents, last = path.split(".")
    target = values
    for name in parents:
        target[name] = alone(target.get(name)) or {}  # a part that is off
        target = target[name]
    whole = alone(target.get(last)) or {}
    for field in dataclasses.fields(part):
        slip = field.name[:-1] + "x"
        target[last] = {**whole, slip: 1}
        with pytest.raises(ConfigError) as refusal:
            from_dict(values)
        assert f"{path} has no field {slip!r}" in str(refusal.value)
        assert field.name in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["run.rounds"], "--set takes path=value"),
        (["=3"], "a recipe has no field ''"),
        (["run..rounds=3"], "run has no field ''"),
        (["run.rounds.deep=3"], "run.rounds holds a single value"),
        (["method.topology.cut.deep=3"], "method.topology.cut holds a single value"),
        (["run.rounds=true"], "run.rounds is True"),
        (['run.rounds="3"'], "run.rounds is '3'"),
        (["world.scenario.shadowing=1"], "world.scenario.shadowing is 1"),
        (["method.lora.rank=[1,0]"], "method.lora.rank.1 is 0"),
        (
            ["method.selection.kind=energy_queues", "method.selection.budget_j=1e300"],
            "method.selection.budget_j is 1e+300",
        ),
        (
            ["method.selection.kind=energy_queues", "method.selection.patience=1e300"],
            "method.selection.patience is 1e+300",
        ),
        (["method.mixing.kind=server_adam", "method.mixing.tau=1e300"], "method.mixing.tau is 1e+300"),
        (
            ["method.objective.kind=self_distillation", "method.objective.temperature=1e300"],
            "method.objective.temperature is 1e+300",
        ),
        (["method.mixing.kind=server_adam", "method.mixing.rate=1e300"], "method.mixing.rate is 1e+300"),
        (["method.proximal=1e300"], "method.proximal is 1e+300"),
        (["method.optimiser.epsilon=1e-300"], "method.optimiser.epsilon is 1e-300"),
        (["method.optimiser.weight_decay=1e300"], "method.optimiser.weight_decay is 1e+300"),
        (["method.adapter_codec=noise", "method.adapter_codec.std=1e300"], "method.adapter_codec.std is 1e+300"),
        (["method.privacy.clip_norm=1e-300"], "method.privacy.clip_norm is 1e-300"),
        (["method.privacy.noise_multiplier=1e-300"], "method.privacy: noise_multiplier is 1e-300, which hides nothing"),
        (["method.privacy.noise_multiplier=1e300"], "method.privacy.noise_multiplier is 1e+300"),
        (["method.objective.kind=focal", "method.objective.gamma=1e300"], "method.objective.gamma is 1e+300"),
        (["method.exchange.kind=gossip", "method.exchange.link_bit_per_s=50"], "method.exchange.link_bit_per_s is 50"),
        (["method.exchange.kind=hierarchical", "method.exchange.link_bit_per_s=50"], "exchange.link_bit_per_s is 50"),
        (["method.exchange.kind=over_the_air", "method.exchange.snr_db=-1e300"], "method.exchange.snr_db is -1e+300"),
        (["world.scenario.population.amplifier_efficiency=1e-300"], "population.amplifier_efficiency is 1e-300"),
        (["world.scenario.server.amplifier_efficiency=1e-300"], "server.amplifier_efficiency is 1e-300"),
        (["run.rounds=1000000000000"], "run.rounds is 1000000000000: input should be less"),
        (["run.local_steps=1000000000000"], "run.local_steps is 1000000000000: input should be less"),
        (["method.optimiser.learning_rate=1e300"], "method.optimiser.learning_rate is 1e+300"),
        (["method.optimiser.max_grad_norm=1e-300"], "method.optimiser.max_grad_norm is 1e-300"),
        (["method.filters.kind=blend", "method.filters.phi=-1e300"], "phi is -1e+300"),
        (["method.lora.targets=[]"], "method.lora.targets is []: a list should have at least 1 item, not 0"),
        (["method.bottleneck.width=0"], "method.bottleneck.width is 0: input should be greater"),
        (
            ["method.bottleneck.width=65537"],
            "method.bottleneck.width is 65537: input should be less than",
        ),
        (["method.soft_prompt.tokens=1000000000"], "method.soft_prompt.tokens is 1000000000: input should be less"),
        (
            ["method.adapters=prefix", "method.adapters.tokens=70000"],
            "method.adapters.tokens is 70000: input should be",
        ),
        (["method.lora.rank=x"], "method.lora.rank is 'x'"),
        (["world.scenario.min_distance_m=500"], "world.scenario: Scenario.min_distance_m is 500 but"),
        (["run.tokens_per_pass=none"], "run.tokens_per_pass is 'none'"),
        (["method.rounds_to_target.4=-1"], "at rank 4"),
        (["method.rounds_to_target.4=Infinity"], "method.rounds_to_target.4 is inf"),
        (["method.rounds_to_target.x=3"], "method.rounds_to_target.x"),
        (["world.scenario.population.clock_hz=[1e9,NaN]"], "world.scenario.population.clock_hz.1 is nan"),
        (["method.topology=null"], "method.topology"),
        (["world=7"], "world is 7"),
        (["name=null"], "name is None"),
    ],
)
def test_refusals_name_field_value_and_what_is_allowed(settings, message):
    with pytest.raises(ConfigError) as refusal:
        with_settings(SFLLLM, settings)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_wrong_value_in_one_kind_of_part_is_not_blamed_on_another_kind():
    with pytest.raises(ConfigError, match=r"^world\.data\.partition\.alpha is -1: input should be greater"):
        with_settings(SFLLLM, ["world.data.partition.kind=quantity_skew", "world.data.partition.alpha=-1"])
    with pytest.raises(ConfigError, match=r"^method\.activation_codec\.outlier_channels is -1"):
        with_settings(SFLLLM, ["method.activation_codec.kind=int8", "method.activation_codec.outlier_channels=-1"])


def test_a_missing_part_is_named():
    values = SFLLLM.to_dict()
    del values["method"]["title"]
    with pytest.raises(ConfigError, match=r"method\.title"):
        from_dict(values)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"name": 3}'])
def test_a_file_that_holds_no_recipe_is_refused(content, tmp_path):
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(ConfigError):
        load(tmp_path / "recipe.json")


def test_recipes_are_found_by_the_names_of_their_modules():
    assert set(recipes.names()) >= {"sflllm", "fedavg_lora", "centralised_lora", "split_lora_sequential"}
    with pytest.raises(ConfigError, match="did you mean 'fedavg_lora'"):
        recipes.get("fedavg_lra")
    for name in ("__init__", "../cli"):
        with pytest.raises(ConfigError):
            recipes.get(name)


def test_the_baselines_of_sflllm_differ_from_it_in_the_method_alone():
    """And in the method not in the optimiser."""
    table = [ALL[name].to_dict() for name in ("sflllm", "fedavg_lora", "centralised_lora", "split_lora_sequential")]
    assert len({json.dumps(recipe["world"]) for recipe in table}) == 1
    assert len({json.dumps(recipe["method"]["optimiser"]) for recipe in table}) == 1


def test_one_name_stands_for_a_list_of_lora_targets_and_all_linear_for_all_maps():
    for text, targets in (
        ("all-linear", ("all-linear",)), ("q_proj", ("q_proj",)),
        ('["q_proj", "mlp.down_proj"]', ("q_proj", "mlp.down_proj")),
    ):  # fmt: skip
        recipe = with_settings(SFLLLM, [f"method.lora.targets={text}"])
        assert recipe.method.lora.targets == targets
        assert from_dict(recipe.to_dict()) == recipe
    with pytest.raises(ConfigError, match=r"method\.lora\.targets is 5"):
        with_settings(SFLLLM, ["method.lora.targets=5"])


@pytest.mark.parametrize(
    "setting", ["steps=1000000000000", "objective.kl.gain=5", "objective.value_learning_rate=1e300"]
)
def test_a_penalty_of_alignment_never_becomes_a_reward_and_its_rates_have_ranges(setting):
    with pytest.raises(ConfigError, match=f"method.alignment.learning.{setting.partition('=')[0]} is"):
        with_settings(ALL["pwff"], [f"method.alignment.learning.{setting}"])
