"""Results in one to three lines, for `repr`: names are cut, and no array is written out."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from repairkit.core.metric import Measure
from repairkit.core.process.nouns import TREE, in_trees
from repairkit.core.process.text import counted, printable
from repairkit.report import wording

_LONGEST = 60

_LONGEST_SENTENCE = 400


def cut(sentence: str) -> str:
    """A sentence, or the first 400 characters of a longer one."""
    most = _LONGEST_SENTENCE
    return sentence if len(sentence) <= most else f"{sentence[: most - 3]}..."


Row = Mapping[str, Any]
"""A row of a table of values: `filter`, `value`, `ci_low`, `ci_high` and more."""


def in_its_words(text: str, document: wording.Document) -> str:
    """A sentence about a model; where the document is of a tree ensemble, it speaks of trees."""
    return in_trees(text) if document.get("unit") == TREE else text


def short(text: object) -> str:
    """A name of one line that prints, at most 60 characters long."""
    line = printable(str(text).replace("\n", " "))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def steering(document: wording.Document) -> tuple[str, Measure]:
    """The metric that ranked the filters of a run, and how its figures are to be understood."""
    metric = next(iter(document["metrics"] or document["settings"]["metrics"]))
    return metric, wording.measures_of(document).get(metric, Measure(words=metric))


def values_in_lines(
    kind: str, rows: Sequence[Row], document: wording.Document, folder: object = None
) -> str:
    """A scoring in two or three lines: what was valued, both ends of the ranking, and its folder.

    Args:
        kind: the name of the result's type.
        rows: of the table, the highest value first.
        document: what `run.json` says.
        folder: where it lies; nowhere if None.
    """
    metric, _ = steering(document)
    name = short(PurePath(document["model"]["path"]).name)
    state = "" if document.get("finished", True) else ", not finished"
    valued = in_its_words(counted(len(rows), "filter"), document)
    lines = [f"{kind}: {valued} of {name} for {short(metric)}{state}"]
    if rows:
        ends = [f"highest {_with_interval(rows[0])}", f"lowest {_with_interval(rows[-1])}"]
        lines.append("; ".join(ends))
    if folder is not None:
        lines.append(f"run folder {short(folder)}")
    return "\n".join(lines)


def _with_interval(row: Row) -> str:
    interval = f"{row['ci_low']:+.4f} to {row['ci_high']:+.4f}"
    return f"{short(row['filter'])} {row['value']:+.4f} ({interval})"


def plain(text: str) -> str:
    """A sentence of a page without the spaces and signs of typesetting."""
    return printable(text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-"))
