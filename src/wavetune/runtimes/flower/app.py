"""Writes the folder that `flwr run` takes: a recipe, and two modules that hand it to wavetune."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import wavetune
from wavetune.errors import RunFolderError
from wavetune.federation.run_folder import explained
from wavetune.recipe import Recipe, save

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

_PYPROJECT = """\
[project]
name = "{name}"
version = "{version}"
description = {description}
license = "Apache-2.0"
dependencies = []  # wavetune[flower] itself is installed beside Flower on every machine

[tool.flwr.app]
publisher = "wavetune"

[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"

[tool.flwr.app.config]
{config}
"""
_SERVER = '''\
"""The servers: `flwr run` starts them beside the SuperLink."""

from pathlib import Path

from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    from wavetune.cli.flower_app import train_over

    train_over(grid, context, Path(__file__).with_name("recipe.json"))
'''
_CLIENT = '''\
"""A device: a SuperNode starts it for every message."""

from wavetune.models import light_imports
from wavetune.runtimes.flower.process import end_with_parent

end_with_parent()
light_imports.install()

from wavetune.runtimes.flower.device import client_app

app = client_app()
'''


def write_app(folder: Path, recipe: Recipe, config: Mapping[str, str | float | bool]) -> None:
    """Write a Flower app that trains a recipe, with these values of its configuration, the others as by default.

    Raises RunFolderError if the folder holds something else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / PACKAGE).is_dir():
        raise RunFolderError(f"{folder} is not empty and holds no app of wavetune; choose another --out")
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"wavetune-{recipe.name}")[:LONGEST_NAME].rstrip("-")  # what Flower takes
    about = f"The recipe {recipe.name} as a Flower app, written by wavetune flower-app"
    values = DEFAULTS | {"out": f"runs/{recipe.name}"} | dict(config)
    pyproject = _PYPROJECT.format(
        name=name,
        version=wavetune.__version__,
        description=json.dumps(about, ensure_ascii=False),
        package=PACKAGE,
        config="\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()),
    )
    with explained(folder):
        (folder / PACKAGE).mkdir(parents=True, exist_ok=True)
        (folder / "pyproject.toml").write_text(pyproject, encoding="utf-8")
        for module, text in (
            ("__init__", '"""A recipe of wavetune."""\n'),
            ("server_app", _SERVER),
            ("client_app", _CLIENT),
        ):
            (folder / PACKAGE / f"{module}.py").write_text(text, encoding="utf-8")
        save(recipe, folder / PACKAGE / "recipe.json")
