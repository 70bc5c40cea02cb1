"""`wavetune devices`: who of a deployed run's devices is here."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from wavetune.cli.json_output import result
from wavetune.console import echo
from wavetune.errors import RunFolderError


def devices(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run folder of the servers, on their machine.")],
) -> None:
    """List the devices of a deployed run by the names of their certificates: who is here, who was lost and why.

    For example: wavetune devices runs/sflllm
    """
    from wavetune.federation.folder_lock import is_held
    from wavetune.reporting.live import device_rows, read_devices

    seen, run = read_devices(run_dir), is_held(run_dir)
    if seen is None:
        raise RunFolderError(
            f"no servers have written in {run_dir} who is here; name the folder that `wavetune serve` uses"
        )
    result({"servers_running": run, **asdict(seen)})
    at = f"at {seen.address}, " if run else "not running, "
    of = "before the first round" if seen.round is None else f"round {seen.round + 1} of {seen.rounds}"
    rows = list(device_rows(run_dir, run))
    echo(f"servers {at}{of}; {sum(row.here for row in rows)} of {len(rows)} devices here")
    for row in rows:
        echo(f"{row.name}  {row.state}{f'; lost in {row.lost}' if row.lost else ''}")
    for sentence in seen.refused:
        echo(f"refused {sentence}")
