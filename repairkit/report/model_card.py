"""A section for the model's card, in Markdown."""

import hashlib
import html
import re
from pathlib import PurePath

from repairkit.core.metric import SHARE, Measure
from repairkit.core.process.nouns import TREE, by_layers, in_trees, layers_of
from repairkit.report.repair_page import Row, class_rows, commands, group_tables
from repairkit.report.story import head_in_words, overlap_warnings, promise_in_words, verdict
from repairkit.report.wording import Document, change, figure, interval, measures_of, visible

_MARK = "<!-- A model card by repairkit, which replaces it as long as it is not edited: "
_GROUPS_SHOWN = 40
_FILTERS_SHOWN = 40


def model_card(document: Document) -> str:
    """What a model card should say of a repair, from what `report.json` says of it."""
    evaluations = document["evaluations"]
    lines = [
        "## Repair",
        "",
        safe(verdict(document)["sentence"]),
        "",
        f"Made by repairkit {safe(document['versions']['repairkit'])} from "
        f"{safe(PurePath(document['source']['path']).name)} (SHA-256 "
        f"`{document['source']['digest'][:16]}…`); the result is "
        f"{safe(PurePath(document['result']['path']).name)} "
        f"(`{document['result']['digest'][:16]}…`).",
        "",
    ]
    if evaluations["before"]["metrics"]:
        lines += [
            "| Figure | Images | Before | After | Change (95 % interval) |",
            "|---|---:|---:|---:|---:|",
        ]
    n_images, measures = evaluations["before"]["n_images"], measures_of(document)
    for name, before in evaluations["before"]["metrics"].items():
        three = before, evaluations["after"]["metrics"][name], evaluations["difference"][name]
        lines.append(_row(measures[name].words, n_images, measures[name], three))
    tables = group_tables(document)
    rows = tables[0]["rows"] if tables else class_rows(document)
    for row in _first(rows):
        name = f"accuracy of {row['name']}" + (" (few images)" if row["small"] else "")
        three = row["before"], row["after"], row["difference"]
        lines.append(_row(name, row["n"], SHARE, three))
    if len(rows) > _GROUPS_SHOWN:
        lines += ["", f"{len(rows) - _GROUPS_SHOWN} more groups: see the report."]
    lines += ["", *_limits(document, grouped=bool(tables)), ""]
    card = "\n".join(lines)
    return in_trees(card) if document.get("unit") == TREE else card


def marked_card(card: str) -> str:
    """A card below a line by which repairkit recognises it, as long as it is not edited."""
    return f"{_MARK}{hashlib.sha256(card.encode()).hexdigest()} -->\n{card}"


def is_own_card(text: str) -> bool:
    """Whether a card is as repairkit wrote it; an empty file holds nothing that could be lost."""
    return not text or text == marked_card(text.partition("\n")[2])


def _first(rows: list[Row]) -> list[Row]:
    """As many rows as a card shows, those that pay among them."""
    if len(rows) <= _GROUPS_SHOWN:
        return rows
    ranked = sorted(range(len(rows)), key=lambda k: not rows[k]["pays"])
    return [rows[k] for k in sorted(ranked[:_GROUPS_SHOWN])]


def _row(name: str, n: int, measure: Measure, three: tuple[Document, Document, Document]) -> str:
    """A row of the table: a name, a count, and figures before, after and the difference."""
    before, after, moved = three
    limits = interval(moved, measure, signed=True)
    cells = (
        safe(name),
        f"{n:,}",
        figure(before["value"], measure),
        figure(after["value"], measure),
        f"{change(moved['value'], measure)}{f' ({limits})' if limits else ''}",
    )
    return f"| {' | '.join(cells)} |"


def _limits(document: Document, *, grouped: bool) -> list[str]:
    frozen = [name for name, _ in document["patch"]["frozen"]]
    shown = ", ".join(_both_names(name, document) for name in frozen[:_FILTERS_SHOWN])
    more = f" and {len(frozen) - _FILTERS_SHOWN} more" if len(frozen) > _FILTERS_SHOWN else ""
    parts = document["parts"]
    counts = (
        f" {parts['calibration']:,} calibration, {parts['selection']:,} selection and "
        f"{parts['test'] or 'no'} test images."
    )
    changed = [f"Frozen at constants in the model's own tensors: {shown}{more}."] if frozen else []
    changed += [f"{safe(head)}."] if (head := head_in_words(document)) else []
    lines = [
        f"- {' '.join(changed)} Interface and cost of the model are unchanged.",
        f"- Data: {safe(parts['how'])}{'' if document['objective'] is None else counts}",
    ]
    lines += [f"- {safe(text)}" for text in overlap_warnings(parts)]
    notes = [*document.get("notes", []), *promise_in_words(document)]
    lines += [f"- {safe(by_layers(text, layers_of(document)))}" for text in notes]
    if grouped:
        lines.append(
            "- Groups were looked at to choose and to judge. The repaired model takes the images "
            "alone: the sensitive attribute is not needed at inference."
        )
    lines.append(f"- Undo: {code(commands(document)['revert'])}")
    return lines


def _both_names(name: str, document: Document) -> str:
    """A filter by its layer where that is known, then by its ONNX name."""
    layer = by_layers(name, layers_of(document))
    return safe(name) if layer == name else f"{safe(layer)} ({safe(name)} in ONNX)"


def safe(text: str) -> str:
    """Text in which nothing is markup, neither of Markdown nor of HTML."""
    plain = html.escape(visible(text), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", plain)


def code(text: str) -> str:
    """A span of code that its content cannot end."""
    plain = visible(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", plain)), default=0) + 1)
    return f"{fence} {plain} {fence}" if "`" in plain else f"`{plain}`"
