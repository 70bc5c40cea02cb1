"""Score plans of the frozen benchmark: NumPy and nothing of wavetune.

    python tools/score_plans.py PLANS.json

PLANS.json holds plans by world: {"loaded-server": [plan, ...], ...}, in the order of the instances; a plan has `cut`,
`rank` and, for both `bands`, `owner` and `power_w`. A world or a plan that is null or left out at the end is not
scored. Every plan is checked against all limits, and its delay is added up here; what a plan says of it is not read.
"""

import json
import sys
from pathlib import Path

import numpy as np

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS))

from verify_plan import RefusedError, plan_delay, require  # noqa: E402

INSTANCES = TOOLS.parent / "benchmarks" / "instances"
BETTER = 1 - 1e-6


def worlds():
    """The instances by world, each with `instance`, `best_known_s`, `lower_bound_s` and the best known `plan`."""
    return {path.stem: json.loads(path.read_text())["instances"] for path in sorted(INSTANCES.glob("*.json"))}


def score(plans):
    """Per world the excess over the best known delay and over the bound of every plan, [plans, 2]."""
    known, found = worlds(), {}
    require(isinstance(plans, dict) and not plans.keys() - known.keys(), f"worlds are {', '.join(known)}")
    for name, listed in plans.items():
        require(isinstance(listed, list) and len(listed) <= len(known[name]), f"{name}: give a list of plans")
        rows = [_row(f"{name}, plan {i}", known[name][i], plan) for i, plan in enumerate(listed) if plan is not None]
        found[name] = np.array(rows).reshape(-1, 2)
    return found


def _row(where, row, plan):
    try:
        delay_s = plan_delay(row["instance"], plan)
    except RefusedError as error:
        raise RefusedError(f"{where}: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{where}: malformed, {error!r}") from None
    require(delay_s >= row["lower_bound_s"], f"{where}: {delay_s:.9g} s is below the proved bound; please report it")
    return delay_s / row["best_known_s"] - 1, delay_s / row["lower_bound_s"] - 1


def main(*paths):
    """Print a line a world; the exit code is 1 where a plan breaks a limit, 2 where the file is no such file."""
    try:
        require(len(paths) == 1, "give the file of the plans")
        found = score(json.loads(Path(paths[0]).read_text()))
    except (RefusedError, OSError, ValueError, RecursionError) as error:
        print(f"refused: {error!s:.200}")
        return 1 if isinstance(error, RefusedError) and len(paths) == 1 else 2
    for name, excess in found.items():
        above_best, above_bound = excess.T
        better = f", better than the best known in {np.sum(above_best < BETTER - 1)}" if len(excess) else ""
        print(
            f"{name}: {len(excess)} plans; above the best known {np.mean(above_best):.3%} on average and "
            f"{np.max(above_best):.3%} at most, above the bound {np.mean(above_bound):.3%} and "
            f"{np.max(above_bound):.3%}{better}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
