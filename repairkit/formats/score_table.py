"""The rows of `scores.csv`: a filter each, in rank order."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from repairkit.core import errors, framework
from repairkit.core.filters import Filter
from repairkit.core.process.text import from_cell, plain_cell
from repairkit.core.scores import Scores

FURTHER = "value:"
_COLUMNS = (
    "filter",
    "site",
    "channel",
    "value",
    "std_error",
    "ci_low",
    "ci_high",
    "samples",
    "decided",
)


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A filter's values as they were written; `further` are those of further metrics, by name."""

    filter: str
    value: float
    std_error: float
    ci_low: float
    ci_high: float
    samples: int
    decided: bool
    further: Mapping[str, float] = field(default_factory=dict)

    def number(self, column: str) -> float:
        """The number in a column of the table, such as `ci_low` or `value:loss`.

        Raises:
            KeyError: it holds none.
        """
        if column.startswith(FURTHER):
            return self.further[column.removeprefix(FURTHER)]
        if column not in ("value", "std_error", "ci_low", "ci_high", "samples"):
            raise KeyError(column)
        return float(getattr(self, column))


def read_scores(path: Path) -> list[ScoreRow]:
    """The rows of a table in its own order.

    Raises:
        RunFolderError: the file is missing or broken.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_row(row) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise unreadable(path, error) from error


def _row(row: Mapping[str, str]) -> ScoreRow:
    return ScoreRow(
        filter=from_cell(row["filter"]),
        value=float(row["value"]),
        std_error=float(row["std_error"]),
        ci_low=float(row["ci_low"]),
        ci_high=float(row["ci_high"]),
        samples=int(row["samples"]),
        decided=row["decided"] == "true",
        further={
            column.removeprefix(FURTHER): float(cell)
            for column, cell in row.items()
            if column.startswith(FURTHER)
        },
    )


def unreadable(path: Path, error: Exception) -> errors.RunFolderError:
    """What is said where scores cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else error
    return errors.RunFolderError(
        f"{path}: cannot be read as scores ({reason}); score the model again"
    )


def scores_table(
    scores: Scores,
    filters: Sequence[Filter],
    layers: framework.LayerMap | None = None,
    *,
    without: Collection[int] = (),
) -> list[dict[str, Any]]:
    """A row for each player but some; the last column names layers, if they are known."""
    rows = []
    for player in (p for p in scores.ranking().tolist() if p not in without):
        row: dict[str, Any] = {
            "filter": filters[player].id,
            "site": filters[player].site,
            "channel": filters[player].channel,
            "value": float(scores.values[player, 0]),
            "std_error": float(scores.std_errors[player, 0]),
            "ci_low": float(scores.ci_low[player, 0]),
            "ci_high": float(scores.ci_high[player, 0]),
            "samples": int(scores.samples[player]),
            "decided": bool(scores.decided[player]),
        }
        for column, metric in enumerate(scores.metrics[1:], start=1):
            row[f"{FURTHER}{metric}"] = float(scores.values[player, column])
        if layers is not None:
            row["layer"] = str(layers.origin(filters[player]) or "")
        rows.append(row)
    return rows


def scores_csv(
    scores: Scores,
    filters: Sequence[Filter],
    layers: framework.LayerMap | None = None,
    *,
    without: Collection[int] = (),
) -> str:
    """The table as text: numbers in their shortest exact form, names never a formula."""
    text = io.StringIO()
    rows = scores_table(scores, filters, layers, without=without)
    names = ("filter", "site") if layers is None else ("filter", "site", "layer")
    extra = [*(f"{FURTHER}{metric}" for metric in scores.metrics[1:]), *names[2:]]
    # The writer sees no line end in a carriage return; readers do.
    broken = any("\r" in row[name] for row in rows for name in names)
    quoting: Literal[0, 1] = csv.QUOTE_ALL if broken else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(text, [*_COLUMNS, *extra], lineterminator="\n", quoting=quoting)
    writer.writeheader()
    for row in rows:
        plain = {name: plain_cell(row[name]) for name in names}
        writer.writerow({**row, **plain, "decided": "true" if row["decided"] else "false"})
    return text.getvalue()


def finite_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows for JSON, which has no infinity: an unbounded interval becomes null."""
    return [
        {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
        for row in rows
    ]
