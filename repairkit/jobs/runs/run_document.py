"""`run.json`: all that a result depends on, and what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from repairkit.core.metric import MeasureFacts
from repairkit.core.scores import Budget, Scores
from repairkit.engine.opening import stated_agreement
from repairkit.engine.ort.runtime import choose_device, versions
from repairkit.estimators.driving.driver import Estimation
from repairkit.formats.run_file import (
    KIND,
    SCHEMA,
    DataPlace,
    ModelPlace,
    RunCounts,
    RunDocument,
    key_of,
)
from repairkit.graph.structure import find_rounding
from repairkit.jobs.runs.part_records import keyed_parts, told_parts
from repairkit.jobs.runs.run_settings import told_settings
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.catalogue import measure_of

_BINS = 20


def opening(bench: Bench, method: str, options: Mapping[str, Any], budget: Budget) -> RunDocument:
    """`run.json` as it stands before anything is estimated."""
    settings = bench.settings
    values = told_settings(settings)
    asked = {
        "method": method,
        "estimator": dict(options),
        "budget": dataclasses.asdict(budget),
        **values,
    }
    model: ModelPlace = {
        "path": str(bench.subject.file.path),
        "digest": bench.subject.file.digest,
    }
    data: DataPlace = {
        "path": str(settings.data),
        "digest": bench.dataset.digest,
        "n_images": len(bench.dataset.annotations),
    }
    means = {} if bench.common is None else {"means": bench.common.digest}
    measures = told_measures(bench, bench.metric_names)
    key = key_of(
        {k: v for k, v in asked.items() if k != "budget"}
        | {"parts": keyed_parts(settings.parts, bench.parts, bench.dataset)}
        | {"model": model["digest"], "data": data["digest"]}
        | means
    )
    return cast(
        RunDocument,
        {
            "schema": SCHEMA,
            "kind": KIND,
            "versions": versions(),
            "key": key,
            "model": model,
            "data": data,
            "settings": asked,
            **means,
            "counts": counts(bench),
            "parts": told_parts(bench.parts),
            "batching": bench.batching.how,
            "agreement": _agreement(bench),
            "engine": "none",
            "n_filters": len(bench.roster),
            "n_sites": len(bench.roster.sites),
            "less_is_better": less_is_better(measures),
            "measures": measures,
            "read": bench.reading,
            "notes": list(bench.notes),
            "metrics": {},
            "finished": False,
        },
    )


def _agreement(bench: Bench) -> str:
    """How near answers are to those of one image at a time; proven before they are used."""
    if choose_device(bench.settings.device) != "cpu" or bench.settings.half:
        return "within the tolerance of the device and the precision"
    return stated_agreement(find_rounding(bench.working.survey.index, (bench.subject.output,)))


def told_measures(bench: Bench, names: Iterable[str]) -> dict[str, MeasureFacts]:
    """How figures of these metrics are to be understood, by name; see `Measure.to_json`."""
    wanted = list(names)
    if not wanted:  # nothing was judged, and there may be no images to fit a metric to
        return {}
    metrics = zip(wanted, bench.metrics(wanted), strict=True)
    return {name: metric.measure.to_json() for name, metric in metrics}


def measures_in(run: RunDocument) -> dict[str, MeasureFacts]:
    """The measures of a run; of one that an older version wrote, what names tell."""
    lessened, known = run.get("less_is_better", []), run.get("measures", {})
    measures = {}
    for name in (*run["settings"]["metrics"], *run["metrics"]):
        measure = measure_of(name)
        more = measure.greater_is_better and name not in lessened
        measures[name] = replace(measure, greater_is_better=more).to_json()
    return measures | known


def less_is_better(measures: Mapping[str, MeasureFacts]) -> list[str]:
    """The metrics of which less is better: a filter of positive value does harm there."""
    return [name for name, measure in measures.items() if not measure["greater_is_better"]]


def counts(bench: Bench) -> RunCounts:
    """How many images the values of each metric are about, so that they can be merged.

    None for a metric that is not a mean over these images, each counting the same.
    """
    annotations = bench.parts.selection.annotations
    counted: dict[str, int | None] = {}
    for metric in bench.metrics(bench.metric_names):
        weights = metric.weights(annotations)
        counting = weights[weights > 0]
        even = (
            metric.per_image
            and len(counting) > 0
            and bool(np.ptp(counting) <= 1e-9 * counting.max())
        )
        counted[metric.name] = len(counting) if even else None
    groups, names = annotations.groups, annotations.group_names
    sizes = [] if groups is None else np.bincount(groups, minlength=len(names)).tolist()
    by_group = {name: n for name, n in zip(names, sizes, strict=False) if n}
    return {"metrics": counted, "groups": by_group}


def conclude(document: RunDocument, estimation: Estimation, scores: Scores) -> None:
    """Add to the opening what came of the estimation."""
    spent = estimation.spent
    document["finished"] = True
    document["decided"] = bool(scores.decided.all())
    document["n_undecided"] = int((~scores.decided).sum())
    document["reason"] = estimation.reason
    document["confidence"] = scores.confidence
    document["interval"] = scores.interval
    document["adds_up"] = scores.efficient
    document["sum_of_values"] = float(scores.values[:, 0].sum())
    document["evaluations"] = spent.evaluations
    document["image_passes"] = spent.image_passes
    document["rounds"] = spent.rounds
    document["seconds"] = round(spent.seconds, 3)
    document["statistics"] = dict(estimation.statistics)


def told_on_request(estimation: Estimation, document: RunDocument) -> dict[str, Any]:
    """What the run tells on request, with the samples per filter and what truncation hides."""
    counts = estimation.scores.samples
    edges = np.unique(np.linspace(counts.min(), counts.max() + 1, _BINS + 1).astype(int))
    numbers, _ = np.histogram(counts, edges)
    details = dict(estimation.details)
    details["samples"] = {"edges": edges.tolist(), "filters": numbers.tolist()}
    cuts = details.get("truncation", {})
    if cuts.get("truncated_walks"):
        share = cuts["truncated_walks"] / cuts["walks"]
        # The sum of all values falls short by what is left at the cut.
        cuts["bias"] = {
            name: share * (at_cut - document["metrics"][name]["none"])
            for name, at_cut in cuts["mean_value_at_cut"].items()
            if name in document["metrics"]
        }
    return details
