"""A command whose parameters may be groups of options, which takes what all commands take and refuses empty paths."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, get_type_hints

import click
from typer.core import TyperCommand

from wavetune.cli.json_output import only_json
from wavetune.cli.options import of_messages
from wavetune.logs import FORMATS, LOG, ConsoleHandler, format_of, level_of

_QUIET, _VERBOSE, _JSON = "quiet", "verbose", "json"
_SHARED = {
    _QUIET: Annotated[bool, of_messages("--quiet", "-q", help="Only results, warnings and errors.")],
    _VERBOSE: Annotated[bool, of_messages("--verbose", "-v", help="Tell details, too.")],
}
_FORMAT = Annotated[
    str | None, of_messages("--log-format", metavar="text|json", help="How lines on standard error are written.")
]
_OF_RESULTS = Annotated[bool, of_messages("--json", help="Results as JSON on standard output, all else aside.")]


_WITH_COMMAS = "give all its values behind one, separated by commas"
_LISTS = {"over": "one sweep varies one field"} | dict.fromkeys(
    ("codecs", "methods", "metrics", "ranks", "track", "under"), _WITH_COMMAS
)
"""Options that hold a list, of which click would take the last alone; what to do instead."""


class Command(TyperCommand):
    """No path is empty, as that of an unset variable, which pathlib takes for the current folder; no list is lost."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As of click, of arguments that pass."""
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.params:
            if parameter.name in _LISTS and order.count(parameter) > 1:
                raise click.UsageError(f"{parameter.opts[0]} is given twice; {_LISTS[parameter.name]}", ctx)
            if isinstance(parameter.type, click.Path) and "" in _values(given.get(str(parameter.name))):
                name = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
                raise click.UsageError(f"{name} is empty; name a file or folder, or . for this folder", ctx)
        return super().parse_args(ctx, args)


def _values(raw: Any) -> Sequence[Any]:
    return raw if isinstance(raw, list | tuple) else (raw,)


def grouped(command: Callable[..., None], prints_results: bool = False) -> Callable[..., None]:
    """The command as typer takes it: a parameter whose type is a dataclass becomes an option for each of its fields.

    One that prints results takes `--json`.
    """
    hints = get_type_hints(command, include_extras=True)
    given = inspect.signature(command).parameters.values()
    groups = {p.name: hints[p.name] for p in given if dataclasses.is_dataclass(hints[p.name])}

    @functools.wraps(command)
    def call(**options: Any) -> None:
        set_level(options.pop(_QUIET), options.pop(_VERBOSE))
        set_format(options.pop("log_format"))
        values = {
            name: group(**{field.name: options.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        with only_json(prints_results and options.pop(_JSON)):
            command(**options, **values)

    parameters = [part for p in given for part in _parameters(p, hints[p.name], p.name in groups)]
    parameters += [_parameter(name, hint, False) for name, hint in _SHARED.items()]
    parameters.append(_parameter("log_format", _FORMAT, None))
    parameters += [_parameter(_JSON, _OF_RESULTS, False)] if prints_results else []
    call.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def set_level(quiet: bool, verbose: bool) -> None:
    """Let the console show what the options ask for."""
    level = level_of(quiet, verbose)
    for handler in LOG.handlers:
        if isinstance(handler, ConsoleHandler):
            handler.setLevel(level)
    LOG.setLevel(min(level, LOG.level))


def set_format(name: str | None) -> None:
    """Let the console write lines as the option asks for, or else the environment."""
    formatter = FORMATS[format_of(name)]()
    for handler in LOG.handlers:
        if isinstance(handler, ConsoleHandler):
            handler.setFormatter(formatter)


def _parameters(parameter: inspect.Parameter, hint: Any, is_group: bool) -> Iterator[inspect.Parameter]:
    if not is_group:
        yield _parameter(parameter.name, hint, parameter.default)
        return
    hints = get_type_hints(hint, include_extras=True)
    for field in dataclasses.fields(hint):
        yield _parameter(field.name, hints[field.name], field.default)


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
