"""What a continued run must have in common with what it began with."""

import pytest

from helpers.runs import small
from wavetune.recipe import with_settings
from wavetune.runtimes.inputs import differs, settled

CHAT = small("sflllm", 'world.data.template={"kind":"chat","variables":{"style":"short"}}')


@pytest.mark.parametrize("variables", ["{}", "null", '{"style":"short","more":1}', '{"style":"long"}'])
def test_a_key_more_or_fewer_in_a_mapping_is_another_value(variables):
    other = with_settings(CHAT, [f"world.data.template.variables={variables}"])
    assert differs(settled(CHAT), settled(other), other).startswith("world.data.template.variables")
    assert differs(settled(CHAT), settled(CHAT), CHAT) == ""


def test_a_field_that_another_version_has_not_is_no_difference():
    before = settled(CHAT)
    del before["method"]["turns"]
    before["method"]["once"] = 1
    assert differs(before, settled(CHAT), CHAT) == ""
