"""MkDocs hook: the reference of all public names of the package, from its own list of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PUBLIC = Path(__file__).resolve().parents[1] / "src" / "wavetune" / "__init__.pyi"


def on_files(files: Any, *, config: Any) -> Any:
    """Add the page to the site."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference/wavetune.md", content=page()))
    return files


def page() -> str:
    """A section a public name, functions first, as `import wavetune as wt` has them."""
    names = sorted(
        re.findall(r"from ([\w.]+) import (\w+) as \2", PUBLIC.read_text()), key=lambda name: name[1].swapcase()
    )
    head = "# wavetune\n\nWhat `import wavetune as wt` has; [Python](../python.md) shows it at work.\n"
    return "\n".join([head, *(f"::: {module}.{name}\n" for module, name in names)])
