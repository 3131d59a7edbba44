"""Lines and tables about repairs: what was changed, what was proven, who gains and who pays."""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repairkit.cli import printing
from repairkit.core import filters, framework, metric, results, suite
from repairkit.core.process.nouns import worded
from repairkit.core.process.text import counted
from repairkit.report import story, wording

_MOST_METRICS = 3
_SHOWN_NAMES = 30
_LONGEST_NAME = 40
_COLUMNS = ["images", "before", "after", "change"]


def print_patched(
    done: results.Repair, document: wording.Document, *, details: bool = False
) -> None:
    """Print the story of a patch: first the verdict, whose first sentence says who pays.

    Args:
        done: the repair.
        document: what `--json` prints of it.
        details: also show groups by each column alone, rates, and classes.
    """
    verdict = document["verdict"]
    printing.say(printing.plainly(f"{verdict['word']}: {verdict['sentence']}"))
    _print_changes(done)
    if done.document["selection"] is not None:
        _print_search(done.document)
    tried = done.document["tried"]
    if tried is not None and tried["precision"] != "float32":
        precision = suite.IN_WORDS[tried["precision"]]
        printing.say(
            f"coalitions were evaluated on {tried['device']} in {precision}; "
            "the figures and the proof are in 32 bits"
        )
    _print_figures(done, details=details)
    for note in done.document["notes"]:
        printing.say(f"note: {note}")
    for first, second in done.document["parts"]["overlaps"]:
        if second == "test":
            printing.say(f"note: the parts {first} and test share images")
    printing.say(
        f"verified on {counted(done.verified.proof.n_images, 'image')} ({done.verified.images}), "
        f"all outputs: {_agreement(done.verified)}; undoing gives the original back"
    )
    for sentence in wording.runtime_in_words(done.document["runtime"]):
        printing.say(printing.plainly(sentence))
    for title in ("patched model", "patch file", "report", "page", "model card"):
        printing.say(f"{title:<13}  {document[title.replace(' ', '_')]}")
    records = ("change_record", "bill_of_materials", "statement")
    near = [Path(document[name]).name for name in records]
    printing.say(f"{'beside it':<13}  {', '.join(near)}")


def _print_changes(done: results.Repair) -> None:
    """Print the changes of the model: filters by their ids, and by their layers if known."""
    layers = (done.document["layers"] or {}).get("frozen", {})
    if done.patch.head is not None:
        printing.say(f"changed: {_changes(done.patch)}")
    if done.patch.frozen:
        names = [
            f"{framework.Origin(**layers[each.id])} ({each.id})" if each.id in layers else each.id
            for each in done.patch.filters
        ]
        printing.say(f"frozen: {', '.join(names)}", as_is=True)


def _print_search(document: wording.Document) -> None:
    """Print how the repair was found, what it promises, and the candidates."""
    printing.say(printing.plainly(story.search_in_words(document["selection"])))
    for sentence in story.promise_in_words(document):
        printing.say(printing.plainly(sentence))
    rows = story.cure_rows(document)
    if not rows:
        return
    measures = wording.measures_of(document)
    columns = ["cure", *(measures[name].words for name in story.cure_metrics(document)), "promise"]
    cells = [[worded(printing.plainly(cell)) for cell in row] for row in story.shown_cures(rows)]
    printing.table(printing.plainly(story.cures_caption(document["selection"])), columns, cells)
    for row in rows:
        if row["note"]:
            printing.say(printing.plainly(f"{row['cure']}: {row['note']}"))


def _print_figures(done: results.Repair, *, details: bool) -> None:
    """Print figures before and after: of all images, groups and classes, and under attack."""
    document, measures = done.document, wording.measures_of(done.document)
    if done.before.metrics:
        grouped = document["fairness"] is not None
        _before_after(done.before, done.after, done.change, measures=measures, groups=not grouped)
    if document["fairness"] is not None:
        _fairness_tables(document["fairness"], measures, details=details)
    if document["classes"] and details:
        _classes_table(document["classes"], done.before.suite)
    if document["baselines"] and done.objective is not None:
        rows, n_images = document["baselines"], done.before.n_images
        _baseline_table(rows, measures, done.objective, n_images)
    if "attacks" in document:
        _attack_table(document["attacks"])


