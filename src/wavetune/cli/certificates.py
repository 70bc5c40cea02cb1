"""`wavetune certificates`: who may take part in a deployed run."""

from pathlib import Path
from typing import Annotated

import typer

from wavetune.console import echo
from wavetune.errors import ConfigError


def certificates(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; one folder for each party.")],
    devices: Annotated[int | None, typer.Option(min=1, help="How many devices, in a new folder.")] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address under which devices reach the servers; repeatable.")
    ] = None,
    add: Annotated[int | None, typer.Option(min=1, help="So many more devices, in a folder made before.")] = None,
    revoke: Annotated[
        list[str] | None, typer.Option(metavar="device-NN", help="Device that servers shall refuse; repeatable.")
    ] = None,
    renew: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Party that gets another certificate; repeatable.")
    ] = None,
) -> None:
    """Make the certificates of a deployed run, or add, revoke and renew some of them.

    An authority signs the servers' and one for each device. Nothing that is there is ever written over.
    """
    from wavetune.data_plane.certificates import AUTHORITY, REVOKED, SERVER, Authority, write_certificates

    if (devices is None) == (add is None and not revoke and not renew):
        raise ConfigError("give either --devices N for a new folder, or --add, --revoke or --renew for one made before")
    if devices is not None:
        write_certificates(folder, devices, host or [])
        last = f" to device-{devices - 1:02d}" if devices > 1 else ""
        echo(f"wrote {folder}/{SERVER} and {folder}/device-00{last}: give each party its own")
        echo(f"Keep {folder}/{AUTHORITY} off the servers and the devices: its key adds and revokes devices.")
        return
    if host:
        raise ConfigError("--host belongs to --devices; another host takes new certificates, in another folder")
    authority = Authority.read(folder)
    for name in revoke or ():
        authority.revoke(name)
        echo(f"revoked {name}: copy {folder}/{SERVER}/{REVOKED} into the servers' folder, also while they run")
    for name in renew or ():
        authority.renew(name)
        echo(f"renewed {name}: give it {folder}/{name}, and the servers {folder}/{SERVER}/{REVOKED} if it is there")
    for name in authority.add(add) if add else ():
        echo(f"wrote {folder}/{name}")
