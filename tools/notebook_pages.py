"""MkDocs hook: every notebook of docs/ becomes a page, its cells with what they printed, and stays to download."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files


def on_files(files: Files, *, config: Any) -> Files:
    """Add a page, and its pictures, beside each notebook."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        place, pictures = PurePosixPath(file.src_uri), {}
        text = "\n\n".join(_cells(json.loads(file.content_string), place.stem, pictures))
        link = f"[Download this notebook]({place.name})"
        files.append(File.generated(config, str(place.with_suffix(".md")), content=f"{text}\n\n{link}\n"))
        for name, content in pictures.items():
            files.append(File.generated(config, str(place.with_name(name)), content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to notebooks lead to their pages; where a page is none, as on GitHub, they lead to the notebook."""
    return re.sub(r"(?<!Download this notebook)\]\(([\w./-]+)\.ipynb\)", r"](\1.md)", markdown)


def _cells(notebook: dict[str, Any], name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
            continue
        yield f"```python\n{source}\n```"
        for output in cell["outputs"]:
            shown = output.get("data", {})
            if "image/png" in shown:
                picture = f"{name}-{len(pictures) + 1}.png"
                pictures[picture] = base64.b64decode(shown["image/png"])
                yield f"![What the cell shows]({picture})"
            else:
                yield "```text\n" + "".join(output.get("text", shown.get("text/plain", []))).rstrip() + "\n```"
