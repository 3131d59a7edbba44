"""Results as HTML for a notebook's cell: tables, small charts, a verdict.

There is no script. Every name is escaped, and the style holds for the cell alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from repairkit.core.metric import SHARE, Measure
from repairkit.notebook.frames import moved_rows
from repairkit.notebook.lines import in_its_words, steering
from repairkit.report import charts, curves, wording
from repairkit.report.charts import LineChart, tag
from repairkit.report.curves import small_svg

SCOPE = "repairkit-cell"
_ENDS = 5  # filters shown at each end of a ranking
_MOST_ROWS = 20
_STYLE = (
    f".{SCOPE} table {{ border-collapse: collapse; margin: .4em 0; }} "
    f".{SCOPE} caption {{ text-align: left; caption-side: top; padding: 0; }} "
    f".{SCOPE} th, .{SCOPE} td {{ padding: .15em .8em .15em 0; text-align: left; }} "
    f".{SCOPE} .n {{ text-align: right; font-variant-numeric: tabular-nums; }} "
    f".{SCOPE} .mark {{ width: 7.5em; height: 1.1em; vertical-align: -.2em; }} "
    f".{SCOPE} .zero {{ stroke: #7d858c; stroke-dasharray: 2 2; }} "
    f".{SCOPE} .reach {{ stroke-width: 2.2; stroke: #7d858c; }} "
    f".{SCOPE} .dot.open {{ fill: #fff; stroke: #7d858c; stroke-width: 2; }} "
    f".{SCOPE} .reach.gain {{ stroke: #0b8a5e; }} .{SCOPE} .dot.gain {{ fill: #0b8a5e; }} "
    f".{SCOPE} .reach.loss {{ stroke: #c8432c; }} .{SCOPE} .dot.loss {{ fill: #c8432c; }}"
)


def cell(*parts: Markup) -> str:
    """Parts as one element with its style."""
    return str(tag("div", Markup("").join([tag("style", Markup(_STYLE)), *parts]), class_=SCOPE))


def sentence(text: str, strong: str = "") -> Markup:
    """A paragraph, after a word in bold type if there is one."""
    head = Markup("{} ").format(tag("strong", f"{strong}.")) if strong else Markup("")
    return tag("p", Markup("{}{}").format(head, wording.visible(text)))


def table(caption: str, names: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """A table; cells that are no text and no drawing stand at the right."""
    head = tag("tr", Markup("").join(tag("th", name, scope="col") for name in names))
    body = [tag("tr", Markup("").join(map(_cell, row))) for row in rows]
    content = [tag("caption", caption), tag("thead", head), tag("tbody", Markup("").join(body))]
    return tag("table", Markup("").join(content))


def table_of(caption: str, rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Rows with the same names as a table; of many, the first twenty."""
    names = list(rows[0])
    shown: list[list[object]] = [[row[name] for name in names] for row in rows[:_MOST_ROWS]]
    if len(rows) > _MOST_ROWS:
        shown.append([f"{len(rows) - _MOST_ROWS:,} more", *[""] * (len(names) - 1)])
    return table(caption, [name.replace("_", " ") for name in names], shown)


def _cell(value: object) -> Markup:
    if isinstance(value, Markup):
        return tag("td", value)
    if isinstance(value, str):
        return tag("td", value)
    if isinstance(value, float):
        return tag("td", wording.number(value), class_="n")
    return tag("td", str(value), class_="n")


def chart(lines: LineChart | None) -> Markup:
    """A small chart with its legend; nothing where there are no lines."""
    return Markup("") if lines is None else small_svg(lines, SCOPE)


