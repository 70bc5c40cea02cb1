"""A run in words: title, lead sentences, headline numbers and what a reader must be warned of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wavetune.estimate import finite_mean
from wavetune.records.reading import Run
from wavetune.records.rounds import BIT_KINDS, Bits
from wavetune.records.summary import Change
from wavetune.records.world import Device
from wavetune.reporting import format as fmt
from wavetune.reporting.accounts import (
    BESIDE,
    CHANGING,
    PHASES,
    ledger,
    sent,
    straggler_counts,
    total_by_name,
    total_critical_s,
)


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
    bits: Bits

    @property
    def up_bits(self) -> float:
        """All that clients sent up."""
        return _direction(self.bits, "up")

    @property
    def down_bits(self) -> float:
        """All that they were sent."""
        return _direction(self.bits, "down")


def totals(run: Run) -> Totals:
    """Charged totals of a run."""
    accounts = [record.charged for record in run.rounds]
    bits = total_by_name(one.bits for one in accounts) if accounts else run.summary.bits
    delays = [one.delay_s for one in accounts if math.isfinite(one.delay_s)]
    energies = [one.energy_j for one in accounts if math.isfinite(one.energy_j)]
    return Totals(
        delay_s=sum(delays) if delays else run.summary.delay_s,
        energy_j=sum(energies) if energies else run.summary.energy_j,
        bits=bits,
    )


def _direction(bits: dict[str, float], way: str) -> float:
    return sum(value for kind, value in bits.items() if kind.endswith(way)) if bits else math.nan


def device_name(device: Device) -> str:
    """Name of a device, or its id.

    >>> device_name(Device(3, "client-03")), device_name(Device(3, "roof"))
    ('client 3', 'roof')
    """
    own = device.name and device.name != f"client-{device.client_id:02d}"
    return device.name if own else f"client {device.client_id}"


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


def is_classifier(run: Run) -> bool:
    """Whether classes were learned, so that accuracy says more than perplexity."""
    return math.isfinite(run.summary.evaluation.after.accuracy) or any(
        math.isfinite(record.evaluation.accuracy) for record in run.rounds
    )


def topology(run: Run) -> str:
    """Kind of the topology in the run's recipe, if it names one."""
    return str(setting(run, "method", "topology", "kind") or "")


def setting(run: Run, *path: str) -> Any:
    """Value of a field of the run's recipe, None where it has none."""
    value: Any = run.recipe
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def is_cut(run: Run) -> bool:
    """Whether the model is cut, as far as the recipe says; elsewhere a cut says nothing."""
    return topology(run) not in ("federated", "central")


def is_central(run: Run) -> bool:
    """Whether one trainer held all data, so that there is no cell, no straggler and no band."""
    return topology(run) == "central"


def upload_bits(run: Run) -> tuple[float, float, float]:
    """Bits of one client's upload, of all its adapters together, and of the whole model; NaN if unknown.

    Unknown too where more than adapters is sent up, as in split training, or nothing, as with all data in one place.
    """
    summary = run.summary
    more = any(bits for kind, bits in summary.bits.items() if kind.endswith("_up") and kind != "adapters_up")
    if more or is_central(run):
        return math.nan, math.nan, math.nan
    return finite_mean(summary.upload_bits_K), finite_mean(summary.all_adapters_bits_K), summary.full_model_bits


def lead(run: Run) -> list[str]:
    """Say what ran, what it reached and what it cost."""
    what = (_what_ran, _who_took_part, _what_it_reached, _what_alignment_did, _what_it_waited_for, what_knowledge_cost)
    return [sentence for say in what if (sentence := say(run))]


def _what_ran(run: Run) -> str:
    summary, clients = run.summary, len(client_names(run)) or run.summary.num_clients
    model = summary.model.name or str(setting(run, "world", "model") or "The model")
    where = f" over {_many(clients, 'client')}" if clients else ""
    if is_central(run):
        where = f" in one place, with the rows of {_many(clients, 'client')}" if clients else " in one place"
    local_steps = summary.local_steps or setting(run, "run", "local_steps")
    steps = f" of {_many(local_steps, 'local step')}" if isinstance(local_steps, int) and local_steps else ""
    source = summary.data.name or setting(run, "world", "data", "source")
    data = f" on {source}" if source else ""
    cut = f", cut after layer {same_or_range(cuts(run))}" if cuts(run) and is_cut(run) else ""
    rank = f" with LoRA rank {same_or_range(ranks(run))}" if ranks(run) else ""
    return f"{model} was fine-tuned{data}{where} for {_many(len(run.rounds), 'round')}{steps}{cut}{rank}."


