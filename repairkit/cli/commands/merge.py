"""`repairkit merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from repairkit.cli.options import options
from repairkit.cli.shown import show
from repairkit.core.errors import SettingsError
from repairkit.formats.score_table import finite_rows
from repairkit.jobs.owners.merging import By, Merged, merge

_SHOWN = 10


def merge_command(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders of the same model.", metavar="RUN...")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Run folder of the result.")],
    by: Annotated[
        str, typer.Option("--by", help="Weight runs by images, or by whole groups.")
    ] = "images",
    weights: Annotated[
        str | None, typer.Option("--weights", help="One number per run, comma-separated.")
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Add up values over data that could not leave its owners; needs run folders alone."""
    merged = merge(runs, out=out, by=cast(By, by), weights=_numbers(weights))
    if as_json:
        show.print_json({**merged.document, "scores": finite_rows(merged.table())})
    elif not quiet:
        _print(merged, out)


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise SettingsError(
            f"--weights {text!r} are no numbers; give one per run, separated by commas"
        ) from None


def _print(merged: Merged, out: Path) -> None:
    rows, document = merged.table(), merged.document
    metric = merged.scores.metrics[0]
    shown = rows if len(rows) <= 2 * _SHOWN else [*rows[:_SHOWN], *rows[-_SHOWN:]]
    show.table(
        f"Value of {len(rows)} filters for {metric}, highest and lowest ({document['interval']})",
        ["filter", "value", "std error", "from", "to"],
        [
            [
                row["filter"],
                *(f"{row[n]:+.5f}" for n in ("value", "std_error", "ci_low", "ci_high")),
            ]
            for row in shown
        ],
    )
    parts = document["parts"]
    show.say(f"{parts['selection']} selection images of {parts['how']}; written to {out}")