def values_cell(kind: str, rows: Sequence[Mapping[str, Any]], document: wording.Document) -> str:
    """A scoring: the first and the last filters with their intervals, and the removal curve.

    Args:
        kind: what was done, in a word.
        rows: of the table, the highest value first.
        document: what `run.json` says.
    """
    _, measure = steering(document)
    cut = len(rows) > 2 * _ENDS + 1
    shown = [*rows[:_ENDS], *rows[-_ENDS:]] if cut else list(rows)
    drawn = [_valued(row, shown, measure) for row in shown]
    if cut:
        left = f"{len(rows) - 2 * _ENDS:,} more"
        drawn.insert(_ENDS, [left, *[""] * (len(drawn[0]) - 1)])
    layer = ["layer"] if rows and "layer" in rows[0] else []
    name = PurePath(document["model"]["path"]).name
    less = "" if measure.greater_is_better else " (less is better: a filter above 0 harms)"
    parts = [
        sentence(
            in_its_words(
                f"{wording.count(len(rows), 'filter')} of {name}, valued for {measure.words}"
                f"{less}. " + " ".join(wording.known_sentences(document)),
                document,
            ),
            kind,
        ),
        table(
            "Highest values first, then the lowest",
            [in_its_words("filter", document), *layer, "value", "from", "to", "interval"],
            drawn,
        ),
    ]
    if "curve" in document:
        curve = document["curve"]
        parts += [
            sentence(in_its_words(curves.lead_sentence(curve), document)),
            Markup(in_its_words(chart(curves.curve_lines(curve, curve["metric"])), document)),
        ]
    return cell(*parts)


def _valued(
    row: Mapping[str, Any], shown: Sequence[Mapping[str, Any]], measure: Measure
) -> list[object]:
    ends = [e[name] for e in shown for name in ("value", "ci_low", "ci_high")]
    finite = [0.0, *(end for end in ends if abs(end) < float("inf"))]
    reach = 0.03 * (max(finite) - min(finite)) or 1.0
    within = min(finite) - reach, max(finite) + reach
    low, high = max(row["ci_low"], within[0]), min(row["ci_high"], within[1])
    mark = charts.interval_mark(
        row["value"],
        low,
        high,
        within=within,
        description=f"{wording.number(row['value'])}, interval {wording.interval(row)}",
        more_is_better=measure.greater_is_better,
    )
    layer = [row["layer"]] if "layer" in row else []
    return [row["filter"], *layer, row["value"], row["ci_low"], row["ci_high"], mark]


def patched_cell(
    verdict: Mapping[str, str],
    frozen: Sequence[str],
    document: wording.Document,
    trade_off: LineChart | None,
) -> str:
    """A repair: the verdict of its page, what is frozen, figures before and after, the trade-off.

    Args:
        verdict: of the page.
        frozen: the filters, or what else was changed.
        document: what the report says.
        trade_off: what more frozen filters bring and cost, where it is known.
    """
    parts = [sentence(in_its_words(verdict["sentence"], document), verdict["word"])]
    if frozen:
        more = f" and {len(frozen) - _MOST_ROWS} more" if len(frozen) > _MOST_ROWS else ""
        parts.append(sentence(f"Changed: {', '.join(frozen[:_MOST_ROWS])}{more}."))
    measures = wording.measures_of(document)
    rows = moved_rows(document["evaluations"]) if document["objective"] is not None else []
    if rows:
        suite = document["evaluations"]["before"]["suite"]
        caption = f"Figures {wording.of_part(suite)}"
        drawn = [_moved(row, measures) for row in rows[:_MOST_ROWS]]
        if len(rows) > _MOST_ROWS:
            drawn.append([f"{len(rows) - _MOST_ROWS:,} more", *[""] * 4])
        parts.append(table(caption, ["", "before", "after", "change", "95 % interval"], drawn))
    return cell(*parts, Markup(in_its_words(chart(trade_off), document)))


def _moved(row: Mapping[str, Any], measures: Mapping[str, Measure]) -> list[object]:
    measure = measures.get(row["name"], SHARE) if row["of"] == "metric" else SHARE
    label = measure.words if row["of"] == "metric" and measure.words else row["name"]
    moved = {end: row[f"difference{name}"] for end, name in _ENDS_OF_FIGURE.items()}
    return [
        label if row["of"] == "metric" else f"accuracy of {row['name']}",
        wording.figure(row["before"], measure),
        wording.figure(row["after"], measure),
        wording.change(row["difference"], measure),
        wording.interval(moved, measure, signed=True),
    ]


_ENDS_OF_FIGURE = {"value": "", "ci_low": "_low", "ci_high": "_high"}
