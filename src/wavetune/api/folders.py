"""Where commands write, and what they expect there."""

import re
from pathlib import Path

from wavetune.errors import RunFolderError


def named_after(recipe: str) -> str:
    r"""What a folder is called after a recipe, `theirs.recipes:mine` too.

    >>> [named_after(name) for name in ("theirs.recipes:mine", "/home/me/new.py:mine", "../../x", "")]
    ['theirs.recipes.mine', 'home.me.new.py.mine', 'x', 'recipe']
    """
    return re.sub(r"[^\w.-]+|\.{2,}", ".", recipe).strip(".") or "recipe"


def free_folder(recipe: str, parent: Path = Path("runs")) -> Path:
    """parent/NAME, or the first of NAME-2, NAME-3 and so on that does not exist."""
    name = named_after(recipe)
    folder, number = parent / name, 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder


def require_run(folder: Path) -> None:
    """RunFolderError unless the folder holds a run to continue."""
    if not (folder / "recipe.json").exists():
        raise RunFolderError(f"{folder} holds no run (no recipe.json); start one without --resume")


def require_no_run(folder: Path) -> None:
    """RunFolderError if the folder holds a run already."""
    if (folder / "recipe.json").exists():
        raise RunFolderError(f"{folder} already holds a run; continue it with --resume or choose another --out")


def write(path: Path, text: str) -> None:
    """Write a file whole, with its folders."""
    from wavetune.federation.run_folder import ELSEWHERE, write_whole

    write_whole(path, text + "\n", ELSEWHERE)
