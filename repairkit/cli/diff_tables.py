"""Tables and lines for what differs between two models, what a patch changes, and its checks."""

from __future__ import annotations

from typing import Any

from repairkit.cli import printing
from repairkit.core import results
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


def print_checks(verified: results.Verified) -> None:
    """Print what was found in other runtimes, and of a quantised copy."""
    for found in verified.runtimes:
        _print_agreement(found)
    copy = verified.quantised
    if copy is None:
        return
    if not copy.filters:
        printing.say(
            "no filter is frozen wholly; the quantised copy is judged by its figures alone"
        )
    else:
        _print_kept(copy)
    if copy.gain is None:
        printing.say(f"the gain was not judged: {copy.no_gain}")
    else:
        _print_gain(copy.gain)


def _print_kept(copy: results.QuantisedCopy) -> None:
    """Print how constant frozen filters are in a quantised copy."""
    printing.table(
        f"frozen filters in {copy.path}",
        ["filter", "constant", "there", "range", "step"],
        [
            [
                each.filter,
                f"{each.constant:.6g}",
                f"within {each.offset:.2g}",
                f"{each.spread:.2g}",
                f"{each.step:.2g}" if each.step else "-",
            ]
            for each in copy.filters
        ],
    )
    more = f"; {len(copy.unread)} frozen partly, so not constant by design" if copy.unread else ""
    printing.say(
        f"{counted(len(copy.filters), 'frozen filter')} constant in the quantised copy, on "
        f"{counted(copy.n_images, 'image')}{more}"
    )


def _print_gain(gain: results.KeptGain) -> None:
    """Print a figure of all models, and how they differ."""
    measure = gain.measure
    printing.table(
        f"{measure.words} on {counted(gain.n_images, 'test image')}",
        ["model", measure.words],
        [
            [name.replace("_", " "), printing.figure(measure, figure)]
            for name, figure in gain.figures.items()
        ],
    )
    words = {
        "patch": "patched against original",
        "quantised": "quantised against original",
        "quantisation": "quantised against patched",
        "among_quantised": "quantised against quantised original",
        "partly": "kept in part",
    }
    for name, change in gain.changes.items():
        printing.say(f"{words[name]}: {printing.change(measure, change)}")
    unseen = {
        True: "",
        False: " (some of these images helped to choose the patch, which flatters it)",
        None: " (nothing shows that these images chose nothing)",
    }[gain.unseen]
    printing.say(f"the gain is {words.get(gain.verdict, gain.verdict)}: {gain.why}{unseen}")


def _print_agreement(found: results.RuntimeAgreement) -> None:
    """Print what was found in another runtime."""
    held = "no filter that is frozen wholly"
    if found.n_constant:
        off = max(found.spread, found.offset)
        exactly = f"but for {off:.2g}" if off else "exactly"
        held = f"{counted(found.n_constant, 'frozen filter')} held {exactly}"
    unread = f"; {len(found.unread)} frozen partly or a tree" if found.unread else ""
    printing.say(
        f"{found.runtime} {found.version} ({found.how}): the same answers on "
        f"{counted(found.n_images, 'image')}, outputs within {found.relative:.2g} of the largest "
        f"number ({found.tolerance:g} is allowed); {held}{unread}"
    )
