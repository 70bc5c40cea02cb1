"""`wavetune sweep`: plans over a range of one field."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wavetune.cli.exit_codes import INFEASIBLE
from wavetune.cli.folders import named_after
from wavetune.cli.options import Changes, RecipeName
from wavetune.cli.read_recipe import read_recipe
from wavetune.console import echo
from wavetune.errors import ConfigError
from wavetune.logs import LOG


def sweep(
    recipe: RecipeName,
    changes: Changes,
    over: Annotated[
        str,
        typer.Option(
            metavar="FIELD=V1,V2,...",
            help="What to vary: bandwidth_hz, tx_power_max_dbm, client_flop_per_s, server_flop_per_s, num_clients, "
            "cell_radius_m, or the path of any recipe field.",
        ),
    ],
    seeds: Annotated[int, typer.Option(help="Draws of devices and channel to average over.")] = 10,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Planners to compare, separated by commas: proposed, greedy, greedy-whole-band, uniform-power, "
            "random-rank, random-cut, random-subchannels, all-random, bound; all by default."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; sweeps/RECIPE-FIELD by default. Run again to go on.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; one a core by default.")] = None,
) -> None:
    """Plan over a range of one field with several planners and seeds: figure, table and reading, no training."""
    import shlex

    from wavetune.sweep.axis import axis_of
    from wavetune.sweep.display import SweepDisplay
    from wavetune.sweep.methods import methods_of
    from wavetune.sweep.run import Sweep
    from wavetune.sweep.run import run as plan_all
    from wavetune.sweep.summary import summarise
    from wavetune.sweep.workers import cores
    from wavetune.sweep.write import FILES, write_outcome

    base = read_recipe(recipe, changes)
    planned = Sweep(base, axis_of(over, base), seeds, methods_of(methods))
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs is {jobs} but must be at least 1")
    folder = out or Path("sweeps") / f"{named_after(base.name)}-{planned.axis.field}"
    try:
        with SweepDisplay() as display:
            records = plan_all(planned, folder, jobs or cores(), display.progress)
    except KeyboardInterrupt:
        LOG.warning(f"stopped; the same command goes on from {folder}")
        raise
    echo(write_outcome(summarise(planned, records), folder, shlex.join(["wavetune", *sys.argv[1:]])))
    echo(f"wrote {', '.join(FILES)} into {folder}")
    if all(record["status"] == "infeasible" for record in records):
        raise typer.Exit(INFEASIBLE)
