"""A model's card of a repair, in Markdown, under the front matter that model hubs read."""

import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from repairkit.core.metric import SHARE, Measure
from repairkit.core.process.nouns import TREE, by_layers, in_trees, layers_of
from repairkit.report.repair_page import Row, class_rows, commands, group_tables
from repairkit.report.story import (
    groups_told,
    head_in_words,
    overlap_warnings,
    promise_in_words,
    verdict,
)
from repairkit.report.wording import Document, change, figure, interval, measures_of, visible

_OURS = "A model card by repairkit, which replaces it as long as it is not edited: "
_MARK, _COMMENT = f"<!-- {_OURS}", f"# {_OURS}"
_GROUPS_SHOWN = 40
_FILTERS_SHOWN = 40
_SLICES_IN_HEAD = 100

_Slice = tuple[str, int, Document]


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


def marked_card(document: Document) -> str:
    """The card with its front matter.

    A line by which repairkit recognises the card, as long as it is not edited, comes first in it.
    """
    body = f"{front_matter(document)}---\n\n{model_card(document)}"
    return _marked(body)


def _marked(body: str) -> str:
    return f"---\n{_COMMENT}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def is_own_card(text: str) -> bool:
    """Whether a card is as repairkit wrote it; an empty file holds nothing that could be lost."""
    if not text.startswith("---\n"):  # as it was before cards had front matter
        card = text.partition("\n")[2]
        return not text or text == f"{_MARK}{hashlib.sha256(card.encode()).hexdigest()} -->\n{card}"
    return text == _marked(text.partition("\n")[2].partition("\n")[2])


# Front matter


def front_matter(document: Document) -> str:
    """The YAML at the head of a card, for Hugging Face and others, without the lines around it.

    `model-index` holds the figures after the repair, those of each group as a result of its own.
    What is not known is left out: the licence, and the name of the model before on a hub.
    """
    results = list(_results(document))
    kinds = dict.fromkeys(metric["type"] for result in results for metric in result["metrics"])
    name = PurePath(document["result"]["path"]).stem
    block: dict[str, Any] = {"library_name": "onnx", "tags": ["onnx", "model-repair", "repairkit"]}
    if results:
        block |= {"metrics": list(kinds), "model-index": [{"name": name, "results": results}]}
    return "".join(f"{line}\n" for line in _yaml(block))


def _results(document: Document) -> Iterator[dict[str, Any]]:
    """An entry for all images, and one for each group, or each class where there are no groups."""
    evaluations, data = document["evaluations"], document["data"]
    before, measures = evaluations["before"], measures_of(document)
    what = "tabular" if document.get("unit") == TREE else "image"
    task = f"{what}-classification" if "accuracy" in before["metrics"] else "other"
    name = "images in memory" if data["path"] is None else PurePath(data["path"]).name
    images = {"name": name, "type": name, "split": before["suite"]}
    images |= {"revision": data["digest"]} if data["digest"] else {}
    metrics = [
        _metric(name, measures[name].words, (figure, evaluations["after"]["metrics"][name], moved))
        for name, figure in before["metrics"].items()
        if (moved := evaluations["difference"][name])["value"] is not None
    ]
    if metrics:
        dataset = {**images, "args": {"images": before["n_images"]}}
        yield {"task": {"type": task}, "dataset": dataset, "metrics": metrics}
    for config, n, row in _leading(list(_slices(document))):
        if row["difference"]["value"] is not None:
            dataset = {**images, "config": config, "args": {"images": n}}
            metric = _metric("accuracy", f"accuracy of {config}", _three(row))
            yield {"task": {"type": task}, "dataset": dataset, "metrics": [metric]}


def _slices(document: Document) -> Iterator[_Slice]:
    """Of each group, or of each class where there are none, its words, its size and its figures."""
    groups = list(groups_told(document))
    for column, name, n, row in groups:
        yield f"{column}: {name}" if column else name, n, row
    for row in () if groups else document.get("classes") or ():
        yield f"class: {row['name']}", row["n"], row


def _leading(slices: list[_Slice]) -> list[_Slice]:
    """As many slices as a head holds, those that pay and those that fare worst among them."""

    def rank(k: int) -> tuple[bool, float]:
        row = slices[k][2]
        return (row["difference"]["ci_high"] or 0.0) >= 0, row["after"]["value"] or 0.0

    ranked = sorted(range(len(slices)), key=rank)
    return [slices[k] for k in sorted(ranked[:_SLICES_IN_HEAD])]


def _three(row: Document) -> tuple[Document, Document, Document]:
    return row["before"], row["after"], row["difference"]


def _metric(name: str, words: str, three: tuple[Document, Document, Document]) -> dict[str, Any]:
    """A figure after the repair, with its 95 % interval, the figure before and the change."""
    before, after, moved = three
    further = {
        "ci_low": after["ci_low"],
        "ci_high": after["ci_high"],
        "before": before["value"],
        "change": moved["value"],
        "change_ci_low": moved["ci_low"],
        "change_ci_high": moved["ci_high"],
    }
    known = {key: value for key, value in further.items() if value is not None}
    return {"type": name, "value": after["value"], "name": words, "args": known}


def _yaml(block: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """The lines of a mapping in YAML, which all readers of YAML 1.1 and 1.2 read alike."""
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml(value, f"{indent}  ")
        elif isinstance(value, list):
            yield f"{indent}{key}:"
            for item in value:
                lines = _yaml(item) if isinstance(item, Mapping) else [_scalar(item)]
                yield from (f"{indent}{'  ' if k else '- '}{line}" for k, line in enumerate(lines))
        else:
            yield f"{indent}{key}: {_scalar(value)}"


def _scalar(value: str | float) -> str:
    """A text in quotes with the escapes of JSON, or a number with a point before its exponent."""
    if isinstance(value, str):
        return json.dumps(visible(value), ensure_ascii=False)
    text = repr(value)
    return re.sub(r"^(-?\d+)e", r"\1.0e", text)


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
