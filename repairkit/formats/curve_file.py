"""The removal curve of a run, as `run.json` holds it, as the table `curve.csv`, and a warning.

A curve has lines. Along a line, the first few filters of an order are frozen, and the model is
judged each time. The first entry of every line is the model as it is.
"""

import csv
import io
from collections.abc import Iterator
from typing import NotRequired, TypedDict

from repairkit.core.metric import MeasureFacts
from repairkit.core.process.text import plain_cell

CURVE_FILE = "curve.csv"
HIGHEST, LOWEST, RANDOM = "highest", "lowest", "random"
"""The names of the lines that every curve has."""

_COLUMNS = ("line", "frozen", "added", "metric", "value", "low", "high", "interval")


class CurveFigure(TypedDict):
    """A figure and its interval; null where the images do not define it.

    Of the line `random`, the value is the mean of the draws, and the ends are the least and the
    greatest of them. Of other lines, the ends are those of a 95 % interval over the images.
    """

    value: float | None
    low: float | None
    high: float | None


class CurveLine(TypedDict):
    """An order of filters, and the figures of each metric: one for every size.

    `filters` are in the order in which they are frozen; the line `random` names none, since it is
    the mean of several `draws`.
    """

    name: str
    words: str
    filters: list[str]
    draws: NotRequired[int]
    figures: dict[str, list[CurveFigure]]


class CurveDocument(TypedDict):
    """The removal curve of a run.

    Attributes:
        metric: by which the filters were ranked.
        measures: how the figures of each metric are to be understood; `metric` comes first.
        part: whose images judged.
        images: a digest of the data and of the rows that judged.
        n_images: how many judged.
        n_part: how many the part has.
        judged: the same in words.
        sizes: how many filters are frozen; the first is 0.
        lead: the line that a reader of this run looks at first, `highest` or `lowest`.
        seed: of the random draws and of the intervals.
        lines: the orders.
        evaluations: sets of filters that were tried.
        image_passes: images through the model, for all of these.
        seconds: that it took.
    """

    metric: str
    measures: dict[str, MeasureFacts]
    part: str
    images: str
    n_images: int
    n_part: int
    judged: str
    sizes: list[int]
    lead: str
    seed: int
    lines: list[CurveLine]
    evaluations: int
    image_passes: int
    seconds: float


class Collapse(TypedDict):
    """How many of the `k` filters that V calls most harmful are among those that accuracy needs."""

    metric: str
    accuracy: str
    k: int
    overlap: int
    expected: float
    chance: float
    filters: list[str]


def curve_csv(curve: CurveDocument) -> str:
    """A row for each line, size and metric; numbers in their shortest exact form."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    writer.writeheader()
    for line in curve["lines"]:
        writer.writerows(curve_rows(line, curve["sizes"]))
    return text.getvalue()


def curve_rows(line: CurveLine, sizes: list[int]) -> Iterator[dict[str, object]]:
    """The rows of `curve.csv` about one line; `added` are the filters frozen since the last row."""
    draws = line.get("draws")
    interval = "95 % over images" if draws is None else f"least and greatest of {draws} draws"
    for metric, figures in line["figures"].items():
        for number, (size, figure) in enumerate(zip(sizes, figures, strict=True)):
            before = sizes[number - 1] if number else 0
            added = " ".join(line["filters"][before:size])
            yield {
                "line": line["name"],
                "frozen": size,
                "added": plain_cell(added),
                "metric": plain_cell(metric),
                **{name: _number(figure[name]) for name in ("value", "low", "high")},
                "interval": interval,
            }


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def line_named(curve: CurveDocument, name: str) -> CurveLine | None:
    """The line of that name, if the curve has it."""
    return next((line for line in curve["lines"] if line["name"] == name), None)
