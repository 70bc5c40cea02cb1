"""Gantt chart of one round: its first local step, then the exchange of adapters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wavetune.records.rounds import Phases
from wavetune.reporting import format as fmt
from wavetune.reporting.accounts import PHASES, client_s, pipelines
from wavetune.reporting.chart import NARROW_PX, Axis, base_axis
from wavetune.reporting.svg import Scale, fit, svg, tag, text_width, tip

SERVER = -1
MOST_ROWS = 32
LEAST_PX = 1.5
TITLE_PX, AXIS_PX = 26, 40


@dataclass(frozen=True)
class Segment:
    """A phase of one row; `row` is a client's index, or SERVER."""

    row: int
    phase: str
    start_s: float
    end_s: float


def step_segments(step: Phases) -> list[Segment]:
    """Segments of one local step.

    Clients compute and send at once; the server starts when the last activations are there, and then sends gradients.
    Where each client is served on its own, its share of the server stands in its own row.
    """
    segments: list[Segment] = []
    if own := pipelines(step):
        for k, lengths in enumerate(own):
            _follow(segments, k, lengths, 0.0)
        return segments
    clients = range(max(len(step.client_forward_s), len(step.uplink_s), len(step.client_backward_s)))
    ready = [_chain(segments, k, step, ("client_forward_s", "uplink_s"), 0.0) for k in clients]
    now = max(ready, default=0.0)
    for phase in ("server_forward_s", "server_backward_s"):
        length = getattr(step, phase)
        if math.isfinite(length):
            segments.append(Segment(SERVER, phase, now, now + length))
            now += length
    for k in clients:
        _chain(segments, k, step, ("downlink_s", "client_backward_s"), now)
    return segments


def exchange_segments(step: Phases) -> list[Segment]:
    """Segments of the adapter exchange that ends a round; the download starts after the last upload."""
    segments: list[Segment] = []
    ready = [_chain(segments, k, step, ("fed_upload_s",), 0.0) for k in range(len(step.fed_upload_s))]
    for k in range(len(step.fed_download_s)):
        _chain(segments, k, step, ("fed_download_s",), max(ready, default=0.0))
    return segments


def _chain(segments: list[Segment], k: int, step: Phases, phases: tuple[str, ...], start_s: float) -> float:
    lengths = client_s(step, k)
    return _follow(segments, k, {phase: lengths.get(phase, 0.0) for phase in phases}, start_s)


def _follow(segments: list[Segment], k: int, lengths: Mapping[str, float], start_s: float) -> float:
    for phase, length in lengths.items():
        if math.isfinite(length) and length > 0:
            segments.append(Segment(k, phase, start_s, start_s + length))
            start_s += length
    return start_s


@dataclass(frozen=True)
class _Panel:
    """One part of the chart: its segments, the rows it shows and the box it fills."""

    title: str
    segments: Sequence[Segment]
    rows: Sequence[int]
    left: float
    right: float
    top: float
    row_px: float

    @property
    def bottom(self) -> float:
        return self.top + TITLE_PX + self.row_px * len(self.rows)

    def middle(self, row: int) -> float:
        return self.top + TITLE_PX + (self.rows.index(row) + 0.5) * self.row_px


def timeline(
    step: Phases, names: Sequence[str], straggler: int | None, local_steps: int | None, width: int
) -> Markup | None:
    """Draw both parts side by side, one under the other where it is narrow; None if nothing was recorded."""
    first, last = step_segments(step), exchange_segments(step)
    if not first and not last:
        return None
    steps = f"First of {local_steps} local steps" if local_steps and local_steps > 1 else "The local step"
    rows = shown_rows(first or last)
    labels = {row: _label(row, names, straggler) for row in rows}
    name_px = min(max(map(text_width, labels.values())) + 12, width * 0.3)
    panels = _place({steps: first, "Adapter exchange at the end": last}, rows, name_px, width)
    shapes: list[Markup] = []
    for panel in panels:
        if panel.left == name_px:
            shapes += [_row_name(labels[row], row == straggler, name_px, panel.middle(row)) for row in panel.rows]
        shapes += _draw(panel, labels, straggler)
    label = f"Timeline of one round: {steps.lower()} and the adapter exchange, for {len(names)} clients and the server."
    return svg(width, max(panel.bottom for panel in panels) + AXIS_PX, label, *shapes)


