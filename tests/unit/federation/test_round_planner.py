from dataclasses import replace

import numpy as np
import pytest

from helpers.round_planner import METHOD, SCENARIO, planner
from wavetune.allocation.baselines import plan_all_random
from wavetune.allocation.delay import load_of
from wavetune.allocation.plan import infeasible
from wavetune.errors import ConfigError
from wavetune.federation.codecs import Bf16, Fp32, Int8
from wavetune.federation.method import Lora
from wavetune.federation.mixing import FrozenA
from wavetune.federation.planning import AllRandom, Optimal, PaperGreedy, RandomSubchannels, UniformPower
from wavetune.federation.topology import Central, Federated, Split
from wavetune.wireless.scenario import Band, Bands


@pytest.mark.parametrize(
    ("codec", "labels", "bits"),
    [
        (Fp32(), "server", 32 * 50 * 64 + 32 * 20),
        (Bf16(), "server", 16 * 50 * 64 + 32 * 20),
        (Int8(outlier_channels=0), "server", 50 * (8 * 64 + 32) + 32 * 20),
        (Int8(), "server", 50 * (8 * 56 + 16 * 8 + 32) + 32 * 8 / 4 + 32 * 20),  # indices once a batch of 4
        (Fp32(), "client", 2 * 32 * 50 * 64),
    ],
)
def test_a_sample_crosses_the_cut_with_the_codecs_bits_and_its_labels(codec, labels, bits):
    method = replace(METHOD, topology=Split(labels=labels), activation_codec=codec, gradient_codec=codec)
    np.testing.assert_allclose(planner(method).layer_costs.activation_bits_L, bits)


@pytest.mark.parametrize(("labels", "bits"), [("server", 16 * 50 * 64), ("client", (16 + 32) * 50 * 64)])
def test_what_comes_back_over_a_priced_downlink_are_the_gradients(labels, bits):
    method = replace(METHOD, topology=Split(labels=labels), activation_codec=Fp32(), gradient_codec=Bf16())
    load = load_of(planner(replace(method, price_downlink=True)).problem(0), 1, 1)
    assert load.downlink_bits_IK.tolist() == [[4 * bits] * 3]


def test_nothing_crosses_where_nothing_is_cut():
    for topology in (Federated(), Central()):
        assert not planner(replace(METHOD, topology=topology)).layer_costs.activation_bits_L.any()


def test_adapters_weigh_what_their_codec_makes_of_what_is_trained():
    plain = planner().layer_costs.lora_bits_per_rank_L
    assert plain.tolist() == [32 * (64 + 64 + 64 + 32)] * 4
    half = planner(replace(METHOD, adapter_codec=(Bf16(),))).layer_costs.lora_bits_per_rank_L
    np.testing.assert_allclose(half, plain / 2)
    only_b = planner(replace(METHOD, mixing=FrozenA())).layer_costs.lora_bits_per_rank_L
    np.testing.assert_allclose(only_b, [32 * (64 + 32)] * 4)


@pytest.mark.parametrize(
    ("topology", "cuts"),
    [
        (Split(), (1, 2, 3)),
        (Split(cuts=(2, 4)), (2, 4)),
        (Split(cut=3), (3,)),
        (Split(cut=(3, 1, 3)), (1, 3)),
        (Federated(), (4,)),
        (Central(), (4,)),
    ],
)
def test_cuts_are_those_that_the_method_leaves_open(topology, cuts):
    assert planner(replace(METHOD, topology=topology)).allowed_cuts == cuts


def test_a_given_rank_takes_the_runs_own_length_where_nothing_was_measured():
    assert planner().rounds_to_target == {1: 30.0, 4: 20.0, 8: 18.0}
    assert planner(replace(METHOD, lora=Lora(rank=4))).rounds_to_target == {4: 20.0}
    assert planner(replace(METHOD, lora=Lora(rank=2))).rounds_to_target == {2: 12.0}
    assert planner(replace(METHOD, lora=Lora(rank=(2, 8, 2)))).rounds_to_target == {2: 12.0, 8: 18.0}


