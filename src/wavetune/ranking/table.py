"""The table of a contest: means over seeds with 95 % intervals, differences paired over seeds, and ranks.

Legend: S seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wavetune.estimate import Estimate
from wavetune.json_reader import read_json
from wavetune.ranking.contest import Outcome
from wavetune.ranking.curves import (
    ACCURACY,
    LOSS,
    OWN_ACCURACY,
    OWN_LOSS,
    RESOURCES,
    Curve,
    Quality,
    curve_of,
    quality_of,
)
from wavetune.ranking.disturbances import DISTURBANCES
from wavetune.ranking.metrics import (
    OF_RUNS,
    Metric,
    change_under,
    final,
    of_curves,
    to_target,
    within,
)
from wavetune.recipes import PROPOSED
from wavetune.records.reading import Run, read_run
from wavetune.records.summary import Summary
from wavetune.reporting.compare import BEST

Values = dict[str, list[float | None]]
"""[S] by the metric's name; None where it is not known, or a target is not met."""

ALIKE = "≈"  # not told apart from the best
FULL_MODEL = "full model, accounted"
Unranked = dict[str, dict[str, str]]
"""Methods whose cost in a resource is not like the others', and why."""


def table_of(
    outcome: Outcome, target: float | None = None, budgets: Mapping[str, float] | None = None, against: str = ""
) -> dict[str, Any]:
    """The table as JSON values.

    Args:
        outcome: the runs.
        target: the quality that costs are counted to; None: seed by seed what at least half of the methods reach.
        budgets: within which quality is looked for, by resource; where none is given, seed by seed what the method in
            the middle spends in all.
        against: the method whose differences to all others are taken; with none methods are ranked, and the
            differences are to each metric's best.
    """
    seeds = outcome.contest.seeds
    runs = {method: [read_run(outcome.folder / f"{method}-seed{seed}") for seed in seeds] for method in outcome.methods}
    quality = quality_of([run for own in runs.values() for run in own])
    curves = {method: [curve_of(run, quality) for run in own] for method, own in runs.items()}
    unlike = _unlike(outcome)
    alike = {name: [own for m, own in curves.items() if name not in unlike.get(m, {})] for name in RESOURCES}
    targets = _targets(alike["delay"] or [*curves.values()], quality) if target is None else [target] * len(seeds)
    limits = {name: _budgets(own or [*curves.values()], name, (budgets or {}).get(name)) for name, own in alike.items()}
    firsts = next(iter(runs.values()))
    values = {method: _of_runs(own, firsts) for method, own in runs.items()}
    for method, own in curves.items():
        values[method] |= _of_curves(own, quality, targets, limits)
        values[method] |= _robustness(outcome, method, seeds, own, quality)
    if against:
        values[FULL_MODEL] = _full_model([run.summary for run in runs[against]])
    metrics = [*OF_RUNS, *of_curves(quality)]
    aims = {to_target(resource).name for resource in RESOURCES}  # which nobody may meet
    rows = {
        method: {name: _entry(v) for name, v in own.items() if name in aims or any(one is not None for one in v)}
        for method, own in values.items()
    }
    for metric in metrics:
        _compare(metric, rows, against, unlike)
    told = read_json(firsts[0].folder / "summary.json")
    return {
        "metrics": {m.name: m.higher for m in metrics if any(m.name in row for row in rows.values())},
        "methods": rows,
        "titles": {method: own[0].summary.method for method, own in runs.items()},
        "seeds": seeds,
        "model": told["model"],
        "data": told["data"],
        "quality": quality.name,
        "target": {"given": target is not None, "by_seed": targets},
        "budgets": {name: {"given": name in (budgets or {}), "by_seed": own} for name, own in limits.items()},
        "under": {name: DISTURBANCES[name].note for name in outcome.contest.under},
        "not_ranked": unlike,
        "left_out": outcome.left_out,
        "not_disturbed": {
            f"{cell.method} under {DISTURBANCES[cell.under].title}": why
            for cell, why in outcome.missing.items()
            if cell.under and cell.seed == seeds[0] and cell.method in runs
        },
    }


