"""Texts from Jinja templates, which stand in the folder `templates` beside the code that fills them."""

import json
from functools import cache, partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def template(beside: str, name: str, *, escaped: bool = False) -> Template:
    """The template of a name in `templates` beside a file of code; in one of HTML what is put in is `escaped`."""
    return _environment(Path(beside).with_name("templates"), escaped).get_template(name)


@cache
def _environment(folder: Path, escaped: bool) -> Environment:
    found = Environment(
        loader=FileSystemLoader(folder),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not escaped,
    )
    found.filters["json"] = partial(json.dumps, ensure_ascii=False)
    return found