def test_cuts_and_ranks_given_per_client_are_kept():
    method = replace(METHOD, topology=Split(cut=(1, 3, 2)), lora=Lora(rank=(8, 1, 4)))
    first = planner(method).first_plan()
    assert (first.status, first.cut_K.tolist(), first.rank_K.tolist()) == ("ok", [1, 3, 2], [8, 1, 4])
    _, later = planner(method).plan(3, first)
    assert (later.cut_K.tolist(), later.rank_K.tolist()) == ([1, 3, 2], [8, 1, 4])
    assert not np.array_equal(later.main.power_w_M, first.main.power_w_M)


def test_one_per_client_and_the_other_open_is_refused():
    with pytest.raises(ConfigError, match="give both"):
        planner(replace(METHOD, topology=Split(cut=(1, 2, 3)))).first_plan()
    with pytest.raises(ConfigError, match="give both"):
        planner(replace(METHOD, lora=Lora(rank=(1, 2, 4)))).first_plan()


def test_cut_and_rank_are_chosen_once_and_the_rest_anew_in_every_round():
    plans = planner()
    first = plans.first_plan()
    problem, later = plans.plan(5, first)
    assert (later.cut_K.tolist(), later.rank_K.tolist()) == (first.cut_K.tolist(), first.rank_K.tolist())
    assert not np.array_equal(problem.main.gain_KM, plans.problem(0).main.gain_KM)
    again = planner().plan(5, first)[1]
    assert later.main.owner_M.tolist() == again.main.owner_M.tolist()
    _, held = planner(replace(METHOD, replan="never")).plan(5, first)
    assert held.main.owner_M.tolist() == first.main.owner_M.tolist()
    assert held.main.power_w_M.tolist() == first.main.power_w_M.tolist()
    assert held.phases.round_s != first.phases.round_s  # on another channel
    assert later.phases.round_s <= held.phases.round_s * (1 + 1e-9)


@pytest.mark.parametrize("kind", [UniformPower(), RandomSubchannels(), AllRandom()], ids=lambda k: k.kind)
def test_every_planner_gives_a_plan_that_repeats(kind):
    one, other = (planner(replace(METHOD, planner=kind)).first_plan() for _ in range(2))
    assert one.status == "ok"
    assert one.delay_s == other.delay_s
    assert one.delay_s >= planner(replace(METHOD, planner=Optimal())).first_plan().delay_s * (1 - 1e-9)


def test_random_plans_depend_on_the_seed():
    problem = planner().problem(0)
    assert plan_all_random(problem, 1).delay_s != plan_all_random(problem, 2).delay_s


def test_a_channel_without_a_plan_leaves_the_first_allocation_in_force():
    plans = planner()
    first = plans.first_plan()

    class NeverAgain(PaperGreedy):
        def plan(self, problem, seed, warm_start=None):
            return infeasible("no")

    _, later = planner(replace(METHOD, planner=NeverAgain())).plan(2, first)
    assert later.status == "ok"
    assert later.main.owner_M.tolist() == first.main.owner_M.tolist()


def test_too_few_subchannels_for_the_clients_is_an_infeasible_plan_with_a_reason():
    crowded = replace(SCENARIO, bands=Bands(Band(num_subchannels=2), Band(num_subchannels=4)))
    for method in (METHOD, replace(METHOD, topology=Split(cut=(1, 2, 1)), lora=Lora(rank=(1, 1, 1)))):
        plan = planner(method, crowded).first_plan()
        assert plan.status == "infeasible"
        assert "subchannel" in plan.reason


def test_one_number_and_the_same_per_client_give_one_plan():
    one = planner(replace(METHOD, topology=Split(cut=2), lora=Lora(rank=4))).first_plan()
    each = planner(replace(METHOD, topology=Split(cut=(2, 2, 2)), lora=Lora(rank=(4, 4, 4)))).first_plan()
    assert one.delay_s == each.delay_s
