"""What a person sees of work on a terminal: live progress, or plain lines where there is none."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from rich import box
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from wavetune.allocation.plan import Plan
from wavetune.allocation.problem import Problem
from wavetune.console import Console
from wavetune.estimate import finite_mean
from wavetune.logs import LOG, is_for_people, is_quiet, shown_on
from wavetune.reporting.accounts import BESIDE, PHASES
from wavetune.reporting.format import bits as show_bits
from wavetune.reporting.format import joules as show_joules
from wavetune.reporting.format import number, percent, plural
from wavetune.reporting.format import seconds as show_seconds

if TYPE_CHECKING:
    from wavetune.federation.cohort import StepResult
    from wavetune.federation.optimise import Optimiser
    from wavetune.records.alignment import AlignmentStep
    from wavetune.records.rounds import Round
    from wavetune.runtimes.session import Session


class Bars(Progress):
    """A bar with steps and time left for each task, and below them a line that is cut where the terminal ends."""

    below = ""

    def __init__(self, console: Console | None, unit: str = "") -> None:
        self.terminal, self._open = console or Console(stderr=True), ExitStack()
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total}" + unit),
            TimeRemainingColumn(),
            console=self.terminal,
            expand=True,
            speed_estimate_period=600,
        )
        self.disable = is_quiet() or not (is_for_people() and self.terminal.is_terminal)

    def start(self) -> None:
        """Show the bars where there is a terminal, and the lines of the logger above them."""
        self._open.enter_context(shown_on(self.terminal))
        super().start()

    def stop(self) -> None:
        """Show neither any more."""
        if not self.disable:
            super().stop()
        self._open.close()

    def get_renderables(self) -> Iterator[RenderableType]:
        """Bars, then the line."""
        yield self.make_tasks_table(self.tasks)
        if self.below:
            yield Text(self.below, no_wrap=True, overflow="ellipsis")


class Display:
    """Bars that are shown in a block, and lines above them."""

    unit = ""

    def __init__(self, console: Console | None = None) -> None:
        self.bars = Bars(console, self.unit)

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def message(self, text: str) -> None:
        """A line on what happens now."""
        LOG.info(text)


_OF_ALIGNMENT = (
    "reward", "helpful", "safe", "true_helpful", "true_safe", "kl", "preference_loss", "margin", "preferred",
)  # fmt: skip
"""What a line of an alignment's step tells of its record."""


class RunDisplay(Display):
    """Observer of a run that shows round, step, loss, speed, simulated delay, energy, bits, straggler and time left."""

    unit = " steps"

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self.delay_s = self.energy_j = self.bits = 0.0
        self.before = self.validation = float("nan")

    def started(self, session: Session, rounds_done: int, before: float) -> None:
        """Say what was planned, and start counting."""
        run, plan = session.recipe.run, session.plan
        self.before = self.validation = before
        self.delay_s = self.energy_j = self.bits = 0.0
        self.rounds, self.steps, self.central = run.rounds, run.local_steps, session.central
        where = f"after {plural(rounds_done, 'round')}, " if rounds_done else ""
        self.message(f"{session.recipe.method.title}")
        if session.planner.chosen:
            self.message(session.planner.chosen)
        if not session.central:
            self.message(
                f"plan: {_range('cut', plan.cut_K.tolist())}, {_range('rank', plan.rank_K.tolist())}, "
                f"{show_seconds(plan.phases.round_s)} a round of {plural(run.local_steps, 'step')}; "
                f"bottleneck {_straggler(plan.phases.straggler())}"
            )
        self.message(
            f"{where}validation loss before training {before:.4f}; {session.precision} on "
            f"{session.cohort.backbone.device}"
        )
        if late := _warm_up(session.recipe.method.optimiser, run.rounds * run.local_steps):
            self.message(late)
        self._begin("training", run.rounds * run.local_steps, rounds_done * run.local_steps)
        self.clock = time.perf_counter()

    def aligned(self, record: AlignmentStep, steps: int) -> None:
        """A step of alignment is done: the clients' means, and of an evaluation those on held-out prompts."""
        told, found = record.metrics, record.evaluation
        names = [name for name in _OF_ALIGNMENT if name in told]
        parts = [f"{name.replace('_', ' ')} {finite_mean(told[name]):.3f}" for name in names]
        if found:
            name = "true_mixed_K" if "true_mixed_K" in found else "mixed_reward_K"
            parts.append(f"held out: {name.removesuffix('_K').replace('_', ' ')} {finite_mean(found[name]):.3f}")
        if self.bars.tasks[-1].description != "alignment":
            self._begin("alignment", steps, record.step)
        self.bars.update(self.task, completed=record.step + 1)
        self.message(f"alignment {record.step + 1}/{steps}  " + "  ".join(parts))

    def step(self, round_index: int, step: int, result: StepResult) -> None:
        """A local step is done."""
        now = time.perf_counter()
        speed, self.clock = result.tokens / max(now - self.clock, 1e-9), now
        self.bars.below = f"loss {float(result.loss_K.mean()):.3f}  {speed:,.0f} tokens/s  {self._charged()}"
        self.bars.update(self.task, advance=1, description=f"round {round_index + 1}/{self.rounds}")

    def round(self, record: Round) -> None:
        """A round is done: one plain line."""
        self.clock = time.perf_counter()
        self.delay_s += record.charged.delay_s
        self.energy_j += record.charged.energy_j
        self.bits += sum(record.metered_bits.values())
        loss = ""
        if math.isfinite(record.validation_loss):
            self.validation = record.validation_loss
            loss = f"  validation {self.validation:.4f}"
        if record.lost and math.isnan(record.train_loss):
            told = next((lost for lost in record.lost if lost.claim), record.lost[0])
            self.message(f"round {record.round + 1}: nobody trained; client {told.client}: {told.claim or told.why}")
        slowest = "" if self.central else _slowest(record)
        self.message(
            f"round {record.round + 1}/{self.rounds}  loss {record.train_loss:.4f}{loss}  {self._charged()}"
            f"{_without([lost.client for lost in record.lost])}{slowest}"
        )

    def _begin(self, what: str, total: int, completed: int) -> None:
        for finished in self.bars.task_ids:  # of a run or a stage before this one
            self.bars.remove_task(finished)
        self.bars.below = ""
        self.task = self.bars.add_task(what, total=total, completed=completed)

    def _charged(self) -> str:
        return f"simulated {show_seconds(self.delay_s)}, {show_joules(self.energy_j)}, {show_bits(self.bits)}"