def shown_rows(segments: Sequence[Segment]) -> list[int]:
    """Rows to draw: the server and, if there are many clients, those that are ready last."""
    ready: dict[int, float] = {}
    for segment in segments:
        is_wait = segment.phase in ("client_forward_s", "uplink_s", "fed_upload_s")
        ready[segment.row] = max(ready.get(segment.row, 0.0), segment.end_s if is_wait else 0.0)
    slowest = sorted((row for row in ready if row != SERVER), key=lambda row: -ready[row])[:MOST_ROWS]
    return [*sorted(slowest), *([SERVER] if SERVER in ready else [])]


def _place(parts: dict[str, list[Segment]], rows: Sequence[int], name_px: float, width: float) -> list[_Panel]:
    clients = [row for row in rows if row != SERVER]
    row_px = 24 if len(rows) <= 12 else 17
    drawn = [(title, segments) for title, segments in parts.items() if segments]
    beside = len(drawn) > 1 and width > NARROW_PX
    panels: list[_Panel] = []
    top, left, right = 0.0, name_px, width - 14
    split = name_px + (width - name_px) * 0.72
    for index, (title, segments) in enumerate(drawn):
        lanes = rows if any(segment.row == SERVER for segment in segments) else clients
        if beside:
            left, right = (name_px, split - 24) if index == 0 else (split, width - 14)
        panels.append(_Panel(title, segments, lanes, left, right, top, row_px))
        top = 0.0 if beside else panels[-1].bottom + AXIS_PX
    return panels


def _label(row: int, names: Sequence[str], straggler: int | None) -> str:
    if row == SERVER:
        return "server"
    name = names[row] if row < len(names) else f"client {row}"
    return f"▸ {name}" if row == straggler else name


def _row_name(label: str, late: bool, name_px: float, middle: float) -> Markup:
    css = "name late" if late else "name"
    words = fit(label, name_px - 10)
    return tag("text", tip(label), words, class_=css, x=name_px - 8, y=middle + 4, text_anchor="end")


def _draw(panel: _Panel, labels: dict[int, str], straggler: int | None) -> list[Markup]:
    left, right = panel.left, panel.right
    end_s = max(segment.end_s for segment in panel.segments)
    x = Scale(0.0, end_s, left, right)
    tall = panel.row_px - 2
    shapes = [tag("text", fit(panel.title, right - left + 12), class_="panel", x=left, y=panel.top + 13)]
    for row in panel.rows:
        css = "stripe late" if row == straggler else "stripe"
        y = panel.middle(row) - tall / 2
        shapes.append(tag("rect", class_=css, x=left, y=y, width=right - left, height=tall))
    shapes += [
        _bar(one, labels[one.row], x, panel.middle(one.row), tall - 4) for one in panel.segments if one.row in labels
    ]
    return [*shapes, *base_axis(x, Axis("time", "s"), panel.bottom + 2)]


def _bar(one: Segment, label: str, x: Scale, middle: float, tall: float) -> Markup:
    length = max(x(one.end_s) - x(one.start_s), LEAST_PX)
    words = (
        f"{label}, {PHASES[one.phase]}: {fmt.seconds(one.end_s - one.start_s)} "
        f"(from {fmt.seconds(one.start_s)} to {fmt.seconds(one.end_s)})"
    )
    css = f"fill phase-{one.phase}"
    return tag("rect", tip(words), class_=css, x=x(one.start_s), y=middle - tall / 2, width=length, height=tall)
