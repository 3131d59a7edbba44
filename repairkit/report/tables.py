"""Rows of figures before and after, with their differences drawn over one shared scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from repairkit.report.charts import interval_mark
from repairkit.report.facts import numbers

SMALL_GROUP = 30

Row = dict[str, Any]
_UNKNOWN = {"value": None, "ci_low": None, "ci_high": None}


def moved_row(
    name: str,
    metric: str,
    three: Mapping[str, Any] | None,
    *,
    n: int | None = None,
    small: bool = False,
) -> Row:
    """One row; `three` holds the figures `before`, `after` and `difference`, None if unknown."""
    three = three or dict.fromkeys(("before", "after", "difference"), _UNKNOWN)
    return {
        "name": name,
        "metric": metric,
        "n": n,
        "small": small,
        **{key: three[key] for key in ("before", "after", "difference")},
    }


def with_marks(rows: Sequence[Row], *, less_is_better: Iterable[str] = ()) -> list[Row]:
    """The rows with `mark`, a drawing of the difference; those of shares share a scale."""
    lessened = set(less_is_better)
    scales = {share: _scale(rows, share=share) for share in (True, False)}
    marked = []
    for row in rows:
        low, high = scales[numbers.is_share(row["metric"])]
        found, metric = row["difference"], row["metric"]
        if found["value"] is None or found["ci_low"] is None:
            marked.append({**row, "mark": ""})
            continue
        turn = numbers.sign(metric, lessened)
        told = (
            f"{numbers.change(found['value'], metric)}, "
            f"95 % interval {numbers.interval(found, metric, signed=True)}"
        )
        ends_of_mark = sorted((turn * found["ci_low"], turn * found["ci_high"]))
        limits = sorted((turn * low, turn * high))
        mark = interval_mark(
            turn * found["value"],
            ends_of_mark[0],
            ends_of_mark[1],
            within=(limits[0], limits[1]),
            description=told,
        )
        marked.append({**row, "mark": mark})
    return marked


def _scale(rows: Sequence[Row], *, share: bool) -> tuple[float, float]:
    """The range that holds zero and every interval of the rows of one kind."""
    peers = [row["difference"] for row in rows if numbers.is_share(row["metric"]) == share]
    known = [found for found in peers if found["ci_low"] is not None]
    ends = [0.0, *(found[end] for found in known for end in ("ci_low", "ci_high"))]
    low, high = min(ends), max(ends)
    reach = 0.04 * (high - low) or 1.0
    return low - reach, high + reach


def metric_rows(
    evaluations: Mapping[str, Any], objective: str, less_is_better: Iterable[str] = ()
) -> list[Row]:
    """The metrics of the two models, the objective first."""
    before, after, change = (evaluations[key] for key in ("before", "after", "difference"))
    names = sorted(before["metrics"], key=lambda name: name != objective)
    return with_marks(
        [
            moved_row(
                _told(name),
                name,
                {
                    "before": before["metrics"][name],
                    "after": after["metrics"][name],
                    "difference": change[name],
                },
            )
            for name in names
        ],
        less_is_better=less_is_better,
    )


def _told(metric: str) -> str:
    words = numbers.in_words(metric)
    return f"{words} (0 is even)" if metric.endswith("_difference") else words


def group_tables(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table of groups per column of groups, with what sets the groups apart where that is known.

    The first is of the groups that were chosen for, those of all columns crossed. Without a
    `fairness` block it is the one table, of the groups that were evaluated.
    """
    fairness = document.get("fairness")
    if fairness:
        *alone, crossed = fairness["columns"]
        return [_judged_by(column) for column in (crossed, *alone)]
    evaluations = document["evaluations"]
    before, after, change = (evaluations[key] for key in ("before", "after", "difference"))
    rows = [
        moved_row(
            name,
            "accuracy",
            {
                "before": found,
                "after": after["groups"][name],
                "difference": change[f"accuracy:{name}"],
            },
            n=before["group_sizes"][name],
            small=before["group_sizes"][name] < SMALL_GROUP,
        )
        for name, found in before["groups"].items()
    ]
    return [_table(rows)] if rows else []


def _table(rows: Sequence[Row]) -> dict[str, Any]:
    shown = paying(with_marks(rows))
    return {"name": "", "rows": shown, "apart": [], "rates": [], "left_out": []}


def class_rows(document: Mapping[str, Any]) -> list[Row]:
    """The accuracy of each class, where it was looked at: where there are no groups."""
    rows = [
        moved_row(row["name"], "accuracy", row, n=row["n"], small=row["n"] < SMALL_GROUP)
        for row in document.get("classes") or ()
    ]
    return paying(with_marks(rows))


def paying(rows: Sequence[Row]) -> list[Row]:
    """The rows with `pays`: whether the accuracy surely falls."""
    return [{**row, "pays": (row["difference"]["ci_high"] or 0.0) < 0} for row in rows]


def _judged_by(column: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        moved_row(group["name"], "accuracy", group, n=group["n"], small=bool(group.get("small")))
        for group in column["groups"]
    ]
    apart = [
        moved_row(numbers.in_words(name), name, three)
        for name, three in column["disparities"].items()
        if name not in ("accuracy", "worst_group_accuracy", "group_accuracy") or len(rows) > 1
    ]
    rates = [
        {"group": group["name"], "rate": rate.replace("_", " "), **moved_row("", "accuracy", three)}
        for group in column["groups"]
        for rate, three in (group.get("rates") or {}).items()
    ]
    return {
        "name": column["name"],
        "rates_of": column.get("rates_of", ""),
        "rows": paying(with_marks(rows)),
        "apart": with_marks(apart),
        "rates": rates,
        "left_out": list(column.get("left_out") or ()),
    }