def _who_took_part(run: Run) -> str:
    """How many clients trained in a round, where these were not always all; empty elsewhere."""
    rounds = [one.active_K for one in run.rounds if one.active_K]
    if all(all(active_K) for active_K in rounds):
        return ""
    never = [name for name, *active in zip(client_names(run), *rounds, strict=False) if not any(active)]
    mean = finite_mean([sum(active_K) for active_K in rounds])
    of_all = f"{fmt.number(mean)} of {_many(len(rounds[0]), 'client')} took part in a round on average"
    return of_all + (
        f", {_listed(never[:3]) if len(never) < 4 else _many(len(never), 'client')} in none." if never else "."
    )


def _many(amount: int | None, noun: str) -> str:
    return f"{fmt.count(amount)} {noun}{'' if amount == 1 else 's'}"


def _what_it_reached(run: Run) -> str:
    loss, cost = loss_change(run), totals(run)
    spent = [fmt.seconds(cost.delay_s) + " of simulated time"] if math.isfinite(cost.delay_s) else []
    spent += [fmt.joules(cost.energy_j)] if math.isfinite(cost.energy_j) else []
    spent += [sent(cost.bits)] if cost.bits else []
    price = _listed(spent)
    judged = run.summary.evaluation
    if math.isfinite(judged.after.accuracy):
        name, before, after, show = "Accuracy", judged.before.accuracy, judged.after.accuracy, fmt.percent
    else:
        name, before, after, show = "Perplexity", perplexity(loss.before), perplexity(loss.after), fmt.number
    if math.isnan(after):
        return f"It took {price}." if price else ""
    name += " on the clients' own domains" if run.summary.personal else ""
    if math.isnan(before):
        reached = f"{name} ended at {show(after)}"
    else:
        verb = "fell" if after < before else "rose" if after > before else "stayed"
        reached = f"{name} {verb} from {show(before)} to {show(after)}"
    return f"{reached}, for {price}." if price else f"{reached}."


def _what_alignment_did(run: Run) -> str:
    info = run.summary.alignment
    known = [gain for gain in info.mixed_gain_K if math.isfinite(gain.mean)]
    if not known or not info.steps:
        return ""
    risen = sum(gain.mean > 0 for gain in known)
    sure = sum(gain.mean - gain.half_width_95 > 0 for gain in known)
    return (
        f"Alignment then raised the mixed reward of held-out prompts for {risen} of {_many(len(known), 'client')}, "
        f"for {sure} of them beyond a 95 % interval."
    )


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def _what_it_waited_for(run: Run) -> str:
    parts = total_critical_s(one.charged for one in run.rounds)
    total = sum(parts.values())
    if total <= 0 or is_central(run):
        return ""
    phase = max((name for name in parts if name != CHANGING), key=lambda name: parts[name])
    words = f"The largest part of the delay was {PHASES[phase]} ({fmt.percent(parts[phase] / total)})"
    counts = straggler_counts(run.rounds)
    if not counts or len(client_names(run)) < 2 or phase in BESIDE:
        return words + "."
    (client, late_phase), times = counts[0]
    if len(counts) > 1 and counts[1][1] == times:
        return f"{words}; no client was waited for more often than all others."
    how = f" in {PHASES.get(late_phase + '_s', late_phase)}" if late_phase else ""
    often = f"in {times} of {_many(len(run.rounds), 'round')}"
    return f"{words}; the others waited most often for {client_name(run, client)}{how}, {often}."


def what_knowledge_cost(run: Run) -> str:
    """Seconds that rounds took more than plans on their true channel would; empty where these were known."""
    rounds = [one for one in run.rounds if math.isfinite(one.informed_s) and math.isfinite(one.charged.delay_s)]
    charged_s, informed_s = sum(one.charged.delay_s for one in rounds), sum(one.informed_s for one in rounds)
    if not informed_s:
        return ""
    return (
        f"Rounds were planned on old or estimated gains: {_many(len(rounds), 'round')} took {fmt.seconds(charged_s)}, "
        f"and plans on the gains they had would have taken {fmt.seconds(informed_s)} "
        f"({fmt.percent(1 - informed_s / charged_s)} less)."
    )


