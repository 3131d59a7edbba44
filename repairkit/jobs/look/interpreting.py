"""What filters respond to and what they do: images, groups, classes and layers; a repair's page.

Everything is measured on selection images, so that the test part stays untouched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import Filter, Patch
from repairkit.core.process.stages import stage
from repairkit.core.suite import Suite
from repairkit.engine import activations
from repairkit.formats.documents import to_json
from repairkit.graph.structure import receptive_field
from repairkit.jobs.look.changed_images import with_responses
from repairkit.jobs.look.single_effects import single_effects
from repairkit.jobs.look.thumbnails import pictures_of
from repairkit.jobs.output.destination import Companions
from repairkit.jobs.setup.workbench import Bench
from repairkit.report.charts import Picture
from repairkit.report.model_card import marked_card
from repairkit.report.page import render_patch
from repairkit.report.records.change_record import render_change

MOST_FILTERS = 24
_IMAGES_SHOWN = 4
_MOST_IMAGES = 1000
_CLASSES_SHOWN = 3
_BYTES_OF_CHANGED = 1_000_000


@dataclass(frozen=True)
class Interpretation:
    """`document` is what `report.json` says; `pictures` are of images, by their row in the data."""

    document: dict[str, Any]
    pictures: dict[int, Picture]


@stage("looking at filters")
def interpret(bench: Bench, filters: Sequence[Filter], *, value: str | None) -> Interpretation:
    """Look at filters through at most a thousand selection images.

    Args:
        bench: with the model and the images.
        filters: at most `MOST_FILTERS` of them are looked at, the first ones.
        value: the metric of the effect of freezing each filter alone; no effects if None.

    Raises:
        ModelError: ONNX Runtime fails on the model or the images.
    """
    looked_at = list(filters)[:MOST_FILTERS]
    suite = looked_through(bench)
    entries = entries_of(bench, looked_at, suite)
    effects: Sequence[dict[str, Any] | None] = [None] * len(looked_at)
    if value is not None:
        effects = [one.brief() for one in single_effects(bench, looked_at, suite, value)]
    document = {
        "suite": suite.name,
        "n_images": len(suite),
        "metric": value,
        "n_filters": len(filters),
        "filters": [
            {**entry, "effect": effect} for entry, effect in zip(entries, effects, strict=True)
        ],
    }
    found = () if bench.slices is None else bench.slices["slices"]
    shown = [image["row"] for row in found for image in row["images"]]
    shown += [
        image["row"] for e in entries for end in ("most", "least") for image in e.get(end, [])
    ]
    return Interpretation(document, pictures_of(bench, suite, shown))


def looked_through(bench: Bench) -> Suite:
    """The images through which filters are looked at: at most a thousand of the selection part."""
    return bench.parts.selection.thinned(_MOST_IMAGES)


def entries_of(bench: Bench, filters: Sequence[Filter], suite: Suite) -> list[dict[str, Any]]:
    """Where each filter lies, and what it responds to; of trees no more than the first.

    Raises:
        ModelError: ONNX Runtime fails on the model or the images.
    """
    responses = _responses(bench, filters, suite)
    return [
        {
            **_place(bench, wanted),
            **(_seen(bench, wanted, number, responses, suite) if responses is not None else {}),
        }
        for number, wanted in enumerate(filters)
    ]


@stage("writing the page")
def repair_report(
    bench: Bench, report: Mapping[str, Any], patch: Patch, places: Companions
) -> dict[Path, str]:
    """Look at the frozen filters, and make a report, a page and a model card.

    Raises:
        ModelError: ONNX Runtime fails on the model or the images.
    """
    document = {**report, "interpretation": None}
    pictures: Mapping[int, Any] = {}
    if len(bench.parts.selection):
        seen = interpret(bench, patch.filters, value=report["objective"])
        document["interpretation"], pictures = seen.document, seen.pictures
    if document.get("changed"):
        spreads = _deviations(document["interpretation"])
        document["changed"] = with_responses(bench, document["changed"], patch.frozen, spreads)
        rows = [image["row"] for image in document["changed"]["images"]]
        more = pictures_of(bench, bench.parts.selection, rows, n_bytes=_BYTES_OF_CHANGED)
        pictures = {**more, **pictures}
    return {
        places.report: to_json(document),
        places.card: marked_card(document),
        places.page: render_patch(document, pictures),
        places.change: render_change(document),
    }


def _deviations(interpretation: Mapping[str, Any] | None) -> dict[str, float]:
    """The standard deviation over images of each filter's mean response."""
    entries = [] if interpretation is None else interpretation["filters"]
    return {e["filter"]: e["response"]["deviation"] for e in entries if "response" in e}


