"""Random settings and files through the command line end well or in a sentence; `tools/fuzz_*.py` try more of them."""

import fuzz
import fuzz_files
import fuzz_plans
import fuzz_settings
import pytest
from hypothesis import given, settings

from helpers.command_line import assert_refused, wavetune
from helpers.random_recipes import assignments
from helpers.runs import SMALL
from wavetune import recipes
from wavetune.recipe import with_settings


@pytest.mark.parametrize("seed", range(3))
def test_random_settings_end_without_a_traceback(seed):
    for arguments in fuzz_settings.commands(seed, 12):
        _, finding = fuzz.attempt(arguments)
        assert finding is None, finding


BEGUN = with_settings(recipes.get("sflllm"), [*SMALL, "world.scenario.unusual=true"])


@settings(max_examples=settings().max_examples // 4)
@given(assignments(BEGUN))
def test_settings_of_any_field_by_its_type_are_planned_or_refused(assigned):
    words = [word for each in (*SMALL, "world.scenario.unusual=true", *assigned) for word in ("--set", each)]
    code, finding = fuzz.attempt(["plan", "sflllm", *words, "--time-limit", "2", "--json", "-"])
    assert finding is None, finding
    assert code in ("0", "2", "3")


def test_damaged_files_end_without_a_traceback():
    for arguments in fuzz_files.commands(0, 16):
        _, finding = fuzz.attempt(arguments)
        assert finding is None, finding


@pytest.mark.parametrize(("seed", "count", "first"), [(2, 80, 0), (62, 1, 579)])  # the greedy leaves one unheard
def test_random_plan_instances_end_with_a_plan_or_a_sentence(seed, count, first):
    for arguments in fuzz_plans.commands(seed, count, first):
        _, finding = fuzz.attempt(arguments, fuzz_plans.started)
        assert finding is None, finding


@pytest.mark.parametrize("kind", ["[[]]", "{}", "[1]", '{"kind": []}', "1", "true", "null", '"x"', "1e999", "9" * 5000])
@pytest.mark.parametrize("part", ["method.adapter_codec", "world.scenario.fading", "method.topology"])
def test_a_kind_that_is_no_word_is_refused(part, kind):
    answer = wavetune("show", "sflllm", "--set", f"{part}.kind={kind}")
    if kind != "null" or answer.code:
        assert_refused(answer, part)
