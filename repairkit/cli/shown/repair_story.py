"""The story of a repair for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repairkit import api
from repairkit.cli.shown import show
from repairkit.cli.shown.fairness_tables import classes_table, fairness_tables
from repairkit.core.layer_map import Origin
from repairkit.core.metric import Measure
from repairkit.core.patch import Figure
from repairkit.core.process.text import counted
from repairkit.report.story import (
    cure_metrics,
    cure_rows,
    cures_caption,
    promise_in_words,
    search_in_words,
    shown_cures,
)
from repairkit.report.wording import measures_of

_MOST_METRICS = 3


def print_patched(done: api.Patched, *, details: bool = False) -> None:
    """The story of a patch, for people; the verdict first, who pays in its first sentence."""
    document = api.patch_document(done)
    verdict = document["verdict"]
    show.say(show.plainly(f"{verdict['word']}: {verdict['sentence']}"))
    _print_changes(done)
    if done.document["selection"] is not None:
        _print_search(done.document)
    tried = done.document["tried"]
    if tried is not None and tried["precision"] != "float32":
        precision = api.IN_WORDS[tried["precision"]]
        show.say(
            f"coalitions were evaluated on {tried['device']} in {precision}; "
            "the figures and the proof are in 32 bits"
        )
    _print_figures(done, details=details)
    for note in done.document["notes"]:
        show.say(f"note: {note}")
    for first, second in done.document["parts"]["overlaps"]:
        if second == "test":
            show.say(f"note: the parts {first} and test share images")
    show.say(
        f"verified on {counted(done.verified.proof.n_images, 'image')} ({done.verified.images}), "
        f"all outputs: {show.agreement(done.verified)}; undoing gives the original back"
    )
    for title in ("patched model", "patch file", "report", "page", "model card"):
        show.say(f"{title:<13}  {document[title.replace(' ', '_')]}")


def _print_changes(done: api.Patched) -> None:
    """What is changed in the model: filters by their ids, and by their layers if known."""
    layers = (done.document["layers"] or {}).get("frozen", {})
    if done.patch.head is not None:
        show.say(f"changed: {show.changes(done.patch)}")
    if done.patch.frozen:
        names = [
            f"{each.id} ({Origin(**layers[each.id])})" if each.id in layers else each.id
            for each in done.patch.filters
        ]
        show.say(f"frozen: {', '.join(names)}")


def _print_search(document: Mapping[str, Any]) -> None:
    """How the repair was found, what is sure of it, and the cures that it was chosen from."""
    show.say(show.plainly(search_in_words(document["selection"])))
    for sentence in promise_in_words(document):
        show.say(show.plainly(sentence))
    rows = cure_rows(document)
    if not rows:
        return
    measures = measures_of(document)
    columns = ["cure", *(measures[name].words for name in cure_metrics(document)), "promise"]
    cells = [[show.plainly(cell) for cell in row] for row in shown_cures(rows)]
    show.table(show.plainly(cures_caption(document["selection"])), columns, cells)
    for row in rows:
        if row["note"]:
            show.say(show.plainly(f"{row['cure']}: {row['note']}"))


def _print_figures(done: api.Patched, *, details: bool) -> None:
    """The figures before and after: of all images, of groups and classes, and under attack."""
    document, measures = done.document, measures_of(done.document)
    if done.before.metrics:
        grouped = document["fairness"] is not None
        show.before_after(
            done.before, done.after, done.change, measures=measures, groups=not grouped
        )
    if document["fairness"] is not None:
        fairness_tables(document["fairness"], measures, details=details)
    if document["classes"] and details:
        classes_table(document["classes"], done.before.suite)
    if document["baselines"] and done.objective is not None:
        rows, n_images = document["baselines"], done.before.n_images
        _baseline_table(rows, measures, done.objective, n_images)
    if "attacks" in document:
        show.attacks(document["attacks"])


def _baseline_table(
    rows: Sequence[Mapping[str, Any]],
    measures: Mapping[str, Measure],
    objective: str,
    n_images: int,
) -> None:
    """The change that every method makes on the test part, the objective first."""
    names = list(rows[0]["figures"])
    shown = sorted(names, key=lambda name: name != objective)[:_MOST_METRICS]
    cells = [
        [
            row["method"],
            str(row["n_frozen"]),
            *(
                show.change(measures[name], Figure.from_json(row["figures"][name]["difference"]))
                if row["figures"]
                else "-"
                for name in shown
            ),
        ]
        for row in rows
    ]
    show.table(
        f"Change on the {n_images} test images by method, at equal numbers of frozen filters",
        ["method", "frozen", *(measures[name].words for name in shown)],
        cells,
    )
    for row in rows[1:]:
        show.say(f"{row['method']}: {row['note']}")
