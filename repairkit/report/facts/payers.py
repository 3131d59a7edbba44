"""Who pays for a repair: groups, or classes where there are no groups, that surely lose accuracy.

A loss is sure where its interval on the images that report lies below 0; the interval holds 0 where
an exact sign test calls the loss chance (`repairkit.metrics.difference`). Groups are not corrected
for their number: a correction would hide a loss the better, the more groups are looked at. Where
nothing is lost in truth, such a rule names one group in 40 at the most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from repairkit.report.facts import numbers

ONE_IN = 40
"""One group in so many is named by chance, at the most."""
_NAMED = 3
_MANY = 20

Payer = dict[str, Any]
"""`name`, `column`, `n`, and the figures `before`, `after` and `difference`."""


def find_payers(document: Mapping[str, Any]) -> list[Payer] | None:
    """Those who surely lose accuracy, the greatest loss first; None where nobody was looked at."""
    rows = list(_judged(document))
    if not rows:
        return None
    payers = [row for row in rows if (row["difference"]["ci_high"] or 0.0) < 0]
    return sorted(payers, key=lambda row: float(row["difference"]["value"]))


def payers_in_words(document: Mapping[str, Any]) -> str:
    """The clause of the verdict that names who pays; empty where nobody does."""
    payers = find_payers(document) or []
    if not payers:
        return ""
    noun = _noun(payers, many=len(payers) > 1)
    named = [_told(payer) for payer in payers[:_NAMED]]
    rest = payers[_NAMED:]
    if rest:
        names = ", ".join(payer["name"] for payer in rest[: 3 * _NAMED])
        more = len(rest) - 3 * _NAMED
        named.append(f"{len(rest)} more: {names}{f' and {more} others' if more > 0 else ''}")
    return f"surely lowers the accuracy of {noun} {numbers.listing(named)}"


def payers_by_chance(document: Mapping[str, Any]) -> str:
    """A sentence on how many chance alone may have named; empty where few were looked at."""
    if not find_payers(document):
        return ""
    rows = list(_judged(document))
    if len(rows) < _MANY:
        return ""
    noun, by_chance = _noun(rows, many=True), math.ceil(len(rows) / ONE_IN)
    return f" Of the {len(rows):,} {noun} that were looked at, chance alone may name {by_chance:,}."


def _noun(rows: list[Payer], *, many: bool) -> str:
    if any(row["column"] is not None for row in rows):
        return "groups" if many else "group"
    return "classes" if many else "class"


def _told(payer: Payer) -> str:
    found = payer["difference"]
    return (
        f"{payer['name']} ({numbers.change(found['value'], 'accuracy')}, "
        f"{numbers.interval(found, 'accuracy', signed=True)})"
    )


def _judged(document: Mapping[str, Any]) -> Iterator[Payer]:
    """Everyone whose accuracy is known; crossed groups and those of each column alone."""
    fairness = document.get("fairness")
    if fairness:
        for view in fairness["columns"]:
            for group in view["groups"]:
                yield _row(group["name"], view["name"], group["n"], group)
        return
    evaluations = document["evaluations"]
    before, after, change = (evaluations[key] for key in ("before", "after", "difference"))
    for name, found in before["groups"].items():
        three = {
            "before": found,
            "after": after["groups"][name],
            "difference": change[f"accuracy:{name}"],
        }
        yield _row(name, "", before["group_sizes"][name], three)
    if not before["groups"]:
        for row in document.get("classes") or ():
            yield _row(row["name"], None, row["n"], row)


def _row(name: str, column: str | None, n: int, three: Mapping[str, Any]) -> Payer:
    figures = {key: three[key] for key in ("before", "after", "difference")}
    return {"name": name, "column": column, "n": n, **figures}
