"""`repairkit report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repairkit.cli.options import options
from repairkit.cli.shown import show
from repairkit.jobs.look.reporting import report_run


def report_command(
    run: Annotated[Path, typer.Argument(help="A run folder that score wrote.", metavar="RUN")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The page; report.html in the run folder.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="The model, if it lies elsewhere by now.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="The data, if they lie elsewhere by now.")
    ] = None,
    means: Annotated[
        Path | None,
        typer.Option("--means", help="The common means, if they lie elsewhere by now."),
    ] = None,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures/--no-pictures", help="Look at model and data: images, layers, removal."
        ),
    ] = True,
    trust: options.Trust = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write one self-contained HTML page of a run, and its numbers as JSON."""
    done = report_run(
        run, out=out, model=model, data=data, means=means, pictures=pictures, trust=trust
    )
    if as_json:
        show.print_json(done.document)
    elif not quiet:
        show.say(f"page     {done.page}")
        show.say(f"numbers  {done.report_file}")
