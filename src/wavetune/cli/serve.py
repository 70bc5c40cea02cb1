"""`wavetune serve`: the servers of a deployed run."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavetune.cli.options import Deadline, Emulate, OfRun, RecipeOfRun, TrainingChanges, WithParent, of_deployment
from wavetune.cli.run import meant_run, train
from wavetune.logs import LOG

if TYPE_CHECKING:
    from wavetune.runtimes.roster import Roster


def serve(
    changes: TrainingChanges,
    own: OfRun,
    recipe: RecipeOfRun = None,
    certificates: Annotated[
        Path, of_deployment(help="The servers' folder, as `wavetune certificates` writes it.")
    ] = Path("certificates/server"),
    address: Annotated[str, of_deployment(help="HOST:PORT to listen at; port 7443 if left out.")] = "0.0.0.0:7443",
    public: Annotated[
        str | None, of_deployment(help="HOST:PORT under which devices reach it, where that is another.")
    ] = None,
    emulate: Emulate = False,
    deadline: Deadline = 120.0,
    patience: Annotated[float, of_deployment(min=1, help="Seconds to wait for the devices to come.")] = 600.0,
    health: Annotated[
        str | None,
        of_deployment(
            metavar="[HOST:]PORT",
            help="Answer /live and /ready over HTTP there; on this machine alone unless a host is given.",
        ),
    ] = None,
    port_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
    with_parent: WithParent = False,
) -> None:
    """Run the servers of a recipe; its devices come from elsewhere.

    For example: wavetune serve sflllm --certificates certs/server --address 0.0.0.0:7443
    """
    if with_parent:
        from wavetune.runtimes.launch import exit_with_parent

        exit_with_parent()
    if port_file is not None:
        port_file.unlink(missing_ok=True)  # of servers before, whom nobody reaches any more
    from wavetune.data_plane.certificates import check_identity, exposed, read_identity
    from wavetune.data_plane.diagnosis import require_listenable, with_port

    found = meant_run(recipe, changes, own, tell=False)  # devices may wait to hear that the run is finished
    assert found is not None  # as nobody is told
    identity, address = read_identity(certificates), with_port(address)
    check_identity(identity, server=True)
    if why := exposed(certificates):
        LOG.warning(why)
    require_listenable(address)
    public = None if public is None else with_port(public)
    from wavetune.runtimes.roster import Roster

    roster = Roster()
    with nullcontext() if health is None else _probed(roster, health):
        LOG.info("loading PyTorch and transformers")
        from wavetune.runtimes.deployed import Deployment, engine

        deployment = Deployment(address, identity, public, patience, deadline, emulate, certificates)
        served_by = engine(deployment, found[1], port_file, roster=roster)
        train(*found, served_by, "deploy" if with_parent else "serve", own.track)


@contextmanager
def _probed(roster: Roster, health: str) -> Generator[None]:
    """Probes are answered in this block."""
    from wavetune.data_plane.diagnosis import host_and_port
    from wavetune.local_http import LOOPBACK, served

    host, port = (LOOPBACK, int(health)) if health.isdecimal() else host_and_port(health)
    with served(roster.pages(), port, host, "--health") as at:
        LOG.info(f"health at {at}live and {at}ready")
        yield