def _baseline_table(
    rows: Sequence[wording.Document],
    measures: Mapping[str, metric.Measure],
    objective: str,
    n_images: int,
) -> None:
    """Print the change by each method on the test part, the objective first."""
    names = list(rows[0]["figures"])
    shown = sorted(names, key=lambda name: name != objective)[:_MOST_METRICS]
    cells = [
        [
            row["method"],
            str(row["n_frozen"]),
            *(
                printing.change(
                    measures[name], results.Figure.from_json(row["figures"][name]["difference"])
                )
                if row["figures"]
                else "-"
                for name in shown
            ),
        ]
        for row in rows
    ]
    printing.table(
        f"Change on the {n_images} test images by method, at equal numbers of frozen filters",
        ["method", "frozen", *(measures[name].words for name in shown)],
        cells,
    )
    for row in rows[1:]:
        printing.say(f"{row['method']}: {row['note']}")


def _before_after(
    before: results.Evaluation,
    after: results.Evaluation,
    moved: dict[str, results.Figure],
    *,
    measures: Mapping[str, metric.Measure],
    groups: bool,
) -> None:
    """Print figures per metric, and per group if asked, on the images used to report."""
    rows = [
        [
            measures[name].words,
            str(before.n_images),
            printing.figure(measures[name], f),
            printing.figure(measures[name], after.metrics[name]),
            printing.change(measures[name], moved[name]),
        ]
        for name, f in before.metrics.items()
    ]
    rows += [
        [
            f"accuracy of {name}",
            str(before.group_sizes[name]),
            printing.figure(metric.SHARE, f),
            printing.figure(metric.SHARE, after.groups[name]),
            printing.change(metric.SHARE, moved[f"accuracy:{name}"]),
        ]
        for name, f in (before.groups.items() if groups else ())
    ]
    printing.table(
        f"On the {before.n_images} images {wording.of_part(before.suite)}, with 95 % intervals",
        ["figure", "images", "before", "after", "change"],
        rows,
    )


def _attack_table(rows: Sequence[wording.Document]) -> None:
    """Print how the model does under attack before and after, and what that shows."""
    shown, notes = [], []
    for row in rows:
        name = f"{row['attack']} ({row['knowledge']})"
        if "note" in row:
            notes.append(f"{name}: {row['note']}")
            continue
        cells = [
            printing.figure(metric.SHARE, results.Figure(**row[when][key]))
            for key in ("attack_success", "fooled")
            for when in ("before", "after")
        ]
        shown.append([name, str(row["n_images"]), *cells])
    printing.table(
        "Adversarial images that work, of the test part, with 95 % intervals",
        ["attack", "images", "as target before", "after", "missed before", "after"],
        shown,
    )
    for note in notes:
        printing.say(note)
    printing.say(
        "old images that no longer work tell of the repair; images made anew against the patched "
        "model tell how robust it is: an adversary who knows it can attack it afresh"
    )


def _fairness_tables(
    block: wording.Document, measures: Mapping[str, metric.Measure], *, details: bool
) -> None:
    """Print groups by all columns together; with `details` also by each column, and rates."""
    *alone, crossed = block["columns"]
    views = [*alone, crossed] if details else [crossed]
    _groups(crossed)
    if details:
        for view in alone:
            _groups(view)
        for view in views:
            _disparities(view, measures)
            _rates(view)
    if any(group["small"] for view in views for group in view["groups"]):
        printing.say(f"note: {block['small']}: read its figures with care")
    printing.say(
        "groups are looked at to judge alone: the repaired model takes images, no attribute"
    )
    if not details:
        more = " each column alone," if alone else ""
        printing.say(
            f"use --details for{more} rates and what sets groups apart; the page has them too"
        )


def _classes_table(rows: Sequence[wording.Document], suite: str) -> None:
    """Print the accuracy of each class."""
    cells = [[row["name"], str(row["n"]), *_cells(metric.SHARE, row)] for row in rows]
    printing.table(
        f"Accuracy of the classes on the images {wording.of_part(suite)}",
        ["class", *_COLUMNS],
        cells,
    )


