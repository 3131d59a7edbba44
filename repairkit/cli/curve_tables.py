"""Removal curves on the terminal: a line of block characters for each order of filters."""

import math
import sys
from collections.abc import Sequence
from typing import Any

from repairkit.cli import printing
from repairkit.core.metric import Measure
from repairkit.core.process.nouns import worded
from repairkit.core.process.text import counted
from repairkit.report import wording
from repairkit.report.wording import Document, measures_of

BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN_BLOCKS = "_.-~=+*#"
_UNKNOWN = "?"


def sparkline(
    values: Sequence[float | None], low: float, high: float, *, blocks: str = BLOCKS
) -> str:
    """A character for each value: the lowest block at `low`, the highest at `high`.

    Values between are rounded to the nearest of the blocks. What is unknown is a question mark, and
    where `low` and `high` are the same, every value has the highest block.
    """
    top = len(blocks) - 1
    characters = []
    for value in values:
        if value is None or not math.isfinite(value):
            characters.append(_UNKNOWN)
        elif high <= low:
            characters.append(blocks[top])
        else:
            share = min(max((value - low) / (high - low), 0.0), 1.0)
            characters.append(blocks[math.floor(share * top + 0.5)])
    return "".join(characters)


def fitting_blocks() -> str:
    """The blocks that standard output can show."""
    try:
        BLOCKS.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return _PLAIN_BLOCKS
    return BLOCKS


def print_curve(curve: Document) -> None:
    """Print the removal curve of one run: a table for each metric, then which images judged."""
    measures = measures_of(curve)
    lines = sorted(curve["lines"], key=lambda line: line["name"] != curve["lead"])
    for metric, measure in measures.items():
        printing.table(
            f"{_title(measure)} as filters are frozen at their levels",
            _columns(curve["sizes"]),
            _rows([(line["words"], line["figures"][metric]) for line in lines], measure),
        )
    printing.say(f"removal curve: {curve['judged']}{_reading(curve, measures[curve['metric']])}")
    printing.say(_legend(curve["sizes"]))
    printing.say(
        f"the curve took {counted(curve['evaluations'], 'set')} of filters, "
        f"{curve['image_passes']:,} passes of an image, {curve['seconds']:.1f} s; --no-curve "
        "leaves it out"
    )


def print_overlay(overlay: Document) -> None:
    """Print several runs' curves in one table, with what they have in common below it."""
    measure = Measure.from_json(overlay["measure"])
    rows = [(line["label"], line["figures"]) for line in overlay["lines"]]
    printing.table(
        f"{_title(measure)} as filters are frozen at their levels",
        _columns(overlay["sizes"]),
        _rows(rows, measure),
    )
    printing.say(f"judged by {overlay['judged']}")
    printing.say(_legend(overlay["sizes"]))
    for note in overlay["notes"]:
        printing.say(f"note: {note}")


def _title(measure: Measure) -> str:
    if ":" in measure.words:  # a function of the user's
        return measure.words
    return f"{measure.words[:1].upper()}{measure.words[1:]}"


def _legend(sizes: Sequence[int]) -> str:
    steps = wording.listing([str(size) for size in sizes])
    return (
        f"filters frozen: {steps}; in brackets a 95 % interval over images, of random filters the "
        "least and the greatest draw"
    )


def _reading(curve: Document, measure: Measure) -> str:
    if not any(line["words"] == "highest values first" for line in curve["lines"]):
        return ""
    if measure.greater_is_better:
        return "; more is better: the model lives on filters of high value, those below 0 harm"
    return "; less is better: filters of high value harm, the model lives on those below 0"


def _columns(sizes: Sequence[int]) -> list[str]:
    last = sizes[-1]
    return ["frozen", "none", f"0 to {last}", f"{last} frozen", "interval"]


def _rows(lines: Sequence[tuple[str, Sequence[Any]]], measure: Measure) -> list[list[str]]:
    """A row for each line; all lines of the table share one scale."""
    known = [f["value"] for _, figures in lines for f in figures if f and f["value"] is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    blocks = fitting_blocks()
    rows = []
    for words, figures in lines:
        values = [None if figure is None else figure["value"] for figure in figures]
        last = next((figure for figure in reversed(figures) if figure is not None), None)
        rows.append(
            [
                worded(words),
                measure.figure(values[0]),
                sparkline(values, low, high, blocks=blocks),
                measure.figure(None if last is None else last["value"]),
                _interval(last, measure),
            ]
        )
    return rows


def _interval(figure: Any, measure: Measure) -> str:
    if figure is None or figure["low"] is None:
        return ""
    return f"[{measure.number(figure['low'])}, {measure.number(figure['high'])}]"
