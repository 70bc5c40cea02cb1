"""Map of the cell: server in the middle, devices where they stand, coloured by how long they take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wavetune.reporting import format as fmt
from wavetune.reporting.svg import Scale, fit, svg, tag, text_width, tick_labels, ticks, tip

BINS = 6
DOT_PX = 8.0
LABEL_PX = 11.0
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Site:
    """A device on the map; `delay_s` is NaN if unknown."""

    name: str
    position_m: tuple[float, float]
    delay_s: float
    words: str
    is_los: bool | None
    is_straggler: bool


def delay_bin(delay_s: float, low_s: float, high_s: float) -> str:
    """Colour class of a delay between the fastest and the slowest.

    >>> delay_bin(1.0, 1.0, 3.0), delay_bin(3.0, 1.0, 3.0), delay_bin(2.0, 2.0, 2.0)
    ('heat-0', 'heat-5', 'heat-2')
    """
    if not math.isfinite(delay_s):
        return "heat-none"
    if high_s <= low_s:
        return f"heat-{(BINS - 1) // 2}"
    return f"heat-{min(int((delay_s - low_s) / (high_s - low_s) * BINS), BINS - 1)}"


def cell_map(sites: Sequence[Site], cell_radius_m: float, width: int) -> Markup | None:
    """Draw the cell, or None without a device."""
    if not sites:
        return None
    farthest = max(math.hypot(*site.position_m) for site in sites)
    radius_m = cell_radius_m if math.isfinite(cell_radius_m) else farthest
    scale = Scale(0.0, max(radius_m, farthest) or 1.0, 0.0, width / 2 - 16)
    half = width / 2
    spots = [(half + scale(site.position_m[0]), half - scale(site.position_m[1])) for site in sites]
    delays = [site.delay_s for site in sites if math.isfinite(site.delay_s)]
    low, high = min(delays, default=0.0), max(delays, default=0.0)
    taken: list[Box] = [(x - DOT_PX - 2, y - DOT_PX - 2, x + DOT_PX + 2, y + DOT_PX + 2) for x, y in spots]
    taken.append((half - 18, half - 18, half + 18, half + 18))
    label = f"Map of {len(sites)} devices around the server; cell radius {fmt.si(cell_radius_m, 'm', 0)}."
    return svg(
        width,
        width,
        label,
        _rings(radius_m, half, scale, taken),
        *(tag("line", class_="link", x1=half, y1=half, x2=x, y2=y) for x, y in spots),
        _server(half),
        *(_dot(site, spot, delay_bin(site.delay_s, low, high)) for site, spot in zip(sites, spots, strict=True)),
        *_names(sites, spots, taken, width),
    )


def _rings(radius_m: float, half: float, scale: Scale, taken: list[Box]) -> Markup:
    """The cell's edge and round distances, labelled along the direction with the fewest devices in the way."""
    rings = [tag("circle", class_="cell", cx=half, cy=half, r=scale(radius_m))]
    distances = ticks(0.0, radius_m, 4)[1:]
    labels = [f"{words} m" for words in tick_labels(distances)]

    def boxes(angle: float) -> list[Box]:
        spots = [(half + scale(d) * math.cos(angle), half - scale(d) * math.sin(angle)) for d in distances]
        lengths = [text_width(words, LABEL_PX) for words in labels]
        return [(x - n / 2, y - 7, x + n / 2, y + 7) for (x, y), n in zip(spots, lengths, strict=True)]

    angles = [math.radians(degrees) for degrees in range(45, 405, 15)]
    angle = min(angles, key=lambda a: sum(not _is_free(box, taken, 2 * half) for box in boxes(a)))
    for distance, words, box in zip(distances, labels, boxes(angle), strict=True):
        if distance < radius_m:
            rings.append(tag("circle", class_="ring", cx=half, cy=half, r=scale(distance)))
        if _is_free(box, taken, 2 * half):
            taken.append(box)
            middle = (box[0] + box[2]) / 2
            rings.append(tag("text", words, class_="tick halo", x=middle, y=box[3] - 3, text_anchor="middle"))
    return tag("g", *rings, aria_hidden="true")


def _server(half: float) -> Markup:
    mast = f"M{half - 5} {half + 10}L{half} {half - 4}L{half + 5} {half + 10}M{half - 3} {half + 5}H{half + 3}"
    left = f"M{half - 4} {half - 10}a6 6 0 0 0 0 8M{half - 7.5} {half - 12.5}a10 10 0 0 0 0 13"
    right = f"M{half + 4} {half - 10}a6 6 0 0 1 0 8M{half + 7.5} {half - 12.5}a10 10 0 0 1 0 13"
    shapes = (
        tag("circle", class_="server-base", cx=half, cy=half, r=18),
        tag("path", class_="server", d=mast + left + right),
    )
    return tag("g", tip("Server"), *shapes)


def _dot(site: Site, spot: tuple[float, float], css: str) -> Markup:
    x, y = spot
    shapes = [tip(site.words), tag("circle", class_=f"device {css}", cx=x, cy=y, r=DOT_PX)]
    if site.is_los is False:
        shapes.append(tag("circle", class_="blocked", cx=x, cy=y, r=2.5))
    if site.is_straggler:
        shapes.append(tag("circle", class_="straggler", cx=x, cy=y, r=DOT_PX + 4))
    return tag("g", *shapes)


def _names(sites: Sequence[Site], spots: Sequence[tuple[float, float]], taken: list[Box], width: float) -> list[Markup]:
    """Names where there is room for them; a device without one keeps its tooltip."""
    names: list[Markup] = []
    # the straggler's name matters most, so it is placed first
    for index in sorted(range(len(sites)), key=lambda i: not sites[i].is_straggler):
        words = fit(sites[index].name, width * 0.3, LABEL_PX)
        box = next((b for b in _around(spots[index], text_width(words, LABEL_PX)) if _is_free(b, taken, width)), None)
        if box:
            taken.append(box)
            names.append(tag("text", words, class_="place", x=box[0], y=box[3] - 3))
    return names


def _around(spot: tuple[float, float], length: float) -> list[Box]:
    x, y = spot
    gap, tall = DOT_PX + 7, LABEL_PX + 3
    corners = [
        (x + gap, y - tall / 2),
        (x - gap - length, y - tall / 2),
        (x - length / 2, y + gap),
        (x - length / 2, y - gap - tall),
        (x + gap - 3, y + 5),
        (x + gap - 3, y - 5 - tall),
        (x - gap + 3 - length, y + 5),
        (x - gap + 3 - length, y - 5 - tall),
    ]
    return [(left, top, left + length, top + tall) for left, top in corners]


def _is_free(box: Box, taken: Sequence[Box], width: float) -> bool:
    left, top, right, bottom = box
    inside = left >= 0 and right <= width and top >= 0 and bottom <= width
    return inside and all(right <= a or left >= c or bottom <= b or top >= d for a, b, c, d in taken)
