"""A run in words: title, lead sentences, headline numbers and what a reader must be warned of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wavetune.reporting import format as fmt
from wavetune.reporting.accounts import CHANGING, PHASES, critical_s, ledger, straggler_counts, total_by_name
from wavetune.reporting.records import Change, Device, Run


@dataclass(frozen=True)
class Tile:
    """One headline number."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Totals:
    """What the whole run cost, from its rounds or, without them, from its summary; NaN if unknown."""

    delay_s: float
    energy_j: float
    up_bits: float
    down_bits: float


def totals(run: Run) -> Totals:
    """Charged totals of a run."""
    accounts = [record.charged for record in run.rounds]
    bits = total_by_name(one.bits for one in accounts) if accounts else run.summary.bits
    delays = [one.delay_s for one in accounts if math.isfinite(one.delay_s)]
    energies = [one.energy_j for one in accounts if math.isfinite(one.energy_j)]
    return Totals(
        delay_s=sum(delays) if delays else run.summary.delay_s,
        energy_j=sum(energies) if energies else run.summary.energy_j,
        up_bits=_direction(bits, "up"),
        down_bits=_direction(bits, "down"),
    )


def _direction(bits: dict[str, float], way: str) -> float:
    return sum(value for kind, value in bits.items() if kind.endswith(way)) if bits else math.nan


def device_name(device: Device) -> str:
    """Name of a device, or its id."""
    return device.name or f"client {device.client_id}"


def client_names(run: Run) -> list[str]:
    """Names of the clients in the order of the recorded lists."""
    if run.world.devices:
        return [device_name(device) for device in run.world.devices]
    last = run.rounds[-1] if run.rounds else None
    listed = max((len(last.cut_K), len(last.charged.phases.uplink_s), len(last.train_loss_K))) if last else 0
    return [f"client {k}" for k in range(listed or run.summary.num_clients or 0)]


def client_name(run: Run, client_id: int) -> str:
    """Name of the client of an id."""
    named = {device.client_id: device_name(device) for device in run.world.devices}
    return named.get(client_id, f"client {client_id}")


def client_position(run: Run, client_id: int) -> int | None:
    """Place of a client in the recorded lists; None if there is no such client."""
    ids = [device.client_id for device in run.world.devices] or list(range(len(client_names(run))))
    return ids.index(client_id) if client_id in ids else None


def loss_change(run: Run) -> Change:
    """Validation loss before and after, the latter from the last round that measured it if there is no summary."""
    change = run.summary.validation_loss
    measured = [one.validation_loss for one in run.rounds if math.isfinite(one.validation_loss)]
    return Change(change.before, measured[-1] if math.isnan(change.after) and measured else change.after)


def perplexity(loss: float) -> float:
    """Perplexity of a mean loss per token in nats.

    >>> perplexity(0.0), perplexity(1e9)
    (1.0, inf)
    """
    return math.exp(loss) if loss < 700 else loss if math.isnan(loss) else math.inf


def same_or_range(values: Sequence[int]) -> str:
    """One number if all clients share it, else the range.

    >>> same_or_range([2, 2]), same_or_range([4, 1, 8]), same_or_range([])
    ('2', '1 to 8', '–')
    """
    if not values:
        return fmt.DASH
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def cuts(run: Run) -> Sequence[int]:
    """Cuts of the clients in the last round, or of the plan."""
    return run.rounds[-1].cut_K if run.rounds and run.rounds[-1].cut_K else run.summary.plan.cut_K


def ranks(run: Run) -> Sequence[int]:
    """Ranks of the clients in the last round, or of the plan."""
    return run.rounds[-1].rank_K if run.rounds and run.rounds[-1].rank_K else run.summary.plan.rank_K


def lead(run: Run) -> list[str]:
    """Say what ran, what it reached and what it cost."""
    return [sentence for sentence in (_what_ran(run), _what_it_reached(run), _what_it_waited_for(run)) if sentence]


def _what_ran(run: Run) -> str:
    summary, clients = run.summary, len(client_names(run)) or run.summary.num_clients
    model = summary.model.name or "The model"
    where = f" over {_many(clients, 'client')}" if clients else ""
    steps = f" of {_many(summary.local_steps, 'local step')}" if summary.local_steps else ""
    data = f" on {summary.data.name}" if summary.data.name else ""
    cut = f", cut after layer {same_or_range(cuts(run))}" if cuts(run) else ""
    rank = f" with LoRA rank {same_or_range(ranks(run))}" if ranks(run) else ""
    return f"{model} was fine-tuned{data}{where} for {_many(len(run.rounds), 'round')}{steps}{cut}{rank}."


