"""`wavetune plan`: a plan and what it says, without training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavetune.api.folders import write
from wavetune.cli.exit_codes import no_plan
from wavetune.cli.options import Changes, RecipeOrInstance, Tables
from wavetune.cli.read_recipe import read_recipe, refuse_beside_instance
from wavetune.console import Console, echo

if TYPE_CHECKING:
    from wavetune.api.plan import Planned


def plan(
    what: RecipeOrInstance,
    changes: Changes,
    tables: Tables,
    time_limit: Annotated[
        float | None, typer.Option(min=1e-3, help="Seconds for the command; a first plan is always finished.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the plan here; - for standard output.")] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            help="Write the proof of the bound here, for tools/verify_plan.py, verify_own_cuts.py or verify_shares.py."
        ),
    ] = None,
) -> None:
    """Choose subchannels, power, cut and rank for the least delay, without training."""
    from wavetune.api.plan import is_instance
    from wavetune.api.plan import plan as planned_of
    from wavetune.federation.run_folder import to_json

    until = None if time_limit is None else time.monotonic() + time_limit
    console = Console(highlight=False)
    if is_instance(what):
        refuse_beside_instance(changes, tables)
        planned = planned_of(what, time_limit_s=time_limit, certificate=certificate is not None)
    else:
        chosen = read_recipe(what, changes, tables)
        planned = planned_of(chosen, time_limit_s=time_limit, certificate=certificate is not None)
    if certificate is not None and planned.proof is not None:
        write(certificate, to_json(planned.proof, certificate))
    text = to_json(planned.to_dict(), json_out or Path("plan.json"))
    if json_out is not None and str(json_out) == "-":
        echo(text)
    else:
        if json_out is not None:
            write(json_out, text)
        if planned.status == "ok":
            _show_plan(console, planned)
            if json_out is None:
                _show_what_helps(console, planned, until)
    if planned.status == "infeasible":
        no_plan(planned.reason)


def _show_plan(console: Console, planned: Planned) -> None:
    from wavetune.terminal import plan_table

    console.print_table(plan_table(planned.problem, planned.plan))
    of_main = "mW, Mbit/s: main band" if planned.plan.server_share_K is None else "mW: main band; share: of the server"
    legend = (
        f"subch: subchannels of the main + fed band; {of_main}; fwd, up, bwd: one local step; "
        "fed: adapter upload, once a round; J: a round"
    )
    for line in (legend, *planned.sentences()):
        console.print(line, markup=False, soft_wrap=True)


def _show_what_helps(console: Console, planned: Planned, until: float | None) -> None:
    """What more of each resource would save, if there is time left to plan with more of each."""
    left_s = None if until is None else until - time.monotonic()
    if left_s is not None and left_s <= 0:
        console.print("what would help: no time left to find out", markup=False, soft_wrap=True)
        return
    if helpful := planned.what_helps(left_s):
        console.print("what would help: " + ", ".join(helpful), markup=False, soft_wrap=True)
