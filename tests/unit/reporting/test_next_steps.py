"""What is advised after a run is accepted as it stands."""

import shlex

import pytest

from helpers.runs import small
from wavetune import recipes
from wavetune.ranking.entrants import beside_baselines, why_not
from wavetune.recipe import load, save
from wavetune.reporting.next_steps import next_steps

PARTICULAR = ("method.lora.rank=[1,4,2]", "method.link.kind=outage", "method.selection.kind=fastest", "run.rounds=7")


@pytest.mark.parametrize(
    ("name", "setting"), [*((name, "run.rounds=1") for name in recipes.names()), *(("stfl", own) for own in PARTICULAR)]
)
def test_the_comparison_that_is_advised_after_a_run_has_baselines_that_fit(name, setting, tmp_path):
    save(small(name, setting), tmp_path / "recipe.json")
    words = shlex.split(next_steps(tmp_path, {"personal": False})[-1], comments=True)
    assert words[:2] == ["wavetune", "compare"]
    own = load(words[2])
    entrants = beside_baselines(own)
    assert len(entrants) > 1
    assert [why for recipe in entrants.values() if (why := why_not(recipe))] == []
    assert {repr((recipe.world, recipe.run.rounds, recipe.run.seed)) for recipe in entrants.values()} == {
        repr((own.world, own.run.rounds, own.run.seed))
    }
