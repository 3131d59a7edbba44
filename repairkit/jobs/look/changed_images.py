"""Which answers a repair changed, on the images that report: better, worse, or wrong otherwise.

The images are looked at once, after everything was chosen. Those that are shown are drawn at random
from each kind, so that they are neither the prettiest nor the worst.

A filter that is frozen yields its level for every image. What the repair took from an image is how
far the filter's response to it lay from that level.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repairkit.core import attacked, filters, results
from repairkit.core.suite import Annotations, Suite
from repairkit.engine.activations import measure_responses
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.evaluation import wilson
from repairkit.repairs.cure import FinalFigures

Kind = Literal["better", "worse", "other"]
KINDS: tuple[Kind, ...] = ("better", "worse", "other")
"""Wrong before and right now; right before and wrong now; wrong both times, in another way."""
SHOWN = 8
_MOST_SETS = 40
_DRAW = 6  # apart from other draws of the same seed
_NOTHING = "no answer"
_MOST_FILTERS = 24


def changed_block(bench: Bench, final: FinalFigures) -> dict[str, Any] | None:
    """The `changed` block of a repair's story; None where answers are no classes.

    Of every kind at most `SHOWN` images are named, drawn with the seed of the job.
    """
    form = bench.form
    if bench.unjudged or form is None or form.kind == "values" or not bench.dataset.labelled:
        return None
    suite = bench.parts.test if len(bench.parts.test) else bench.parts.selection
    before, after = (form.predictions(each) for each in final.outputs)
    kinds = kinds_of(suite.annotations.labels, before, after)
    rng = np.random.default_rng([bench.settings.seed, _DRAW])
    shown = {kind: _drawn(np.flatnonzero(kinds == kind), rng) for kind in KINDS}
    return {
        "suite": final.before.suite,
        "n_images": len(suite),
        "n_changed": int((kinds != "").sum()),
        "by": _sets_are(suite.annotations),
        "all": _counts("", kinds),
        "sets": _by_set(suite.annotations, kinds, bench.n_classes),
        "rule": (
            f"of each kind {SHOWN} images at most, drawn at random with seed {bench.settings.seed}"
        ),
        "images": [
            _image(suite, position, kind, (before, after))
            for kind, positions in shown.items()
            for position in positions
        ],
    }


def kinds_of(
    labels: NDArray[np.int64], before: NDArray[np.int64], after: NDArray[np.int64]
) -> NDArray[np.str_]:
    """The kind of each image, (n_images,): one of `KINDS`, or nothing where the answer stayed."""
    moved = before != after
    kinds = np.full(len(labels), "", dtype="<U6")
    kinds[moved] = "other"
    kinds[moved & (after == labels)] = "better"
    kinds[moved & (before == labels)] = "worse"
    return kinds


def _drawn(positions: NDArray[np.intp], rng: np.random.Generator) -> list[int]:
    if len(positions) > SHOWN:
        positions = rng.choice(positions, SHOWN, replace=False)
    return sorted(int(position) for position in positions)


def _sets_are(about: Annotations) -> str:
    """What the images are told apart by."""
    if attacked.is_attacked(about):
        return "attack"
    return "class" if about.groups is None else "group"


def _by_set(about: Annotations, kinds: NDArray[np.str_], n_classes: int) -> list[dict[str, Any]]:
    """Counts of each group, else of each class; of many those with the most changes."""
    numbers, names = _sets(about, n_classes)
    rows = [
        _counts(name, kinds[numbers == number])
        for number, name in enumerate(names)
        if (numbers == number).any()
    ]
    changes = [sum(row[kind]["n"] for kind in KINDS) for row in rows]
    kept = sorted(sorted(range(len(rows)), key=lambda k: -changes[k])[:_MOST_SETS])
    return [rows[k] for k in kept]


def _sets(about: Annotations, n_classes: int) -> tuple[NDArray[np.int64], Sequence[str]]:
    if attacked.is_attacked(about):
        return attacked.adversarial(about).astype(np.int64), ("clean", "attacked")
    if about.groups is not None:
        return about.groups, about.group_names
    return about.labels, [about.class_name(label) for label in range(n_classes)]


def _counts(name: str, kinds: NDArray[np.str_]) -> dict[str, Any]:
    """How many of some images are of each kind, and their share with Wilson's interval."""
    n = len(kinds)
    row: dict[str, Any] = {"name": name, "n_images": n}
    for kind in KINDS:
        hits = int((kinds == kind).sum())
        row[kind] = {"n": hits, **results.Figure(hits / n, *wilson(hits, n)).to_json()}
    return row


def _image(
    suite: Suite, position: int, kind: Kind, answers: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> dict[str, Any]:
    about = suite.annotations
    before, after = (
        about.class_name(int(each[position])) if each[position] >= 0 else _NOTHING
        for each in answers
    )
    return {
        "row": int(suite.indices[position]),
        "kind": kind,
        "label": about.class_name(int(about.labels[position])),
        "group": None if about.groups is None else about.group_names[int(about.groups[position])],
        "before": before,
        "after": after,
    }


def with_responses(
    bench: Bench,
    changed: Mapping[str, Any],
    frozen: Sequence[filters.FrozenFilter],
    deviations: Mapping[str, float],
) -> dict[str, Any]:
    """The `changed` block, with the responses of the frozen filters to each image.

    `response` is the filter's mean response over positions, and `from_level` how many standard
    deviations it lies above the level at which the filter is frozen; None where all images of the
    selection part give the same.

    Args:
        bench: with the model and the images.
        changed: what `changed_block` tells.
        frozen: the frozen filters; the first ones are told.
        deviations: of each filter's mean response over selection images, by filter.

    Raises:
        ModelError: ONNX Runtime fails on the model or the images.
    """
    sites = {site.name: site for site in bench.roster.sites}
    told = [f for f in frozen[:_MOST_FILTERS] if sites[f.filter.site].yields_one_number]
    rows = [image["row"] for image in changed["images"]]
    if not told or not rows:
        return {**changed, "images": [{**image, "frozen": []} for image in changed["images"]]}
    suite = bench.parts.test if len(bench.parts.test) else bench.parts.selection
    place = {row: position for position, row in enumerate(suite.indices.tolist())}
    shown = suite.take(np.array([place[row] for row in rows], np.intp))
    wanted = [each.filter for each in told]
    tapped = [site for site in bench.roster.sites if site.yields_one_number]
    means = measure_responses(bench.working.opened, tapped, wanted, shown).means
    images = []
    for position, image in enumerate(changed["images"]):
        entries = [
            _entry(one, float(means[number, position]), deviations.get(one.filter.id))
            for number, one in enumerate(told)
        ]
        images.append({**image, "frozen": entries})
    return {**changed, "images": images}


def _entry(
    frozen: filters.FrozenFilter, response: float, deviation: float | None
) -> dict[str, Any]:
    level = float(np.asarray(frozen.constant).mean())
    far = None if not deviation else (response - level) / deviation
    return {"filter": frozen.filter.id, "response": response, "from_level": far}
