"""Which filters one class, or group, lives on: options of `score`, and its table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repairkit.cli.shown import show
from repairkit.core.errors import SettingsError
from repairkit.jobs.score.excluding import Exclusion
from repairkit.jobs.score.scored import Scored

_MOST_METRICS = 10
_PER_METRIC = 3

ExcludeTopOf = Annotated[
    Path | None,
    typer.Option("--exclude-top-of", help="Leave out of the ranking the top of this run."),
]
ExcludeShare = Annotated[
    float | None, typer.Option("--exclude-share", help="How much of it is its top; 0.2.")
]


def exclusion(run: Path | None, share: float | None) -> Exclusion | None:
    """What the two options say together.

    Raises:
        SettingsError: there is a share and no run, or it is no share.
    """
    if run is None:
        if share is not None:
            raise SettingsError("--exclude-share is of a run; name it with --exclude-top-of RUN")
        return None
    return Exclusion(run) if share is None else Exclusion(run, share)


def print_tops(scored: Scored) -> None:
    """The filters worth most for each metric."""
    metrics, ids = scored.scores.metrics[:_MOST_METRICS], [f.id for f in scored.bench.roster]
    rows = []
    for column, metric in enumerate(metrics):
        ranked = scored.scores.ranking(column).tolist()
        if metric in scored.document["less_is_better"]:
            ranked.reverse()
        best = [p for p in ranked if p not in scored.excluded][:_PER_METRIC]
        values = scored.scores.values[:, column]
        rows.append([metric, ", ".join(f"{ids[p]} ({values[p]:+.4f})" for p in best)])
    show.table(f"The {_PER_METRIC} filters worth most for each", ["metric", "filters"], rows)
