"""The command line. Everything heavy is imported inside the commands, so that help answers at once."""

from wavetune.cli.app import main

__all__ = ["main"]