def _many(amount: int | None, noun: str) -> str:
    return f"{fmt.count(amount)} {noun}{'' if amount == 1 else 's'}"


def _what_it_reached(run: Run) -> str:
    loss, cost = loss_change(run), totals(run)
    spent = [fmt.seconds(cost.delay_s) + " of simulated time"] if math.isfinite(cost.delay_s) else []
    spent += [fmt.joules(cost.energy_j)] if math.isfinite(cost.energy_j) else []
    total_bits = cost.up_bits + cost.down_bits
    spent += [fmt.bits(total_bits) + " over the air"] if math.isfinite(total_bits) else []
    price = _listed(spent)
    if math.isnan(loss.after):
        return f"It took {price}." if price else ""
    before, after = perplexity(loss.before), perplexity(loss.after)
    if math.isnan(before):
        reached = f"Perplexity ended at {fmt.number(after)}"
    else:
        verb = "fell" if after < before else "rose" if after > before else "stayed"
        reached = f"Perplexity {verb} from {fmt.number(before)} to {fmt.number(after)}"
    return f"{reached}, for {price}." if price else f"{reached}."


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def _what_it_waited_for(run: Run) -> str:
    parts = total_by_name(critical_s(one.charged) for one in run.rounds if math.isfinite(one.charged.delay_s))
    total = sum(parts.values())
    if total <= 0:
        return ""
    phase = max((name for name in parts if name != CHANGING), key=lambda name: parts[name])
    words = f"The largest part of the delay was {PHASES[phase]} ({fmt.percent(parts[phase] / total)})"
    counts = straggler_counts(run.rounds)
    if not counts or len(client_names(run)) < 2:
        return words + "."
    (client, late_phase), times = counts[0]
    how = f" in {PHASES.get(late_phase + '_s', late_phase)}" if late_phase else ""
    often = f"in {times} of {_many(len(run.rounds), 'round')}"
    return f"{words}; the others waited most often for {client_name(run, client)}{how}, {often}."


def tiles(run: Run) -> list[Tile]:
    """Headline numbers."""
    loss, cost, plan = loss_change(run), totals(run), run.summary.plan
    before = f"from {fmt.number(perplexity(loss.before))}" if math.isfinite(loss.before) else ""
    rounds = len([one for one in run.rounds if math.isfinite(one.charged.delay_s)])
    gap = plan.delay_s / plan.lower_bound_s - 1 if plan.lower_bound_s > 0 else math.nan
    found = [
        Tile("Perplexity", fmt.number(perplexity(loss.after)), before),
        Tile("Validation loss", fmt.number(loss.after, 4), f"from {fmt.number(loss.before, 4)}" if before else ""),
        Tile(
            "Simulated time",
            fmt.seconds(cost.delay_s),
            f"{fmt.seconds(cost.delay_s / rounds)} a round" if rounds else "",
        ),
        Tile("Uplink", fmt.bits(cost.up_bits), "activations, labels and adapters"),
        Tile("Downlink", fmt.bits(cost.down_bits), "gradients and adapters"),
        Tile("Energy", fmt.joules(cost.energy_j), f"{fmt.joules(cost.energy_j / rounds)} a round" if rounds else ""),
        Tile("Plan gap", fmt.percent(gap), "above the lower bound"),
    ]
    return [tile for tile in found if tile.value != fmt.DASH]


def notices(run: Run) -> list[str]:
    """Warn of what is missing, interrupted, lost, unequal or not finite."""
    words = list(run.problems)
    if run.summary.status and run.summary.status != "finished":
        planned = f" of {run.summary.rounds}" if run.summary.rounds else ""
        words.insert(0, f"This run was {run.summary.status} after {len(run.rounds)}{planned} rounds.")
    elif not run.summary.status and run.rounds:
        words.insert(
            0, f"This run has no summary: it is still going or was interrupted after {_many(len(run.rounds), 'round')}."
        )
    finite = [math.isfinite(one.train_loss) for one in run.rounds]
    if any(finite) and not all(finite):
        words.append(f"The training loss of round {run.rounds[finite.index(False)].round + 1} is not finite.")
    lost = [(one.round, len(one.lost)) for one in run.rounds if one.lost]
    if lost:
        words.append(
            f"{_many(sum(n for _, n in lost), 'client update')} did not arrive, in {_many(len(lost), 'round')}."
        )
    unequal = [entry.name for entry in ledger(run.rounds) if entry.verdict == "unequal"]
    if unequal:
        words.append(f"Planned, charged and metered amounts differ for {_listed(unequal)}.")
    return words
