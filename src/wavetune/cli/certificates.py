"""`wavetune certificates`: who may take part in a deployed run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wavetune.console import echo


def certificates(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; one folder for each party.")],
    devices: Annotated[int, typer.Option(min=1, help="How many devices.")],
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address under which devices reach the servers; repeatable.")
    ] = None,
) -> None:
    """Make the certificates of a deployed run: an authority, the servers' and one for each device."""
    from wavetune.data_plane.certificates import write_certificates

    write_certificates(folder, devices, host or [])
    echo(f"wrote {folder}/server and {folder}/device-00 to device-{devices - 1:02d}: give each party its own")
