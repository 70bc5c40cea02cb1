"""`wavetune plan`: a plan and what it says, without training."""

from __future__ import annotations

import time
from dataclasses import replace
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from wavetune.cli.exit_codes import no_plan
from wavetune.cli.folders import write
from wavetune.cli.options import Changes, RecipeOrInstance, Tables
from wavetune.cli.read_recipe import is_instance, read_recipe, refuse_beside_instance
from wavetune.console import Console, echo
from wavetune.errors import ConfigError
from wavetune.logs import LOG

if TYPE_CHECKING:
    from wavetune.allocation.plan import Plan
    from wavetune.allocation.problem import Problem
    from wavetune.federation.round_planner import RoundPlanner
    from wavetune.recipe import Recipe


def plan(
    what: RecipeOrInstance,
    changes: Changes,
    tables: Tables,
    time_limit: Annotated[
        float | None, typer.Option(min=1e-3, help="Seconds for the command; a first plan is always finished.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the plan here; - for standard output.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Write the proof of an instance's bound here, for tools/verify_plan.py.")
    ] = None,
) -> None:
    """Choose subchannels, power, cut and rank for the least delay, without training."""
    from wavetune.allocation.instance import plan_to_json
    from wavetune.federation.run_folder import to_json

    until = None if time_limit is None else time.monotonic() + time_limit
    console = Console(highlight=False)
    if certificate is None:
        problem, chosen, note = _planned(what, changes, tables, time_limit)
    else:
        problem, chosen, note = _certified(what, changes, tables, time_limit, certificate)
    text = to_json(plan_to_json(chosen), json_out or Path("plan.json"))
    if json_out is not None and str(json_out) == "-":
        echo(text)
    else:
        if json_out is not None:
            write(json_out, text)
        if chosen.status == "ok":
            _show_plan(console, problem, chosen, note)
            if json_out is None:
                _show_what_helps(console, problem, chosen, until)
    if chosen.status == "infeasible":
        no_plan(chosen.reason)


def _planned(what: str, changes: Changes, tables: Tables, time_limit_s: float | None) -> tuple[Problem, Plan, str]:
    if is_instance(what):
        from wavetune.allocation.feasibility import require_feasible
        from wavetune.allocation.instance import read_instance
        from wavetune.federation.planning import Optimal

        refuse_beside_instance(changes, tables)
        problem = read_instance(what)
        return problem, require_feasible(problem, Optimal(time_limit_s).plan(problem, 0)), ""
    from wavetune.runtimes.world import count_samples

    recipe = _in_time(read_recipe(what, changes, tables), time_limit_s)
    count = count_samples(recipe, LOG.info)
    planner = count.planner(recipe)
    note = f"{planner.statistics.tokens:.1f} tokens a sample ({count.how})" + (planner.chosen and f"; {planner.chosen}")
    problem, chosen = planner.known(0), planner.first_plan()
    notes = (note, _energy_note(planner, problem, chosen), _deadline_note(planner, problem, chosen))
    return problem, chosen, "; ".join(filter(None, notes)) + f"\n{count.told}"


def _certified(
    what: str, changes: Changes, tables: Tables, time_limit_s: float | None, out: Path
) -> tuple[Problem, Plan, str]:
    from wavetune.allocation.certificate import plan_with_certificate
    from wavetune.allocation.feasibility import require_feasible
    from wavetune.allocation.instance import read_instance
    from wavetune.federation.run_folder import to_json

    if not is_instance(what):
        raise ConfigError(f"--certificate is of a plan instance, and {what} is a recipe; give an INSTANCE.json")
    refuse_beside_instance(changes, tables)
    problem = read_instance(what)
    chosen, proof = plan_with_certificate(problem, time_limit_s)
    if chosen.status == "ok":
        write(out, to_json(proof, out))
    return problem, require_feasible(problem, chosen), ""


