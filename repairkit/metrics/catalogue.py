"""From the name of a metric to the metric."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.errors import DataError, SettingsError
from repairkit.core.metric import Metric
from repairkit.core.process.text import clean
from repairkit.core.suite import Annotations
from repairkit.metrics import groups, images
from repairkit.metrics.outputs import OutputForm
from repairkit.metrics.robustness import ROBUSTNESS_METRICS, check_targets
from repairkit.metrics.user import user_metric

_RECALL = "recall:"
_WHOLE = re.compile(r"\A(0|-?[1-9][0-9]*)\.0*\Z")
_GROUP = "group_accuracy:"
_GROUP_LOSS = "group_loss:"
EVERY_RECALL = "recall:*"
EVERY_GROUP = "group_accuracy:*"
EVERY_GROUP_LOSS = "group_loss:*"
_GROUP_METRICS: dict[str, Callable[[OutputForm, int], Metric]] = {
    "group_accuracy": lambda form, _: images.group_accuracy(form),
    "group_loss": lambda form, _: images.group_loss(form),
    "worst_group_accuracy": groups.worst_group_accuracy,
    "demographic_parity_difference": groups.demographic_parity_difference,
    "equalized_odds_difference": groups.equalized_odds_difference,
    "equal_opportunity_difference": groups.equal_opportunity_difference,
    "demographic_parity_ratio": groups.demographic_parity_ratio,
    "equalized_odds_ratio": groups.equalized_odds_ratio,
    "equal_opportunity_ratio": groups.equal_opportunity_ratio,
}
_CLASS_METRICS: dict[str, Callable[[OutputForm], Metric]] = {
    "accuracy": images.accuracy,
    "loss": images.loss,
    **ROBUSTNESS_METRICS,
}

METRIC_NAMES: tuple[str, ...] = (
    *_CLASS_METRICS,
    "recall:CLASS",
    EVERY_RECALL,
    *_GROUP_METRICS,
    "group_accuracy:GROUP",
    EVERY_GROUP,
    "group_loss:GROUP",
    EVERY_GROUP_LOSS,
    "mean_absolute_error",
    "module:function",
)
"""Every name of a metric; CLASS, GROUP and the last are to be filled in, `*` means every one."""


def is_user_metric(name: str) -> bool:
    """Whether `name` is a `module:function`, which can judge outputs of any form."""
    return ":" in name and not name.startswith((_RECALL, _GROUP, _GROUP_LOSS))


def spell_out(names: Sequence[str], annotations: Annotations, n_classes: int) -> tuple[str, ...]:
    """The names, those that end in `*` replaced by one for each class or group with an image.

    `annotations` are those of the images that will be judged. No name comes twice.
    """
    found: list[str] = []
    for name in names:
        own = [name]
        if name == EVERY_RECALL and n_classes > 0:
            own = _every_recall(annotations, n_classes)
        elif name in (EVERY_GROUP, EVERY_GROUP_LOSS) and annotations.groups is not None:
            there = np.unique(annotations.groups).tolist()
            own = [f"{name[:-1]}{annotations.group_names[group]}" for group in there]
        found += [n for n in own if n not in found]
    return tuple(found)


def _every_recall(annotations: Annotations, n_classes: int) -> list[str]:
    known = annotations.class_names
    there = np.unique(annotations.labels).tolist()
    return [f"{_RECALL}{known[c] if c < len(known) else c}" for c in range(n_classes) if c in there]


def make_metric(
    name: str,
    *,
    form: OutputForm | None,
    annotations: Annotations,
    n_classes: int,
    sample: Array | None = None,
    places: NDArray[np.intp] | None = None,
) -> Metric:
    """The metric called `name` (see `METRIC_NAMES`).

    `annotations` are those of the whole dataset, whatever part is judged later. `form` may be None,
    and `n_classes` is not looked at, for a `module:function`; it needs `sample` instead, the raw
    outputs for the first images of `annotations`.

    Raises:
        SettingsError: The name is unknown, or the metric does not suit the model or the data.
        DataError: The labels are not what the metric needs.
    """
    if is_user_metric(name):
        return user_metric(name, annotations, sample, places)
    if name == "recall":
        raise SettingsError(f"recall of which class? Write recall:CLASS{_known(annotations)}")
    built_in = name.startswith((_RECALL, _GROUP, _GROUP_LOSS)) or name in METRIC_NAMES
    if not built_in:
        raise SettingsError(_unknown(name))
    if form is None:
        raise SettingsError(
            f"{name} needs class scores or one number per image and the output gives neither; "
            f"choose another --output, or give a metric module:function"
        )
    if name == "mean_absolute_error":
        if form.kind != "values":
            raise SettingsError(
                f"mean_absolute_error is for regressors and this model gives {form.kind}; use "
                f"accuracy or loss, or say that the model is a regressor"
            )
        return images.mean_absolute_error(annotations, form)
    return _class_metric(name, form, annotations, n_classes)


def _class_metric(name: str, form: OutputForm, annotations: Annotations, n_classes: int) -> Metric:
    if form.kind == "values":
        raise SettingsError(
            f"{name} needs classes and this model is judged as a regressor; use "
            f"mean_absolute_error or a metric module:function"
        )
    _check_labels(annotations, n_classes)
    if name.startswith(_RECALL):
        return images.recall(name, _class_number(name, annotations, n_classes), form)
    if name in ROBUSTNESS_METRICS:
        check_targets(annotations, n_classes)
    if name in _CLASS_METRICS:
        return _CLASS_METRICS[name](form)
    _check_groups(name, annotations)
    if name.startswith(_GROUP):
        return images.accuracy_of_group(name, _group_number(name, annotations), form)
    if name.startswith(_GROUP_LOSS):
        return images.loss_of_group(name, _group_number(name, annotations), form)
    return _GROUP_METRICS[name](form, n_classes)


def _check_labels(annotations: Annotations, n_classes: int) -> None:
    labels = np.asarray(annotations.labels)
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"the labels are of type {labels.dtype} and class numbers were expected; give class "
            f"numbers or names, or use mean_absolute_error if the model is a regressor"
        )
    wrong = labels[(labels < 0) | (labels >= n_classes)]
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(labels)} labels are beyond the model's {n_classes} classes "
            f"(first: {wrong[0]}); expected 0 to {n_classes - 1}: check the class names and the "
            f"data"
        )


def _check_groups(name: str, annotations: Annotations) -> None:
    columns = ", ".join(annotations.attributes)
    found = f" (columns found: {columns})" if columns else ""
    if annotations.groups is None:
        raise SettingsError(
            f"{name} compares groups and none are named; name their column with --group{found}"
        )
    if name.endswith(("_difference", "_ratio")) and len(annotations.group_names) < 2:
        raise SettingsError(
            f"{name} compares groups and there is only {', '.join(annotations.group_names)!r}; "
            f"choose a column with two or more values with --group{found}"
        )


def _class_number(name: str, annotations: Annotations, n_classes: int) -> int:
    wanted = clean(name.removeprefix(_RECALL))
    number = _position(wanted, annotations.class_names[:n_classes])
    if number is not None:
        return number
    if wanted.isdecimal() and int(wanted) < n_classes:
        return int(wanted)
    close = difflib.get_close_matches(wanted, annotations.class_names, 1)
    hint = f"did you mean recall:{close[0]}? " if close else ""
    raise SettingsError(
        f"there is no class {wanted!r}; {hint}use a number from 0 to {n_classes - 1}"
        f"{_known(annotations)}"
    )


def _group_number(name: str, annotations: Annotations) -> int:
    wanted, names = clean(name.partition(":")[2]), annotations.group_names
    number = _position(wanted, names)
    if number is not None:
        return number
    raise SettingsError(
        f"there is no group {wanted!r}; use one of: {', '.join(names)}, or * for each"
    )


def _position(wanted: str, names: Sequence[str]) -> int | None:
    """Where a name stands: spelt alike, else the one that is the same number (`1.0` for `1`)."""
    for spelling in (clean, _without_zeros):
        alike = [i for i, name in enumerate(names) if spelling(name) == spelling(wanted)]
        if len(alike) == 1:
            return alike[0]
    return None


def _without_zeros(name: str) -> str:
    """`1.0` as `1`, as a column of numbers is read; any other name as it is."""
    return _WHOLE.sub(r"\1", clean(name))


def _known(annotations: Annotations) -> str:
    names = annotations.class_names
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f" or one of: {shown}" if names else ""


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, METRIC_NAMES, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"there is no metric {name!r}; {hint}use one of: {', '.join(METRIC_NAMES)}"
