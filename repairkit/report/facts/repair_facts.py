"""What the page of a repair shows, from the document of the repair."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from repairkit.report.charts import Axis, Series, line_chart
from repairkit.report.facts import numbers
from repairkit.report.facts.changes import act, head_in_words
from repairkit.report.facts.commands import command_again, reading_words, shell
from repairkit.report.facts.promise import (
    cure_metrics,
    cure_rows,
    cures_caption,
    promise_in_words,
    search_in_words,
)
from repairkit.report.facts.verdict import verdict
from repairkit.report.tables import class_rows, group_tables, metric_rows

_GROUPS_SHOWN = 24


def repair_facts(document: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the template, by name; blocks that are missing are None or empty."""
    tables = group_tables(document)
    shown = [_shortened(table) for table in tables]
    classes = class_rows(document)
    return {
        "document": document,
        "name": PurePath(document["result"]["path"]).name,
        "source_name": PurePath(document["source"]["path"]).name,
        "verdict": verdict(document),
        "warnings": overlap_warnings(document["parts"]),
        "rows": metric_rows(
            document["evaluations"], document["objective"], document.get("less_is_better", ())
        ),
        "trade_off": trade_off(document),
        "groups": shown[:1],
        "columns_alone": shown[1:],
        "classes": _shortened({"name": "", "rows": classes}) if classes else None,
        "small_note": (document.get("fairness") or {}).get(
            "small", "a group is small where it has fewer than 30 images"
        ),
        "constants": dict(document["patch"]["frozen"]),
        "gains": document["patch"].get("gains", {}),
        "act": act(document),
        "head": head_in_words(document),
        "interpretation": document.get("interpretation"),
        "baselines": baselines(document),
        "selection": document.get("selection"),
        "promise": promise_in_words(document),
        "search": search_in_words(document["selection"]) if document.get("selection") else "",
        "cures": cure_rows(document),
        "cure_metrics": cure_metrics(document),
        "cures_caption": cures_caption(document["selection"]) if cure_rows(document) else "",
        "commands": commands(document),
    }


def overlap_warnings(parts: Mapping[str, Any]) -> list[str]:
    """Sentences on parts that share images with the test part; means look at no label."""
    consequences = {
        "selection": "the figures of the test part are too good to be believed",
        "calibration": "what frozen filters yield was measured on images that judge it",
    }
    return [
        f"The parts {first} and test share images: {consequences[first]}."
        for first, second in parts.get("overlaps", [])
        if second == "test"
    ]


def _shortened(table: Mapping[str, Any]) -> dict[str, Any]:
    """Of many groups, those that pay, fare worst now or moved most; all are in `rows`."""
    rows = table["rows"]
    if len(rows) <= _GROUPS_SHOWN:
        return {**table, "leading": rows, "n_more": 0}
    half = _GROUPS_SHOWN // 2
    worst = sorted(rows, key=lambda row: (not row["pays"], row["after"]["value"]))[:half]
    names = {row["name"] for row in worst}
    rest = [row for row in rows if row["name"] not in names]
    rest.sort(key=lambda row: -abs(row["difference"]["value"]))
    return {**table, "leading": [*worst, *rest[:half]], "n_more": len(rows) - 2 * half}


def trade_off(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The chart of what more frozen filters bring and cost, and its table; None without trials."""
    objective = document["objective"]
    if objective is None:
        return None
    selection = document.get("selection") or {}
    points = list(selection.get("trade_off") or document.get("trials") or [])
    points = [row for row in points if row.get(objective) is not None]
    if len(points) < 2 or not any(p.get("kept", True) for p in points):
        return None
    known = "accuracy" in document["evaluations"]["before"]["metrics"]
    known = known and all(p.get("accuracy") is not None for p in points)
    against = known and objective != "accuracy"
    n_frozen = len(document["patch"]["frozen"])
    evaluations = document["evaluations"]
    ends = [(0, evaluations["before"]["metrics"]), (n_frozen, evaluations["after"]["metrics"])]

    def place(n: int, row: Mapping[str, Any]) -> tuple[float, float]:
        return (row["accuracy"] if against else float(n)), row[objective]

    frozen = [name for name, _ in document["patch"]["frozen"]]
    chosen = [p for p in points if set(p.get("filters", frozen)) == set(frozen)]
    chosen = [p for p in chosen if p["n_frozen"] == n_frozen]
    suite = evaluations["before"]["suite"].rpartition(", ")[2]
    tested = [place(n, {k: f["value"] for k, f in metrics.items()}) for n, metrics in ends]
    # Sets that were tried and given up stand beside the way that was kept.
    way = [p for p in points if p.get("kept", True)]
    labels = [str(p["n_frozen"]) if p in (way[0], way[-1]) else "" for p in way]
    aside = [p for p in points if not p.get("kept", True)]
    series = [
        Series("tried", [place(p["n_frozen"], p) for p in way], "tried", labels),
        Series("aside", [place(p["n_frozen"], p) for p in aside], "aside", joined=False),
        Series("test", tested, "tested", [f"{suite}, before", f"{suite}, after"]),
    ]
    if chosen:
        last = place(n_frozen, chosen[-1])
        series.insert(0, Series("chosen", [last], "chosen", [str(n_frozen)], joined=False))
    return {
        "chart": _chart(objective, series, against=against),
        "against": against,
        "points": points,
        "objective": objective,
        "aside": bool(aside),
    }


def _chart(objective: str, series: list[Series], *, against: bool) -> Markup:
    share = numbers.is_share(objective)
    up = Axis(
        numbers.in_words(objective) + (", %" if share else ""),
        100.0 if share else 1.0,
    )
    across = Axis("overall accuracy, %", 100.0) if against else Axis("filters frozen", whole=True)
    title = (
        f"{up.title} against {across.title} as more filters are frozen; the same numbers stand in "
        "the table below"
    )
    return line_chart(title, across, up, series)


def baselines(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rows of the baselines, and the metrics that are their columns; the objective comes first."""
    rows = document.get("baselines") or []
    if not rows:
        return None
    objective = document["objective"]
    names = dict.fromkeys(name for row in rows for name in row["figures"])
    metrics = sorted(names, key=lambda name: (name != objective, name != "accuracy"))
    return {"rows": rows, "metrics": metrics}


def commands(document: Mapping[str, Any]) -> dict[str, str]:
    """Shell commands that verify, revert, apply again and choose again."""
    source, result = document["source"]["path"], document["result"]["path"]
    patch = str(PurePath(result).with_name(f"{PurePath(result).stem}.patch.json"))
    again = str(PurePath(result).with_name(f"{PurePath(result).stem}.again.onnx"))
    path = document["data"]["path"]
    data = [] if path is None else ["--data", path]
    choice = document["choice"]
    if choice.get("image_input"):
        data += ["--image-input", choice["image_input"]]
    for name, value in (choice.get("inputs") or {}).items():
        data += ["--input", f"{name}={value}"]
    data += reading_words(choice.get("preprocessing"))
    return {
        "verify": shell("verify", source, result, "--patch", patch, *data),
        "revert": shell("revert", result, patch, "-o", again),
        "apply": shell("apply", source, patch, "-o", again),
        "choose": command_again(document.get("again"), again),
    }
