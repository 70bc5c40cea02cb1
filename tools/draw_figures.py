"""Draw the six figures of the planner into docs/figures/ and write docs/figures.md; `make figures` runs it.

python tools/draw_figures.py                    # all six
python tools/draw_figures.py cell_radius_m      # the named ones, from what build/figures/ has of them on
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from wavetune.federation.rank_choice import expected_rounds
from wavetune.recipes.sflllm import ROUNDS_TO_TARGET, TARGET_LOSSES
from wavetune.sweep.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
DOCS, WORK = ROOT / "docs", ROOT / "build" / "figures"
SEEDS = 6
VALUES = {
    "bandwidth_hz": "2.5e6,5e6,10e6,20e6,40e6,80e6",
    "tx_power_max_dbm": "10,15,20,25,30,35,40",
    "client_flop_per_s": "0.25e12,0.5e12,1e12,2e12,4e12,8e12",
    "server_flop_per_s": "5e12,10e12,20e12,40e12,80e12,160e12",
    "num_clients": "2,5,10,20",
    "cell_radius_m": "50,100,200,300,400,500",
}
HEAD = """# Figures: the planner against eight methods of others and five random baselines

`make figures` draws these six figures and writes this page, in some minutes on two cores. Each is one `wavetune
sweep` of the [`sflllm`](sflllm.md) recipe ([command line](cli.md#sweep)): planning alone, nothing is trained. A seed
is one drawn world: places, speeds, shadowing and fading of the devices, and their data. At a seed all methods plan
the same world, so gains are taken seed by seed, averaged over the values of a seed first and then over the seeds.
Intervals are 95 %, by Student's t over the seeds: they cover the draw of the world, and nothing else.

| method | decides |
| --- | --- |
{methods}

The lower bound is proved by the proposed planner beside each plan: no plan is below it. Gains are against these named
baselines alone; no number of a paper is compared. The two greedy methods differ in one rule, which is a guess of ours:
whether a client whose equal shares of the power would exceed its own cap gets further subchannels. Shares are of the
total power or, where that is less, of all that the clients have. The time of a plan is
wall-clock; beside it stands what it took on the CPU, on one thread, which is the wall-clock time where the machine has
nothing else to do. All methods plan with the same knowledge of the cell. *FedAvg-LoRA* solves another problem, without
a cut, so the lower bound is not about it; its rounds to the target are taken to be those of the split model. The
schedulers decide nothing by the delay and keep a cut and a rank as a practitioner would fix them (the nearest allowed
pair, where these are not allowed).

What to keep in mind when reading them:

- The delay is that of the rounds until the validation loss that rank 1 ends with after 25 steps (a mean of
  {target:.3g}), on E2E descriptions: {rounds} rounds of four steps, by rank. These, E(r), are means over three seeds
  ([recipes](recipes.md#cut-and-rank)); no interval here contains how far these differ.
- The world is the default one, a [street cell with handsets](wireless.md#named-worlds): gradients take time on their
  way back, and a subchannel carries 7.4 bit/s/Hz at most. What of these gains an ideal link would show stands there.
- Where the way back takes time the planner's search for owners is not exact, though its bound holds. In no cell of
  these figures did another method end sooner, as the worst cell says.
- Under every figure stands which cut and rank were chosen: mostly one pair, so *random cut* and *random rank* say how
  bad other choices are, not what a search gains over a sensible fixed choice.

What moves: the bandwidth by wider subchannels, as many as before, in both bands; the maximum power together with the
cap on the sum of powers, by as many decibels; the compute of all clients by the same factor.
"""


def main(fields: Sequence[str] = ()) -> None:
    """Run these sweeps, by default all of them afresh, and write the page, which keeps what it says of others."""
    if not fields:
        shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    (DOCS / "figures").mkdir(exist_ok=True)
    page = (DOCS / "figures.md").read_text(encoding="utf-8")
    methods = "\n".join(f"| {method.title} | {method.note} |" for method in METHODS.values())
    means = expected_rounds(ROUNDS_TO_TARGET).values()
    rounds = f"{min(means):.3g} to {max(means):.3g}"
    parts = [
        HEAD.format(methods=methods, rounds=rounds, target=sum(TARGET_LOSSES) / len(TARGET_LOSSES)),
        *(section(f, values) if f in (fields or VALUES) else kept(page, f) for f, values in VALUES.items()),
    ]
    (DOCS / "figures.md").write_text("\n".join(parts), encoding="utf-8")


def kept(page: str, field: str) -> str:
    """The section of a figure as the page has it."""
    return next(part for part in re.split(r"(?m)^(?=## )", page) if f"figures/{field}.csv" in part).rstrip() + "\n"


def section(field: str, values: str) -> str:
    """Run one sweep; copy its figure and table; its page as a section of ours."""
    arguments = ["sweep", "sflllm", "--over", f"{field}={values}", "--seeds", str(SEEDS)]
    subprocess.run([sys.executable, "-m", "wavetune", *arguments], cwd=WORK, check=True)
    made = WORK / "sweeps" / f"sflllm-{field}"
    for name, kept in (("figure.svg", f"{field}.svg"), ("table.csv", f"{field}.csv")):
        shutil.copy(made / name, DOCS / "figures" / kept)
    page = (made / "sweep.md").read_text(encoding="utf-8").replace("(figure.svg)", f"(figures/{field}.svg)")
    return f"#{page}\nAll points: [{field}.csv](figures/{field}.csv).\n"


if __name__ == "__main__":
    main(sys.argv[1:])
