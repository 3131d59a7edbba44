"""What stands on the command line, told before it is parsed: usage errors need it too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer


def flag_positions(command: Any, arguments: Sequence[str], flag: str) -> list[int]:
    """Where a flag stands among the arguments, and is neither an option's value nor after `--`.

    Args:
        command: the group of commands, as `typer.main.get_command` gives it.
        arguments: without the program's name.
        flag: such as `--json`.
    """
    found = []
    takes = _options_with_values(command)
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--":
            break
        if argument == flag:
            found.append(position)
        elif argument in command.commands:
            takes = _options_with_values(command.commands[argument])
        position += 2 if argument in takes else 1
    return found


def _options_with_values(command: Any) -> set[str]:
    """The names of a command's options that take the next argument as their value."""
    return {
        name
        for parameter in command.params
        if parameter.param_type_name == "option" and not getattr(parameter, "is_flag", False)
        for name in parameter.opts
    }


def refuse_infinite(command: Any) -> None:
    """Let every option that is a number refuse nan and infinity, in all commands of a group."""
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