def _groups(view: wording.Document) -> None:
    rows = [
        [
            group["name"] + (" (small)" if group["small"] else ""),
            str(group["n"]),
            *_cells(metric.SHARE, group),
        ]
        for group in view["groups"]
    ]
    printing.table(f"Groups by {view['name']}: accuracy", ["group", *_COLUMNS], rows)


def _disparities(view: wording.Document, measures: Mapping[str, metric.Measure]) -> None:
    rows = [
        [measures[name].words, *_cells(measures[name], figures)]
        for name, figures in view["disparities"].items()
        if name != "accuracy"  # it has its own table
    ]
    title = f"Fairness by {view['name']} (a difference is even at 0, a ratio at 1)"
    printing.table(title, ["figure", *_COLUMNS[1:]], rows)


def _rates(view: wording.Document) -> None:
    rows = [[group["name"], *map(_arrow, group["rates"].values())] for group in view["groups"]]
    names = [rate.replace("_", " ") for rate in view["groups"][0]["rates"]]
    title = f"Rates of class {view['rates_of']} by {view['name']}, in %"
    printing.table(title, ["group", *names], rows)
    for sentence in view.get("left_out") or ():
        printing.say(f"-: {sentence}")


def _cells(measure: metric.Measure, figures: wording.Document | None) -> list[str]:
    if figures is None:
        return ["-", "-", "-"]
    before, after, change = (
        results.Figure.from_json(figures[k]) for k in ("before", "after", "difference")
    )
    return [
        printing.figure(measure, before),
        printing.figure(measure, after),
        printing.change(measure, change),
    ]


def _arrow(figures: wording.Document | None) -> str:
    if figures is None:
        return "-"
    before, after = (metric.SHARE.number(figures[when]["value"]) for when in ("before", "after"))
    return f"{before} -> {after}"


_STATES = {
    "fits": "as written",
    "edited": "edited since",
    "missing": "named by the statement and not there",
}


def print_verified(verified: results.Verified, *, original: Path, patched: Path) -> None:
    """Print what was proven about two models."""
    printing.say(f"verified: {patched} is {original} with {_changes(verified.patch)}")
    if verified.inferred:
        printing.say(
            "it claims no patch; what was changed was inferred from the tensors that differ"
        )
    _frozen_table("frozen filters", verified.patch, verified.layers)
    printing.say(
        f"bytes: {counted(len(verified.edits), 'tensor')} changed and no other; "
        "undoing the patch gives the original back"
    )
    printing.say(
        f"outputs on {counted(verified.proof.n_images, 'image')} ({verified.images}): "
        f"{_agreement(verified)}"
    )
    if verified.unproven:
        names = [name[:_LONGEST_NAME] for name in verified.unproven[:_SHOWN_NAMES]]
        more = len(verified.unproven) - len(names)
        printing.say(
            f"unproven: what the patch file says of {', '.join(names)}"
            f"{f' and {more} more' if more else ''}; two models cannot tell whether it is true"
        )
    for state, words in _STATES.items():
        names = [name for name, now in verified.beside.items() if now == state]
        if names:
            printing.say(f"beside it: {', '.join(names)} {words}")


def print_applied(applied: results.Applied) -> None:
    """Print what a patch changed, and what was proven about the result."""
    verified = applied.verified
    printing.say(f"applied: {_changes(verified.patch)}")
    _frozen_table("frozen filters", verified.patch, verified.layers)
    printing.say(
        f"verified on {counted(verified.proof.n_images, 'image')} "
        f"({verified.images}); the digest is the one that the patch file promises"
    )
    printing.say(f"patched model  {applied.out}")


def print_overlaid(document: Mapping[str, Any], verified: results.Verified) -> None:
    """Print which tensors an overlay holds, and what was proven about the model that it gives.

    Args:
        document: what `--json` prints.
        verified: the proof.
    """
    tensors = document["initializers"]
    printing.say(f"overlay: {_changes(verified.patch)}")
    printing.table(
        f"{counted(len(tensors), 'changed tensor')}, {document['bytes']:,} bytes",
        ["tensor", "shape", "type"],
        [
            [name, " x ".join(map(str, row["shape"])) or "one number", row["type"]]
            for name, row in tensors.items()
        ],
    )
    printing.say(
        f"verified on {counted(verified.proof.n_images, 'image')} ({verified.images}); under the "
        "overlay the model is the patched one, byte for byte"
    )
    printing.say(f"overlay  {document['overlay']}")


