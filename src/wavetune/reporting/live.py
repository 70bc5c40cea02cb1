"""A run while it goes on: how far it is, how long it takes still, who is here, and where the time goes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from wavetune.errors import WavetuneError
from wavetune.json_reader import read_json
from wavetune.records.devices import FILE, Devices
from wavetune.records.reading import Run, read_record, read_run
from wavetune.records.rounds import Round
from wavetune.reporting import format as fmt
from wavetune.reporting import story
from wavetune.reporting.accounts import PHASES, total_by_name, total_critical_s
from wavetune.reporting.run_state import DAMAGED, FINISHED, NOT_BEGUN, RUNNING, RunState, is_run, state_of

_LATEST = 5  # rounds whose pace is that of the rest
_OF_PAGE = (
    "recipe.json", "state.json", "world.json", "rounds.jsonl", "alignment.jsonl", "alignment_after.json",
    "samples.json", "summary.json",
)  # fmt: skip


@dataclass(frozen=True)
class DeviceRow:
    """A device as the page shows it."""

    name: str
    here: bool
    state: str
    lost: str = ""


@dataclass(frozen=True)
class Live:
    """What the page shows above the report; `version` changes with the report below."""

    name: str
    state: str
    words: str
    version: str
    done: int = 0
    total: int = 0
    facts: tuple[tuple[str, str], ...] = ()
    devices: tuple[DeviceRow, ...] = ()
    phases_title: str = ""
    phases: tuple[tuple[str, str, float], ...] = ()  # name, seconds in words, share of the whole


def records_of(folder: Path) -> Run | None:
    """The records of a run as far as there are any."""
    return read_run(folder) if is_run(folder) else None


def live_of(folder: Path, run: Run | None, seen: str) -> Live:
    """What goes on in a run folder, whose records were read when their `version` was the one that was `seen`."""
    state = state_of(folder)
    if run is None:
        words = "waiting for its first records" if state.state == RUNNING else f"there is no run in {folder} yet"
        return Live(folder.name, state.state, words, seen)
    done, total, left_s = _progress(run)
    title, phases = _where_time_goes(run.rounds[-_LATEST:])
    facts = _facts(run, state, left_s)
    words = _words(run, state)
    rows = tuple(device_rows(folder, state.state == RUNNING))
    return Live(state.name, state.state, words, seen, min(done, total), total, facts, rows, title, phases)


def version(folder: Path) -> str:
    """What changes as soon as a record does."""
    found: list[str] = []
    for name in _OF_PAGE:
        try:
            stat = (folder / name).stat()
        except OSError:
            continue
        found.append(f"{name}:{stat.st_mtime_ns}:{stat.st_size}")
    return "|".join(found)


def _words(run: Run, state: RunState) -> str:
    if state.state == DAMAGED:
        return state.why
    if state.state in (FINISHED, NOT_BEGUN):
        return run.summary.method or state.recipe
    return f"{story.where_it_is(run)}{'' if state.state == RUNNING else '; nothing is at work in its folder'}"


def _progress(run: Run) -> tuple[int, int, float]:
    """Rounds and steps of alignment that are done and that there are, and seconds until the last of them."""
    rounds, steps = story.setting(run, "run", "rounds"), story.setting(run, "method", "alignment", "learning", "steps")
    of_kinds = (
        (len(run.rounds), rounds, [one.measured.wall_s if _was_measured(one) else one.wall_s for one in run.rounds]),
        (len(run.alignment), steps, [one.wall_s for one in run.alignment]),
    )
    done = total = 0
    left_s = 0.0
    for had, planned, seconds in of_kinds:
        planned = max(planned, had) if isinstance(planned, int) else had
        done, total = done + had, total + planned
        known = [value for value in seconds[-_LATEST:] if math.isfinite(value)]
        left_s += (planned - had) * median(known) if known else math.nan if planned > had else 0.0
    return done, total, left_s


def _was_measured(one: Round) -> bool:
    return math.isfinite(one.measured.wall_s)


def _facts(run: Run, state: RunState, left_s: float) -> tuple[tuple[str, str], ...]:
    walls = [one.wall_s for one in run.rounds[-_LATEST:] if math.isfinite(one.wall_s)]
    going, last = state.state == RUNNING, run.rounds[-1] if run.rounds else None
    started = str(run.state.get("started") or "")
    facts = {
        "Rounds": f"{len(run.rounds)} of {'?' if state.rounds is None else state.rounds}",
        "Left": f"about {fmt.seconds(left_s)}" if going and math.isfinite(left_s) and left_s > 0 else "",
        "Running for": fmt.seconds(_since(started)) if going and started else "",
        "A round takes": fmt.seconds(median(walls)) if walls else "",
        "Last change": f"{fmt.seconds(round(state.age_s))} ago" if going else "",
        "Training loss": fmt.number(last.train_loss, 4) if last else "",
        "Validation loss": fmt.number(story.loss_change(run).after, 4),
        "Updates lost": str(sum(len(one.lost) for one in run.rounds) or ""),
    }
    return tuple((name, value) for name, value in facts.items() if value not in ("", fmt.DASH))


def _since(iso: str) -> float:
    try:
        then = datetime.fromisoformat(iso)
    except ValueError:
        return math.nan
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, float(round((datetime.now(UTC) - then).total_seconds())))


def read_devices(folder: Path) -> Devices | None:
    """Who is here, as the servers of a run last wrote it; None where they wrote nothing that can be read."""
    try:
        return read_record(Devices, read_json(folder / FILE)) if (folder / FILE).exists() else None
    except (WavetuneError, ValueError, TypeError, AttributeError):
        return None


def device_rows(folder: Path, servers_run: bool) -> Iterable[DeviceRow]:
    """The devices of a deployed run, one after the other; nobody is here where its servers are not."""
    seen = read_devices(folder)
    for one in () if seen is None else seen.devices:
        here = one.connected and servers_run
        if here:
            words = "here"
        elif one.connected:
            words = "the servers are not running"
        else:
            age_s = _since(one.last_seen) if one.last_seen else math.nan
            words = f"away for {fmt.seconds(age_s)}" if math.isfinite(age_s) else "has not come"
        lost = "" if one.lost_in_round is None else f"round {one.lost_in_round + 1}: {one.lost_why}"
        yield DeviceRow(one.certificate, here, words, lost)


def _where_time_goes(rounds: Sequence[Round]) -> tuple[str, tuple[tuple[str, str, float], ...]]:
    """Seconds of the phases of the latest rounds: measured where devices took part, else those of the cell."""
    measured = [one for one in rounds if _was_measured(one)]
    if measured:
        title = f"Where the time goes: measured, mean of {fmt.plural(len(measured), 'round')}"
        parts = total_by_name(
            {name: _longest(getattr(one.measured.phases, name)) for name in PHASES} for one in measured
        )
        wall_s = sum(one.measured.wall_s for one in measured)
        parts["rest"] = max(0.0, wall_s - sum(parts.values()))
        of = len(measured)
    else:
        known = [one for one in rounds if math.isfinite(one.charged.delay_s)]
        title = f"Where the simulated time goes: mean of {fmt.plural(len(known), 'round')}"
        parts, of = total_critical_s(one.charged for one in known), len(known)
    whole = sum(parts.values())
    if not whole > 0:
        return "", ()
    names = {**PHASES, "rest": "waiting and the rest"}
    shown = sorted(((name, value) for name, value in parts.items() if value > 0), key=lambda part: -part[1])
    return title, tuple((names.get(name, name), fmt.seconds(value / of), value / whole) for name, value in shown)


def _longest(seconds: float | Sequence[float]) -> float:
    """Seconds until the last client's phase ends; 0 where it is not known."""
    known = [s for s in (seconds if isinstance(seconds, Sequence) else (seconds,)) if math.isfinite(s)]
    return max(known, default=0.0)
