"""What differs between two models, as tables: for a page, and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from repairkit.core.metric import SHARE
from repairkit.report import page, wording
from repairkit.report.wording import Document, count

_FIRST_ROWS, _MOST_ROWS = 15, 300
_MOST_CHANNELS = 12
_NONE = "-"
_MODEL = {
    "path": "file",
    "digest": "SHA-256",
    "n_bytes": "bytes",
    "ir_version": "IR version",
    "producer": "producer",
    "n_nodes": "nodes",
    "n_tensors": "stored tensors",
    "n_numbers": "stored numbers",
}


@dataclass(frozen=True, kw_only=True)
class ChangeTable:
    """Rows of texts under a title.

    Attributes:
        key: where it stands on a page.
        title: what the rows are.
        columns: of every row; a name in `numeric` holds numbers.
        rows: all of them.
        numeric: names of columns.
        note: a sentence below.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numeric: frozenset[str] = frozenset()
    note: str = ""

    @property
    def leading(self) -> Sequence[tuple[str, ...]]:
        """The rows that a page shows at once."""
        return self.rows[:_FIRST_ROWS]

    @property
    def rest(self) -> Sequence[tuple[str, ...]]:
        """The rows that a page shows where they are asked for."""
        return self.rows[_FIRST_ROWS:_MOST_ROWS]

    @property
    def n_more(self) -> int:
        return max(0, len(self.rows) - _MOST_ROWS)


def render_diff(document: Document) -> str:
    """The page of a comparison, from what `repairkit diff --json` says."""
    verdict = document["verdict"]
    good = not verdict["differs"] or verdict["same_computation"]
    good = good or bool((document["patch"] or {}).get("exactly"))
    facts = {
        "document": document,
        "versions": document["versions"],
        "names": tuple(PurePath(document[side]["path"]).name for side in "ab"),
        "verdict": {
            "tone": "good" if good else "open",
            "word": verdict["level"].capitalize(),
            "sentence": verdict["sentence"],
        },
        "warnings": patch_warnings(document),
        "model_rows": list(model_rows(document)),
        "tables": list(change_tables(document)),
        "images": list(image_lines(document)),
    }
    return page.render("diff.html.j2", facts)


def patch_warnings(document: Document) -> list[str]:
    """Why the difference is not the patch that it should be."""
    patch = document["patch"]
    if patch is None or patch["exactly"]:
        return []
    named = wording.visible(patch["file"] or "the patch that the model names")
    return [f"The difference is not exactly {named}: {wording.visible(patch['reason'])}."]


def model_rows(document: Document) -> Iterator[tuple[str, str, str]]:
    """Facts of both models, side by side."""
    for key, words in _MODEL.items():
        yield words, _plain(document["a"][key]), _plain(document["b"][key])
    yield "opsets", _opsets(document["a"]), _opsets(document["b"])


def _opsets(facts: Document) -> str:
    return ", ".join(f"{name or 'ai.onnx'} {number}" for name, number in facts["opsets"].items())


def change_tables(document: Document) -> Iterator[ChangeTable]:
    """The tables that have rows, the most telling first."""
    for table in (
        _filters(document),
        _changed_nodes(document),
        _one_sided(document),
        _tensors(document),
        _one_sided_tensors(document),
        _trees(document),
        _answers(document),
        _groups(document),
        _outputs(document),
        _around(document),
        _names(document),
    ):
        if table.rows:
            yield table


def image_lines(document: Document) -> Iterator[str]:
    """Sentences about the images on which outputs were compared."""
    images = document["images"]
    if images["source"] is None:
        yield f"Outputs were not compared: {images['reason']}."
        return
    on = "seeded noise" if images["source"] == "noise" else images["source"]
    yield f"Outputs were compared on {count(images['n_images'], 'image')} ({on})."
    answers = images["answers"]
    if answers is not None:
        share = wording.figure(answers["share_changed"], SHARE)
        n = answers["n_changed"]
        yield f"{n:,} of {count(images['n_images'], 'answer')} {_change_word(n)} ({share})."
        accuracy = answers["accuracy"]
        if accuracy is not None:
            a, b = (wording.figure(accuracy[side], SHARE) for side in "ab")
            yield (
                f"Accuracy is {a} in A and {b} in B: {accuracy['mended']:,} right in B alone, "
                f"{accuracy['broken']:,} in A alone."
            )
    for note in images["notes"]:
        yield f"{note[:1].upper()}{note[1:]}."


def _change_word(n: int) -> str:
    return "changes" if n == 1 else "change"


# Tables


