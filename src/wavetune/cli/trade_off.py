"""`wavetune trade-off`: the delay-energy curve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavetune.api.folders import write
from wavetune.cli.exit_codes import no_plan
from wavetune.cli.json_output import result
from wavetune.cli.options import Changes, RankTable, RecipeOrInstance, Tables
from wavetune.cli.read_recipe import read_recipe, refuse_beside_instance
from wavetune.console import Console, given_command
from wavetune.errors import ConfigError

if TYPE_CHECKING:
    from wavetune.allocation.problem import Problem


def trade_off(
    what: RecipeOrInstance,
    changes: Changes,
    points: Annotated[int, typer.Option(min=2, max=200, help="Plans on the curve.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Folder; trade-off/NAME by default.")] = None,
    rank_table: RankTable = None,
) -> None:
    """Draw the delay-energy curve: the fewest joules to the target at each delay, from the least delay on."""
    from wavetune.allocation.trade_off import trade_off as draw_curve
    from wavetune.federation.run_folder import ELSEWHERE, explained, to_json
    from wavetune.reporting.format import seconds
    from wavetune.reporting.trade_off import save_figure, table, to_dict

    problem, name, origin, sit_out = _problem(what, changes, Tables(rank_table))
    folder = out or Path("trade-off") / name
    curve = draw_curve(problem, points)
    values = to_dict(curve, origin, given_command())
    write(folder / "trade-off.json", to_json(values, folder / "trade-off.json", indent=1))
    result(values)
    console = Console(highlight=False)
    if not curve.points:
        no_plan(curve.reason)
    console.print_table(table(curve))
    with explained(folder, ELSEWHERE):
        save_figure(curve, folder / "figure", origin, given_command())
    if sit_out:
        console.print(f"{sit_out} of the clients, whom the channel does not reach, sit out")
    for line in (
        "delay, energy: to the target loss; unproved: share of the energy not proved necessary; s per J: what a joule "
        "saved costs on the way from the plan before, a value for method.planner.energy_weight_s_per_j",
        f"no plan is faster than {seconds(curve.points[0].plan.lower_bound_s)}",
        f"wrote trade-off.json, figure.svg and figure.png into {folder}",
    ):
        console.print(line, markup=False, soft_wrap=True)


def _problem(what: str, changes: Changes, tables: Tables) -> tuple[Problem, str, dict[str, str], int]:
    """The problem, what its folder is called after, where it is from, and how many clients sit out."""
    from wavetune.api.plan import is_instance

    if is_instance(what):
        refuse_beside_instance(changes, tables)
        from wavetune.allocation.instance import read_instance

        return read_instance(what), Path(what).stem, {"Instance": what}, 0
    from wavetune.reporting.origin import origin_of
    from wavetune.runtimes.world import planner_of

    recipe = read_recipe(what, changes, tables)
    if not recipe.method.one_for_all:
        raise ConfigError(
            "the delay-energy curve has one cut and one rank for all clients; set method.topology.cut and "
            "method.lora.rank to one number or to null, which leaves them to the planner"
        )
    planner = planner_of(recipe)[0]
    known = planner.known(0)
    sit_out = known.num_clients - len(planner.reached(known))
    return planner.of_reached(known), recipe.name, origin_of(recipe, [recipe.run.seed]), sit_out
