"""Plots of what estimators.py and coverage.py wrote with --json.

    python benchmarks/plots.py --json FILE [FILE ...] -o docs/plots/

Writes estimators-simulated.svg, estimators-networks.svg and coverage.svg, whichever the rows are
of. The background is clear and all colours are of middle brightness, so that they can be read on
light and dark pages; the same rows give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

sys.path.insert(0, str(Path(__file__).parent.parent))

Row = dict[str, Any]

_INK, _GRID = "#7d8590", "#7d859040"
_MEASURES = (
    ("precision_top", "precision of the 20 highest"),
    ("precision_bottom", "precision of the 20 lowest"),
    ("rank_correlation", "rank correlation"),
)
_COVERED = (0.93, 0.98)
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "repairkit",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn; what matters most has the strongest line."""

    colour: str
    marker: str
    width: float = 1.0
    dashes: str = "-"


_LOOKS = {
    "auto": Look("#e8590c", "o", 2.0),
    "regression": Look("#d6336c", "s", 1.4),
    "regression-16": Look("#d6336c", "s", 1.0, ":"),
    "tmab": Look("#1c7ed6", "^", 2.0),
    "tmab-16": Look("#1c7ed6", "v", 1.2, ":"),
    "permutation": Look("#2f9e44", "D"),
    "marginals": Look("#9c6ade", "P"),
    "leave-one-out": Look("#0ca678", "X"),
    "shapiq-permutation": Look("#8d8072", "1", 1.0, "--"),
    "shapiq-stratified": Look("#8d8072", "2", 1.0, "--"),
    "shapiq-kernel": Look("#8d8072", "3", 1.0, "--"),
}


def in_order(rows: Sequence[Row], key: str) -> list[str]:
    """The values of a column, as they first come."""
    return list(dict.fromkeys(row[key] for row in rows))


def plot_estimators(rows: Sequence[Row]) -> Figure:
    """A line of panels for each game, a panel for each measure."""
    games = in_order(rows, "game")
    figure = Figure(figsize=(9.0, 0.9 + 1.75 * len(games)), layout="constrained")
    panels = figure.subplots(len(games), len(_MEASURES), sharex="row", sharey=True, squeeze=False)
    for line, game in zip(panels, games, strict=True):
        of_game = [row for row in rows if row["game"] == game]
        for panel, (column, title) in zip(line, _MEASURES, strict=True):
            _draw_panel(panel, of_game, column)
            panel.set_title(f"{game}: {title}", loc="left")
    for panel in panels[-1]:
        panel.set_xlabel("image passes of the untouched model")
    handles = dict[str, Any]()
    for panel in panels.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    named = [name for name in _LOOKS if name in handles]
    figure.legend(
        [handles[name] for name in named], named, loc="outside upper center", ncols=6, fontsize=8
    )
    return figure


def _draw_panel(panel: Axes, rows: Sequence[Row], column: str) -> None:
    for method in in_order(rows, "method"):
        points = sorted(
            (row["plain_passes"], max(row[column], 0.0)) for row in rows if row["method"] == method
        )
        look = _LOOKS[method]
        panel.plot(
            *zip(*points, strict=True),
            color=look.colour,
            marker=look.marker,
            linewidth=look.width,
            linestyle=look.dashes,
            markersize=4,
            label=method,
        )
    panel.set_xscale("log")
    panel.xaxis.set_minor_locator(NullLocator())  # hundreds of ticks, and most of the file
    panel.set_ylim(-0.03, 1.03)
    panel.grid(visible=True, linewidth=0.6)


def plot_coverage(rows: Sequence[Row]) -> Figure:
    """A panel for each game: what each method's intervals covered, beside what they say."""
    games = in_order(rows, "game")
    figure = Figure(figsize=(9.0, 0.6 + 0.26 * len(rows) + 0.35 * len(games)), layout="constrained")
    counts = [len([row for row in rows if row["game"] == game]) for game in games]
    panels = figure.subplots(len(games), 1, sharex=True, squeeze=False, height_ratios=counts)
    for panel, game in zip(panels[:, 0], games, strict=True):
        of_game = [row for row in rows if row["game"] == game]
        places = range(len(of_game))
        panel.axvspan(*_COVERED, color="#2f9e44", alpha=0.22, linewidth=0, label="93 to 98 %")
        panel.plot(
            [row["nominal"] for row in of_game], places, "|", color=_INK, markersize=11,
            markeredgewidth=2, label="what the interval says",
        )  # fmt: skip
        panel.plot(
            [row["covered"] for row in of_game], places, "o", color="#e8590c", label="covered"
        )
        panel.set_yticks(places, [row["method"] for row in of_game])
        panel.set_ylim(len(of_game) - 0.5, -0.5)
        panel.set_title(f"{game}, {of_game[0]['runs']} runs", loc="left")
        panel.grid(visible=True, axis="x", linewidth=0.6)
    least = min(min(row["covered"], row["nominal"]) for row in rows)
    panels[-1, 0].set_xlim(min(least, 0.88) - 0.01, 1.005)
    panels[-1, 0].set_xlabel("share of filters whose true value lies in the interval")
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8
    )
    return figure


def drawings(rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    """Names and figures of all that there are rows for."""
    measured = [row for row in rows if "precision_top" in row]
    networks = [row for row in measured if row["game"].startswith("network")]
    simulated = [row for row in measured if not row["game"].startswith("network")]
    covered = [row for row in rows if "covered" in row]
    if simulated:
        yield "estimators-simulated", plot_estimators(simulated)
    if networks:
        yield "estimators-networks", plot_estimators(networks)
    if covered:
        yield "coverage", plot_coverage(covered)


def save(rows: Sequence[Row], folder: Path, *, suffix: str = ".svg") -> list[Path]:
    """Draw every plot that there are rows for.

    Raises:
        ValueError: rows that belong to no plot.
    """
    written = []
    with mpl.rc_context(_SETTINGS):
        for name, figure in drawings(rows):
            path = folder / f"{name}{suffix}"
            metadata = {"Date": None} if suffix == ".svg" else None
            figure.savefig(path, transparent=True, metadata=metadata, dpi=110)
            if suffix == ".svg":
                path.write_text(_shorter(path.read_text()))
            written.append(path)
    if not written:
        raise ValueError("no row has a column precision_top or covered")
    return written


def _shorter(text: str) -> str:
    """Without indents, and with coordinates to a hundredth of a point."""
    lines = [line.strip() for line in text.splitlines()]
    return re.sub(r"(\d\.\d\d)\d+", r"\1", "\n".join(lines)) + "\n"


def main() -> None:
    """Read rows, draw, and name the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, nargs="+", required=True, help="rows to draw")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--png", action="store_true", help="PNG instead of SVG")
    asked = parser.parse_args()
    rows = [row for path in asked.json for row in json.loads(path.read_text())]
    asked.out.mkdir(parents=True, exist_ok=True)
    try:
        written = save(rows, asked.out, suffix=".png" if asked.png else ".svg")
    except ValueError as error:
        parser.exit(2, f"{', '.join(map(str, asked.json))}: {error}\n")
    for path in written:
        print(f"{path} ({path.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
