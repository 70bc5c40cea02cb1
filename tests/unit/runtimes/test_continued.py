"""What goes on in a folder on another day is written as of the day it was begun."""

from datetime import date as calendar

import pytest

from helpers.runs import small
from helpers.sweeps import without_times
from wavetune.recipe import save
from wavetune.runtimes import continued
from wavetune.runtimes.continued import as_begun
from wavetune.sweep import run as sweep_run
from wavetune.sweep.axis import axis_of
from wavetune.sweep.run import Sweep

RECIPE = small("sflllm")


@pytest.fixture
def on(monkeypatch):
    def set_day(day):
        class Today(calendar):
            @classmethod
            def today(cls):
                return calendar.fromisoformat(day)

        monkeypatch.setattr(continued, "date", Today)

    return set_day


def day(recipe):
    return recipe.world.data.template.date


def test_a_recipe_without_a_day_is_of_the_day_that_it_was_begun(on, tmp_path):
    kept = tmp_path / "recipe.json"
    on("2030-01-01")
    begun = as_begun(RECIPE, kept)
    assert day(begun) == "2030-01-01"
    save(begun, kept)
    on("2031-02-02")
    assert as_begun(RECIPE, kept) == begun


def test_a_day_that_is_given_is_kept_and_other_templates_have_none(tmp_path):
    given = small("sflllm", "world.data.template.date=2029-12-31")
    plain = small("sflllm", "world.data.template.kind=plain")
    assert as_begun(given, tmp_path / "none.json") == given
    assert as_begun(plain, tmp_path / "none.json") == plain


@pytest.mark.parametrize("kept", ["", "[]", '{"recipe": {"world": 5}}', '{"world": {"data": {"template": null}}}'])
def test_a_damaged_file_names_no_day(kept, on, tmp_path):
    (tmp_path / "recipe.json").write_text(kept)
    on("2030-01-01")
    assert day(as_begun(RECIPE, tmp_path / "recipe.json")) == "2030-01-01"


def test_a_sweep_goes_on_as_of_the_day_that_it_was_begun(on, tmp_path, monkeypatch):
    planned = []
    count = sweep_run.count_samples
    monkeypatch.setattr(sweep_run, "count_samples", lambda recipe: planned.append(day(recipe)) or count(recipe))
    axis = axis_of("bandwidth_hz=5e6", RECIPE)
    for today, seeds in (("2030-01-01", 1), ("2031-02-02", 2)):
        on(today)
        records = sweep_run.run(Sweep(RECIPE, axis, seeds, ("greedy",)), tmp_path / "sweep", 1, lambda *_: None)
        assert len(without_times(records)) == seeds
    assert planned == ["2030-01-01", "2030-01-01"]
