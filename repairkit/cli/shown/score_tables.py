"""The end of a scoring, told to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repairkit import api
from repairkit.cli.shown import show
from repairkit.core.metric import Measure
from repairkit.report.wording import measures_of

_SHOWN = 10
_MOST_METRICS = 10
_PER_METRIC = 3


def print_scored(scored: api.Scored) -> None:
    """The highest and lowest filters, what they were estimated from, and what to mind."""
    rows = scored.table()
    document = scored.document
    measures = measures_of(document)
    measure = measures[scored.scores.metrics[0]]
    shown = rows if len(rows) <= 2 * _SHOWN else [*rows[:_SHOWN], {}, *rows[-_SHOWN:]]
    layer = ["layer"] if "layer" in rows[0] else []
    show.table(
        f"Value of {len(rows)} filters for {measure.words}{_direction(measure)}, highest and lowest"
        f"{_interval(document)}",
        ["filter", *layer, "value", "std error", "from", "to", "samples", "decided"],
        [_row(row, layer) for row in shown],
    )
    if len(scored.scores.metrics) > 1:
        _print_tops(scored)
    metrics = list(document["metrics"].items())
    for name, ends in metrics[:_SHOWN]:
        whole, nothing = (measures[name].figure(ends[key]) for key in ("all", "none"))
        show.say(f"V(all) = {whole}, V(none) = {nothing} for {measures[name].words}")
    if len(metrics) > _SHOWN:
        show.say(f"and {len(metrics) - _SHOWN} more metrics in run.json and scores.csv")
    if "device" in document:
        precision = api.IN_WORDS[document["precision"]]
        show.say(f"evaluated on {document['device']} in {precision}: {document['engine']}")
    parts = document["parts"]
    means = document["read"]["means"]
    by_design = f" ({means})" if means else ""
    show.say(
        f"{parts['calibration']} calibration{by_design} and {parts['selection']} selection images; "
        f"{document['evaluations']} evaluations in {document['seconds']:.1f} s; "
        f"{document['reason']}"
    )
    for note in document["notes"]:
        show.say(f"note: {note}")
    if document["n_undecided"]:
        limit = "--time-limit" if "time limit" in document["reason"] else "--max-evaluations"
        show.say(f"undecided: {document['n_undecided']} filters; raise {limit} to tell more")
    if scored.details:
        _print_statistics(scored.details)
    show.say(f"written to {scored.folder}")


def _print_tops(scored: api.Scored) -> None:
    """The filters worth most for each metric."""
    metrics, ids = scored.scores.metrics[:_MOST_METRICS], [f.id for f in scored.bench.roster]
    rows, measures = [], measures_of(scored.document)
    for column, metric in enumerate(metrics):
        ranked = scored.scores.ranking(column).tolist()
        if not measures[metric].greater_is_better:
            ranked.reverse()
        best = [p for p in ranked if p not in scored.excluded][:_PER_METRIC]
        values = scored.scores.values[:, column]
        rows.append(
            [measures[metric].words, ", ".join(f"{ids[p]} ({values[p]:+.4f})" for p in best)]
        )
    show.table(f"The {_PER_METRIC} filters worth most for each", ["metric", "filters"], rows)


def _interval(document: Mapping[str, Any]) -> str:
    """The confidence of `from` and `to`; what the intervals rest on stands in `run.json`."""
    confidence = document["confidence"]
    return "" if confidence is None else f" (from, to: {100 * confidence:g} % intervals)"


def _direction(measure: Measure) -> str:
    return "" if measure.greater_is_better else " (less is better: a filter above 0 harms)"


def _print_statistics(details: Mapping[str, Any]) -> None:
    """The last word on convergence, and what truncation hides; the rest is in statistics.json."""
    trace = details.get("convergence", [])
    if trace:
        steps = ", ".join(f"{correlation:.3f} after {n:,.0f}" for n, correlation in trace[-4:])
        show.say(f"rank correlation of two halves of the samples: {steps} evaluations")
    for name, bias in details.get("truncation", {}).get("bias", {}).items():
        show.say(f"truncation leaves out {bias:+.4f} of the sum of values for {name}")


def _row(row: dict[str, Any], layer: list[str]) -> list[str]:
    if not row:
        return ["...", *([""] * (6 + len(layer)))]
    return [
        row["filter"],
        *(row[name] for name in layer),
        *(f"{row[name]:+.5f}" for name in ("value",)),
        f"{row['std_error']:.5f}",
        f"{row['ci_low']:+.5f}",
        f"{row['ci_high']:+.5f}",
        str(row["samples"]),
        "yes" if row["decided"] else "no",
    ]