def _place(bench: Bench, wanted: Filter) -> dict[str, Any]:
    sites = [site.name for site in bench.roster.sites]
    site = bench.roster.sites[sites.index(wanted.site)]
    return {
        "filter": wanted.id,
        "site": wanted.site,
        "channel": wanted.channel,
        "kind": site.kind,
        "layer": sites.index(wanted.site) + 1,
        "n_layers": len(sites),
        "n_channels": site.n_channels,
    }


def _responses(
    bench: Bench, filters: Sequence[Filter], suite: Suite
) -> activations.Responses | None:
    """The responses; None for trees, which respond at no place in an image."""
    sites = [s for s in bench.roster.sites if s.name in {f.site for f in filters}]
    if not filters or not all(site.yields_one_number for site in sites):
        return None
    tapped = [site for site in bench.roster.sites if site.yields_one_number]
    return activations.measure_responses(bench.working.opened, tapped, filters, suite)


def _seen(
    bench: Bench, wanted: Filter, number: int, responses: activations.Responses, suite: Suite
) -> dict[str, Any]:
    """The images that a filter responds to most and least, and its mean response per part."""
    order = np.argsort(-responses.peaks[number], kind="stable")
    n_shown = min(_IMAGES_SHOWN, len(order) // 2 or 1)
    site = next(s for s in bench.roster.sites if s.name == wanted.site)
    field = receptive_field(bench.working.survey.index, site.tensor, bench.subject.input_name)
    means = responses.means[number]
    annotations = suite.annotations
    seen: dict[str, Any] = {
        "map": responses.maps[number].tolist(),
        "sees": None if field is None else list(field),
        "response": {"mean": float(means.mean()), "deviation": float(means.std())},
        "most": [_image(bench, suite, i, number, responses) for i in order[:n_shown].tolist()],
        "least": [
            _image(bench, suite, i, number, responses) for i in order[::-1][:n_shown].tolist()
        ],
    }
    if annotations.groups is not None:
        seen["groups"] = _means_by(means, annotations.groups, annotations.group_names)
    if bench.n_classes:
        names = [_class_name(suite, label) for label in range(bench.n_classes)]
        by_class = _means_by(means, annotations.labels, names)
        by_class.sort(key=lambda row: -row["mean"])
        seen["n_classes"] = len(by_class)
        if len(by_class) > 2 * _CLASSES_SHOWN:
            by_class = by_class[:_CLASSES_SHOWN] + by_class[-_CLASSES_SHOWN:]
        seen["classes"] = by_class
    return seen


def _image(
    bench: Bench, suite: Suite, position: int, number: int, responses: activations.Responses
) -> dict[str, Any]:
    labels, groups = suite.annotations.labels, suite.annotations.groups
    return {
        "row": int(suite.indices[position]),
        "label": _class_name(suite, labels[position]) if bench.dataset.labelled else None,
        "group": None if groups is None else suite.annotations.group_names[int(groups[position])],
        "peak": float(responses.peaks[number, position]),
        "at": [
            float(responses.rows[number, position]),
            float(responses.columns[number, position]),
        ],
    }


def _class_name(suite: Suite, label: Any) -> str:
    names = suite.annotations.class_names
    if np.issubdtype(type(label), np.floating):
        return f"{float(label):.6g}"
    return names[int(label)] if int(label) < len(names) else str(int(label))


def _means_by(
    means: NDArray[np.float64], parts: NDArray[np.int64], names: Sequence[str]
) -> list[dict[str, Any]]:
    """The mean response over the images of each part that has any."""
    counts = np.bincount(parts, minlength=len(names))
    sums = np.bincount(parts, weights=means, minlength=len(names))
    return [
        {"name": names[part], "n": int(counts[part]), "mean": float(sums[part] / counts[part])}
        for part in np.flatnonzero(counts).tolist()
    ]
