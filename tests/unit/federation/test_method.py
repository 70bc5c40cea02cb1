import json
import re
import tracemalloc

import pytest

from wavetune import recipes
from wavetune.errors import ConfigError
from wavetune.federation.method import Lora, Method
from wavetune.federation.topology import Central, Federated, Split
from wavetune.recipe import with_settings

FITS = {"num_clients": 3, "num_layers": 4, "width": 32}
TABLE = {1: 10.0, 4: 8.0}


@pytest.mark.parametrize(
    "method",
    [
        Method("", Split(), Lora(), rounds_to_target=TABLE),
        Method("", Split(cut=4), Lora(rank=32)),
        Method("", Split(cut=(1, 2, 4)), Lora(rank=(1, 32, 5))),
        Method("", Split(cuts=(1, 4)), Lora(rank=2)),
        Method("", Federated(), Lora(rank=8)),
        Method("", Central(), Lora(rank=8)),
    ],
)
def test_parts_that_fit_pass(method):
    method.check(**FITS)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Method("", Split(cut=5), Lora(rank=2)), r"topology\.cut is 5 but must be between 1 and 4"),
        (Method("", Split(cut=(1, 2)), Lora(rank=2)), r"topology\.cut has 2 entries for 3 clients"),
        (Method("", Split(cut=(1, 2, 0)), Lora(rank=2)), r"topology\.cut is 0"),
        (Method("", Split(cuts=(1, 9)), Lora(rank=2)), r"topology\.cuts is 9"),
        (Method("", Split(least_cut=4), Lora(rank=2)), r"least_cut is 4 but the largest cut to choose is 3"),
        (Method("", Split(cut=2, least_cut=3), Lora(rank=2)), r"topology\.cut is 2 but least_cut is 3"),
        (Method("", Split(), Lora(rank=33)), r"lora\.rank is 33 but must be between 1 and 32"),
        (Method("", Split(), Lora(rank=(1, 2, 3, 4))), r"lora\.rank has 4 entries for 3 clients"),
        (Method("", Split(), Lora(rank=(1, 2, 64))), r"lora\.rank is 64"),
        (Method("", Split(), Lora()), r"rounds_to_target is empty.*measure-ranks"),
        (Method("", Split(), Lora(), rounds_to_target={64: 2.0}), r"rounds_to_target is 64"),
        (Method("", Federated(), Lora(rank=(1, 2))), r"lora\.rank has 2 entries"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_field_value_and_range(method, message):
    with pytest.raises(ConfigError, match=message):
        method.check(**FITS)


def test_a_check_takes_no_memory_for_the_blocks_of_a_model():
    """Which may be any number before the model is fetched."""
    tracemalloc.start()
    try:
        Method("", Split(), Lora(rank=2)).check(**FITS | {"num_layers": 10**6})
        assert tracemalloc.get_traced_memory()[1] < 1e6  # bytes
    finally:
        tracemalloc.stop()


ON_THE_CUT = (
    "method.activation_codec.kind=int8",
    "method.gradient_codec.kind=fp32",
    "method.optimiser.server_learning_rate=1e-3",
)
ON_ADAPTERS = (
    "method.adapter_codec.kind=top_k",
    "method.link.kind=outage",
    "method.mixing.kind=median",
    "method.mixing.kind=average_product",
    "method.screening.max_norm_ratio=3",
    "method.replan=never",
    "method.price_downlink=true",
    "method.sharing.shared=[]",
    "method.sharing.shared_layers=1",
)


@pytest.mark.parametrize(
    ("topology", "setting"),
    [("federated", s) for s in ON_THE_CUT] + [("central", s) for s in (*ON_THE_CUT, *ON_ADAPTERS)],
)
def test_what_acts_on_something_that_does_not_cross_is_refused_by_its_name(topology, setting):
    path = setting.partition("=")[0].removesuffix(".kind").removesuffix(".max_norm_ratio")
    recipe = with_settings(recipes.get("fedavg_lora"), [f"method.topology.kind={topology}", setting])
    with pytest.raises(
        ConfigError,
        match=rf"{re.escape(path)}.* needs .* which method.topology {topology} does not give; .*leave {path} out",
    ):
        recipe.method.check(**FITS)


@pytest.mark.parametrize("setting", [*ON_THE_CUT, *ON_ADAPTERS])
def test_the_same_fits_a_topology_where_it_acts(setting):
    name = "sflllm" if setting in ON_THE_CUT else "fedavg_lora"
    with_settings(recipes.get(name), ["method.lora.rank=4", setting]).method.check(**FITS)


def test_a_model_of_one_block_is_said_to_leave_no_cut_to_choose():
    one_block = {**FITS, "num_layers": 1}
    with pytest.raises(ConfigError, match=r"the model has one block, .*set method.topology.cut=1, or take a recipe"):
        Method("", Split(), Lora(rank=2)).check(**one_block)
    Method("", Split(cut=1), Lora(rank=2)).check(**one_block)


def test_a_frozen_a_is_trained_so_by_one_trainer_too():
    with_settings(recipes.get("centralised_lora"), ["method.mixing.kind=frozen_a"]).method.check(**FITS)


@pytest.mark.parametrize("table", [{0: 5.0}, {2: 0.0}, {2: -1.0}, {2: float("nan")}])
def test_impossible_rank_tables_are_refused_when_built(table):
    with pytest.raises(ConfigError, match="rounds_to_target has"):
        Method("", rounds_to_target=table)


def test_a_rank_given_makes_the_table_optional_and_unchecked():
    Method("", Split(), Lora(rank=2), rounds_to_target={64: 2.0}).check(**FITS)


@pytest.mark.parametrize(
    ("rule", "clients", "sentence"),
    [
        ({"kind": "trimmed_mean"}, 4, r"method\.mixing\.fraction 0\.2 of 4 clients is nobody"),
        ({"kind": "trimmed_mean"}, 5, ""),
        ({"kind": "trimmed_mean", "fraction": 0}, 2, ""),
        ({"kind": "multi_krum"}, 4, r"method\.mixing\.malicious is 1, for which Krum needs 5 clients or more"),
        ({"kind": "multi_krum", "keep": 5}, 5, r"method\.mixing\.keep is 5 of 5 clients, 1 of them.*at most 4"),
        ({"kind": "multi_krum"}, 5, ""),
        ({"kind": "multi_krum", "malicious": 0, "keep": 9}, 3, ""),
    ],
)
def test_a_robust_rule_that_would_leave_nobody_out_is_refused(rule, clients, sentence):
    method = with_settings(recipes.get("fedavg_lora"), [f"method.mixing={json.dumps(rule)}"]).method
    if not sentence:
        method.check(clients, 4, 16)
        return
    with pytest.raises(ConfigError, match=sentence):
        method.check(clients, 4, 16)
