"""Results as pictures of matplotlib; matplotlib comes with the extra `plot`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from repairkit.core.errors import SettingsError
from repairkit.core.metric import Measure
from repairkit.notebook.frames import needed
from repairkit.notebook.lines import plain, short
from repairkit.report.charts import Axis, LineChart, Series
from repairkit.report.curves import COLOURS, DASHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GAIN, _LOSS, _OPEN = "#0a6b4a", "#a8301c", "#7d858c"
_COLOURS = {
    **{f"c{number}": colour for number, colour in enumerate(COLOURS)},
    "tried": _OPEN,
    "aside": _OPEN,
    "tested": "#0b6380",
    "chosen": "#1d2126",
}
_DASHES = {
    **{f"c{number}": tuple(map(float, dash.split())) for number, dash in DASHES.items()},
    "tested": (5.0, 3.0),
}
_SIZES = {"chosen": 12.0}
_HOLLOW = ("chosen", "aside")
_EACH_END = 10
"""Filters shown at each end of a long ranking."""
_INCHES = 0.24  # of a filter


def axes_or_new(ax: Axes | None, inches: tuple[float, float] = (6.4, 4.0)) -> Axes:
    """The axes that were given, or those of a new figure of width and height `inches`.

    Raises:
        SettingsError: matplotlib is not installed.
    """
    if ax is not None:
        return ax
    pyplot = needed("matplotlib.pyplot", "plot", "plot()")
    figure = pyplot.figure(figsize=inches, layout="constrained")
    axes: Axes = figure.add_subplot()
    return axes


def plot_lines(lines: LineChart | None, ax: Axes | None = None, *, absent: str = "") -> Axes:
    """A chart of lines, as the pages show it.

    Args:
        lines: what it shows.
        ax: where; a new figure if None.
        absent: says why there are no lines, where there are none.

    Raises:
        SettingsError: there are no lines, or matplotlib is not installed.
    """
    if lines is None:
        raise SettingsError(absent)
    ax = axes_or_new(ax)
    for series in lines.series:
        if series.points:
            _draw(ax, series, lines.x, lines.y)
    _label(ax, lines.x, lines.y)
    ax.legend(fontsize="small")
    return ax


def _draw(ax: Axes, series: Series, x: Axis, y: Axis) -> None:
    colour = _COLOURS[series.style]
    across = [x.factor * point[0] for point in series.points]
    up = [y.factor * point[1] for point in series.points]
    dashes = _DASHES.get(series.style)
    joined = "-" if dashes is None else (0, dashes)
    ax.plot(
        across,
        up,
        color=colour,
        label=_text(series.name),
        linestyle=joined if series.joined else "none",
        marker="o" if series.marked else "",
        markersize=_SIZES.get(series.style, 4.0),
        fillstyle="none" if series.style in _HOLLOW else "full",
    )
    if series.reach:
        low, high = ([y.factor * reach[side] for reach in series.reach] for side in (0, 1))
        ax.fill_between(across, low, high, color=colour, alpha=0.13, linewidth=0)
    for place, label in zip(zip(across, up, strict=True), series.labels, strict=False):
        if label:
            ax.annotate(
                _text(label), place, xytext=(6, 4), textcoords="offset points", fontsize="small"
            )


def _text(words: str) -> str:
    """Words that matplotlib shows as they are: a dollar sign begins no formula."""
    return plain(words).replace("$", r"\$")


def _label(ax: Axes, x: Axis, y: Axis) -> None:
    ticker = needed("matplotlib.ticker", "plot", "plot()")
    for axis, scale in ((ax.xaxis, x), (ax.yaxis, y)):
        axis.set_label_text(_text(scale.title))
        if scale.whole:
            axis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.grid(axis="y", color="#dcdfe0", linewidth=0.8)
    ax.set_axisbelow(True)


def plot_values(
    rows: Sequence[Mapping[str, Any]], measure: Measure, ax: Axes | None = None
) -> Axes:
    """Values with their intervals, the highest on top; of a long ranking, both ends.

    Args:
        rows: of the table of values, the highest first.
        measure: of the metric that they are values for.
        ax: where; a new figure if None.

    Raises:
        SettingsError: matplotlib is not installed.
    """
    cut = len(rows) > 2 * _EACH_END + 1
    shown = [*rows[:_EACH_END], *rows[-_EACH_END:]] if cut else list(rows)
    labels = [_text(short(row["filter"])) for row in shown]
    heights = list(range(len(shown)))
    if cut:
        labels.insert(_EACH_END, f"{len(rows) - 2 * _EACH_END:,} more")
        heights = [height + (height >= _EACH_END) for height in heights]
    ax = axes_or_new(ax, (6.4, 1.4 + _INCHES * len(labels)))
    factor = 100.0 if measure.is_share else 1.0
    for height, row in zip(heights, shown, strict=True):
        colour = _colour(row, measure)
        value, low, high = (factor * row[name] for name in ("value", "ci_low", "ci_high"))
        if math.isfinite(low + high):
            ax.plot([low, high], [height, height], color=colour, linewidth=1.8)
        ax.plot([value], [height], color=colour, marker="o", markersize=4)
    ax.axvline(0, color=_OPEN, linewidth=0.8, linestyle="--")
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    unit = ", points" if measure.is_share else ""
    ax.set_xlabel(_text(f"value: what the filter adds to the {measure.words}{unit}"))
    ax.set_ylabel("filter, the highest value first")
    ax.grid(axis="x", color="#dcdfe0", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def _colour(row: Mapping[str, Any], measure: Measure) -> str:
    """Of a gain or a loss where the interval leaves out zero, else of neither."""
    ends = sorted(measure.sign * row[name] for name in ("ci_low", "ci_high"))
    return _GAIN if ends[0] > 0 else _LOSS if ends[1] < 0 else _OPEN
