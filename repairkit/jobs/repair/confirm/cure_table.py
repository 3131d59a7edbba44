"""All cures beside each other, each by the answers of images that did not choose it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repairkit.core.arrays import Array
from repairkit.jobs.repair.confirm.cross_confirming import CrossFitted, confirm, cross_fit
from repairkit.jobs.repair.confirm.promises import Judge
from repairkit.jobs.repair.cures.cures import Cure, Cured, Nothing
from repairkit.repairs import Folds


def compare_cures(
    cures: Mapping[str, Cure],
    reasons: Mapping[str, str],
    *,
    judge: Judge,
    folds: Folds,
    plain: Array,
    lowest: str,
) -> list[dict[str, Any]]:
    """The rows of the report's `selection.cures`.

    Args:
        cures: by name.
        reasons: why others cannot be had with this model, by name.
        judge: of the selection images.
        folds: of the selection images.
        plain: the model's outputs for them as it is.
        lowest: the lowest promise that will do.
    """
    rows = [
        _row(name, cross_fit(cure, folds, plain), judge, lowest) for name, cure in cures.items()
    ]
    return [*rows, *(_without(name, reason) for name, reason in reasons.items())]


def _row(name: str, fitted: CrossFitted, judge: Judge, lowest: str) -> dict[str, Any]:
    found = confirm(fitted, judge)
    verdict, whole = found.verdict, fitted.whole
    rung = None if verdict.refused is not None else verdict.best(lowest)
    reason = whole.reason if isinstance(whole, Nothing) else ""
    if verdict.refused is not None:
        reason = verdict.refused[0]
    return {
        "cure": name,
        "promise": None if rung is None or isinstance(whole, Nothing) else rung.name,
        "n_frozen": len(whole.first(found.n_steps).patch) if isinstance(whole, Cured) else 0,
        "changes": {metric: figure.to_json() for metric, figure in verdict.changes.items()},
        "reached": {metric: figure.to_json() for metric, figure in verdict.reached.items()},
        "reason": reason,
    }


def _without(name: str, reason: str) -> dict[str, Any]:
    return {
        "cure": name,
        "promise": None,
        "n_frozen": 0,
        "changes": {},
        "reached": {},
        "reason": f"not available here: {reason}",
    }