def _unlike(outcome: Outcome) -> Unranked:
    """What is charged to some methods in part alone, so that it is ranked with nobody's."""
    found = Unranked()
    for name in outcome.methods:
        method = outcome.contest.entrants[name].method
        if method.topology.pooled:
            found[name] = dict.fromkeys(RESOURCES, "moving all data to one place is not charged")
        elif method.exchange.uncounted_j:
            found[name] = {"energy": f"the energy of {method.exchange.uncounted_j} is not charged"}
    return found


def quality_named(name: str) -> Quality:
    """The quality of a table."""
    return next(one for one in (LOSS, OWN_LOSS, ACCURACY, OWN_ACCURACY) if one.name == name)


def _of_runs(runs: Sequence[Run], firsts: Sequence[Run]) -> Values:
    found = {m.name: [m.of(*pair) for pair in zip(runs, firsts, strict=True)] for m in OF_RUNS}
    return {name: [None if math.isnan(value) else value for value in own] for name, own in found.items()}


def _targets(curves: Sequence[Sequence[Curve]], quality: Quality) -> list[float | None]:
    """For each seed the quality that half of the methods or more, and both of two, reach; None if they begin there.

    >>> _targets([[Curve({}, (3.0, 1.0))], [Curve({}, (3.0, 2.0))]], LOSS), _targets([[Curve({}, (3.0,))]], LOSS)
    ([2.0], [None])
    """
    found = list[float | None]()
    for own in zip(*curves, strict=True):
        bests = sorted((quality.best(curve.quality) for curve in own), reverse=quality.higher)
        middle = bests[len(bests) // 2]
        found.append(middle if any(quality.better(middle, curve.quality[0]) for curve in own) else None)
    return found


def _budgets(curves: Sequence[Sequence[Curve]], resource: str, given: float | None) -> list[float]:
    """For each seed what was given, or what the method in the middle, of two the thriftier one, spends in all."""
    if given is not None:
        return [given] * len(curves[0])
    totals = [sorted(curve.spent[resource][-1] for curve in own) for own in zip(*curves, strict=True)]
    return [own[(len(own) - 1) // 2] for own in totals]


def _of_curves(
    curves: Sequence[Curve],
    quality: Quality,
    targets: Sequence[float | None],
    limits: Mapping[str, Sequence[float]],
) -> Values:
    found = Values({final(quality).name: [curve.quality[-1] for curve in curves]})
    for resource in RESOURCES:
        pairs = zip(curves, targets, strict=True)
        costs = [None if aim is None else curve.cost_to(aim, resource, quality) for curve, aim in pairs]
        found |= {to_target(resource).name: costs} if any(aim is not None for aim in targets) else {}
        pairs = zip(curves, limits[resource], strict=True)
        found[within(resource, quality).name] = [curve.best_within(limit, resource, quality) for curve, limit in pairs]
    return found


def _robustness(
    outcome: Outcome, method: str, seeds: Sequence[int], undisturbed: Sequence[Curve], quality: Quality
) -> Values:
    found = Values()
    for under in outcome.contest.under:
        places = [outcome.place(method, seed, under) for seed in seeds]
        if all(place is not None for place in places):
            curves = [curve_of(read_run(place), quality) for place in places if place is not None]
            pairs = zip(curves, undisturbed, strict=True)
            found[change_under(under, quality).name] = [one.quality[-1] - own.quality[-1] for one, own in pairs]
    return found


def _full_model(summaries: Sequence[Summary]) -> Values:
    """What sending the whole model in fp32 would take at the same rates; its training is not charged, so a bound."""
    found = Values({"uplink bits": [], "delay_s": []})
    for summary in summaries:
        up, uploads = summary.bits.get("adapters_up", 0), (summary.num_clients or 0) * (summary.rounds or 0)
        sent = summary.full_model_bits * uploads
        upload_s = max(summary.phases.fed_upload_s, default=0.0)
        found["uplink bits"].append(sent)
        found["delay_s"].append(summary.delay_s + (upload_s * (sent / up - 1) if up else 0.0))
    return found


def _entry(values: Sequence[float | None]) -> dict[str, Any]:
    """An estimate over seeds; of costs to a target that some seeds do not meet only how many do."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "half_width_95": None, "values": list(values), "reached": len(known)}
    return _with_interval(known)


def _with_interval(values: Sequence[float]) -> dict[str, Any]:
    found = Estimate.of(values)
    half = None if math.isnan(found.half_width) else found.half_width
    return {"mean": found.mean, "half_width_95": half, "values": list(values)}


def _compare(metric: Metric, rows: Mapping[str, dict[str, Any]], against: str, unlike: Unranked) -> None:
    """Add each method's difference to the one that stands against all, or rank them and add that to the best."""
    known = {m: row[metric.name] for m, row in rows.items() if row.get(metric.name, {}).get("mean") is not None}
    if against:
        for method, own in known.items():
            if method != against and against in known:
                own["proposed_minus_this"] = _difference(known[against], own)
        return
    ranked = {m: own for m, own in known.items() if metric.costs not in unlike.get(m, {})}
    if not ranked:
        return
    sign = -1 if metric.higher else 1
    means = {method: sign * own["mean"] for method, own in ranked.items()}
    best = min(means, key=lambda method: means[method])
    for method, own in ranked.items():
        own["rank"] = 1 + sum(mean < means[method] for mean in means.values())
        if method != best:
            own["this_minus_best"] = _difference(own, ranked[best])


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return _with_interval([a - b for a, b in zip(one["values"], other["values"], strict=True)])


def rows_of(table: Mapping[str, Any], differences: bool = False) -> list[tuple[str, ...]]:
    """A table as rows of text, a heading first.

    Of a comparison: a metric a row and a method a column; of a ranking: a method a row and a column each of what it is
    ranked by. With `differences` the cells are those by which the proposed method is above each other one, or each
    above the best of its column, paired over seeds.
    """
    ranking, quality = PROPOSED not in table["methods"], quality_named(table["quality"])
    compared = [*OF_RUNS, *(m for m in of_curves(quality) if m.name != final(quality).name)]
    metrics = [m for m in (of_curves(quality) if ranking else compared) if m.name in table["metrics"]]
    methods = [method for method in table["methods"] if method != PROPOSED or not differences]
    key = ("this_minus_best" if ranking else "proposed_minus_this") if differences else ""
    told = "" if not differences else "above the best" if ranking else "proposed minus"
    rows: list[tuple[str, ...]] = [(told, *(method.replace("_", " ") for method in methods))]
    for metric in metrics:
        cells = (_cell(table, metric, method, key) for method in methods)
        rows.append((metric.title, *cells))
    return [*zip(*rows, strict=True)] if ranking else rows


def _cell(table: Mapping[str, Any], metric: Metric, method: str, key: str) -> str:
    own = table["methods"][method].get(metric.name)
    if not own:
        return "-"
    if key:
        own = own.get(key)
        return "-" if not own else _estimate(metric.show, own, signed=own["mean"] > 0)
    if own["mean"] is None:
        reached, seeds = own["reached"], len(own["values"])
        return f"reached with\n{reached} of {seeds} seeds" if reached else "not reached"
    if metric.costs in table["not_ranked"].get(method, {}):
        return f"({_estimate(metric.show, own)})"
    return f"{_mark(own)} {_estimate(metric.show, own)}".strip()


def _estimate(show: Callable[[float], str], own: Mapping[str, Any], signed: bool = False) -> str:
    shown = show(own["mean"])
    half = own["half_width_95"]
    return (
        ("+" if signed and not shown.startswith("+") else "")
        + shown
        + (f"\n± {show(half).lstrip('+')}" if half else "")
    )


def _mark(own: Mapping[str, Any]) -> str:
    """Whether it is the best, or not told apart from it by their paired interval."""
    if own.get("rank") == 1:
        return BEST
    apart = own.get("this_minus_best")
    alike = apart and apart["half_width_95"] is not None and abs(apart["mean"]) <= apart["half_width_95"]
    return ALIKE if alike else ""
