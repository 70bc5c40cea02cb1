"""One row for each client: what it was given, how long it took and what it spent."""

import math

from wavetune.records.reading import Run
from wavetune.records.rounds import BandUse, Round
from wavetune.reporting import format as fmt
from wavetune.reporting import story
from wavetune.reporting.accounts import PHASES, client_s, total_list, typical_round
from wavetune.reporting.chart import Table
from wavetune.reporting.sections.section import Section, at, make_section
from wavetune.reporting.subchannels import owned


def clients(run: Run) -> Section:
    """Section with the table of clients."""
    names = story.client_names(run)
    shown = typical_round(run.rounds) or Round(0)
    seconds = [client_s(shown.charged.phases, k) for k in range(len(names))]
    used = [phase for phase in PHASES if any(one.get(phase, 0) > 0 for one in seconds)]
    compute = total_list(record.charged.energy.client_compute_j for record in run.rounds)
    radio = total_list(record.charged.energy.client_radio_j for record in run.rounds)
    rows = tuple(
        (
            name,
            *_given(run, shown, k),
            *(fmt.seconds(seconds[k].get(phase, math.nan)) for phase in used),
            fmt.joules(at(compute, k, math.nan) + at(radio, k)),
        )
        for k, name in enumerate(names)
    )
    head = ("Client", "Samples", "Cut", "Rank", "Subch. main + fed", "Power main", "Power fed", "Rate main", "Rate fed")
    caption = f"Clients in round {shown.round + 1}; seconds over its local steps, energy over the whole run"
    heads = (*head, *(PHASES[phase].capitalize() for phase in used), "Energy")
    columns = [name for name in zip(heads, *rows, strict=True) if _says_something(run, name)]
    kept, *rows = zip(*columns, strict=True) if columns else [()]
    return make_section("Clients", "Clients", [], [Table(caption, kept, tuple(rows))])


def _says_something(run: Run, column: tuple[str, ...]) -> bool:
    """Whether a column, its head first, is more than dashes, and not the cut of a model that is not cut."""
    return any(cell != fmt.DASH for cell in column[1:]) and (column[0] != "Cut" or story.is_cut(run))


def _given(run: Run, shown: Round, k: int) -> list[str]:
    samples = [device.num_samples for device in run.world.devices]
    bands = (shown.allocation.main, shown.allocation.fed)
    rates = (shown.rate_bit_per_s.main, shown.rate_bit_per_s.fed)
    return [
        *(fmt.count(at(values, k, math.nan)) for values in (samples, shown.cut_K, shown.rank_K)),
        " + ".join(str(owned(band, k)[0]) if band.owner else fmt.DASH for band in bands),
        *(_power(band, k) for band in bands),
        *(fmt.rate(at(rate, k, math.nan)) for rate in rates),
    ]


def _power(band: BandUse, k: int) -> str:
    """Power over two lines, in watts and in dBm."""
    power_w = owned(band, k)[1]
    return f"{fmt.si(power_w, 'W')}\n{fmt.dbm(power_w)}" if band.owner else fmt.DASH
