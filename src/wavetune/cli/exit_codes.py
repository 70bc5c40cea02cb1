"""Exit codes that scripts may rely on; 0 is success and 1 what Python makes of a fault in wavetune."""

from typing import NoReturn

import typer

from wavetune.console import Console

REFUSED = 2
INFEASIBLE = 3
INTERRUPTED = 130


def no_plan(reason: str) -> NoReturn:
    """Say on standard error why no plan exists, and end with the exit code of that."""
    Console(stderr=True).print(f"wavetune: no plan exists: {reason}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(INFEASIBLE)
