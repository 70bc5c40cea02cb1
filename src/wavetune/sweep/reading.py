"""A sweep in words, made from its numbers."""

import math
from dataclasses import replace

from wavetune.estimate import Estimate, caution
from wavetune.reporting.format import percent, seconds
from wavetune.sweep.axis import key_of
from wavetune.sweep.methods import BOUND, PROPOSED, title
from wavetune.sweep.summary import Point, Summary


def reading(summary: Summary) -> str:
    """How the delay moves, the proposed planner's gain over each baseline, its gap, and what had no plan."""
    seeds = len(summary.sweep.seeds)
    few = [caution(seeds)] if seeds > 1 and caution(seeds) else []  # of one seed the trend says so
    samples = [f"Samples were {how}." for how in summary.samples]
    sit_out = [f"Clients whom the channel does not reach sit out, in a cell up to {summary.sit_out}."]
    told = (_trend, _gains, _gap, _choices, _infeasible)
    return " ".join(
        [*(one for part in told for one in part(summary)), *(sit_out if summary.sit_out else ()), *few, *samples]
    )


def interval(estimate: Estimate) -> str:
    """Ends of a 95 % confidence interval of a fraction; empty where there is none.

    >>> interval(Estimate(0.1, 0.02, 5))
    '8.0 % to 12.0 %'
    """
    mean, half = estimate.mean, estimate.half_width
    return "" if math.isnan(half) else f"{percent(mean - half)} to {percent(mean + half)}"


def _trend(summary: Summary) -> list[str]:
    axis, methods = summary.sweep.axis, summary.sweep.methods
    first = PROPOSED if PROPOSED in methods else methods[0]
    known = [p for p in summary.of(first) if p.delay_s.count]
    if not known:
        return ["No cell of the sweep has a plan."]
    low, high = known[0], known[-1]
    least, most = (choose(known, key=lambda p: p.delay_s.mean) for choose in (min, max))
    seeds = len(summary.sweep.seeds)
    over = "one seed" if seeds == 1 else f"means of {seeds} seeds, 95 % intervals"
    who = f"the delay of the {title(first)}"
    if low is high:
        return [f"At {axis.title} {axis.show(low.value)} {who} is {_delay(low.delay_s)} ({over})."]
    if most.delay_s.mean < 1.01 * least.delay_s.mean:
        return [f"Whatever {axis.title}, {who} is about {_delay(low.delay_s)} ({over})."]
    moves = "falls" if high.delay_s.mean < low.delay_s.mean else "rises"
    turns = [
        f"{word} at {axis.show(p.value)}" for word, p in (("least", least), ("most", most)) if p not in (low, high)
    ]
    return [
        f"As {axis.title} goes from {axis.show(low.value)} to {axis.show(high.value)}, {who} {moves} from "
        f"{_delay(low.delay_s)} to {_delay(high.delay_s)}{''.join(f', {turn}' for turn in turns)} ({over})"
        f"{_paired(summary, low, high)}."
    ]


def _paired(summary: Summary, low: Point, high: Point) -> str:
    """The change in the same worlds, whose interval leaves out how much worlds differ."""
    change = high.change
    if low.value != summary.sweep.axis.values[0] or change.count < 2:
        return ""
    word = "falls" if change.mean < 0 else "rises"
    ends = sorted(abs(change.mean + sign * change.half_width) for sign in (-1, 1))
    if abs(change.mean) < change.half_width:
        return f"; in the same world it changes by {percent(change.mean)} ({interval(change)})"
    return f"; in the same world it {word} by {percent(abs(change.mean))} ({percent(ends[0])} to {percent(ends[1])})"


def _delay(estimate: Estimate) -> str:
    spread = "" if math.isnan(estimate.half_width) else f" ± {percent(estimate.half_width / estimate.mean)}"
    return seconds(estimate.mean) + spread


def _gains(summary: Summary) -> list[str]:
    shown = [
        f"{_against(gain, summary.worst_gains[method])} {title(method)}"
        for method, gain in sorted(summary.gains.items(), key=lambda item: item[1].mean)
        if gain.count
    ]
    if not shown:
        return []
    listed = shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]
    everywhere = all(p.delay_s.count for p in summary.points)
    which = "all values" if everywhere else "the values with a plan"
    return [f"Averaged over {which}, the proposed planner's delay is {listed}."]


def _against(gain: Estimate, worst: float) -> str:
    """How far below a method's delay, or above it where that is the shorter one."""
    if gain.mean >= 0:
        return f"{percent(gain.mean)} ({_spread(gain, worst)}) below"
    loss = replace(gain, mean=-gain.mean)
    return f"{percent(loss.mean)} ({_spread(loss, -worst)}) above"


def _spread(gain: Estimate, worst: float) -> str:
    ends = f"95 % interval {interval(gain)}, " if interval(gain) else ""
    return f"{ends}{percent(worst)} in the worst cell"


def _gap(summary: Summary) -> list[str]:
    if BOUND not in summary.sweep.methods or math.isnan(summary.largest_gap):
        return []
    return [f"In no cell is it more than {percent(summary.largest_gap)} above its proved lower bound."]


def _choices(summary: Summary) -> list[str]:
    """Cut and rank of the proposed planner, most frequent first."""
    found, cells = sorted(summary.choices.items(), key=lambda item: (-item[1], item[0])), sum(summary.choices.values())
    if not found:
        return []
    if len(found) == 1:
        return [f"It chooses cut {found[0][0][0]} and rank {found[0][0][1]} in every cell."]
    said = [f"cut {cut} and rank {rank} in {count}" for (cut, rank), count in found[:3]]
    rest = cells - sum(count for _, count in found[:3])
    return [f"Of {cells} cells it chooses {', '.join(said)}{f', others in {rest}' if rest else ''}."]


def _infeasible(summary: Summary) -> list[str]:
    sweep, said = summary.sweep, list[str]()
    total = len(sweep.seeds)
    for value in sweep.axis.values:
        tried = [p for p in summary.points if key_of(p.value) == key_of(value) and p.method != BOUND]
        failed = [p for p in tried if p.planned < total]
        for count in sorted({p.planned for p in failed}):
            alike: list[Point] = [p for p in failed if p.planned == count]
            who = "" if len(alike) == len(tried) else " by " + " and ".join(title(p.method) for p in alike)
            common = max(p.delay_s.count for p in tried)
            rest = f"; the means there are over the {common} that all have" if count else ""
            said.append(
                f"At {sweep.axis.title} {sweep.axis.show(value)}, {total - count} of {total} seeds have no plan{who} "
                f"({alike[0].reason}){rest}."
            )
    return said
