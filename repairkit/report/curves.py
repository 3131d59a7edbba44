"""Removal curves and trade-offs as charts: of a run, of several runs, and of a search."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from repairkit.core.metric import Measure
from repairkit.report import charts, wording
from repairkit.report.charts import Axis, LineChart, Series, figure_axis, tag

_STYLES = 7
_RANDOM_STYLE = f"c{_STYLES}"
_RANDOM = "random"
_WITH_BANDS = ("highest", "lowest", _RANDOM)
_LEGEND_STEP = 15
_SAMPLE = 26
COLOURS = (
    "#a8301c", "#0b6380", "#0a6b4a", "#7a3e9d", "#6a5a12", "#b3366b", "#4a5560", "#7d858c",
)  # fmt: skip
"""Of the styles c0 to c7, on white paper."""
DASHES = {1: "5 3", 3: "2 2", 4: "7 2 2 2", 6: "5 3"}
"""Of the lines of these styles: lengths drawn and left out, in turn."""


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
        chart = curve_lines(curve, metric).drawn()
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


def curve_lines(curve: wording.Document, metric: str) -> LineChart:
    """The lines of a run's removal curve by one metric; the leading line comes first."""
    lines = sorted(curve["lines"], key=lambda line: line["name"] != curve["lead"])
    styles = _styles([line["name"] for line in lines])
    return _by_size(
        wording.measures_of(curve)[metric],
        curve["sizes"],
        [
            _Line(line["name"], line["words"], line["figures"][metric], style)
            for line, style in zip(lines, styles, strict=True)
        ],
    )


def overlay_lines(overlay: wording.Document) -> LineChart:
    """The lines of several runs' removal curves."""
    styles = _styles([line["name"] for line in overlay["lines"]])
    return _by_size(
        Measure.from_json(overlay["measure"]),
        overlay["sizes"],
        [
            _Line(line["name"], line["label"], line["figures"], style)
            for line, style in zip(overlay["lines"], styles, strict=True)
        ],
    )


@dataclass(frozen=True)
class _Line:
    name: str
    words: str
    figures: Sequence[Mapping[str, Any] | None]
    style: str


def _by_size(measure: Measure, sizes: Sequence[int], lines: Sequence[_Line]) -> LineChart:
    """Figures of lines by the number of filters frozen."""
    series = []
    for line in lines:
        known = [
            (float(size), figure)
            for size, figure in zip(sizes, line.figures, strict=True)
            if figure is not None and figure["value"] is not None
        ]
        points = [(size, figure["value"]) for size, figure in known]
        reach = [(_end(figure, "low"), _end(figure, "high")) for _, figure in known]
        banded = reach if line.name in _WITH_BANDS else ()
        series.append(Series(line.words, points, line.style, reach=banded))
    return LineChart(
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
        "chart": overlay_lines(overlay).drawn(),
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


def overlay_svg(overlay: wording.Document) -> str:
    """The chart of several runs' curves as a picture of its own, with its style and a legend."""
    words = Measure.from_json(overlay["measure"]).words
    title = f"{SVG_MARK}: {words}, judged by {overlay['judged']}"
    lines = overlay_lines(overlay)
    size = {"width": 2 * charts.WIDTH, "height": 2 * _height(lines)}
    return f"{_picture(lines, title, size)}\n"


def small_svg(lines: LineChart, scope: str) -> Markup:
    """A chart of lines with its legend, for a place of a page that has no style of its own.

    Args:
        lines: what it shows.
        scope: a class of the element around it; its style holds nowhere else.
    """
    return _picture(lines, lines.title.partition(";")[0], {"width": charts.WIDTH}, f".{scope} ")


def _height(lines: LineChart) -> int:
    return charts.HEIGHT + _LEGEND_STEP * (len(lines.series) + 1)


def _picture(lines: LineChart, title: str, size: Mapping[str, int], scope: str = "") -> Markup:
    height = _height(lines)
    legend = []
    for number, one in enumerate(lines.series):
        y = charts.HEIGHT + _LEGEND_STEP * (number + 1)
        sample = tag("line", x1=20, x2=20 + _SAMPLE, y1=y - 4, y2=y - 4, class_=f"line {one.style}")
        if not one.joined:
            sample = tag("circle", cx=20 + _SAMPLE / 2, cy=y - 4, r=3.2, class_=f"dot {one.style}")
        legend += [sample, tag("text", one.name, x=26 + _SAMPLE, y=y)]
    sized = f'<svg width="{charts.WIDTH}" height="{charts.HEIGHT}" '
    content = [
        tag("title", title),
        tag("style", Markup(_svg_style({one.style for one in lines.series}, scope))),
        tag("rect", width=charts.WIDTH, height=height, class_="paper"),
        Markup(str(lines.drawn()).replace("<svg ", sized, 1)),
        *legend,
    ]
    return tag(
        "svg",
        Markup("").join(content),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {charts.WIDTH} {height}",
        **size,
    )


SVG_MARK = "repairkit removal curves"
"""How a picture that repairkit wrote begins its title."""


_RULES = {
    "text": "font: 10px system-ui, 'DejaVu Sans', sans-serif; fill: #565e68;",
    ".paper": "fill: #fff;",
    ".tick.y": "text-anchor: end;",
    ".tick.x, .title.x": "text-anchor: middle;",
    ".grid": "stroke: #dcdfe0;",
    ".axis": "stroke: #7d858c;",
    ".band": "opacity: .13;",
    ".line": "fill: none; stroke-width: 1.7; stroke-linejoin: round;",
}
_RULES_OF_TRADE_OFFS = {
    ".line.tried": "stroke: #7d858c;",
    ".dot.tried": "fill: #7d858c;",
    ".dot.aside": "fill: #fff; stroke: #7d858c; stroke-width: 1.4;",
    ".line.tested": "stroke: #0b6380; stroke-dasharray: 5 3;",
    ".dot.tested": "fill: #0b6380;",
    ".dot.chosen": "fill: none; stroke: #1d2126; stroke-width: 1.6; r: 5px;",
    ".label": "fill: #1d2126; font-weight: 560;",
}


def _svg_style(styles: Iterable[str], scope: str = "") -> str:
    """The rules of a picture, each of them for elements within `scope` alone."""
    rules = dict(_RULES)
    for number, colour in enumerate(COLOURS):
        dash = f" stroke-dasharray: {DASHES[number]};" if number in DASHES else ""
        rules[f".line.c{number}"] = f"stroke: {colour};{dash}"
        rules[f".dot.c{number}, .band.c{number}"] = f"fill: {colour};"
    if "tested" in styles:
        rules |= _RULES_OF_TRADE_OFFS
    scoped = {
        ", ".join(f"{scope}{one}" for one in selectors.split(", ")): rule
        for selectors, rule in rules.items()
    }
    return " ".join(f"{selectors} {{ {rule} }}" for selectors, rule in scoped.items())
