"""`wavetune watch`: the report of a run as a page that renews itself."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from wavetune.console import echo

PORT = 8765


def watch(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run folder; it need not be there yet.")],
    port: Annotated[int, typer.Option(help="Port on this machine; 0 for any that is free.")] = PORT,
) -> None:
    """Show a run as a page in a browser of this machine, renewed while it goes on: progress, devices, report.

    For example: wavetune watch runs/sflllm
    """
    from wavetune.errors import RunFolderError
    from wavetune.local_http import listening
    from wavetune.reporting.watch import Watch

    if run_dir.exists() and not run_dir.is_dir():
        raise RunFolderError(f"{run_dir} is a file; name the folder of a run, such as runs/sflllm")
    server = listening(Watch(run_dir).pages(), port)
    try:
        echo(f"watching {run_dir} at http://127.0.0.1:{server.server_address[1]}/ until Ctrl-C")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    finally:
        server.server_close()
