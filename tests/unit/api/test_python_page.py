"""The page on Python says what is there, and what it shows can be run."""

import inspect
import re
from pathlib import Path

import wavetune as wt

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "python.md").read_text()


def fences(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_lists_every_function():
    listed = re.findall(r"(?m)^\| `wt\.(\w+)\(", PAGE)
    assert sorted(listed) == sorted(name for name in wt.__all__ if inspect.isfunction(getattr(wt, name)))


def test_what_the_page_names_of_the_results_is_there():
    shown = re.findall(r"(?m)^\| `wt\.\w+\(.*\| (?:a )?`(\w+)`(.*)\|$", PAGE)
    for name, members in shown:
        for member in re.findall(r"`\.(\w+)", members):
            assert hasattr(getattr(wt, name), member) or member in getattr(wt, name).__annotations__, (name, member)
    assert len(shown) == 8


def test_the_code_on_the_page_is_python_with_arguments_that_exist():
    for code in fences("python"):
        compile(code, "python.md", "exec")
        for function, arguments in re.findall(r"(?s)wt\.(recipe|run|plan)\((.*?)\)\n", code):
            names = set(re.findall(r"\b(\w+)=(?!=)", re.sub(r'"[^"]*"', "", arguments)))
            known = set(inspect.signature(getattr(wt, function)).parameters)
            assert not {*re.findall(r"(?m)^    (\w+)=", arguments)} - known, names


def test_the_file_on_the_page_is_a_recipe(tmp_path):
    [text] = fences("yaml")
    (tmp_path / "mine.yaml").write_text(text)
    recipe = wt.recipe(tmp_path / "mine.yaml")
    assert (recipe.name, recipe.run.rounds, recipe.method.optimiser.learning_rate) == ("mine", 30, 1e-3)
    assert recipe.world.scenario.population.num_clients == 8
