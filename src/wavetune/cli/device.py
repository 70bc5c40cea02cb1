"""`wavetune device`: one device of a deployed run."""

import os
from pathlib import Path
from typing import Annotated

import typer

from wavetune.cli.options import WithParent
from wavetune.logs import LOG


def join_as_device(
    server: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="Where the servers listen; port 7443 if left out.")
    ],
    certificates: Annotated[
        Path, typer.Option(help="This device's folder, as `wavetune certificates` writes it; says which client it is.")
    ],
    state: Annotated[Path | None, typer.Option(help="Folder in which it keeps its state between rounds.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="PATH", help="This device's own data, in the place of what the servers name.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="PATH", help="This device's own copy of the model that the servers name.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PACKAGE|PATH",
            help="Package or module whose parts and rewards may run here, or file or folder of a reward; repeatable.",
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH=VALUE",
            help="Setting that the servers' recipe must have, such as method.privacy.noise=secure; repeatable.",
        ),
    ] = None,
    keep_runs: Annotated[
        int, typer.Option(min=1, help="No further run begins where the state folder has that many.")
    ] = 100,
    keep_gb: Annotated[
        float, typer.Option(min=0, help="Nor where it has that many GB; of one run no more states are kept.")
    ] = 10.0,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for servers that are away.")] = 600.0,
    with_parent: WithParent = False,
) -> None:
    """Take part in a deployed run as one of its devices."""
    if with_parent:
        from wavetune.runtimes.launch import exit_with_parent

        exit_with_parent()
    os.umask(0o077)  # what it keeps is its owner's alone
    from wavetune.data_plane.certificates import check_identity, exposed, read_identity
    from wavetune.data_plane.diagnosis import with_port

    identity, server = read_identity(certificates), with_port(server)
    check_identity(identity)
    if why := exposed(certificates):
        LOG.warning(why)
    LOG.info("loading PyTorch and transformers")
    from wavetune.runtimes.device import take_part
    from wavetune.runtimes.device_permission import Allowed

    allowed = Allowed(data, model, tuple(allow or ()), tuple(require or ()), keep_runs, keep_gb * 1e9)
    LOG.info(take_part(server, identity, state, patience, LOG.info, allowed))
