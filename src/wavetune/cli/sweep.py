"""`wavetune sweep`: plans over a range of one field."""

from pathlib import Path
from typing import Annotated

import typer

from wavetune.api.folders import named_after
from wavetune.cli.exit_codes import INFEASIBLE
from wavetune.cli.json_output import result
from wavetune.cli.options import Changes, RecipeName
from wavetune.cli.read_recipe import read_recipe
from wavetune.console import echo
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
            help="Planners to compare, separated by commas: proposed, greedy, greedy-whole-band, genetic, "
            "fedavg-lora, proportional-fair, max-gain, round-robin, equal-shares, uniform-power, random-rank, "
            "random-cut, random-subchannels, all-random, bound; all by default."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; sweeps/RECIPE-FIELD by default. Run again to go on.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; one a core by default.")] = None,
) -> None:
    """Plan over a range of one field with several planners and seeds: figure, table and reading, no training."""
    from wavetune.api.sweep import sweep as plan_all
    from wavetune.sweep.axis import axis_of
    from wavetune.sweep.write import FILES
    from wavetune.terminal import CountDisplay
    from wavetune.workers import cores

    base = read_recipe(recipe, changes)
    folder = out or Path("sweeps") / f"{named_after(base.name)}-{axis_of(over, base).field}"
    jobs = cores() if jobs is None else jobs
    try:
        with CountDisplay() as display:
            swept = plan_all(base, over, seeds=seeds, methods=methods, out=folder, jobs=jobs, progress=display.progress)
    except KeyboardInterrupt:
        LOG.warning(f"stopped; the same command goes on from {folder}")
        raise
    result(swept.to_dict())
    echo(swept.reading)
    echo(f"wrote {', '.join(FILES)} into {folder}")
    if not swept.feasible:
        raise typer.Exit(INFEASIBLE)