def tiles(run: Run) -> list[Tile]:
    """Headline numbers."""
    loss, cost, plan = loss_change(run), totals(run), run.summary.plan
    before = f"from {fmt.number(perplexity(loss.before))}" if math.isfinite(loss.before) else ""
    rounds = len([one for one in run.rounds if math.isfinite(one.charged.delay_s)])
    known_gap = plan.lower_bound_s > 0 and not is_central(run)
    gap = plan.delay_s / plan.lower_bound_s - 1 if known_gap else math.nan
    gains, judged = run.summary.alignment.mixed_gain_K, run.summary.evaluation
    gain = finite_mean(one.mean for one in gains) if run.summary.alignment.steps else math.nan
    upload, _, full = upload_bits(run)
    was = f"from {fmt.percent(judged.before.accuracy)}" if math.isfinite(judged.before.accuracy) else ""
    quality = (
        Tile("Accuracy", fmt.percent(judged.after.accuracy), was)
        if math.isfinite(judged.after.accuracy)
        else Tile("Perplexity", fmt.number(perplexity(loss.after)), before)
    )
    found = [
        quality,
        Tile("Validation loss", fmt.number(loss.after, 4), f"from {fmt.number(loss.before, 4)}" if before else ""),
        Tile(
            "Simulated time",
            fmt.seconds(cost.delay_s),
            f"{fmt.seconds(cost.delay_s / rounds)} a round" if rounds else "",
        ),
        Tile(
            "Alignment gain",
            f"{'+' if gain > 0 else ''}{fmt.number(gain)}" if math.isfinite(gain) else fmt.DASH,
            "standard deviations of reward, mean of the clients",
        ),
        Tile("Uplink", fmt.bits(cost.up_bits), _kinds(run, "up")),
        Tile("Downlink", fmt.bits(cost.down_bits), _kinds(run, "down")),
        Tile(
            "An upload",
            fmt.bits(upload) if run.summary.personal else fmt.DASH,
            f"{fmt.percent(1 - upload / full)} less than the whole model",
        ),
        Tile("Energy", fmt.joules(cost.energy_j), f"{fmt.joules(cost.energy_j / rounds)} a round" if rounds else ""),
        Tile("Plan gap", fmt.percent(gap), "above the lower bound"),
    ]
    return [tile for tile in found if tile.value != fmt.DASH]


def _kinds(run: Run, way: str) -> str:
    """What went up or down, in words."""
    bits = totals(run).bits
    return _listed([what for kind, (what, its_way) in BIT_KINDS.items() if its_way == way and bits.get(kind, 0) > 0])


def status(run: Run) -> str:
    """The run's state in two words."""
    return run.summary.status or "not finished"


def where_it_is(run: Run) -> str:
    """How far a run without a summary has come."""
    rounds, steps = setting(run, "run", "rounds"), setting(run, "method", "alignment", "learning", "steps")
    total = f" of {rounds}" if isinstance(rounds, int) else ""
    if run.alignment:
        of_all = f" of {steps}" if isinstance(steps, int) else ""
        return f"in its alignment, after step {len(run.alignment)}{of_all}"
    if isinstance(rounds, int) and len(run.rounds) >= rounds and (run.folder / "rewards").is_dir():
        return "after its last round, in the training of its reward models"
    if isinstance(rounds, int) and len(run.rounds) >= rounds:
        return "after its last round: what follows the rounds is not there yet"
    if run.rounds:
        return f"after round {len(run.rounds)}{total}"
    return f"before the end of its first round{total}"


def notices(run: Run) -> list[str]:
    """Warn of what is missing, interrupted, lost, unequal or not finite."""
    words = list(run.problems)
    if run.summary.status and run.summary.status != "finished":
        planned = f" of {run.summary.rounds}" if run.summary.rounds else ""
        words.insert(0, f"This run was {run.summary.status} after {len(run.rounds)}{planned} rounds.")
    elif not run.summary.status:
        words.insert(0, f"This run is still going or was interrupted, {where_it_is(run)}.")
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
