"""Tables and lines for what differs between two models."""

from __future__ import annotations

from typing import Any

from repairkit.cli import printing
from repairkit.core.process.text import counted
from repairkit.report import diff_page

_SHOWN_ROWS, _FEW_ROWS = 10, 3
_LONGEST_CELL = 60
_AT_THE_EDGE = {"around", "names", "outputs"}


def print_diff(document: dict[str, Any], *, details: bool) -> None:
    """Print the verdict, the images, and a table for each kind of difference.

    Args:
        document: of the comparison.
        details: all rows, and cells of any length.
    """
    _print_verdict(document)
    tables = list(diff_page.change_tables(document))
    if not document["verdict"]["differs"] and not details:
        tables = []
    is_cut = [_print_table(table, details=details) for table in tables]
    if any(is_cut):
        printing.say("--details shows everything, --json as one document")


def _print_verdict(document: dict[str, Any]) -> None:
    """Print which models were compared, what differs in words, and how answers change."""
    for side in "ab":
        facts = document[side]
        printing.say(
            f"{side.upper()}  {facts['path']}: {counted(facts['n_nodes'], 'node')}, "
            f"{counted(facts['n_tensors'], 'tensor')}, {counted(facts['n_numbers'], 'number')}"
        )
    verdict = document["verdict"]
    printing.say(f"{verdict['level']}: {verdict['sentence']}")
    for warning in diff_page.patch_warnings(document):
        printing.say(f"note: {warning}")
    for line in diff_page.image_lines(document):
        printing.say(printing.plainly(line))


def _print_table(table: diff_page.ChangeTable, *, details: bool) -> bool:
    """Print the first rows of a table, or all; returns whether anything was left out."""
    most = _FEW_ROWS if table.key in _AT_THE_EDGE else _SHOWN_ROWS
    rows = list(table.rows) if details else list(table.rows[:most])
    plain = [tuple(map(printing.plainly, row)) for row in rows]
    shown = plain if details else [tuple(map(_shortened, row)) for row in plain]
    printing.table(table.title, table.columns, shown)
    left_out = len(table.rows) - len(rows)
    if left_out:
        printing.say(f"and {counted(left_out, 'more row')}")
    if table.note:
        printing.say(printing.plainly(table.note))
    return bool(left_out) or shown != plain


def _shortened(cell: str) -> str:
    return cell if len(cell) <= _LONGEST_CELL else f"{cell[: _LONGEST_CELL - 3]}..."
