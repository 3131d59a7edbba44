"""The command line: parse, call one workflow, print."""

from __future__ import annotations

import logging
import os
import sys
import traceback

import typer

import repairkit
from repairkit.cli.apply_command import apply_command
from repairkit.cli.attack_command import attack_command
from repairkit.cli.compare_command import compare_command
from repairkit.cli.demo_command import demo_command
from repairkit.cli.export_command import export_command
from repairkit.cli.inspect_command import inspect_command
from repairkit.cli.instrument_command import instrument_command
from repairkit.cli.means_command import means_command
from repairkit.cli.merge_command import merge_command
from repairkit.cli.patch_command import patch_command
from repairkit.cli.report_command import report_command
from repairkit.cli.revert_command import revert_command
from repairkit.cli.score_command import score_command
from repairkit.cli.stages import staged
from repairkit.cli.started import process_began
from repairkit.cli.verify_command import verify_command
from repairkit.core.errors import RepairkitError
from repairkit.core.text import printable

app = typer.Typer(
    name="repairkit",
    help="Find the few filters that make a trained image model fail, and freeze them.",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.command("inspect")(staged(inspect_command))
app.command("score")(staged(score_command))
app.command("patch")(staged(patch_command))
app.command("verify")(staged(verify_command))
app.command("apply")(staged(apply_command))
app.command("revert")(staged(revert_command))
app.command("instrument")(staged(instrument_command))
app.command("compare")(staged(compare_command))
app.command("attack")(staged(attack_command))
app.command("export")(staged(export_command))
app.command("report")(staged(report_command))
app.command("means")(staged(means_command))
app.command("merge")(staged(merge_command))
app.command("demo")(staged(demo_command))

_INTERRUPTED = 130
_LONGEST_LINE = 2000
# Typer brings its own copy of click from some version on; this is the base of its usage errors.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    if version:
        typer.echo(repairkit.__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


class _PrintableFormatter(logging.Formatter):
    """Names in notes come from models and data, and must not steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def main() -> None:
    """Run the command line; errors become one line and an exit code."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("%(message)s"))
    handler.setLevel(logging.DEBUG if debug else logging.WARNING)
    logging.basicConfig(level=handler.level, handlers=[handler])
    forget_working_folder()
    sys.exit(run(arguments, debug=debug, began=process_began()))


def forget_working_folder() -> None:
    """Import nothing that merely lies in the working folder (`python -c` puts it first).

    What the user names there is found by `repairkit.core.trust`.
    """
    sys.path[:] = [place for place in sys.path if place not in ("", ".")]


def run(arguments: list[str], *, debug: bool = False, began: float | None = None) -> int:
    """Run one command that `began` then, by `time.monotonic`, or now; its exit code."""
    try:
        code = app(arguments, prog_name="repairkit", standalone_mode=False, obj=began)
    except _UsageError as error:
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        return _fail(f"{text} (repairkit COMMAND --help lists the options)", 2)
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except RepairkitError as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error), error.exit_code)
    except (BrokenPipeError, SystemExit):  # typer and rich make the one the other
        return _reader_left()
    except MemoryError:
        if debug:
            traceback.print_exc()
        return _fail("the memory of this machine does not suffice; use fewer images at once", 1)
    except OSError as error:
        if debug:
            traceback.print_exc()
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    except Exception as error:  # noqa: BLE001 - the last resort: no user should see a traceback
        if debug:
            traceback.print_exc()
        text = (str(error).splitlines() or [""])[0]
        return _fail(
            f"unexpected {type(error).__name__}: {text} (--debug shows where; please report it)", 1
        )
    if code == _INTERRUPTED:
        return _interrupted()
    return code if isinstance(code, int) else 0


def _reader_left() -> int:
    """Whoever read the output has seen enough, and the work is done."""
    # The stream must not be flushed once more at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _interrupted() -> int:
    return _fail("interrupted; nothing was written", _INTERRUPTED)


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"repairkit: {printable(' '.join(text.split()))[:_LONGEST_LINE]}\n")
    return code
