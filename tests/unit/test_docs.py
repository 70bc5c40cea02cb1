import ast
import re
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import api_page
import gallery
import pytest
import yaml

import wavetune
from helpers.printed_commands import parsed
from wavetune import recipes
from wavetune.recipe import with_settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WORD = r"(?:'[^']*'|[^\s`]+)"
COMMAND = re.compile(rf"wavetune (?:run|plan|show) ([a-z]\w*)(?!\w|\.json|/)((?: --{WORD}(?: (?!-){WORD})?)*)")
COMMANDS = [
    (recipe, [word.strip("'") for word in re.findall(rf"--set ({WORD})", options)])
    for page in PAGES
    for recipe, options in COMMAND.findall(page.read_text())
]


@pytest.mark.parametrize(("recipe", "settings"), COMMANDS)
def test_commands_in_the_documentation_name_recipes_and_settings_that_exist(recipe, settings):
    with_settings(recipes.get(recipe), settings)


def test_recipes_page_lists_every_recipe():
    listed = re.findall(r"(?m)^\| `(\w+)` \|", (ROOT / "docs" / "recipes.md").read_text())
    assert sorted(listed) == recipes.names()


def test_the_gallery_shows_every_system_with_picture_source_and_command():
    sections = {part.split("\n")[0]: part for part in re.split(r"(?m)^## ", gallery.page())[1:]}
    assert sorted(sections) == recipes.names()
    for name, section in sections.items():
        assert f"(gallery/{name}.svg)" in section
        [command] = re.findall(r"(?m)^wavetune (run .*)$", section)
        assert parsed(command.split())["recipe"] == name
        root = ElementTree.fromstring(gallery.picture(name))
        assert "".join(root.find("{*}title").itertext())
    assert "arXiv 2504.14667" in sections["sflllm"]
    assert (
        len({gallery.picture(name) for name in ("sflllm", "pwff", "gossip", "hierarchical", "centralised_lora")}) == 5
    )


def test_every_public_name_is_in_the_reference():
    listed = {line.rpartition(".")[2] for line in api_page.page().splitlines() if line.startswith("::: ")}
    assert listed == {name for name in wavetune.__all__ if name != "__version__"}


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    pages += [
        page.relative_to(ROOT / "docs").with_suffix(".md").as_posix() for page in (ROOT / "docs").rglob("*.ipynb")
    ]
    assert [page for page in pages if page not in navigation] == []


def test_the_pages_open_from_disk_and_ask_no_third_party():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert "offline" in site["plugins"]
    assert not site["use_directory_urls"]
    assert not site["theme"]["font"]
    assert all((ROOT / "docs" / script).exists() for script in site["extra"]["polyfills"])
    assert any("iframe-worker" in script for script in site["extra"]["polyfills"])  # else the plugin names an address


def texts_of(module):
    """All texts that a module holds, those of f-strings in pieces."""
    nodes = ast.walk(ast.parse(module.read_text(encoding="utf-8")))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_the_messages_that_are_explained_are_those_of_the_code():
    headings = re.findall(r"(?m)^### `(.+)`$", (ROOT / "docs" / "errors.md").read_text())
    texts = [text for module in (ROOT / "src").rglob("*.py") for text in texts_of(module)]
    assert len(headings) > 25
    assert [heading for heading in headings if not any(heading in text for text in texts)] == []


def test_names_imported_in_python_that_the_pages_show_exist():
    shown = [code for page in PAGES for code in re.findall(r"(?m)^```python\n([^`]*)^```", page.read_text())]
    imports = [node for code in shown for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    ours = {(node.module, name.name) for node in imports for name in node.names if node.module.startswith("wavetune")}
    assert len(ours) > 20
    assert {(module, name) for module, name in ours if not hasattr(import_module(module), name)} == set()


def test_the_settings_that_people_change_are_fields_of_recipes():
    table = (ROOT / "docs" / "cli.md").read_text().split("## Settings that people change")[1].split("## Messages")[0]
    paths = re.findall(r"`((?:run|world|method)\.[\w.]+)`", table)
    known = [recipes.get(name).to_dict() for name in ("sflllm", "pwff")]
    assert len(paths) > 20
    assert [path for path in paths if not any(holds(values, path.split(".")) for values in known)] == []


def holds(values, path):
    return not path or (isinstance(values, dict) and path[0] in values and holds(values[path[0]], path[1:]))


def test_the_example_of_writing_a_method_is_the_package_that_is_tested():
    pages = {
        "adapters": ("adapters",),
        "architecture": ("filters", "mixing", "phases", "recipes"),
        "exchange": ("exchanges",),
        "objectives": ("objectives",),
        "planner": ("planners",),
    }
    for page, names in pages.items():
        shown = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
        assert shown == [(ROOT / "examples/theirs/theirs" / f"{name}.py").read_text() for name in names]
