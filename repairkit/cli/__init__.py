"""The command line: parse, call one function of the API, print."""

import errno
import logging
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import typer

from repairkit.cli import options, stage_display, streams
from repairkit.cli.commands import (
    ask,
    dissect,
    dreams,
    init,
    list_command,
    monitor,
    onnx_models,
    patches,
    runs,
)
from repairkit.cli.option_groups import (
    Command,
    Panels,
    WholeSentences,
    flag_positions,
    refuse_infinite,
    unfolded,
)
from repairkit.core.errors import ExportError, RepairkitError
from repairkit.core.process import noise, nouns, origins
from repairkit.core.process.text import printable
from repairkit.core.process.trust import exit_words

_HELP_FLAGS = ("-h", "--help")
_VERSION_FLAGS = ("-V", "--version")
_HELP_BY = {"help_option_names": list(_HELP_FLAGS)}

app = typer.Typer(
    name="repairkit",
    cls=WholeSentences,
    help="Find the few filters that make a trained image model fail, and freeze them.",
    epilog="Begin with `repairkit demo`. `repairkit COMMAND -h` shows the options of a command.",
    context_settings=_HELP_BY,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_COMMANDS: dict[str, Command] = {
    "init": init.init_command,
    "list": list_command.list_command,
    "inspect": onnx_models.inspect_command,
    "diff": onnx_models.diff_command,
    "score": runs.score_command,
    "ask": ask.ask_command,
    "patch": patches.patch_command,
    "verify": patches.verify_command,
    "apply": patches.apply_command,
    "revert": patches.revert_command,
    "overlay": patches.overlay_command,
    "monitor": monitor.monitor_command,
    "instrument": onnx_models.instrument_command,
    "compare": runs.compare_command,
    "dissect": dissect.dissect_command,
    "attack": onnx_models.attack_command,
    "dream": dreams.dream_command,
    "export": onnx_models.export_command,
    "curve": runs.curve_command,
    "report": runs.report_command,
    "atlas": runs.atlas_command,
    "means": runs.means_command,
    "merge": runs.merge_command,
    "demo": patches.demo_command,
}
for _name, _run in _COMMANDS.items():
    app.command(_name, cls=Panels, context_settings=_HELP_BY)(
        stage_display.staged(unfolded(_run), _name)
    )

_INTERRUPTED = 130
_TERMINATED = 143  # as in shells: 128 plus the number of the signal
_MENDABLE = (1, 2)  # codes of errors that may be about settings
_LONGEST_LINE = 2000
_PARSERS = ("click", "typer")
# Newer versions of typer contain their own copy of click; this is the base of its usage errors.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: bool = typer.Option(False, *_VERSION_FLAGS, help="Print the version and stop."),
    debug: bool = typer.Option(False, "--debug", help=options.DEBUG_HELP),  # noqa: ARG001 (`run` reads it)
) -> None:
    if version:
        typer.echo(version_of("repairkit"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


class _PrintableFormatter(logging.Formatter):
    """Escapes control characters: names in notes come from models and data."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def main() -> None:
    """Run the command line; an error becomes one line and an exit code."""
    command, arguments = _command(), sys.argv[1:]
    debug = _has_flag(command, arguments, "--debug")
    kept_back = streams.KeptBack()
    streams.prepare_streams(one_document=_wants_document(command, arguments))
    if not debug:
        kept_back.divert()
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("%(message)s"))
    handler.setLevel(logging.DEBUG if debug else logging.WARNING)
    logging.basicConfig(level=handler.level, handlers=[handler])
    forget_working_folder()
    signal.signal(signal.SIGTERM, _stop)
    with noise.keeping(kept_back.last_lines):
        code = run(arguments, began=options.process_began())
    sys.exit(code)


def forget_working_folder() -> None:
    """Take the working folder off the import path (`python -c` puts it first).

    What the user names there is found by `repairkit.core.process.trust`.
    """
    sys.path[:] = [place for place in sys.path if place not in ("", ".")]


class _StoppedError(BaseException):
    """SIGTERM was received. Typer passes this on; it would turn KeyboardInterrupt into code 130."""


def _stop(number: int, frame: object) -> None:  # noqa: ARG001 (the signal's)
    raise _StoppedError


def run(arguments: list[str], *, began: float | None = None) -> int:
    """Run one command and return its exit code; `began` is by `time.monotonic`, now if None.

    With `--json` among the arguments, standard output gets exactly one document, also on errors.
    """
    command = _command()
    debug = _has_flag(command, arguments, "--debug")
    if not _wants_document(command, arguments):
        return _shown(_ending(command, arguments, debug=debug, began=began)).code
    with streams.reserved() as (kept, output):
        ending = _shown(_ending(command, arguments, debug=debug, began=began))
    document = kept.document
    if ending.error is not None:
        known = document if isinstance(document, dict) else {}
        document = {**known, "error": ending.error, "exit_code": ending.code}
    if kept.given or ending.error is not None:
        try:
            streams.write_document(output, document)
        except BrokenPipeError:
            streams.forget_output()
        except OSError as error:  # such as a full disk behind `>`
            streams.forget_output(output)
            return _shown(_failed(error)).code
    return ending.code


@dataclass(frozen=True)
class _Ending:
    """How a command ended: its exit code, and what went wrong in one line, if anything."""

    code: int
    error: str | None = None
    with_noise: bool = False  # show the last lines that were kept back


@cache
def _command() -> Any:
    command = typer.main.get_command(app)
    refuse_infinite(command)
    return command


def _wants_document(command: Any, arguments: list[str]) -> bool:
    return not _has_flag(command, arguments, *_HELP_FLAGS, *_VERSION_FLAGS) and _has_flag(
        command, arguments, "--json"
    )


def _has_flag(command: Any, arguments: list[str], *flags: str) -> bool:
    return any(flag_positions(command, arguments, flag) for flag in flags)


def _ending(command: Any, arguments: list[str], *, debug: bool, began: float | None) -> _Ending:
    with origins.gathering() as from_files, nouns.naming():
        ending = _ended(command, arguments, debug=debug, began=began)
        if ending.error is None:
            return ending
        known = from_files if ending.code in _MENDABLE else ()
        error = nouns.worded(origins.with_origins(ending.error, known))
        return replace(ending, error=error)


def _ended(command: Any, arguments: list[str], *, debug: bool, began: float | None) -> _Ending:
    try:
        code = command(arguments, prog_name="repairkit", standalone_mode=False, obj=began)
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - every error becomes one line and a code
        if isinstance(error, SystemExit) and not error.code and _exiter(error) in _PARSERS:
            return _Ending(0)  # the completion of a shell was asked for
        ending = _failed(_unwrapped(error), arguments)
        if debug and ending.error is not None:
            traceback.print_exc()
        return ending
    if code == _INTERRUPTED:
        return _Ending(_INTERRUPTED, "interrupted; nothing was written")
    return _Ending(code if isinstance(code, int) else 0)


def _failed(error: BaseException, arguments: Sequence[str] = ()) -> _Ending:
    """What an exception means to the user."""
    if isinstance(error, _UsageError):
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        text += _order_of_arguments(text) + _given_value(text, arguments)
        return _Ending(2, f"{text} (repairkit COMMAND --help lists the options)")
    if isinstance(error, _StoppedError):
        return _Ending(_TERMINATED, "stopped by SIGTERM; nothing was written")
    if isinstance(error, (typer.Abort, KeyboardInterrupt)):
        return _Ending(_INTERRUPTED, "interrupted; nothing was written")
    if isinstance(error, RepairkitError):
        return _Ending(error.exit_code, str(error), isinstance(error, ExportError))
    if _reader_left(error):
        streams.forget_output()
        return _Ending(0)
    if isinstance(error, SystemExit):
        return _Ending(1, exit_words(error))
    if isinstance(error, MemoryError):
        return _Ending(1, "the memory of this machine does not suffice; use fewer images at once")
    if isinstance(error, OSError):
        if error.filename is None and error.errno == errno.ENOSPC:
            streams.forget_output()
        return _Ending(1, f"{error.filename or 'output'}: {error.strerror or error}")
    text = (str(error).splitlines() or [""])[0]
    message = f"unexpected {type(error).__name__}: {text} (--debug shows where; please report it)"
    return _Ending(1, message, with_noise=True)


def _order_of_arguments(text: str) -> str:
    """Advice for an argument too many: the model comes first, and data behind --data."""
    extra = re.match(r"Got unexpected extra arguments? ?(?:\(s\) )?\((.*?)\)", text)
    if extra is None:
        return ""
    if extra[1].endswith(".onnx"):
        return "; the model comes first, and images or tables behind --data"
    return (
        f"; images and tables go behind --data: --data {extra[1]}"
        if Path(extra[1]).exists()
        else ""
    )


def _given_value(text: str, arguments: Sequence[str]) -> str:
    """The value that is not as it should be, where the message names the option alone."""
    named = re.match(r"Invalid value for '(-[\w-]+)'", text)
    if named is None:
        return ""
    for place, word in enumerate(arguments[:-1]):
        if word == named[1]:
            value = arguments[place + 1]
            return "" if repr(value) in text else f"; {value!r} was given"
    return ""


def _unwrapped(error: BaseException) -> BaseException:
    """The pipe error that typer turned into an exit; any other error unchanged."""
    cause = error.__context__
    return cause if isinstance(cause, BrokenPipeError) and _exiter(error) in _PARSERS else error


def _reader_left(error: BaseException) -> bool:
    """Whether the reader of the output has closed it."""
    if isinstance(error, BrokenPipeError):
        return streams.reader_is_gone()
    # By then, rich has discarded the rest of the output.
    return isinstance(error.__context__, BrokenPipeError) and _exiter(error) == "rich"


def _exiter(error: BaseException) -> str:
    """The package that called `sys.exit`, if the error is an exit."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not (isinstance(error, SystemExit) and frames):
        return ""
    return str(frames[-1].f_globals.get("__name__", "")).partition(".")[0]


def _shown(ending: _Ending) -> _Ending:
    """Print the error on standard error; returns it as one line without control characters."""
    if ending.error is None:
        return ending
    line = printable(" ".join(ending.error.split()))[:_LONGEST_LINE]
    lines = noise.last_lines() if ending.with_noise else []
    with suppress(BrokenPipeError):
        if lines:
            sys.stderr.write("the last lines of what libraries wrote (--debug shows all):\n")
        sys.stderr.writelines(f"  {printable(each)[:_LONGEST_LINE]}\n" for each in lines)
        sys.stderr.write(f"repairkit: {line}\n")
    return _Ending(ending.code, line)
