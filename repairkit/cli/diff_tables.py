"""Tables and lines for what differs between two models, and for what a patch changes."""

from __future__ import annotations

from typing import Any

from repairkit.cli import printing
from repairkit.core.process.text import counted
from repairkit.report import diff_page, wording

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


# What a patch means for compiled models


def print_patch_inspected(document: wording.Document) -> None:
    """Print what a patch means for compiled models.

    Args:
        document: what `--json` prints.
    """
    frozen, head = document["frozen"], document["head"]
    changed = [counted(len(frozen), "filter") + " frozen"] if frozen else []
    changed += [] if head is None else [f"new numbers of {head['layer']} ({head['kind']})"]
    printing.say(f"patch   {document['patch_file']}: {', '.join(changed)}")
    printing.say(f"from    sha256 {document['source']['digest']}")
    printing.say(f"to      sha256 {document['result']['digest']}")
    _print_runtime(document)
    _print_stale(document["caches"])


def _print_stale(caches: wording.Document) -> None:
    if caches["stale"]:
        printing.say(printing.plainly(wording.stale_in_words(caches["stale"], caches["current"])))


def _print_runtime(document: wording.Document) -> None:
    """Print which tensors a patch changes, whether that is enough, and what is stale."""
    runtime = document["runtime"]
    size = "" if runtime["bytes"] is None else f", {runtime['bytes']:,} bytes"
    printing.table(
        f"{counted(len(runtime['tensors']), 'changed tensor')}{size}",
        ["tensor", "kind", "shape", "type", "numbers changed", "bytes"],
        [
            [
                row["name"],
                row["kind"],
                "?" if row["shape"] is None else " x ".join(map(str, row["shape"])) or "one number",
                row["type"] or "?",
                "all" if row["changed"] is None else f"{row['changed']:,}",
                "?" if row["bytes"] is None else f"{row['bytes']:,}",
            ]
            for row in runtime["tensors"]
        ],
    )
    for sentence in wording.runtime_in_words(runtime):
        printing.say(printing.plainly(sentence))


def print_patches(document: wording.Document) -> None:
    """Print which patches a model says to hold, and what they make stale.

    Args:
        document: what `repairkit inspect MODEL --json` prints.
    """
    for row in document["patches"]:
        head = "" if row["head"] is None else f", {row['head']} changed"
        n_frozen = counted(row["n_frozen"], "filter")
        source = (row["source"] or "?")[:12]
        printing.say(f"patch   {n_frozen} frozen{head}, made for sha256 {source}")
    if "runtime" in document:
        _print_runtime(document)
    _print_stale(document["caches"])
