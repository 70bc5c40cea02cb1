"""The commands, in the order of `wavetune --help`, and what their errors become."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import click
import typer

from wavetune.cli.certificates import certificates
from wavetune.cli.compare import compare
from wavetune.cli.deploy import deploy
from wavetune.cli.device import join_as_device
from wavetune.cli.exit_codes import INTERRUPTED, REFUSED
from wavetune.cli.flower_app import flower_app
from wavetune.cli.generate import generate
from wavetune.cli.measure import measure_codecs, measure_ranks
from wavetune.cli.plan import plan
from wavetune.cli.recipes import recipes, show
from wavetune.cli.report import report
from wavetune.cli.run import run
from wavetune.cli.serve import serve
from wavetune.cli.sweep import sweep
from wavetune.cli.trade_off import trade_off
from wavetune.cli.train_reward import train_reward
from wavetune.console import Console, echo
from wavetune.errors import WavetuneError

_LONGEST_SENTENCE = 2000  # characters; what is longer quotes something that nobody reads

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Plan, train and deploy federated and split-federated fine-tuning of language models over wireless networks.",
)


def main() -> None:
    """Entry point: one sentence and exit code 2 for what the user can put right."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(app(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(REFUSED)
    except click.UsageError as error:
        where = f"; see {error.ctx.command_path} --help" if error.ctx is not None else ""
        _refuse(error.format_message().rstrip(".") + where)
    except WavetuneError as error:
        _refuse(str(error))
    except OSError as error:  # of the disk, wherever it was not expected
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except MemoryError:
        _refuse("the machine's memory is used up; use a smaller model, batch or data set")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _refuse(sentence: str) -> None:
    line = " ".join(part.strip() for part in sentence.splitlines())
    if len(line) > _LONGEST_SENTENCE:
        line = f"{line[: _LONGEST_SENTENCE // 2]} ... {line[-_LONGEST_SENTENCE // 2 :]}"
    Console(stderr=True).print(f"wavetune: {line}", highlight=False, markup=False, soft_wrap=True)
    sys.exit(REFUSED)


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def _version(wanted: bool) -> None:
    if wanted:
        from wavetune import __version__

        echo(f"wavetune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


for command in (run, plan, trade_off, recipes, show, sweep, compare, measure_ranks, measure_codecs, train_reward,
                deploy, flower_app, serve):  # fmt: skip
    app.command()(command)
app.command("device")(join_as_device)
for command in (certificates, report, generate):
    app.command()(command)