def _in_time(recipe: Recipe, time_limit_s: float | None) -> Recipe:
    """The recipe whose planner searches for no longer. Raises ConfigError for one without a search."""
    planner = recipe.method.planner
    if time_limit_s is None:
        return recipe
    if not planner.searches:
        raise ConfigError(
            f"--time-limit bounds a search, and method.planner {planner.kind}, which plans {recipe.name}, has none: "
            "leave it out, or set method.planner.kind=optimal"
        )
    return replace(
        recipe, method=replace(recipe.method, planner=replace(cast("Any", planner), time_limit_s=time_limit_s))
    )


def _deadline_note(planner: RoundPlanner, problem: Problem, chosen: Plan) -> str:
    """How many clients could meet the deadline of a selection at most."""
    from wavetune.allocation.selection import most_possible

    selection, decided = planner.method.selection, {*zip(chosen.cut_K.tolist(), chosen.rank_K.tolist(), strict=True)}
    if isinf(selection.deadline_s) or len(decided) != 1:
        return ""
    most = most_possible(problem, *decided.pop(), selection.deadline_s)
    return f"at this cut and rank no more than {most} clients can end a round by the deadline"


def _energy_note(planner: RoundPlanner, problem: Problem, chosen: Plan) -> str:
    """The energy of a plan and what no plan as fast can go below, where the planner weighs energy."""
    from wavetune.allocation.energy_bound import least_energy_j
    from wavetune.allocation.energy_terms import rounds_of
    from wavetune.allocation.participants import of_participants
    from wavetune.reporting.format import joules

    if not planner.method.planner.minds_energy or chosen.status != "ok":
        return ""
    spent_j = rounds_of(problem, chosen.rank_K) * chosen.energy.total_j
    per_client = problem.cut_per_client or problem.rank_slack is not None
    if per_client or len({*chosen.cut_K.tolist()}) > 1 or len({*chosen.rank_K.tolist()}) > 1:
        return f"{joules(spent_j)} to the target"
    bound_j = min(spent_j, least_energy_j(of_participants(problem, chosen)[0], chosen.delay_s))
    return f"{joules(spent_j)} to the target, no plan as fast spends less than {joules(bound_j)}"


def _show_plan(console: Console, problem: Problem, chosen: Plan, note: str) -> None:
    from wavetune.allocation.describe import bottleneck
    from wavetune.reporting.format import percent, seconds
    from wavetune.terminal import plan_table

    console.print(plan_table(problem, chosen))
    of_main = "W, Mbit/s: main band" if chosen.server_share_K is None else "W: main band; share: of the server"
    lines = [
        f"subch: subchannels of the main + fed band; {of_main}; fwd, up, bwd: one local step; "
        "fed: adapter upload, once a round; J: a round",
        f"total delay to the target {seconds(chosen.delay_s)}, {seconds(chosen.phases.round_s)} a round of "
        f"{problem.local_steps} local steps" + (f"; {note}" if note else ""),
        bottleneck(problem, chosen).sentence,
    ]
    if chosen.active_K is not None:
        lines.insert(0, f"{int(chosen.active_K.sum())} of {problem.num_clients} clients take part in this round")
    if chosen.lower_bound_s > 0:
        lines.append(f"no plan is below {seconds(chosen.lower_bound_s)}: the gap is at most {percent(chosen.gap)}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _show_what_helps(console: Console, problem: Problem, chosen: Plan, until: float | None) -> None:
    """What more of each resource would save, if there is time left to plan with more of each."""
    from wavetune.allocation.describe import sensitivities

    left_s = None if until is None else until - time.monotonic()
    if left_s is not None and left_s <= 0:
        console.print("what would help: no time left to find out", markup=False, soft_wrap=True)
        return
    helpful = [s.sentence for s in sensitivities(problem, chosen, time_limit_s=left_s) if s.saving > 5e-4]
    if helpful:
        console.print("what would help: " + ", ".join(helpful[:3]), markup=False, soft_wrap=True)
