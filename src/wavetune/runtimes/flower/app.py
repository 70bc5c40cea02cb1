"""Writes the folder that `flwr run` takes: a recipe, and two modules that hand it to wavetune."""

import re
from collections.abc import Mapping
from pathlib import Path

import wavetune
from wavetune.errors import RunFolderError
from wavetune.federation.run_folder import explained
from wavetune.recipe import Recipe, save
from wavetune.templating import template

PACKAGE = "wavetune_app"
LONGEST_NAME = 32  # that Flower takes
DEFAULTS: dict[str, str | float | bool] = {
    "out": "",
    "address": "0.0.0.0:7443",
    "public-address": "127.0.0.1:7443",
    "patience": 600.0,
    "deadline": 120.0,
    "emulate": False,
}
"""The app's run configuration: what `flwr run --run-config` can override."""


def write_app(folder: Path, recipe: Recipe, config: Mapping[str, str | float | bool]) -> None:
    """Write a Flower app that trains a recipe, with these values of its configuration, the others as by default.

    Raises RunFolderError if the folder holds something else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / PACKAGE).is_dir():
        raise RunFolderError(f"{folder} is not empty and holds no app of wavetune; choose another --out")
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"wavetune-{recipe.name}")[:LONGEST_NAME].rstrip("-")  # what Flower takes
    about = f"The recipe {recipe.name} as a Flower app, written by wavetune flower-app"
    values = DEFAULTS | {"out": f"runs/{recipe.name}"} | dict(config)
    told = {"name": name, "version": wavetune.__version__, "about": about, "package": PACKAGE, "config": values}
    inside = folder / PACKAGE
    with explained(folder):
        inside.mkdir(parents=True, exist_ok=True)
        (inside / "__init__.py").write_text('"""A recipe of wavetune."""\n', encoding="utf-8")
        for path in (folder / "pyproject.toml", inside / "server_app.py", inside / "client_app.py"):
            path.write_text(template(__file__, f"{path.name}.j2").render(told), encoding="utf-8")
        save(recipe, inside / "recipe.json")
