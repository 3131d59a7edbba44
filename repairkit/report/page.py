"""Documents to self-contained pages: one file, no script, no network, every string escaped."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.ext import Extension
from jinja2.runtime import Context

from repairkit.core.metric import SHARE, Measure
from repairkit.core.process.nouns import TREE, by_layers, in_trees, layers_of
from repairkit.report import charts, curves, wording
from repairkit.report.repair_page import repair_facts
from repairkit.report.story import overlap_warnings
from repairkit.report.wording import Document, command_again, count, interval, measures_of, number

Pictures = Mapping[int, charts.Picture]
"""Pictures of images by their row in the data."""


def render_patch(document: Mapping[str, Any], pictures: Pictures | None = None) -> str:
    """The page of a repair, from what `report.json` says of it.

    Blocks that the document lacks are left out of the page.
    """
    return render("repair.html.j2", repair_facts(document), pictures)


def render_run(document: Mapping[str, Any], pictures: Pictures | None = None) -> str:
    """The page of a scoring, from what `report.json` says of it; see `render_patch`."""
    return render("run.html.j2", run_facts(document), pictures)


def render_overlay(document: Mapping[str, Any]) -> str:
    """The page of several runs' removal curves, from what `repairkit curve --json` says."""
    return render("curves.html.j2", curves.overlay_facts(document), None)


def render(template: str, facts: Mapping[str, Any], pictures: Pictures | None = None) -> str:
    """The page that a template makes of these variables."""
    document = facts.get("run") or facts.get("document") or {}
    environment = _environment(of_trees=document.get("unit") == TREE)
    page: str = environment.get_template(template).render(
        facts, pictures=pictures or {}, layer_names=layers_of(document)
    )
    return page


class _InTrees(Extension):
    """Templates with the word tree in place of filter, in their own sentences and in facts."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """A template's source; names of filters, groups and classes are shown as they are."""
        del name, filename
        return "".join(map(_part_in_trees, _CODE.split(source)))


_CODE = re.compile(r"(\{\{.*?\}\}|\{%.*?%\})", re.DOTALL)
_TEXT = re.compile(r'"[^"]*"')
_NAMED = "{{ text|shown }}"  # in the macro of names


def _part_in_trees(part: str) -> str:
    if not part.startswith("{"):
        # On a narrow screen, the attribute heads a cell.
        return in_trees(part.replace('data-name="Filters"', 'data-name="Trees"'))
    texts = _TEXT.sub(lambda text: f'"{in_trees(text[0][1:-1])}"', part)
    return texts if part == _NAMED else _SHOWN.sub(r"\1|in_trees", texts)


_SHOWN = re.compile(r"(\|shown\b|\bchart(?= \}\}))")


@pass_context
def _shown(context: Context, text: object) -> str:
    """Text in which every character shows, with layers of the framework in place of sites."""
    return wording.visible(by_layers(str(text), context.get("layer_names") or {}))


def _charts_in_trees(text: object) -> str:
    """Text or markup in which filters are called trees."""
    return type(text)(in_trees(text)) if isinstance(text, str) else str(text)


