"""Codecs at the cut as a decision: names, tables, the choice, and that training follows it."""

import json
from dataclasses import replace

import pytest

from helpers.command_line import assert_refused, settings, wavetune
from helpers.runs import read_json, read_rounds, small, train
from wavetune.errors import ConfigError
from wavetune.federation.codec_choice import CodecCandidate, read_candidates
from wavetune.federation.codecs import Bf16, Fp32, Int8
from wavetune.measure_codecs import candidates_of
from wavetune.runtimes.session import build
from wavetune.runtimes.world import planner_of

FP32, BF16, INT8 = (CodecCandidate(codec, codec) for codec in (Fp32(), Bf16(), Int8()))


def choosing(*candidates, name="sflllm", more=()):
    recipe = small(name, "method.lora.rank=4", "method.topology.cut=2", *more)
    return replace(recipe, method=replace(recipe.method, choose_codecs=True, codec_candidates=candidates))


def test_codecs_are_read_from_their_names():
    assert candidates_of("fp32,int8:outlier_channels=3/bf16") == [FP32, CodecCandidate(Int8(3), Bf16())]
    for wrong in ("fp31", "int8:outliers=3", "int8:outlier_channels=many", " , "):
        with pytest.raises(ConfigError, match="--codecs"):
            candidates_of(wrong)


@pytest.mark.parametrize("factor", [1.0, 1.5, 3.0])
def test_the_chosen_codec_is_the_best_of_all_plans_with_its_penalty(factor):
    candidates = (FP32, BF16, replace(INT8, rounds_factor=factor))
    planner, _ = planner_of(choosing(*candidates))
    outcome = planner.first_plan()
    alone_s, bounds_s = [], []
    for candidate in candidates:
        fixed, _ = planner_of(choosing(candidate))
        alone_s.append(fixed.first_plan().delay_s)
        bounds_s.append(fixed.first_plan().lower_bound_s)
    assert outcome.delay_s == min(alone_s)
    assert outcome.lower_bound_s == min(bounds_s)
    assert planner.method.activation_codec == candidates[alone_s.index(min(alone_s))].activation
    assert planner.chosen in [candidate.sentence for candidate in candidates]


def test_one_candidate_is_the_plain_plan_with_its_codec():
    plain = small("sflllm", "method.lora.rank=4", "method.topology.cut=2", "method.activation_codec.kind=int8",
                  "method.gradient_codec.kind=int8")  # fmt: skip
    assert planner_of(choosing(INT8))[0].first_plan().delay_s == planner_of(plain)[0].first_plan().delay_s


def test_training_sends_what_was_chosen(tmp_path):
    recipe = choosing(FP32, INT8)
    session = build(recipe)
    assert session.cohort.link.activation_codec == Int8()
    assert session.accountant.method.gradient_codec == Int8()
    train(recipe, tmp_path / "run")
    records = read_rounds(tmp_path / "run")
    for record in records:
        assert record["planned"]["bits"] == record["metered_bits"]
    values = 64 * records[0]["tokens"]  # 8 bits each but for the scales and the outlier channels
    assert 8 * values < records[0]["metered_bits"]["activations_up"] < 12 * values
    assert read_json(tmp_path / "run" / "recipe.json")["method"]["choose_codecs"]


def test_command_measures_a_table_that_plan_and_run_choose_from(tmp_path):
    table = tmp_path / "codecs.json"
    answer = wavetune(
        "measure-codecs", "sflllm", *settings("method.lora.rank=4"), "--codecs", "fp32,int8", "--out", table
    )
    assert answer.code == 0, answer
    values = json.loads(table.read_text())
    assert values["factor_by_seed"][0] == [1.0]
    assert [c.activation.kind for c in read_candidates(table)] == ["fp32", "int8"]
    assert all(c.rounds_factor >= 1 for c in read_candidates(table))
    planned = wavetune("plan", "sflllm", *settings("method.lora.rank=4"), "--codec-table", table)
    assert (planned.code, "activations as" in planned.out) == (0, True), planned


def test_the_recipe_has_candidates_of_its_own():
    chosen, _ = planner_of(small("sflllm", "method.choose_codecs=true"))
    assert chosen.method.activation_codec.kind == "int8"
    assert chosen.first_plan().delay_s < 0.7 * planner_of(small("sflllm"))[0].first_plan().delay_s


def test_tables_and_choices_that_cannot_be_are_refused(tmp_path):
    assert_refused(wavetune("plan", "sflllm", *settings(), "--codec-table", tmp_path / "none.json"), "measure-codecs")
    (tmp_path / "bad.json").write_text('{"candidates": [{"activation": {"kind": "fp31"}}]}')
    assert_refused(wavetune("plan", "sflllm", *settings(), "--codec-table", tmp_path / "bad.json"), "measure-codecs")
    none = settings("method.choose_codecs=true", "method.codec_candidates=[]")
    assert_refused(wavetune("plan", "sflllm", *none), "codec_candidates")
    assert_refused(
        wavetune("plan", "fedavg_lora", *settings("method.choose_codecs=true")), "method.topology.kind=split"
    )
