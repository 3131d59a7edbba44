"""`repairkit compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from repairkit.cli.options import options
from repairkit.cli.shown import show
from repairkit.jobs.runs.comparing import Agreement, compare


def compare_command(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders of one model; two or more.", metavar="RUN...")
    ],
    metric: Annotated[
        str | None, typer.Option("--metric", help="Whose values; each run's first if left out.")
    ] = None,
    top_k: Annotated[
        int, typer.Option("--top-k", min=1, help="Filters at each end that are held together.")
    ] = 20,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Tell how far runs agree: rank correlation, R2 and overlap of the top filters."""
    found = compare(runs, metric=metric, top_k=top_k)
    if as_json:
        show.print_json({"comparisons": [agreement.to_json() for agreement in found]})
    elif not quiet:
        _print(found, len(runs))


def _print(found: Sequence[Agreement], n_runs: int) -> None:
    show.table(
        f"Agreement of {n_runs} runs (R2: the second's values for the first's)",
        ["first", "second", "filters", "rank corr.", "correlation", "R2", "highest", "lowest"],
        [_row(agreement) for agreement in found],
    )
    show.say(f"highest, lowest: the share of the {found[0].top_k} at that end that both runs name")
    for agreement in found:
        for note in agreement.notes:
            show.say(f"note: {agreement.first} and {agreement.second}: {note}")


def _row(agreement: Agreement) -> list[str]:
    figures = (agreement.rank_correlation, agreement.correlation, agreement.r2)
    return [
        agreement.first,
        agreement.second,
        str(agreement.n_filters),
        *("-" if figure is None else f"{figure:.3f}" for figure in figures),
        f"{100 * agreement.highest:.0f} %",
        f"{100 * agreement.lowest:.0f} %",
    ]
