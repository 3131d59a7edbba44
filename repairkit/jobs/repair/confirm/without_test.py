"""Repairs of data that has too few images for a test part: figures come from cross-fitting.

Every selection image is judged under a cure that it did not choose (`cross_confirming`). The
figures tell what choosing like this is worth, and not what the very patch that ships is worth: that
takes images that had no say at all, and so a test part where there are images enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from repairkit.core.errors import SettingsError, TargetNotMetError
from repairkit.core.patch import Figure
from repairkit.core.suite import Suite
from repairkit.jobs.repair.judge.fairness import Outputs
from repairkit.jobs.repair.judge.judging import Judged, judge_outputs
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.setup.bench import Bench
from repairkit.repairs import widening

ENOUGH_IMAGES = 2_000
"""From so many images on, a test part is advised."""
CROSS_FITTED = "selection, cross-fitted"
"""What the images are called that report where there is no test part."""
_WRITTEN = "; nothing was written"


def has_test(bench: Bench) -> bool:
    """Whether some images only report."""
    return len(bench.parts.test) > 0


def require_test(bench: Bench, why: str) -> None:
    """Refuse what nothing could be reported of.

    Args:
        bench: the workbench.
        why: why there are no cross-fitted figures; empty where there are.

    Raises:
        SettingsError: there is neither a test part nor a cross-fitted figure.
    """
    if why and not has_test(bench):
        raise SettingsError(
            f"without a test part cross-fitted figures are reported, and here are none: {why}; "
            "give a test part, such as --test 0.3"
        )


def judge_cross_fitted(bench: Bench, outputs: Outputs, objective: str, *, n_folds: int) -> Judged:
    """Figures of the selection images, each under a cure that it did not choose.

    The intervals of changes are widened as those of promises are: folds share most of the images
    that choose.
    """
    judged = judge_outputs(bench, outputs, _selection(bench, CROSS_FITTED), objective)
    factor = widening(n_folds)
    return replace(
        judged,
        change={name: _widened(figure, factor) for name, figure in judged.change.items()},
        fairness=_with_widened(judged.fairness, factor),
        classes=_with_widened(judged.classes, factor),
    )


def judge_on_selection(bench: Bench, outputs: Outputs, objective: str) -> Judged:
    """Figures of the selection images, for filters that no image chose."""
    return judge_outputs(bench, outputs, _selection(bench, "selection"), objective)


def _selection(bench: Bench, name: str) -> Suite:
    suite = bench.parts.selection
    return suite.take(np.arange(len(suite)), name)


def _widened(figure: Figure, factor: float) -> Figure:
    value = figure.value
    low, high = value - figure.ci_low, figure.ci_high - value
    return Figure(value, value - factor * low, value + factor * high)


def _with_widened(told: Any, factor: float) -> Any:
    """What a report tells, with every difference in it widened."""
    if isinstance(told, Mapping):
        return {
            name: _widened(Figure.from_json(found), factor).to_json()
            if name == "difference"
            else _with_widened(found, factor)
            for name, found in told.items()
        }
    if isinstance(told, list):
        return [_with_widened(found, factor) for found in told]
    return told


def note_on_test(bench: Bench, *, chosen: bool) -> list[str]:
    """What is to be said of figures without a test part; nothing where there is one."""
    if has_test(bench) or bench.unjudged:
        return []
    if not chosen:
        return ["no image chose the filters, so that all of them report: there is no test part"]
    n_images = len(bench.parts.selection)
    told = (
        "there is no test part: the figures are cross-fitted, so they tell what choosing like this "
        "is worth on images that did not choose, and not of this very patch"
    )
    if n_images < ENOUGH_IMAGES:
        return [told]
    return [f"{told}; with {n_images:,} images a test part is advised (--test 0.3)"]


def with_hint(bench: Bench, how: PatchSettings, error: TargetNotMetError) -> TargetNotMetError:
    """The error, with how many images `--test none` would add where they may be what is missing."""
    if how.choose == "plain" or how.confirm_share is not None or how.scores is not None:
        return error  # these need a test part
    parts = bench.parts
    n_images = len(bench.dataset.annotations)
    if not has_test(bench) or n_images >= ENOUGH_IMAGES or "selection" not in parts.left_open:
        return error
    promise = error.found.get("promise")
    if promise is not None and promise["reached"] is not None:  # a limit or a target stands against
        return error
    hint = f"; --test none would add {len(parts.test):,} images to choose on"
    said = str(error).removesuffix(_WRITTEN)
    found = dict(error.found)
    if found.get("declined"):
        found["declined"] += hint
    return TargetNotMetError(f"{said}{hint}{_WRITTEN}", found)
