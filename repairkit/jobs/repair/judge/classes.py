"""How classes fare before and after a repair, where there are no groups that could pay for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from repairkit.core.suite import Annotations, Suite
from repairkit.jobs.repair.judge.fairness import Outputs
from repairkit.metrics import OutputForm, difference, evaluate

_MOST_CLASSES = 40
_REST = ""  # no class has this name


def classes_block(
    outputs: Outputs, suite: Suite, *, form: OutputForm | None, n_classes: int, seed: int
) -> list[dict[str, Any]] | None:
    """The `classes` of a patch's story; None where there are groups or no classes.

    Of more than 40 classes, those are told that lost most images.
    """
    about = suite.annotations
    if about.groups is not None or form is None or form.kind == "values" or not n_classes:
        return None
    shown = _by_class(about, n_classes)
    right = [form.predictions(o) == about.labels for o in outputs]
    assert shown.groups is not None
    lost = np.bincount(
        shown.groups, weights=right[0].astype(float) - right[1], minlength=len(shown.group_names)
    )
    kept = np.sort(np.argsort(-lost, kind="stable")[:_MOST_CLASSES])
    if len(kept) < len(shown.group_names):
        number = np.full(len(shown.group_names), len(kept))
        number[kept] = np.arange(len(kept))
        names = (*(shown.group_names[k] for k in kept), _REST)
        shown = replace(shown, groups=number[shown.groups], group_names=names)
    before, after = (
        evaluate(o, shown, (), form=form, suite=suite.name, seed=seed) for o in outputs
    )
    change = difference(*outputs, shown, (), form=form, suite=suite.name, seed=seed)
    names = shown.group_names[: len(kept)]
    return [
        {
            "name": name,
            "n": before.group_sizes[name],
            "before": before.groups[name].to_json(),
            "after": after.groups[name].to_json(),
            "difference": change[f"accuracy:{name}"].to_json(),
        }
        for name in names
        if name in before.groups
    ]


def _by_class(about: Annotations, n_classes: int) -> Annotations:
    """The same annotations with classes for groups."""
    n_named = len(about.class_names)
    names = (*about.class_names, *(str(number) for number in range(n_named, n_classes)))
    return replace(about, groups=about.labels.astype(np.int64), group_names=names)
