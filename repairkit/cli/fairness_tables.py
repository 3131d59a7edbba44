"""Tables of how groups fare before and after a repair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repairkit.cli import show
from repairkit.core.patch import Figure

_ALREADY_SHOWN = {"accuracy"}
_RATES = {
    "selection_rate": "selection",
    "true_positive_rate": "true positives",
    "false_positive_rate": "false positives",
}


def fairness_tables(block: Mapping[str, Any]) -> None:
    """For each column, and the columns crossed: what sets groups apart, then the groups."""
    for view in block["columns"]:
        _disparities(view)
        _groups(view)
    if any(group["small"] for view in block["columns"] for group in view["groups"]):
        show.say(f"note: {block['small']}: read its figures with care")
    show.say("groups are looked at to judge alone: the repaired model takes images, no attribute")


def _disparities(view: Mapping[str, Any]) -> None:
    rows = [
        [name, *_cells(name, figures)]
        for name, figures in view["disparities"].items()
        if name not in _ALREADY_SHOWN
    ]
    title = f"Fairness by {view['name']} (a difference is even at 0, a ratio at 100 %)"
    show.table(title, ["figure", "before", "after", "change"], rows)


def _groups(view: Mapping[str, Any]) -> None:
    rows = []
    for group in view["groups"]:
        flag = " (small)" if group["small"] else ""
        rates = [_arrow(group["rates"].get(rate)) for rate in _RATES]
        change = _cells("accuracy", group)[-1]
        rows.append([group["name"] + flag, str(group["n"]), _arrow(group), change, *rates])
    columns = ["group", "images", "accuracy", "change", *_RATES.values()]
    show.table(f"Groups by {view['name']}; rates of class {view['rates_of']}, in %", columns, rows)


def _cells(name: str, figures: Mapping[str, Any]) -> list[str]:
    before, after, change = (Figure(**figures[k]) for k in ("before", "after", "difference"))
    return [show.figure(name, before), show.figure(name, after), show.change(name, change)]


def _arrow(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "-"
    return f"{100 * figures['before']['value']:.1f} -> {100 * figures['after']['value']:.1f}"
