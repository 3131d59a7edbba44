"""Options in groups: dataclasses whose fields are options, and their way into commands.

A shared option is written once, as a field of a group. A command takes groups as parameters:

    @dataclass(frozen=True, kw_only=True)
    class SearchOptions:
        title: ClassVar = "Search"
        top_k: int | None = option("How many filters to tell apart.", min=1)

    def score_command(*, search: SearchOptions) -> None: ...

`unfolded` gives typer a function with a parameter per option, which calls the command with its
groups filled in. Groups may hold groups. The help shows each titled group under its title.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

_INFO = "typer"
_METAVARS: Mapping[object, str] = {
    str: "TEXT", str | None: "TEXT", list[str] | None: "TEXT",
    int: "NUMBER", int | None: "NUMBER", float: "NUMBER", float | None: "NUMBER",
    Path: "PATH", Path | None: "PATH", list[Path] | None: "PATH",
}  # fmt: skip
"""What stands for an option's value in the help, by the option's type."""
_WHOLE = 1000  # characters, more than any sentence has
Command = Callable[..., None]


def option(help: str, *names: str, default: object = None, **more: Any) -> Any:
    """An option as a field of a group; its name is `--field-name` unless others are given.

    Args:
        help: as `--help` shows it.
        names: such as `-o` and `--out`.
        default: the value if the option is not given.
        more: as `typer.Option` takes them, such as `min` and `metavar`.
    """
    return field(default=default, metadata={_INFO: typer.Option(*names, help=help, **more)})


def flag(help: str, *names: str, default: bool = False) -> Any:
    """An option without a value, off by default."""
    return option(help, *names, default=default)


def argument(help: str, metavar: str, *, default: object = None, **more: Any) -> Any:
    """A positional argument as a field of a group; `more` is as `typer.Argument` takes it."""
    info = typer.Argument(help=help, metavar=metavar, **more)
    return field(default=default, metadata={_INFO: info})


@dataclass(frozen=True)
class _Part:
    """Which options of a group a command takes, and its own help texts for some of them."""

    names: frozenset[str]
    kept: bool
    helps: Mapping[str, str]

    def has(self, name: str) -> bool:
        return (name in self.names) is self.kept


def only(*names: str, **helps: str) -> _Part:
    """Only these options of a group; the others keep their defaults.

    For the annotation of a command's group: `Annotated[JobOptions, only("data", "output")]`. An
    option with its own help text need not be named twice.
    """
    return _Part(frozenset(names) | set(helps), kept=True, helps=helps)


def without(*names: str) -> _Part:
    """All options of a group except these."""
    return _Part(frozenset(names), kept=False, helps={})


@dataclass(frozen=True)
class _Option:
    """A field of a group, as typer needs it."""

    name: str
    type: object
    default: object
    info: typer.models.OptionInfo | typer.models.ArgumentInfo


def unfolded(command: Command) -> Command:
    """The command as typer reads it: a parameter for every option of its groups.

    Raises:
        TypeError: two groups share an option, or `only` or `without` names an unknown one.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if _group(hint) is not None}
    options = [each for hint in groups.values() for each in _options(hint)]
    names = [each.name for each in options]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise TypeError(f"{command.__name__}: options in two groups: {', '.join(twice)}")

    @functools.wraps(command)
    def run(**values: object) -> None:
        filled = {name: _filled(hint, values) for name, hint in groups.items()}
        others = {name: value for name, value in values.items() if name not in names}
        command(**filled, **others)

    plain = inspect.signature(command).parameters
    others = [plain[name].replace(annotation=hints[name]) for name in plain if name not in groups]
    parameters = [*others, *map(_parameter, options)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


class Panels(typer.core.TyperCommand):
    """A command whose help shows each group under its title, in plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """See `click.Command.format_options`."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for each in self.get_params(ctx):
            record = each.get_help_record(ctx)
            if record is not None:
                plain = "Arguments" if each.param_type_name == "argument" else "Options"
                title = getattr(each, "rich_help_panel", None) or plain
                panels.setdefault(title, []).append(record)
        for title, records in panels.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class WholeSentences(typer.core.TyperGroup):
    """A group of commands whose help shows what each does in a whole sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """See `click.Group.format_commands`, which cuts what is longer than a line."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        records = [
            (name, command.get_short_help_str(limit=_WHOLE))
            for name, command in commands
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(records)


def _group(hint: object) -> type | None:
    """The dataclass that an annotation names, if any."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def _options(hint: object) -> Iterator[_Option]:
    """The options of a group that its command takes."""
    group = _group(hint)
    assert group is not None
    every = list(_all_options(group))
    part = next((each for each in get_args(hint) if isinstance(each, _Part)), None)
    if part is None:
        yield from every
        return
    unknown = part.names - {each.name for each in every}
    if unknown:
        raise TypeError(f"{group.__name__} has no option {', '.join(sorted(unknown))}")
    for each in every:
        if part.has(each.name):
            each.info.help = part.helps.get(each.name, each.info.help)
            yield each


def _all_options(group: type) -> Iterator[_Option]:
    hints, title = get_type_hints(group, include_extras=True), getattr(group, "title", None)
    for each in fields(group):
        if _group(hints[each.name]) is not None:
            yield from _options(hints[each.name])
        else:
            yield _option(each, hints[each.name], title)


def _option(each: Field[Any], kind: object, title: str | None) -> _Option:
    info = copy(each.metadata[_INFO])
    if isinstance(info, typer.models.OptionInfo):
        info.rich_help_panel = title
        if info.metavar is None:
            info.metavar = _METAVARS.get(kind)
        if kind is bool and info.default is ...:  # typer would add a flag that turns it off
            info.default = f"--{each.name.replace('_', '-')}"
    return _Option(each.name, kind, each.default, info)


def _parameter(each: _Option) -> inspect.Parameter:
    default = inspect.Parameter.empty if each.default is ... else each.default
    kind = Annotated[each.type, each.info]  # type: ignore[name-defined]
    return inspect.Parameter(
        each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
    )


def _filled(hint: object, values: Mapping[str, object]) -> object:
    """A group made from the values of its options; missing ones get their defaults."""
    group = _group(hint)
    assert group is not None
    hints, given = get_type_hints(group, include_extras=True), {}
    for each in fields(group):
        if _group(hints[each.name]) is not None:
            given[each.name] = _filled(hints[each.name], values)
        elif each.name in values:
            given[each.name] = values[each.name]
    return group(**given)


def flag_positions(command: Any, arguments: Sequence[str], flag: str) -> list[int]:
    """The positions of a flag among the arguments, where it is no option's value and before `--`.

    Args:
        command: the group of commands, as `typer.main.get_command` gives it.
        arguments: without the program's name.
        flag: such as `--json`.
    """
    positions = []
    takes = _options_with_values(command)
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--":
            break
        if argument == flag:
            positions.append(position)
        elif argument in command.commands:
            takes = _options_with_values(command.commands[argument])
        position += 2 if argument in takes else 1
    return positions


def _options_with_values(command: Any) -> set[str]:
    """The names of a command's options that take the next argument as a value."""
    return {
        name
        for parameter in command.params
        if parameter.param_type_name == "option" and not getattr(parameter, "is_flag", False)
        for name in parameter.opts
    }


def refuse_infinite(command: Any) -> None:
    """Make every numeric option of all commands refuse nan and infinity."""
    commands: Mapping[str, Any] = command.commands
    for parameter in [p for each in commands.values() for p in each.params]:
        if parameter.param_type_name == "option":
            parameter.callback = _finite(parameter.callback)


def _finite(callback: Callable[..., Any] | None) -> Callable[[Any, Any, Any], Any]:
    def checked(context: Any, parameter: Any, value: Any) -> Any:
        numbers = value if isinstance(value, (list, tuple)) else [value]
        for number in numbers:
            if isinstance(number, float) and not math.isfinite(number):
                raise typer.BadParameter(
                    f"{number} is not a finite number; give one such as 0.5, or leave the option "
                    "out",
                    ctx=context,
                    param=parameter,
                )
        return value if callback is None else callback(context, parameter, value)

    return checked
