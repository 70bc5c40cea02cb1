"""Who got which subchannel and how much power: a lane for each client, a bar for each subchannel."""

from collections.abc import Sequence

from markupsafe import Markup

from wavetune.records.rounds import BandUse
from wavetune.reporting import format as fmt
from wavetune.reporting.chart import NARROW_PX
from wavetune.reporting.svg import Scale, fit, svg, tag, text_width, tick_labels, ticks, tip

TOTALS_GAP_PX = 10
LANES_PX, LEAST_TEXT_PX = 560, 11


def client_color(k: int, num_clients: int) -> str:
    """Colour class of a client: its own while there are few, one for all beyond.

    >>> client_color(3, 5), client_color(3, 32)
    ('cat-3', 'cat-0')
    """
    return f"cat-{k}" if num_clients <= 8 else "cat-0"


def subchannel_lanes(use: BandUse, names: Sequence[str], band: str, width: int) -> Markup | None:
    """Draw one band; the bar's height is its power, a lane's the band's largest. None if nothing was recorded."""
    if not use.owner or not names:
        return None
    row = max(min(LANES_PX / len(names), 26), 4)
    roomy = width > NARROW_PX
    name_px = min(max(map(text_width, names)) + 10, width * 0.28)
    totals = [_totals(use, k, roomy) for k in range(len(names))]
    x = Scale(0.0, len(use.owner), name_px, width - max(map(text_width, totals)) - TOTALS_GAP_PX)
    bottom = len(names) * row
    lanes = [_lane(name, totals[k], k * row, row, x) for k, name in enumerate(names)]
    peak = max(use.power_w, default=0.0) or 1.0
    for m, (k, power_w) in enumerate(zip(use.owner, use.power_w, strict=False)):
        if 0 <= k < len(names):
            words = f"Subchannel {m} of the {band} band: {names[k]}, {fmt.watts(power_w)}"
            css = client_color(k, len(names))
            lanes.append(_cell(words, css, x(m), x(m + 1), (k + 1) * row, row - 2, power_w / peak))
    values = ticks(0, len(use.owner) - 1, max(2, int((x.end_px - name_px) / 50)))
    whole = [value for value in values if value == int(value)]
    for value, words in zip(whole, tick_labels(whole), strict=True):
        lanes.append(tag("text", words, class_="tick", x=x(value + 0.5), y=bottom + 14, text_anchor="middle"))
    lanes.append(tag("text", "subchannel", class_="axis", x=width, y=bottom + 14, text_anchor="end"))
    label = f"Subchannels and power of {len(names)} clients in the {band} band of {len(use.owner)} subchannels."
    return svg(width, bottom + 20, label, *lanes)


def _lane(name: str, totals: str, y: float, row: float, x: Scale) -> Markup:
    left, right = x.start_px, x.end_px
    stripe = tag("rect", tip(f"{name}: {totals}"), class_="stripe", x=left, y=y + 1, width=right - left, height=row - 2)
    if row < LEAST_TEXT_PX:
        return stripe
    small = " small" if row < 18 else ""
    middle = y + row / 2 + 4
    words = fit(name, left - 8)
    written = tag("text", tip(name), words, class_=f"name{small}", x=left - 6, y=middle, text_anchor="end")
    return tag("g", stripe, written, tag("text", totals, class_=f"value{small}", x=right + 8, y=middle))


def _cell(words: str, css: str, left: float, right: float, bottom: float, tall: float, share: float) -> Markup:
    """A subchannel in its owner's lane: a pale block for who has it, a bar for how much power."""
    gap = min((right - left) * 0.12, 2)
    box = {"x": left + gap / 2, "width": right - left - gap}
    power = max(share * tall, 1.0)
    pale = tag("rect", class_=f"owned {css}", y=bottom - 1 - tall, height=tall, **box)
    return tag("g", tip(words), pale, tag("rect", class_=f"fill {css}", y=bottom - 1 - power, height=power, **box))


def owned(use: BandUse, k: int) -> tuple[int, float]:
    """Return the number of subchannels and the watts of client k.

    >>> owned(BandUse(owner=(0, 1, 0), power_w=(0.1, 0.2, 0.3)), 0)
    (2, 0.4)
    """
    powers = [power for owner, power in zip(use.owner, use.power_w, strict=False) if owner == k]
    return len(powers), sum(powers)


def _totals(use: BandUse, k: int, roomy: bool) -> str:
    channels, power_w = owned(use, k)
    return f"{channels} ch · {fmt.watts(power_w)}" if roomy else f"{channels} ch · {fmt.si(power_w, 'W')}"
