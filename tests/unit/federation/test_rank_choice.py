"""Ranks by rounds that several seeds measured: the mean, the slowest seeds, and what cannot be told apart."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.round_planner import METHOD, planner
from wavetune.errors import ConfigError
from wavetune.federation.codec_choice import CodecCandidate
from wavetune.federation.codecs import Bf16
from wavetune.federation.method import Lora, Method

SEEDS = {1: (30.0, 34.0, 32.0), 4: (30.0, 31.0, 33.0), 8: (60.0, 61.0, 62.0)}


def of_seeds(**fields):
    return planner(replace(METHOD, rounds_to_target=SEEDS, **fields))


def test_the_planner_takes_the_mean_of_the_slowest_seeds():
    assert of_seeds().rounds_to_target == pytest.approx({1: 32.0, 4: 94 / 3, 8: 61.0})
    assert of_seeds(slowest_seeds=0.5).rounds_to_target == pytest.approx({1: 33.0, 4: 32.0, 8: 61.5})
    assert of_seeds(slowest_seeds=0.01).rounds_to_target == {1: 34.0, 4: 33.0, 8: 62.0}


def test_a_rank_that_is_good_on_average_alone_is_not_taken_for_the_slowest_seed():
    table = {1: (20.0, 20.0, 80.0), 4: (45.0, 45.0, 45.0)}
    mean, worst = (planner(replace(METHOD, rounds_to_target=table, slowest_seeds=share)) for share in (1.0, 0.01))
    plans = [one.first_plan() for one in (mean, worst)]
    assert [int(plan.rank_K[0]) for plan in plans] == [1, 4]
    choice = mean.rank_choice(plans[0])
    assert choice.not_told_apart == (4,)  # longer in two seeds and shorter in one


def test_differences_are_paired_by_seed_and_each_rank_has_its_own_delay():
    one = of_seeds()
    plan = one.first_plan()
    choice = one.rank_choice(plan)
    rank, problem = int(plan.rank_K[0]), one.known(0)
    assert choice.rank == rank == 1
    assert {*choice.longer} == {4, 8}
    round_s = {
        r: min(
            one.method.planner.plan_fixed(problem, np.full(3, c), np.full(3, r)).delay_s / one.rounds_to_target[r]
            for c in problem.cuts
        )
        for r in SEEDS
    }
    ratios = np.array(SEEDS[8]) / np.array(SEEDS[1]) * round_s[8] / round_s[1] - 1
    assert choice.longer[8].mean == pytest.approx(ratios.mean(), rel=0.1)
    assert 8 not in choice.not_told_apart
    assert choice.sentence.startswith("rank 1 over 3 seeds of E(r): ")


def test_nothing_is_said_where_no_rank_was_chosen():
    fixed = of_seeds(lora=Lora(rank=4))
    assert fixed.rounds_to_target == {4: pytest.approx(94 / 3)}
    assert fixed.rank_choice(fixed.first_plan()) is None
    only = planner(replace(METHOD, rounds_to_target={4: (5.0, 6.0)}))
    assert only.rank_choice(only.first_plan()) is None


def test_a_codec_costs_every_seed_its_factor():
    found = of_seeds(choose_codecs=True, codec_candidates=(CodecCandidate(Bf16(), Bf16(), 1.5),)).scheduled()
    assert found.rounds_to_target == pytest.approx({1: 48.0, 4: 47.0, 8: 91.5})
    assert found.rank_choice(found.first_plan()).longer[8].count == 3


def test_every_rank_has_as_many_seeds():
    with pytest.raises(ConfigError, match=r"2 seeds at rank 1 and 3 at rank 2; give .* same seeds"):
        Method("", rounds_to_target={1: (5.0, 6.0), 2: (5.0, 7.0, 8.0)})


def test_one_number_stands_for_every_seed():
    one = planner(replace(METHOD, rounds_to_target={**SEEDS, 8: 61.0}))
    assert one.rounds_to_target[8] == 61.0
    choice = one.rank_choice(one.first_plan())
    assert [by.count for by in choice.longer.values()] == [3, 3]


@pytest.mark.parametrize("rounds", [(), (5.0, 0.0), (-1.0, 4.0)])
def test_rounds_of_a_seed_are_positive(rounds):
    with pytest.raises(ConfigError, match="rounds positive"):
        Method("", rounds_to_target={1: rounds})
