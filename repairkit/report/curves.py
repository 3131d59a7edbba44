"""Removal curves and trade-offs as charts: of a run, of several runs, and of a search."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from repairkit.core.metric import Measure
from repairkit.report import charts, wording
from repairkit.report.charts import Axis, Series, figure_axis, line_chart, tag

_STYLES = 7
_RANDOM_STYLE = f"c{_STYLES}"
_RANDOM = "random"
_WITH_BANDS = ("highest", "lowest", _RANDOM)
_LEGEND_STEP = 15
_SAMPLE = 26
_COLOURS = (
    "#a8301c", "#0b6380", "#0a6b4a", "#7a3e9d", "#6a5a12", "#b3366b", "#4a5560", "#7d858c",
)  # fmt: skip
_DASHES = {1: "5 3", 3: "2 2", 4: "7 2 2 2", 6: "5 3"}


def curve_facts(curve: wording.Document | None) -> dict[str, Any] | None:
    """What the page of a run shows of its removal curve: a chart and a table for each metric."""
    if curve is None:
        return None
    lines = sorted(curve["lines"], key=lambda line: line["name"] != curve["lead"])
    styles = _styles([line["name"] for line in lines])
    charted = []
    for metric, measure in wording.measures_of(curve).items():
        shown = [
            {"words": line["words"], "style": style, "figures": line["figures"][metric]}
            for line, style in zip(lines, styles, strict=True)
        ]
        named = [
            (line["name"], line["figures"][metric], style)
            for line, style in zip(lines, styles, strict=True)
        ]
        chart = _chart(measure, curve["sizes"], named)
        charted.append({"metric": metric, "measure": measure, "lines": shown, "chart": chart})
    return {**curve, "charts": charted, "sentence": lead_sentence(curve)}


def lead_sentence(curve: wording.Document) -> str:
    """What freezing the first filters of the leading line does, beside as many random ones."""
    measure = wording.measures_of(curve)[curve["metric"]]
    by_name = {line["name"]: line for line in curve["lines"]}
    lead = by_name[curve["lead"]]
    ends = [by_name[name]["figures"][curve["metric"]] for name in (curve["lead"], _RANDOM)]
    before, after, random = (
        wording.figure(figure["value"], measure)
        for figure in (ends[0][0], ends[0][-1], ends[1][-1])
    )
    frozen = wording.count(curve["sizes"][-1], "filter")
    return (
        f"With {frozen} frozen, the {lead['words']}, the {measure.words} goes from {before} to "
        f"{after}; with as many random ones it goes to {random}."
    )


def _styles(names: Sequence[str]) -> list[str]:
    """A style for each line; random ones are gray."""
    styles, used = [], 0
    for name in names:
        styles.append(_RANDOM_STYLE if name == _RANDOM else f"c{used % _STYLES}")
        used += name != _RANDOM
    return styles


def _chart(
    measure: Measure,
    sizes: Sequence[int],
    lines: Sequence[tuple[str, Sequence[Mapping[str, Any] | None], str]],
) -> Markup:
    """The figures of lines (name, figures, style) by the number of filters frozen."""
    series = []
    for name, figures, style in lines:
        known = [
            (float(size), figure)
            for size, figure in zip(sizes, figures, strict=True)
            if figure is not None and figure["value"] is not None
        ]
        points = [(size, figure["value"]) for size, figure in known]
        reach = [(_end(figure, "low"), _end(figure, "high")) for _, figure in known]
        banded = reach if name in _WITH_BANDS else ()
        series.append(Series(name, points, style, reach=banded))
    return line_chart(
        f"{measure.words} as filters are frozen; the same numbers stand in the table below",
        Axis("filters frozen", whole=True),
        figure_axis(measure),
        series,
    )


def _end(figure: Mapping[str, Any], name: str) -> float:
    known = figure[name]
    return float(figure["value"] if known is None else known)


def overlay_facts(overlay: wording.Document) -> dict[str, Any]:
    """The variables of the page of several runs' curves."""
    measure = Measure.from_json(overlay["measure"])
    styles = _styles([line["name"] for line in overlay["lines"]])
    n_runs = len(overlay["runs"])
    return {
        "document": overlay,
        "versions": overlay["versions"],
        "name": PurePath(overlay["model"]["path"]).name,
        "measure": measure,
        "chart": _overlay_chart(overlay, measure, styles),
        "lines": [
            {**line, "style": style} for line, style in zip(overlay["lines"], styles, strict=True)
        ],
        "warnings": [],
        "verdict": {
            "tone": "plain",
            "word": "Removal curves",
            "sentence": f"{wording.count(n_runs, 'run')} of one model, judged by "
            f"{overlay['judged']}.",
        },
    }


def _overlay_chart(overlay: wording.Document, measure: Measure, styles: Sequence[str]) -> Markup:
    lines = [
        (line["name"], line["figures"], style)
        for line, style in zip(overlay["lines"], styles, strict=True)
    ]
    return _chart(measure, overlay["sizes"], lines)


def overlay_svg(overlay: wording.Document) -> str:
    """The chart of several runs' curves as a picture of its own, with its style and a legend."""
    measure = Measure.from_json(overlay["measure"])
    styles = _styles([line["name"] for line in overlay["lines"]])
    chart = _overlay_chart(overlay, measure, styles)
    height = charts.HEIGHT + _LEGEND_STEP * (len(styles) + 1)
    legend = []
    for number, (line, style) in enumerate(zip(overlay["lines"], styles, strict=True)):
        y = charts.HEIGHT + _LEGEND_STEP * (number + 1)
        legend += [
            tag("line", x1=20, x2=20 + _SAMPLE, y1=y - 4, y2=y - 4, class_=f"line {style}"),
            tag("text", line["label"], x=26 + _SAMPLE, y=y),
        ]
    content = [
        tag("title", f"{SVG_MARK}: {measure.words}, judged by {overlay['judged']}"),
        tag("style", Markup(_svg_style())),
        tag("rect", width=charts.WIDTH, height=height, class_="paper"),
        Markup(
            str(chart).replace("<svg ", f'<svg width="{charts.WIDTH}" height="{charts.HEIGHT}" ', 1)
        ),
        *legend,
    ]
    picture = tag(
        "svg",
        Markup("").join(content),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {charts.WIDTH} {height}",
        width=2 * charts.WIDTH,
        height=2 * height,
    )
    return f"{picture}\n"


SVG_MARK = "repairkit removal curves"
"""How a picture that repairkit wrote begins its title."""


def _svg_style() -> str:
    rules = [
        "text { font: 10px system-ui, 'DejaVu Sans', sans-serif; fill: #565e68; }",
        ".paper { fill: #fff; }",
        ".tick.y { text-anchor: end; } .tick.x, .title.x { text-anchor: middle; }",
        ".grid { stroke: #dcdfe0; } .axis { stroke: #7d858c; } .band { opacity: .13; }",
        ".line { fill: none; stroke-width: 1.7; stroke-linejoin: round; }",
    ]
    for number, colour in enumerate(_COLOURS):
        dash = f" stroke-dasharray: {_DASHES[number]};" if number in _DASHES else ""
        rules.append(
            f".line.c{number} {{ stroke: {colour};{dash} }} "
            f".dot.c{number}, .band.c{number} {{ fill: {colour}; }}"
        )
    return " ".join(rules)
