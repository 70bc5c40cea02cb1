"""A contest as a page: where its numbers are from, the table, the differences, and what is not ranked and why."""

from collections.abc import Mapping
from typing import Any

from wavetune.estimate import caution, finite_mean
from wavetune.ranking.curves import RESOURCES, Quality
from wavetune.ranking.metrics import DIRECTIONS
from wavetune.ranking.table import ALIKE, quality_named, rows_of
from wavetune.recipe import Recipe
from wavetune.recipes import PROPOSED
from wavetune.reporting.compare import BEST
from wavetune.templating import template


def origin(table: Mapping[str, Any], num_clients: int) -> dict[str, str]:
    """Where the numbers are from: seeds, model with the origin of its weights, data."""
    model, data = table["model"], table["data"]
    return {
        "Seeds": ", ".join(map(str, table["seeds"])),
        "Model": f"{model['name']}: {model['note']}",
        "Data": f"{data['name']}, {data['train_samples']} training and {data['validation_samples']} validation rows, "
        f"{data['partition']} over {num_clients} clients",
    }


def as_markdown(first: Recipe, table: Mapping[str, Any], figure: str) -> str:
    """The page of a comparison or a ranking, whose first method is this recipe."""
    ranking = PROPOSED not in table["methods"]
    facts = {"Command": f"`{table['command']}`"}
    facts |= origin(table, first.world.scenario.population.num_clients)
    if not ranking:
        facts["Method"] = first.method.title
    others = ", ".join(method for method in table["titles"] if method != PROPOSED)
    title = f"{len(table['titles'])} methods ranked" if ranking else f"{first.name} beside {others}"
    return template(__file__, "contest.md.j2").render(
        title=title,
        facts=facts,
        how=f"{DIRECTIONS} {caution(len(table['seeds']))}".rstrip(),
        rows=rows_of(table),
        remarks=remarks(table),
        ranking=ranking,
        differences=rows_of(table, differences=True),
        quality=table["quality"],
        figure=figure,
        titles=table["titles"],
    )


def remarks(table: Mapping[str, Any]) -> list[str]:
    """What must be known to read the table: target, budgets, disturbances, marks, and what is left out."""
    quality, ranking = quality_named(table["quality"]), PROPOSED not in table["methods"]
    found = [_target(table, quality), _budgets(table)]
    found += [f"Under {name.replace('_', ' ')}: {note}." for name, note in table["under"].items()]
    if ranking:
        found.append(
            f"{BEST} is the best of a column, {ALIKE} is not told apart from it: the 95 % interval of the paired "
            "difference, of each method by itself, holds 0."
        )
    for method, unlike in table["not_ranked"].items():
        what, why = " and ".join(unlike), next(iter(unlike.values()))
        found.append(f"{method} is not ranked by {what}, which stands in parentheses: {why}.")
    found += [f"{name} did not run: {why}." for name, why in table["not_disturbed"].items()]
    found += [f"{method} is left out: {why}." for method, why in table["left_out"].items()]
    return found


def _target(table: Mapping[str, Any], quality: Quality) -> str:
    aims = [aim for aim in table["target"]["by_seed"] if aim is not None]
    if not aims:
        return "There is no target: fewer than half of the methods came to anything better than the untouched model."
    where = "counted at the first evaluation that meets it"
    if table["target"]["given"]:
        return f"The target is {quality.name} {quality.show(aims[0])}, {where}."
    return (
        f"The target, {quality.name} {quality.show(finite_mean(aims))} in the mean of the seeds, is what at least half "
        f"of the methods reach with a seed, taken after the runs; it is {where}. --target sets one beforehand."
    )


def _budgets(table: Mapping[str, Any]) -> str:
    parts = list[str]()
    for name, resource in RESOURCES.items():
        own = table["budgets"][name]
        parts.append(
            f"{resource.show(finite_mean(own['by_seed']))} ({'given' if own['given'] else 'mean of the seeds'})"
        )
    some = not all(own["given"] for own in table["budgets"].values())
    chosen = " What was not given is what the method in the middle spends in all with a seed." if some else ""
    return f"Budgets: {', '.join(parts)}.{chosen}"
