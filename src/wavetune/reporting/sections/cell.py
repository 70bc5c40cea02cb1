"""The cell: where devices stand, who holds rounds up, and who got which subchannel with how much power."""

import math

from markupsafe import Markup

from wavetune.records.reading import Run
from wavetune.records.rounds import BandUse, Round
from wavetune.records.world import BandShape, Device
from wavetune.reporting import format as fmt
from wavetune.reporting import story
from wavetune.reporting.accounts import client_s, straggler_counts, typical_round
from wavetune.reporting.bars import Bar, bar_chart, numbers_of_bars
from wavetune.reporting.cell_map import BINS, Site, cell_map
from wavetune.reporting.chart import Axis, Figure, Key, figure
from wavetune.reporting.numbers import Numbers
from wavetune.reporting.sections.section import (
    Section,
    client_figure,
    make_section,
    phase_css,
    phase_keys,
    phase_name,
    phase_parts,
)
from wavetune.reporting.subchannels import subchannel_lanes

MOST_STRAGGLERS = 8
MAP_PX = 460
DENSE_SUBCHANNELS = 40  # beyond that, a band takes both columns


def cell(run: Run) -> Section:
    """Section on the cell."""
    shown = typical_round(run.rounds)
    beside = [one for one in (_own_time_figure(run, shown), _straggler_figure(run)) if one]
    figures = [_map_figure(run, shown, "tall" if len(beside) == 2 else "half"), *beside]
    if shown:
        to_main, to_fed = "activations to the main server", "adapters to the federated server"
        figures.append(_band_figure(run, shown, "main", to_main, run.world.bands.main, shown.allocation.main))
        figures.append(_band_figure(run, shown, "fed", to_fed, run.world.bands.fed, shown.allocation.fed))
    return make_section("Cell and subchannels", "Cell", figures)


def _own_s(shown: Round | None, k: int) -> float:
    """Seconds of client k's own phases in a round; NaN if unknown."""
    parts = client_s(shown.charged.phases, k) if shown else {}
    return sum(value for value in parts.values() if math.isfinite(value)) if parts else math.nan


def _map_figure(run: Run, shown: Round | None, span: str) -> Figure | None:
    late = shown.straggler.client if shown and shown.straggler else None
    sites = [
        Site(
            name=story.device_name(device),
            position_m=device.position_m,
            delay_s=_own_s(shown, k),
            words=_site_words(device, device.position_m, _own_s(shown, k)),
            is_los=device.is_los,
            is_straggler=device.client_id == late,
        )
        for k, device in enumerate(run.world.devices)
        if device.position_m
    ]
    delays = [site.delay_s for site in sites if math.isfinite(site.delay_s)]
    words = (
        [f"Colour: a client's own seconds in round {shown.round + 1}, radio and compute."] if delays and shown else []
    )
    words += [f"World: preset {run.world.preset}."] if run.world.preset else []
    words += ["White centre: no line of sight."] if any(site.is_los is False for site in sites) else []
    words += ["Ring: the straggler."] if any(site.is_straggler for site in sites) else []
    radius_m = run.world.cell_radius_m
    keys = _heat_keys(delays)
    head = ("client", "x (m)", "y (m)", "own time in the round (s)")
    numbers = Numbers(head, tuple((site.name, *site.position_m, site.delay_s) for site in sites))

    def draw(width: int) -> Markup | None:
        return cell_map(sites, radius_m, min(width, MAP_PX))

    return figure("Cell map", draw, " ".join(words), keys, span=span, numbers=numbers)


def _heat_keys(delays: list[float]) -> tuple[Key, ...]:
    if not delays or max(delays) == min(delays):
        return ()
    ramp = (Key(f"heat-{index}", "") for index in range(BINS))
    return (Key("", fmt.seconds(min(delays)), "none"), *ramp, Key("", fmt.seconds(max(delays)), "none"))


def _site_words(device: Device, position_m: tuple[float, float], own_s: float) -> str:
    facts = {
        f"{fmt.si(math.hypot(*position_m), 'm', 0)} from the server": 0.0,
        f"path loss {device.path_loss_db:.0f} dB": device.path_loss_db,
        f"shadowing {device.shadowing_db:+.1f} dB".replace("-", "−"): device.shadowing_db,
        fmt.si(device.flop_per_s, "FLOP/s"): device.flop_per_s,
        f"{fmt.seconds(own_s)} of its own in the round": own_s,
    }
    return ", ".join([story.device_name(device), *(words for words, value in facts.items() if math.isfinite(value))])


def _own_time_figure(run: Run, shown: Round | None) -> Figure | None:
    if not shown:
        return None
    bars = [
        Bar(name, phase_parts(client_s(shown.charged.phases, k)), fmt.seconds(_own_s(shown, k)))
        for k, name in enumerate(story.client_names(run))
    ]
    caption = f"Round {shown.round + 1}, summed over its local steps; waiting for others is left out."
    return client_figure("Each client's own time", bars, Axis("time", "s"), caption, phase_keys(bars))


def _straggler_figure(run: Run) -> Figure | None:
    counts = straggler_counts(run.rounds)
    if len(story.client_names(run)) < 2:
        return None
    bars = [
        Bar(
            f"{story.client_name(run, client)}, {phase_name(phase)}",
            ((phase_css(f"{phase}_s"), "", float(times)),),
            f"{times} of {len(run.rounds)}",
        )
        for (client, phase), times in counts[:MOST_STRAGGLERS]
    ]
    title, caption = "Stragglers", "How many rounds waited longest for a client, and in which phase."
    return figure(
        title, lambda px: bar_chart(bars, fmt.count, title, px), caption, numbers=numbers_of_bars(bars, "rounds")
    )


def _band_figure(run: Run, shown: Round, band: str, what: str, shape: BandShape, use: BandUse) -> Figure | None:
    if all(owner < 0 for owner in use.owner):
        return None
    width = f" of {fmt.si(shape.subchannel_hz, 'Hz', 0)}" if math.isfinite(shape.subchannel_hz) else ""
    unused = sum(owner < 0 for owner in use.owner)
    caption = (
        f"{len(use.owner)} subchannels{width} for {what}, in round {shown.round + 1}. Height of a bar: its power, "
        f"up to {fmt.watts(max(use.power_w, default=0.0))}. In all {fmt.watts(sum(use.power_w))}."
    ) + (f" {unused} unused." if unused else "")
    span = "full" if len(use.owner) > DENSE_SUBCHANNELS else "half"
    names = story.client_names(run)
    title = f"{band.capitalize()} band"
    who = ((m, names[k] if 0 <= k < len(names) else "") for m, k in enumerate(use.owner))
    rows = tuple((m, name, watt) for (m, name), watt in zip(who, use.power_w, strict=False))
    numbers = Numbers(("subchannel", "client", "power (W)"), rows)
    return figure(title, lambda px: subchannel_lanes(use, names, band, px), caption, span=span, numbers=numbers)
