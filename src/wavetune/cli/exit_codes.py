"""Exit codes that scripts may rely on; 0 is success and 1 what Python makes of a fault in wavetune."""

from typing import NoReturn

import typer

from wavetune.console import Console
from wavetune.logs import LOG, is_for_people

REFUSED = 2
INFEASIBLE = 3
INTERRUPTED = 130


def say_why(sentence: str) -> None:
    """Say on standard error why a command ends without what was asked for."""
    if is_for_people():
        Console(stderr=True).print(f"wavetune: {sentence}", highlight=False, markup=False, soft_wrap=True)
    else:
        LOG.error(sentence)


def no_plan(reason: str) -> NoReturn:
    """Say on standard error why no plan exists, and end with the exit code of that."""
    say_why(f"no plan exists: {reason}")
    raise typer.Exit(INFEASIBLE)