class RewardDisplay(Display):
    """Watcher of the training of a reward model: a bar with loss and time left on a terminal, and a line a result."""

    unit = " steps"

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self.task = self.bars.add_task("training", total=None)

    def step(self, done: int, steps: int, loss: float) -> None:
        """A step is done."""
        self.bars.update(self.task, completed=done, total=steps, description=f"loss {loss:.4f}")


class CountDisplay(Display):
    """How many of several things are done: a bar for each on a terminal, else a plain line every tenth of the way."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self.tasks: dict[str, TaskID] = {}
        self.tenths: dict[str, int] = {}

    def progress(self, what: str, done: int, total: int) -> None:
        """So many of `what` are done."""
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(what)
        self.bars.update(self.tasks[what], completed=done, total=total)
        tenth = 10 * done // max(total, 1)
        if self.bars.disable and tenth > self.tenths.get(what, 0):
            self.tenths[what] = tenth
            LOG.info(f"{what} {done}/{total}")


def _without(clients: Sequence[int]) -> str:
    """Whose updates did not arrive, in a line of a round; empty if all did.

    >>> _without([1]), _without([0, 2, 3, 5, 9])
    ('  without client 1', '  without clients 0, 2, 3 and 2 more')
    """
    if not clients:
        return ""
    more = f" and {len(clients) - 3} more" if len(clients) > 3 else ""
    return f"  without client{'s' if len(clients) > 1 else ''} {', '.join(map(str, clients[:3]))}{more}"


def _warm_up(optimiser: Optimiser, steps: int) -> str:
    """That a run ends while the rate still rises to what it was set to; empty where it does not."""
    earlier, last = (optimiser.factor(step, steps) if step >= 0 else 0.0 for step in (steps - 2, steps - 1))
    if last >= 1 or last <= earlier:
        return ""
    return (
        f"the learning rate warms up for longer than the run, which ends at {percent(last)} of it after "
        f"{plural(steps, 'step')}: lower method.optimiser.warmup_steps, or train longer"
    )


def _slowest(record: Round) -> str:
    """What a round waited for longest, in its line: a client in a phase, or what is beside all clients."""
    beside = max(BESIDE, key=lambda name: getattr(record.charged.phases, name))
    if getattr(record.charged.phases, beside) > record.charged.delay_s / 2:
        return f"  slowest: {PHASES[beside]}"
    slow = record.straggler
    return "" if slow is None else f"  slowest: {_straggler((slow.client, slow.phase))}"


def _straggler(who: tuple[int, str]) -> str:
    return f"client {who[0]}, {who[1].replace('_', ' ')}"


def _range(name: str, values: Sequence[int]) -> str:
    low, high = int(min(values)), int(max(values))
    return f"{name} {low}" if low == high else f"{name} {low} to {high}"


def plan_table(problem: Problem, plan: Plan) -> Table:
    """One row a client: cut, rank, subchannels, power, rate, seconds of each phase, energy of a round.

    Where the clients share the server, their shares stand in the place of the rates.
    """
    from wavetune.allocation.delay import uplink_rate_bit_per_s_K

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    rate = "Mbit/s" if plan.server_share_K is None else "share"
    for name in ("client", "cut", "rank", "subch", "mW", rate, "fwd ms", "up ms", "bwd ms", "fed ms", "J"):
        table.add_column(name, justify="right", no_wrap=True)
    rate_K = uplink_rate_bit_per_s_K(problem.main, plan.main.owner_M, plan.main.power_w_M) / 1e6
    rate_K = rate_K if plan.server_share_K is None else plan.server_share_K
    power_K, phases = plan.main.power_w_K(problem.num_clients), plan.phases
    energy_K = plan.energy.client_compute_j_K + plan.energy.client_radio_j_K
    for k in range(problem.num_clients):
        numbers = (1e3 * power_K[k], rate_K[k], 1e3 * phases.client_forward_s[0, k], 1e3 * phases.uplink_s[0, k],
                   1e3 * phases.client_backward_s[0, k], 1e3 * phases.fed_upload_s[k], energy_K[k])  # fmt: skip
        owned = f"{int((plan.main.owner_M == k).sum())}+{int((plan.fed.owner_M == k).sum())}"
        table.add_row(str(k), str(plan.cut_K[k]), str(plan.rank_K[k]), owned, *(number(float(x)) for x in numbers))
    return table
