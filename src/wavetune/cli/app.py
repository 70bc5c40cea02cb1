"""The commands, in the order of `wavetune --help`, and what their errors become."""

import io
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from copy import copy
from typing import Annotated

import click
import typer

from wavetune.cli.certificates import certificates
from wavetune.cli.deploy import deploy
from wavetune.cli.device import join_as_device
from wavetune.cli.devices import devices
from wavetune.cli.elsewhere import here
from wavetune.cli.evaluate import evaluate
from wavetune.cli.exit_codes import INFEASIBLE, INTERRUPTED, REFUSED, say_why
from wavetune.cli.flower_app import flower_app
from wavetune.cli.generate import generate
from wavetune.cli.grouped import Command, grouped
from wavetune.cli.measure import measure_codecs, measure_ranks
from wavetune.cli.plan import plan
from wavetune.cli.rank import compare, rank
from wavetune.cli.recipes import recipes, show
from wavetune.cli.report import report
from wavetune.cli.run import run
from wavetune.cli.runs import runs
from wavetune.cli.serve import serve
from wavetune.cli.sweep import sweep
from wavetune.cli.trade_off import trade_off
from wavetune.cli.train_reward import train_reward
from wavetune.cli.watch import watch
from wavetune.console import Console, as_command, echo
from wavetune.errors import InfeasibleError, WavetuneError
from wavetune.left_out import leave_out
from wavetune.logs import LOG, shown_on
from wavetune.models import light_imports

_LONGEST_SENTENCE = 2000  # characters; what is longer quotes something that nobody reads

leave_out(["typer.rich_utils"], ["rich.markdown", "rich.traceback"])
leave_out(["numba.np.arraymath"], ["scipy.linalg"])  # it asks whether there are products of matrices
leave_out(["numba.core.config"], ["yaml"])  # of a file with numba's settings
# Of SciPy's searches plans make few: all names of NumPy are asked for, and what other searches need.
leave_out(["scipy._lib.array_api_compat.numpy"], ["numpy.f2py", "numpy.ma", "numpy.testing"])
leave_out(["scipy.optimize._dual_annealing"], ["scipy.special"])
leave_out(["scipy.optimize._remove_redundancy"], ["scipy.linalg.interpolative"])
leave_out(["scipy.optimize._shgo"], ["scipy.spatial"])
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Plan, train and deploy federated and split-federated fine-tuning of language models over wireless networks.",
    epilog="Begin with: wavetune run sflllm --model tiny --set run.rounds=2 (half a minute). docs/cli.md has all.",
)

COMMANDS = {
    "Train": {"run": run, "compare": compare, "rank": rank, "train-reward": train_reward},
    "Look at runs": {"runs": runs, "watch": watch, "report": report, "evaluate": evaluate, "generate": generate},
    "Recipes": {"recipes": recipes, "show": show},
    "Plan, without training": {"plan": plan, "trade-off": trade_off, "sweep": sweep},
    "Measure for the planner": {"measure-ranks": measure_ranks, "measure-codecs": measure_codecs},
    "Deploy": {
        "deploy": deploy,
        "certificates": certificates,
        "serve": serve,
        "device": join_as_device,
        "devices": devices,
        "flower-app": flower_app,
    },
}


WITHOUT_JSON = (
    "plan",
    "watch",
    "certificates",
    "device",
    "flower-app",
)  # `plan --json FILE` names a place; the rest print none

_TWICE = re.compile(r"(Did you mean [^?]*\?) .*Did you mean .*")  # typer's hint, and that of click 8.4


def main() -> None:
    """Entry point: one sentence and exit code 2 for what the user can put right."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    light_imports.install()
    if isinstance(sys.stdout, io.TextIOWrapper):  # as standard error is: what an encoding does not have is spelled out
        sys.stdout.reconfigure(errors="backslashreplace")
    # What is beyond all numbers is infinite, and refused in a sentence where it would be written down.
    warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
    LOG.propagate = False  # a library may put a handler on the root logger, which would say every line once more
    with shown_on(Console(stderr=True)):
        _run()


def _run() -> None:
    try:
        with as_command():
            sys.exit(_asked_for(sys.argv[1:2])(prog_name="wavetune", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(REFUSED)
    except click.UsageError as error:
        where = f"; see {error.ctx.command_path} --help" if error.ctx is not None else ""
        _refuse((here(error) or _TWICE.sub(r"\1", error.format_message()).rstrip(".")) + where)
    except InfeasibleError as error:
        say_why(str(error))
        sys.exit(INFEASIBLE)
    except WavetuneError as error:
        _refuse(str(error))
    except OSError as error:  # of the disk, wherever it was not expected
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (MemoryError, RuntimeError) as error:
        if (what := _used_up(error)) is None:
            raise
        _refuse(f"the memory of the {what} is used up; use a smaller model, batch or data set, or run.tokens_per_pass")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _used_up(error: Exception) -> str | None:
    """Whose memory an error says is used up, also one of PyTorch, which raises none of its own for a CPU's."""
    if type(error).__name__ == "OutOfMemoryError":
        return "GPU"
    return "machine" if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error) else None


def _asked_for(names: Sequence[str]) -> typer.Typer:
    """The app, of which the command of that name alone is there, if one is: to build all options takes a while."""
    own = copy(app)
    own.registered_commands = [c for c in app.registered_commands if c.name in names] or app.registered_commands
    return own


def _refuse(sentence: str) -> None:
    line = " ".join(part.strip() for part in sentence.splitlines())
    if len(line) > _LONGEST_SENTENCE:
        line = f"{line[: _LONGEST_SENTENCE // 2]} ... {line[-_LONGEST_SENTENCE // 2 :]}"
    say_why(line)
    sys.exit(REFUSED)


def _version(wanted: bool) -> None:
    if wanted:
        from wavetune import __version__

        echo(f"wavetune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, cls=Command, rich_help_panel=panel)(grouped(command, name not in WITHOUT_JSON))
