"""Lines, tables and figures on standard output."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from repairkit.core import metric, results
from repairkit.core.process.nouns import worded
from repairkit.core.process.text import printable

_PLAIN = {ord("\N{NO-BREAK SPACE}"): " ", ord("\N{MINUS SIGN}"): "-"}


def printer() -> Console:
    """Standard output; 120 columns wide if it is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def _shown(text: str) -> str:
    """Text without effect of markup and control characters in names."""
    return escape(printable(text))


def say(text: str, *, as_is: bool = False) -> None:
    """Print a line on standard output, in the words that fit the model unless it is `as_is`."""
    printer().print(_shown(text if as_is else worded(text)), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; a column after the first is numeric if no cell starts with a letter."""
    shown = Table(title=_shown(worded(title)), title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        numbers = position > 0 and all(_is_number(row[position]) for row in rows)
        shown.add_column(
            _shown(worded(column)), justify="right" if numbers else "left", overflow="fold"
        )
    for row in rows:
        shown.add_row(*(_shown(cell) for cell in row))
    printer().print(shown)


def _is_number(text: str) -> bool:
    return not text or not text[0].isalpha()


def plainly(text: str) -> str:
    """A sentence of the HTML page with plain spaces and signs, for a terminal."""
    return text.translate(_PLAIN)


def short_duration(seconds: float) -> str:
    """A short time in readable units, with three digits."""
    if seconds < 1e-3:
        return f"{1e6 * seconds:.3g} us"
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def figure(measure: metric.Measure, known: results.Figure) -> str:
    """A figure with its 95 % interval; shares in per cent."""
    return _with_interval(measure.figure(known.value), measure, known, signed=False)


def change(measure: metric.Measure, known: results.Figure) -> str:
    """A difference with its 95 % interval; of shares in points."""
    return _with_interval(measure.change(known.value), measure, known, signed=True)


def _with_interval(
    text: str, measure: metric.Measure, known: results.Figure, *, signed: bool
) -> str:
    """The text with the interval before the unit; unchanged if there is no interval."""
    if math.isnan(known.ci_low):
        return text
    low, high = (measure.number(end, signed=signed) for end in (known.ci_low, known.ci_high))
    value, _, unit = text.partition(" ")
    return f"{value} [{low}, {high}] {unit}".rstrip()
