"""Tables of how groups, or classes where there are no groups, fare before and after a repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repairkit.cli.shown import show
from repairkit.core.metric import SHARE, Measure
from repairkit.core.patch import Figure
from repairkit.report.wording import of_part

_COLUMNS = ["images", "before", "after", "change"]


def fairness_tables(
    block: Mapping[str, Any], measures: Mapping[str, Measure], *, details: bool
) -> None:
    """The groups that all columns make together; with `details` also by each column, and rates."""
    *alone, crossed = block["columns"]
    views = [*alone, crossed] if details else [crossed]
    _groups(crossed)
    if details:
        for view in alone:
            _groups(view)
        for view in views:
            _disparities(view, measures)
            _rates(view)
    if any(group["small"] for view in views for group in view["groups"]):
        show.say(f"note: {block['small']}: read its figures with care")
    show.say("groups are looked at to judge alone: the repaired model takes images, no attribute")
    if not details:
        more = " each column alone," if alone else ""
        show.say(f"use --details for{more} rates and what sets groups apart; the page has them too")


def classes_table(rows: Sequence[Mapping[str, Any]], suite: str) -> None:
    """The accuracy of each class."""
    cells = [[row["name"], str(row["n"]), *_cells(SHARE, row)] for row in rows]
    show.table(
        f"Accuracy of the classes on the images {of_part(suite)}", ["class", *_COLUMNS], cells
    )


def _groups(view: Mapping[str, Any]) -> None:
    rows = [
        [
            group["name"] + (" (small)" if group["small"] else ""),
            str(group["n"]),
            *_cells(SHARE, group),
        ]
        for group in view["groups"]
    ]
    show.table(f"Groups by {view['name']}: accuracy", ["group", *_COLUMNS], rows)


def _disparities(view: Mapping[str, Any], measures: Mapping[str, Measure]) -> None:
    rows = [
        [measures[name].words, *_cells(measures[name], figures)]
        for name, figures in view["disparities"].items()
        if name != "accuracy"  # it has its own table
    ]
    title = f"Fairness by {view['name']} (a difference is even at 0, a ratio at 1)"
    show.table(title, ["figure", *_COLUMNS[1:]], rows)


def _rates(view: Mapping[str, Any]) -> None:
    rows = [[group["name"], *map(_arrow, group["rates"].values())] for group in view["groups"]]
    names = [rate.replace("_", " ") for rate in view["groups"][0]["rates"]]
    title = f"Rates of class {view['rates_of']} by {view['name']}, in %"
    show.table(title, ["group", *names], rows)
    for sentence in view.get("left_out") or ():
        show.say(f"-: {sentence}")


def _cells(measure: Measure, figures: Mapping[str, Any] | None) -> list[str]:
    if figures is None:
        return ["-", "-", "-"]
    before, after, change = (
        Figure.from_json(figures[k]) for k in ("before", "after", "difference")
    )
    return [
        show.figure(measure, before),
        show.figure(measure, after),
        show.change(measure, change),
    ]


def _arrow(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "-"
    before, after = (SHARE.number(figures[when]["value"]) for when in ("before", "after"))
    return f"{before} -> {after}"
