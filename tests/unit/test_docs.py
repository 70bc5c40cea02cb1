import re
from pathlib import Path

import pytest

from wavetune import recipes
from wavetune.recipe import with_settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"wavetune (?:run|plan|show) ([a-z]\w*)((?: --\S+(?: [^-\s]\S*)?)*)")
COMMANDS = [
    (recipe, re.findall(r"--set (\S+)", options))
    for page in PAGES
    for recipe, options in COMMAND.findall(page.read_text())
]


@pytest.mark.parametrize(("recipe", "settings"), COMMANDS)
def test_commands_in_the_documentation_name_recipes_and_settings_that_exist(recipe, settings):
    with_settings(recipes.get(recipe), settings)


def test_recipes_page_lists_every_recipe():
    listed = re.findall(r"(?m)^\| `(\w+)` \|", (ROOT / "docs" / "recipes.md").read_text())
    assert sorted(listed) == recipes.names()


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page not in navigation] == []