def _filters(document: Document) -> ChangeTable:
    frozen = document["filters"]
    sides = [{row["filter"]: row for row in frozen[f"frozen_in_{side}"]} for side in "ab"]
    layered = any("layer" in row for each in sides for row in each.values())
    patch = document["patch"] or {"frozen": []}
    partly = {row["filter"]: row for row in patch["frozen"] if row.get("gain")}
    if partly:  # they hold no constant, so that the tensors alone do not show them
        sides["ab".index(patch["patched"])].update(partly)
    rows = []
    for name in {**sides[0], **sides[1]}:
        held = [each.get(name) for each in sides]
        layer = next(str(row.get("layer", "")) for row in held if row is not None)
        constants = [_NONE if row is None else _constant(row) for row in held]
        rows.append((name, *([layer] if layered else []), *constants))
    note = "What is left of a partly frozen filter is read from the patch." if partly else ""
    return ChangeTable(
        key="filters",
        title="Filters that are frozen in one model",
        columns=("filter", *(["layer"] if layered else []), "constant in A", "constant in B"),
        rows=rows,
        numeric=frozenset({"constant in A", "constant in B"}),
        note=note,
    )


def _changed_nodes(document: Document) -> ChangeTable:
    rows = [
        (
            _both(entry["a"], entry["b"], entry["where"]),
            " → ".join(dict.fromkeys(entry["operator"])),
            change["what"],
            _plain(change["a"]),
            _plain(change["b"]),
        )
        for entry in document["nodes_changed"]
        for change in entry["changes"]
    ]
    rows += [
        (entry["name"], "function", entry["change"], _NONE, _NONE)
        for entry in document["functions"]
    ]
    return ChangeTable(
        key="nodes",
        title="Nodes that differ",
        columns=("node", "operator", "what", "in A", "in B"),
        rows=rows,
    )


def _one_sided(document: Document) -> ChangeTable:
    rows = [
        (
            side,
            _where(entry["name"], entry["where"]),
            entry["operator"],
            ", ".join(filter(None, entry["inputs"])),
            ", ".join(filter(None, entry["outputs"])),
        )
        for key, side in (("nodes_removed", "A"), ("nodes_added", "B"))
        for entry in document[key]
    ]
    return ChangeTable(
        key="one-sided",
        title="Nodes of one model alone",
        columns=("only in", "node", "operator", "reads", "makes"),
        rows=rows,
    )


def _tensors(document: Document) -> ChangeTable:
    rows = []
    for entry in document["tensors_changed"]:
        known = "n_differ" in entry
        rows.append(
            (
                _both(entry["a"], entry["b"], entry["where"]),
                ", ".join(dict.fromkeys(entry["read_by"])),
                " → ".join(dict.fromkeys(_form(entry, side) for side in (0, 1))),
                f"{entry['n_differ']:,} of {entry['n_elements']:,}" if known else _NONE,
                f"{entry['largest_absolute']:.3g}" if known else _NONE,
                f"{entry['largest_relative']:.3g}" if known else _NONE,
                channel_words(entry) if known else _NONE,
            )
        )
    odd = sum(entry.get("n_not_finite", 0) for entry in document["tensors_changed"])
    return ChangeTable(
        key="tensors",
        title="Tensors that differ",
        columns=(
            "tensor", "read by", "type", "numbers", "largest difference", "relative", "channels",
        ),
        rows=rows,
        numeric=frozenset({"numbers", "largest difference", "relative"}),
        note=f"Of {count(odd, 'number')} one side is infinite or no number." if odd else "",
    )  # fmt: skip


def channel_words(entry: Document) -> str:
    """Which channels of a tensor hold numbers that differ, such as `3 and 7 of 64`."""
    channels, shape = entry["channels"], entry["shape"][0]
    n_all = shape[entry["channel_axis"]] if shape else 1
    if len(channels) == n_all:
        return f"all {n_all:,}" if n_all > 1 else "the only one"
    shown = ", ".join(map(str, channels[:_MOST_CHANNELS]))
    more = f" and {len(channels) - _MOST_CHANNELS:,} more" if len(channels) > _MOST_CHANNELS else ""
    return f"{shown}{more} (of {n_all:,})"


def _one_sided_tensors(document: Document) -> ChangeTable:
    rows = [
        (
            side,
            _where(entry["name"], entry["where"]),
            entry["dtype"],
            " x ".join(map(str, entry["shape"])) or "a single number",
        )
        for key, side in (("tensors_removed", "A"), ("tensors_added", "B"))
        for entry in document[key]
    ]
    return ChangeTable(
        key="one-sided-tensors",
        title="Tensors of one model alone",
        columns=("only in", "tensor", "type", "shape"),
        rows=rows,
    )


