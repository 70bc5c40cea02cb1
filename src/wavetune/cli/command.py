"""A command that refuses what would otherwise be taken in silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from typer.core import TyperCommand


class Command(TyperCommand):
    """No path is empty, as that of an unset variable: pathlib would take it for the current folder."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As of click, of arguments that pass."""
        given = self.make_parser(ctx).parse_args(args=list(args))[0]
        for parameter in self.params:
            if isinstance(parameter.type, click.Path) and "" in _values(given.get(str(parameter.name))):
                name = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
                raise click.UsageError(f"{name} is empty; name a file or folder, or . for this folder", ctx)
        return super().parse_args(ctx, args)


def _values(raw: Any) -> Sequence[Any]:
    return raw if isinstance(raw, list | tuple) else (raw,)