def print_reverted(reverted: results.Reverted) -> None:
    """Print what was undone, and how many patches are still in the model."""
    patch = reverted.patch
    back = [counted(len(patch), "filter")] if patch.frozen else []
    back += [] if patch.head is None else [f"the last layer {patch.head.layer!r}"]
    if reverted.was_there:
        printing.say(
            f"{reverted.out}: is there already and is the original, byte for byte; nothing was "
            "written"
        )
    else:
        printing.say(
            f"{' and '.join(back)} back as before, and the file byte for byte: {reverted.out}"
        )
    if reverted.left:
        many = reverted.left != 1
        printing.say(
            f"{reverted.left} earlier patch{'es are' if many else ' is'} still in the model"
        )


def _agreement(verified: results.Verified) -> str:
    """How close the outputs of the patched model are to the reference."""
    proof = verified.proof
    if proof.tolerance:
        return (
            f"within {proof.relative:.1e} of {proof.against}, with graph optimisation and without"
        )
    if not proof.relative:
        return "equal to the masked original bit for bit, with graph optimisation and without"
    return (
        "equal to the masked original bit for bit without graph optimisation, within "
        f"{proof.relative:.1e} of the greatest output with it"
    )


def _changes(patch: filters.Patch) -> str:
    """What a patch changes, in words: `3 filters frozen and new class biases in 'fc'`."""
    parts = [f"{counted(len(patch), 'filter')} frozen"] if patch.frozen else []
    if patch.head is not None:
        what = "new class biases" if patch.head.kind == "bias" else "a refitted last layer"
        parts.append(f"{what} in {patch.head.layer!r}")
    return " and ".join(parts)


def _frozen_table(title: str, patch: filters.Patch, layers: framework.LayerMap | None) -> None:
    """Print filters and constants, with their layers if known."""
    if not patch.frozen:
        return
    rows, partly = [], any(f.gain for f in patch.frozen)
    for f in patch.frozen:
        origin = [] if layers is None else [str(layers.origin(f.filter) or "")]
        gain = [f"{100 * f.gain:g} %"] if partly else []
        rows.append([*origin, f.filter.id, _constant(f.constant), *gain])
    origins, left = [] if layers is None else ["layer"], ["left"] if partly else []
    printing.table(title, [*origins, "filter", "constant", *left], rows)


def _constant(constant: filters.Constant) -> str:
    """What a frozen filter yields, in as many digits as 32-bit floats have."""
    numbers = constant if isinstance(constant, tuple) else (constant,)
    return ", ".join(f"{n:.9g}" for n in numbers)


def print_demo_end(document: wording.Document, *, model: Path) -> None:
    """Print what to open after the demonstration, and commands to try from the working folder.

    Args:
        document: what `--json` prints of the repair.
        model: the sample.
    """
    place = model.parent
    printing.say("verification of the written file passed")
    printing.say(f"\nOpen the page in a browser: {document['page']}")
    printing.say("Then try:")
    commands: list[tuple[str, list[str | Path]]] = [
        (
            "which filters does the network live on?",
            ["score", model, "-o", place / "run"],
        ),
        (
            "let simpler cures compete with freezing",
            ["patch", model, "--fairness", "--repair", "best", "-o", place / "best.onnx"],
        ),
        (
            "the original back, byte for byte",
            ["revert", document["patched_model"], "-o", place / "original.onnx"],
        ),
    ]
    program = _program()
    for purpose, words in commands:
        printing.say(f"  {shlex.join([*program, *map(str, words)])}  # {purpose}", as_is=True)
    printing.say("Your own model: patch MODEL --data DATA --group COLUMN --fairness")


def _program() -> list[str]:
    """How this program is called from the working folder: by its name if the shell finds it so."""
    called = Path(sys.argv[0])
    known = shutil.which(called.name)
    if called.stem != "repairkit":
        return [sys.executable, "-m", "repairkit"]
    if known is not None and Path(known).resolve() == called.resolve():
        return [called.name]
    called, here = called.absolute(), Path.cwd()
    return [str(called.relative_to(here) if called.is_relative_to(here) else called)]