def _trees(document: Document) -> ChangeTable:
    rows = [
        (_both(row["a"], row["b"], row["where"]), words, str(len(row[key])), _some(row[key]))
        for row in document["trees"]
        for key, words in (("changed", "differ"), ("removed", "only in A"), ("added", "only in B"))
        if row[key]
    ]
    return ChangeTable(
        key="trees",
        title="Trees that differ",
        columns=("node", "what", "trees", "numbers from 0"),
        rows=rows,
        numeric=frozenset({"trees"}),
    )


def _answers(document: Document) -> ChangeTable:
    answers = document["images"].get("answers") or {"moves": []}
    return ChangeTable(
        key="answers",
        title="Answers that change",
        columns=("in A", "in B", "images"),
        rows=[(m["from"], m["to"], f"{m['n']:,}") for m in answers["moves"]],
        numeric=frozenset({"images"}),
    )


def _groups(document: Document) -> ChangeTable:
    answers = document["images"].get("answers") or {"groups": []}
    rows = []
    for row in answers["groups"]:
        known = row["accuracy"]
        figures = ["", "", ""]
        if known is not None:
            figures = [wording.figure(known[side], SHARE) for side in "ab"]
            figures.append(wording.change(known["b"] - known["a"], SHARE))
        rows.append((row["group"], f"{row['n_images']:,}", f"{row['n_changed']:,}", *figures))
    return ChangeTable(
        key="groups",
        title="Groups",
        columns=("group", "images", "answers that change", "accuracy in A", "in B", "change"),
        rows=rows,
        numeric=frozenset({"images", "answers that change", "accuracy in A", "in B", "change"}),
    )


def _outputs(document: Document) -> ChangeTable:
    rows = []
    for row in document["images"].get("outputs", ()):
        if row["largest"] is None:
            cells = ["shapes or types differ", _NONE, _NONE, _NONE]
        else:
            numbers = (f"{row[key]:.3g}" for key in ("largest", "relative", "mean"))
            cells = [*numbers, f"{row['n_images']:,}"]
        rows.append((_both(row["a"], row["b"], ""), *cells))
    columns = ("largest difference", "relative to the largest", "mean difference", "images")
    return ChangeTable(
        key="outputs",
        title="Outputs",
        columns=("output", *columns),
        rows=rows,
        numeric=frozenset(columns),
    )


def _around(document: Document) -> ChangeTable:
    rows = [
        *((r["what"], _plain(r["a"]), _plain(r["b"])) for r in document["header"]),
        *((f"metadata {r['what']}", _plain(r["a"]), _plain(r["b"])) for r in document["metadata"]),
        *(
            (f"tensors in the file {r['what']}", _plain(r["a"]), _plain(r["b"]))
            for r in document["storage"]
        ),
        *(
            (f"{port} {_both(r['a'], r['b'], '')}", *map(_plain, r["type"]))
            for port in ("input", "output")
            for r in document[f"{port}s"]
        ),
    ]
    return ChangeTable(
        key="around",
        title="Inputs, outputs and header",
        columns=("what", "in A", "in B"),
        rows=rows,
    )


def _names(document: Document) -> ChangeTable:
    kinds = (("nodes_renamed", "node"), ("values_renamed", "value"), ("tensors_renamed", "tensor"))
    rows = [
        (noun, _where(row["a"] or _NONE, row["where"]), row["b"] or _NONE)
        for key, noun in kinds
        for row in document[key]
    ]
    rows += [
        ("stored as", _both(row["a"], row["b"], row["where"]), " → ".join(row["places"]))
        for row in document["tensors_moved"]
    ]
    moved = sum(row["n_nodes"] for row in document["order"])
    note = f"{count(moved, 'node')} in another order." if moved else ""
    if moved and not rows:
        rows = [("order", note, "")]
        note = ""
    return ChangeTable(
        key="names",
        title="Names, order and place",
        columns=("what", "in A", "in B"),
        rows=rows,
        note=note,
    )


# Cells


def _both(a: str | None, b: str | None, where: str) -> str:
    names = dict.fromkeys(name or _NONE for name in (a, b))
    return _where(" → ".join(names), where)


def _where(name: str, where: str) -> str:
    return f"{name} (in {where})" if where else name


def _form(entry: Mapping[str, Any], side: int) -> str:
    shape = " x ".join(map(str, entry["shape"][side])) or "a single number"
    return f"{entry['dtype'][side]}, {shape}"


def _plain(value: object) -> str:
    if value is None or value == "":
        return _NONE
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def _constant(row: Document) -> str:
    value = row["constant"]
    numbers = value if isinstance(value, list | tuple) else [value]
    words = " ".join(f"{number:.9g}" for number in numbers)
    return f"{words}, {row['gain']:.3g} left" if row.get("gain") else words


def _some(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_MOST_CHANNELS]))
    more = len(numbers) - _MOST_CHANNELS
    return f"{shown} and {more:,} more" if more > 0 else shown
