"""What the page of a repair shows, from the document of the repair.

Tables hold figures before and after, with their differences drawn over one shared scale.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from repairkit.core.metric import SHARE, Measure
from repairkit.report import story, wording
from repairkit.report.charts import Axis, LineChart, Series, figure_axis, interval_mark

_GROUPS_SHOWN = 24


def repair_facts(document: wording.Document) -> dict[str, Any]:
    """The variables of the template, by name; blocks that are missing are None or empty."""
    tables = group_tables(document)
    shown = [_shortened(table) for table in tables]
    classes = class_rows(document)
    return {
        "document": document,
        "name": PurePath(document["result"]["path"]).name,
        "source_name": PurePath(document["source"]["path"]).name,
        "verdict": story.verdict(document),
        "warnings": story.overlap_warnings(document["parts"]),
        "rows": metric_rows(
            document["evaluations"], document["objective"], wording.measures_of(document)
        ),
        "trade_off": trade_off(document),
        "attacked": attack_trade_off(document),
        "groups": shown[:1],
        "columns_alone": shown[1:],
        "classes": _shortened({"name": "", "rows": classes}) if classes else None,
        "changed": changed_facts(document),
        "small_note": (document.get("fairness") or {}).get(
            "small", "a group is small where it has fewer than 30 images"
        ),
        "constants": dict(document["patch"]["frozen"]),
        "gains": document["patch"].get("gains", {}),
        "act": story.act(document),
        "head": story.head_in_words(document),
        "interpretation": document.get("interpretation"),
        "baselines": baselines(document),
        "selection": document.get("selection"),
        "measures": wording.measures_of(document),
        "promise": story.promise_in_words(document),
        "search": story.search_in_words(document["selection"]) if document.get("selection") else "",
        "cures": story.cure_rows(document),
        "cure_metrics": story.cure_metrics(document),
        "cures_caption": story.cures_caption(document["selection"])
        if story.cure_rows(document)
        else "",
        "commands": commands(document),
        "runtime": runtime_told(document),
    }


def runtime_told(document: wording.Document) -> dict[str, Any] | None:
    """What the patch means for a runtime; None in reports of earlier versions."""
    runtime = document.get("runtime")
    if runtime is None:
        return None
    stale, current = document["source"]["digest"], document["result"]["digest"]
    return {
        "tensors": runtime["tensors"],
        "sentences": [
            *wording.runtime_in_words(runtime),
            wording.stale_in_words([stale], current),
        ],
    }


def _shortened(table: wording.Document) -> dict[str, Any]:
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


def trade_off(document: wording.Document) -> dict[str, Any] | None:
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

    def place(n: int, row: wording.Document) -> tuple[float, float]:
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
        Series(_TRIED, [place(p["n_frozen"], p) for p in way], "tried", labels),
        Series(
            "tried and given up", [place(p["n_frozen"], p) for p in aside], "aside", joined=False
        ),
        Series(
            f"{suite} images, before and after",
            tested,
            "tested",
            [f"{suite}, before", f"{suite}, after"],
        ),
    ]
    if chosen:
        last = place(n_frozen, chosen[-1])
        words = "the set that was chosen"
        series.insert(0, Series(words, [last], "chosen", [str(n_frozen)], joined=False))
    lines = _lines(wording.measures_of(document)[objective], series, against=against)
    return {
        "lines": lines,
        "chart": lines.drawn(),
        "against": against,
        "points": points,
        "objective": objective,
        "aside": bool(aside),
    }


_TRIED = "sets tried on the selection images"


def _lines(measure: Measure, series: list[Series], *, against: bool) -> LineChart:
    up = figure_axis(measure)
    across = Axis("overall accuracy, %", 100.0) if against else Axis("filters frozen", whole=True)
    title = (
        f"{up.title} against {across.title} as more filters are frozen; the same numbers stand in "
        "the table below"
    )
    return LineChart(title, across, up, series)


def attack_trade_off(document: wording.Document) -> dict[str, Any] | None:
    """Attack success against clean accuracy over the steps of a search; None without both.

    Each point is a set of filters that the search kept, on the selection images; the ends are the
    model before and after on the images that report.
    """
    selection = document.get("selection") or {}
    kept = [p for p in selection.get("trade_off") or [] if p.get("kept", True)]
    points = [point for point in map(_halves, kept) if point is not None]
    evaluations = document["evaluations"]
    ends = [evaluations[key]["metrics"] for key in ("before", "after")]
    if len(points) < 2 or any(name not in end for end in ends for name in _ATTACKED):
        return None
    suite = evaluations["before"]["suite"].rpartition(", ")[2]
    way = [(p["clean_accuracy"], p["attack_success"]) for p in points]
    tested = [(end["clean_accuracy"]["value"], end["attack_success"]["value"]) for end in ends]
    lines = LineChart(
        "attack success against clean accuracy as more filters are frozen; the same numbers stand "
        "in the table below",
        Axis("clean accuracy, %", 100.0),
        Axis("attack success, %", 100.0),
        [
            Series(_TRIED, way, "tried", [str(p["n_frozen"]) for p in points]),
            Series(
                f"{suite} images, before and after",
                tested,
                "tested",
                [f"{suite}, before", f"{suite}, after"],
            ),
        ],
    )
    return {"lines": lines, "chart": lines.drawn(), "points": points, "suite": suite}


_ATTACKED = ("clean_accuracy", "attack_success")


def _halves(point: wording.Document) -> dict[str, Any] | None:
    """The two halves of robustness of a set that was tried; None where they are not known."""
    clean = point.get("clean_accuracy", point.get("accuracy"))
    success = point.get("attack_success")
    if success is None and clean is not None and point.get("robustness") is not None:
        success = point["robustness"] + clean  # which is its difference from this
    if success is None or clean is None:
        return None
    return {"n_frozen": point["n_frozen"], "clean_accuracy": clean, "attack_success": success}


_KINDS = {
    "better": ("Better", "wrong before, right now"),
    "worse": ("Worse", "right before, wrong now"),
    "other": ("Wrong otherwise", "wrong before and now, with another answer"),
}
_FILTERS_TOLD = 3


def changed_facts(document: wording.Document) -> dict[str, Any] | None:
    """Images whose answer changed, by kind; None where the document does not tell of any.

    Of the frozen filters, each image names those whose response lay farthest from their level.
    """
    changed = document.get("changed")
    if changed is None:
        return None
    kinds = []
    for key, (title, words) in _KINDS.items():
        images = [
            {**image, "frozen": _farthest(image.get("frozen") or [])}
            for image in changed["images"]
            if image["kind"] == key
        ]
        kinds.append({"key": key, "title": title, "words": words, "images": images})
    rows = [{**changed["all"], "name": "all images"}, *changed["sets"]]
    return {**changed, "kinds": kinds, "rows": rows}


def _farthest(frozen: Sequence[wording.Document]) -> list[wording.Document]:
    known = [entry for entry in frozen if entry["from_level"] is not None]
    known.sort(key=lambda entry: -abs(entry["from_level"]))
    return [
        {**entry, "words": f"{entry['from_level']:+.1f}".replace("-", "\N{MINUS SIGN}")}
        for entry in known[:_FILTERS_TOLD]
    ]


def baselines(document: wording.Document) -> dict[str, Any] | None:
    """Rows of the baselines, and the metrics that are their columns; the objective comes first."""
    rows = document.get("baselines") or []
    if not rows:
        return None
    objective = document["objective"]
    names = dict.fromkeys(name for row in rows for name in row["figures"])
    metrics = sorted(names, key=lambda name: (name != objective, name != "accuracy"))
    return {"rows": rows, "metrics": metrics}


def commands(document: wording.Document) -> dict[str, str]:
    """Shell commands that verify, revert, apply again and choose again."""
    source, result = document["source"]["path"], document["result"]["path"]
    patch = str(PurePath(result).with_name(f"{PurePath(result).stem}.patch.json"))
    again, original = (
        str(PurePath(result).with_name(f"{PurePath(result).stem}.{name}.onnx"))
        for name in ("again", "original")
    )
    path = document["data"]["path"]
    data = [] if path is None else ["--data", path]
    choice = document["choice"]
    if choice.get("image_input"):
        data += ["--image-input", choice["image_input"]]
    for name, value in (choice.get("inputs") or {}).items():
        data += ["--input", f"{name}={value}"]
    data += wording.reading_words(choice.get("preprocessing"))
    return {
        "verify": wording.shell("verify", source, result, "--patch", patch, *data),
        "revert": wording.shell("revert", result, patch, "-o", original),
        "apply": wording.shell("apply", source, patch, "-o", again),
        "choose": wording.command_again(document.get("again"), again),
    }


# Tables

SMALL_GROUP = 30

Row = dict[str, Any]
_UNKNOWN = {"value": None, "ci_low": None, "ci_high": None}


def moved_row(
    name: str,
    measure: Measure,
    three: wording.Document | None,
    *,
    n: int | None = None,
    small: bool = False,
) -> Row:
    """One row; `three` holds the figures `before`, `after` and `difference`, None if unknown."""
    three = three or dict.fromkeys(("before", "after", "difference"), _UNKNOWN)
    return {
        "name": name,
        "measure": measure,
        "n": n,
        "small": small,
        **{key: three[key] for key in ("before", "after", "difference")},
    }


def with_marks(rows: Sequence[Row]) -> list[Row]:
    """The rows with `mark`, a drawing of the difference; those of shares share a scale."""
    scales = {share: _scale(rows, share=share) for share in (True, False)}
    marked = []
    for row in rows:
        moved, measure = row["difference"], row["measure"]
        low, high = scales[measure.is_share]
        if moved["value"] is None or moved["ci_low"] is None:
            marked.append({**row, "mark": ""})
            continue
        turn = measure.sign
        words = (
            f"{wording.change(moved['value'], measure)}, "
            f"95 % interval {wording.interval(moved, measure, signed=True)}"
        )
        ends_of_mark = sorted((turn * moved["ci_low"], turn * moved["ci_high"]))
        limits = sorted((turn * low, turn * high))
        mark = interval_mark(
            turn * moved["value"],
            ends_of_mark[0],
            ends_of_mark[1],
            within=(limits[0], limits[1]),
            description=words,
        )
        marked.append({**row, "mark": mark})
    return marked


def _scale(rows: Sequence[Row], *, share: bool) -> tuple[float, float]:
    """The range that holds zero and every interval of the rows of one kind."""
    peers = [row["difference"] for row in rows if row["measure"].is_share == share]
    known = [moved for moved in peers if moved["ci_low"] is not None]
    ends = [0.0, *(moved[end] for moved in known for end in ("ci_low", "ci_high"))]
    low, high = min(ends), max(ends)
    reach = 0.04 * (high - low) or 1.0
    return low - reach, high + reach


def metric_rows(
    evaluations: wording.Document, objective: str, measures: Mapping[str, Measure]
) -> list[Row]:
    """The metrics of the two models, the objective first."""
    before, after, change = (evaluations[key] for key in ("before", "after", "difference"))
    names = sorted(before["metrics"], key=lambda name: name != objective)
    return with_marks(
        [
            moved_row(
                _name(measures[name]),
                measures[name],
                {
                    "before": before["metrics"][name],
                    "after": after["metrics"][name],
                    "difference": change[name],
                },
            )
            for name in names
        ]
    )


def _name(measure: Measure) -> str:
    return f"{measure.words} (0 is even)" if measure.even_at == 0 else measure.words


def group_tables(document: wording.Document) -> list[dict[str, Any]]:
    """A table of groups per column of groups, with what sets the groups apart where that is known.

    The first is of the groups that were chosen for, those of all columns crossed. Without a
    `fairness` block it is the one table, of the groups that were evaluated.
    """
    fairness = document.get("fairness")
    if fairness:
        *alone, crossed = fairness["columns"]
        measures = wording.measures_of(document)
        return [_judged_by(column, measures) for column in (crossed, *alone)]
    rows = [
        moved_row(name, SHARE, three, n=n, small=n < SMALL_GROUP)
        for name, n, three in story.groups_moved(document)
    ]
    table = {"name": "", "apart": [], "rates": [], "left_out": []}
    return [{**table, "rows": paying(with_marks(rows))}] if rows else []


def class_rows(document: wording.Document) -> list[Row]:
    """The accuracy of each class, where it was looked at: where there are no groups."""
    rows = [
        moved_row(row["name"], SHARE, row, n=row["n"], small=row["n"] < SMALL_GROUP)
        for row in document.get("classes") or ()
    ]
    return paying(with_marks(rows))


def paying(rows: Sequence[Row]) -> list[Row]:
    """The rows with `pays`: whether the accuracy surely falls."""
    return [{**row, "pays": (row["difference"]["ci_high"] or 0.0) < 0} for row in rows]


def _judged_by(column: wording.Document, measures: Mapping[str, Measure]) -> dict[str, Any]:
    rows = [
        moved_row(group["name"], SHARE, group, n=group["n"], small=bool(group.get("small")))
        for group in column["groups"]
    ]
    apart = [
        moved_row(measures[name].words, measures[name], three)
        for name, three in column["disparities"].items()
        if len(rows) > 1 or measures[name].even_at is not None
    ]
    rates = [
        {"group": group["name"], "rate": rate.replace("_", " "), **moved_row("", SHARE, three)}
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