@cache
def _environment(*, of_trees: bool) -> Environment:
    environment = Environment(
        extensions=[_InTrees] if of_trees else [],
        loader=PackageLoader("repairkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": _shown,
        "visible": wording.visible,
        "in_trees": _charts_in_trees,
        "number": wording.number,
        "figure": wording.figure,
        "change": wording.change,
        "interval": wording.interval,
    }
    environment.globals |= {
        "count": wording.count,
        "of_part": wording.of_part,
        "is_cross_fitted": wording.is_cross_fitted,
        "SHARE": SHARE,
        "share_bar": charts.share_bar,
        "spot": spot,
        "why_shown": wording.why_shown,
    }
    return environment


def spot(
    image: Mapping[str, Any], entry: Mapping[str, Any], picture: charts.Picture
) -> dict[str, float]:
    """Where in a picture a filter responds most: the rectangle that its position sees, in pixels.

    The whole picture where the position sees it all.
    """
    sees = entry.get("sees")
    height, width = (picture.height, picture.width) if sees is None else sees
    height, width = min(height, picture.height), min(width, picture.width)
    row, column = image["at"]
    top = min(max(row * picture.height - height / 2, 0), picture.height - height)
    left = min(max(column * picture.width - width / 2, 0), picture.width - width)
    return {"x": round(left, 2), "y": round(top, 2), "width": width, "height": height}


_LAYERS_SHOWN = 60


def run_facts(document: Document) -> dict[str, Any]:
    """The variables of the template, by name; blocks that are missing are None or empty."""
    run = document["run"]
    again = run.get("again")
    metric = run["settings"]["metrics"][0] if not run["metrics"] else next(iter(run["metrics"]))
    scores, measures = document["scores"], measures_of(run)
    measure = measures.get(metric, Measure(words=metric))
    return {
        "document": document,
        "run": run,
        "measure": measure,
        "measures": measures,
        "name": PurePath(run["model"]["path"]).name,
        "verdict": {
            "tone": "plain",
            "word": "Scored",
            "sentence": _sentence(scores, measure.words, run) + _of_sizes(run),
        },
        "warnings": [*overlap_warnings(run["parts"]), *_collapse(run, measure)],
        "less_is_better": bool(scores.get("less_is_better")),
        "highest": _marked(scores["highest"], scores, measure),
        "lowest": _marked(scores["lowest"], scores, measure),
        "layers": _layers(document.get("spread")),
        "curve": curves.curve_facts(run.get("curve")),
        "removal": _removal(document.get("removal"), measures),
        "truncation": _truncation(document.get("statistics"), measure),
        "samples": _samples(scores.get("samples")),
        "interpretation": document.get("interpretation"),
        "known": wording.known_sentences(run),
        "commands": {"score": command_again(again, (again or {}).get("out", ""))},
    }


def _of_sizes(run: Document) -> str:
    """Of which image size the values are, where they are of two."""
    size = run.get("score_size")
    if size is None:
        return ""
    small, full = (f"{height}x{width}" for height, width in (size["size"], size["full"]))
    return (
        f" Only {count(len(size['filters']), 'value')} at the ends of the ranking "
        f"{'is' if len(size['filters']) == 1 else 'are'} of images of {full}; all others are of "
        f"{small} and say nothing of {full}."
    )


def _sentence(scores: Document, name: str, run: Document) -> str:
    n = count(scores["n_filters"], "filter")
    if scores.get("harmful") is None:
        return f"Of {n}, each is ranked for {name} by {run['settings']['method']}; no intervals."
    harmful, helpful = scores["harmful"], scores["helpful"]
    rest = scores["n_filters"] - harmful - helpful
    known = wording.known_sentences(run)
    surely = "surely " if known else ""
    signs = (
        f"Of {n}, {harmful:,} {surely}{'harms' if harmful == 1 else 'harm'} the {name}, "
        f"{helpful:,} {surely}{'helps' if helpful == 1 else 'help'} it, and {rest:,} cannot be "
        "told from zero."
        if harmful + helpful
        else f"Of {n}, none can be told from zero for {name} yet: every interval holds zero."
    )
    return " ".join([signs, *known[1:]])


def _collapse(run: Document, measure: Measure) -> list[str]:
    """A warning where V calls harmful what accuracy lives on."""
    collapse = run.get("rewards_collapse")
    if collapse is None:
        return []
    return [
        f"Freezing what {measure.words} calls harmful may leave nothing of the model: of the "
        f"{collapse['k']} filters that it calls most harmful, {collapse['overlap']} are among the "
        f"{collapse['k']} on which {collapse['accuracy']} lives most, where chance gives "
        f"{collapse['expected']:.1f}. A note below says what to do."
    ]


def _marked(rows: Sequence[Document], scores: Document, measure: Measure) -> list[Any]:
    """Rows of `scores.csv` with a drawing of the interval over one scale for all."""
    every = [*scores["highest"], *scores["lowest"]]
    ends = [0.0, *(r[e] for r in every for e in ("value", "ci_low", "ci_high") if r[e] is not None)]
    low, high = min(ends), max(ends)
    reach = 0.03 * (high - low) or 1.0
    marked = []
    for row in rows:
        low_end = low if row["ci_low"] is None else row["ci_low"]
        high_end = high if row["ci_high"] is None else row["ci_high"]
        words = f"{number(row['value'])}, interval {interval(row)}"
        mark = (
            None
            if row["value"] is None
            else charts.interval_mark(
                row["value"],
                low_end,
                high_end,
                within=(low - reach, high + reach),
                description=f"{measure.words}: {words}",
                more_is_better=not scores.get("less_is_better"),
            )
        )
        marked.append({**row, "mark": mark})
    return marked


def _layers(spread: Document | None) -> dict[str, Any] | None:
    if spread is None:
        return None
    layers = spread["layers"]
    most = max([1, *(max(layer["highest"], layer["lowest"]) for layer in layers)])
    shown = layers
    if len(layers) > _LAYERS_SHOWN:
        ranked = sorted(layers, key=lambda layer: -max(layer["highest"], layer["lowest"]))
        kept = {layer["site"] for layer in ranked[:_LAYERS_SHOWN]}
        shown = [layer for layer in layers if layer["site"] in kept]
    return {**spread, "shown": shown, "most": most, "n_more": len(layers) - len(shown)}


def _removal(removal: Document | None, measures: Mapping[str, Measure]) -> dict[str, Any] | None:
    if removal is None:
        return None
    measure = measures[removal["metric"]]
    styles = {"top": "worse", "random": "tried", "bottom": "tested"}
    names = {"top": "highest", "random": "random", "bottom": "lowest"}
    series = []
    for key, style in styles.items():
        points = [(float(n), v) for n, v in zip(removal["removed"], removal[key], strict=True)]
        labels = [""] * (len(points) - 1) + [names[key]]
        series.append(charts.Series(names[key], points, style, labels))
    chart = charts.line_chart(
        f"{measure.words} as filters are removed: highest, lowest and random ones first; "
        "the same numbers stand in the table below",
        charts.Axis("filters removed", whole=True),
        charts.figure_axis(measure),
        series,
    )
    return {**removal, "measure": measure, "chart": chart}


def _truncation(statistics: Document | None, measure: Measure) -> dict[str, Any] | None:
    curve = (statistics or {}).get("curve") or []
    if len(curve) < 2:
        return None
    chart = charts.line_chart(
        f"mean {measure.words} as filters leave in random order; "
        "the same numbers stand in the table below",
        charts.Axis("filters removed at random", whole=True),
        charts.figure_axis(measure),
        [charts.Series("random", [(float(p[0]), p[2]) for p in curve], "tried", marked=False)],
    )
    cuts = (statistics or {}).get("truncation") or {}
    return {"chart": chart, "points": curve, "cuts": cuts}


def _samples(samples: Document | None) -> dict[str, Any] | None:
    if not samples or not samples["filters"]:
        return None
    chart = charts.bar_chart(
        "how many filters were sampled how often; the same numbers stand in the table below",
        charts.Axis("samples", whole=True),
        charts.Axis("filters", whole=True),
        samples["edges"],
        samples["filters"],
    )
    rows = list(zip(samples["edges"][:-1], samples["edges"][1:], samples["filters"], strict=True))
    return {"chart": chart, "rows": rows}
