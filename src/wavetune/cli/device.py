"""`wavetune device`: one device of a deployed run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wavetune.cli.options import WithParent
from wavetune.logs import LOG


def join_as_device(
    server: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the servers listen.")],
    certificates: Annotated[
        Path, typer.Option(help="This device's folder, as `wavetune certificates` writes it; says which client it is.")
    ],
    state: Annotated[Path | None, typer.Option(help="Folder in which it keeps its state between rounds.")] = None,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for servers that are away.")] = 600.0,
    with_parent: WithParent = False,
) -> None:
    """Take part in a deployed run as one of its devices."""
    if with_parent:
        from wavetune.runtimes.launch import exit_with_parent

        exit_with_parent()
    from wavetune.data_plane.certificates import read_identity

    identity = read_identity(certificates)
    LOG.info("loading PyTorch and transformers")
    from wavetune.runtimes.device import take_part

    LOG.info(take_part(server, identity, state, patience, LOG.info))
