"""Random settings and files through the command line end well or in a sentence; `tools/fuzz_*.py` try more of them."""

import fuzz
import fuzz_files
import fuzz_plans
import fuzz_settings
import pytest

from helpers.command_line import assert_refused, wavetune


@pytest.mark.parametrize("seed", range(3))
def test_random_settings_end_without_a_traceback(seed):
    for arguments in fuzz_settings.commands(seed, 12):
        _, finding = fuzz.attempt(arguments)
        assert finding is None, finding


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
