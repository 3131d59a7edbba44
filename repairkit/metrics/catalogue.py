"""The list of metrics, and the way from a name to a metric."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, marked, metric, outputs, suite
from repairkit.core.process.text import clean
from repairkit.metrics import group_metrics, image_metrics, part_metrics, robustness
from repairkit.metrics.definition import Case, Definition, bare_class_name
from repairkit.metrics.robustness import check_targets
from repairkit.metrics.user import user_metric

_WHOLE = re.compile(r"\A(0|-?[1-9][0-9]*)\.0*\Z")

METRICS: tuple[Definition, ...] = (
    image_metrics.ACCURACY,
    image_metrics.LOSS,
    robustness.ROBUSTNESS,
    robustness.ROBUSTNESS_LOSS,
    robustness.ROBUSTNESS_ABOVE,
    robustness.CLEAN_ACCURACY,
    robustness.ATTACK_SUCCESS,
    image_metrics.RECALL,
    image_metrics.GROUP_ACCURACY,
    image_metrics.GROUP_LOSS,
    group_metrics.WORST_GROUP_ACCURACY,
    group_metrics.EQUALIZED_ODDS_DIFFERENCE,
    group_metrics.DEMOGRAPHIC_PARITY_DIFFERENCE,
    group_metrics.EQUAL_OPPORTUNITY_DIFFERENCE,
    group_metrics.EQUALIZED_ODDS_RATIO,
    group_metrics.DEMOGRAPHIC_PARITY_RATIO,
    group_metrics.EQUAL_OPPORTUNITY_RATIO,
    image_metrics.ACCURACY_OF_GROUP,
    image_metrics.LOSS_OF_GROUP,
    image_metrics.MEAN_ABSOLUTE_ERROR,
    part_metrics.ACCURACY_TO_FIX,
    part_metrics.ACCURACY_ELSEWHERE,
    part_metrics.LOSS_TO_FIX,
    part_metrics.LOSS_ELSEWHERE,
    part_metrics.RECALL_LEFT,
    part_metrics.FORGETTING_LOSS,
    part_metrics.ACCURACY_OF_OTHERS,
    part_metrics.LOSS_OF_OTHERS,
)


def _spellings(definition: Definition) -> tuple[str, ...]:
    name, takes = definition.name, definition.takes
    every = () if takes == "FLOOR" else (f"{name}:*",)
    return (f"{name}:{takes}", *every) if takes else (name,)


METRIC_NAMES: tuple[str, ...] = (
    *(spelling for definition in METRICS for spelling in _spellings(definition)),
    "module:function",
)
"""Every name of a metric; CLASS, GROUP, FLOOR and the last are to be filled in, `*` means all."""


def definition_of(name: str) -> Definition | None:
    """The definition that a name means; None for a `module:function` and what is unknown."""
    kind, colon, _ = name.partition(":")
    for definition in METRICS:
        if definition.name == kind and bool(definition.takes) == bool(colon):
            return definition
    return None


def check_name(name: str) -> None:
    """Refuse a name that no metric has. Which classes and groups there are only the data tells.

    Raises:
        SettingsError: there is no metric of that name.
    """
    base = name.partition(":")[0]
    if not is_user_metric(name) and base not in {definition.name for definition in METRICS}:
        raise errors.SettingsError(_unknown(name, _NOTHING_KNOWN))


def measure_of(name: str) -> metric.Measure:
    """What a name alone tells of a metric's figures; of a `module:function` it tells no more."""
    definition, (kind, _, argument) = definition_of(name), name.partition(":")
    if definition is None:
        return metric.Measure(words=name)
    words = definition.measure.words.replace("{}", argument or kind)
    return replace(definition.measure, words=words)


def is_user_metric(name: str) -> bool:
    """Whether `name` is a `module:function`, which can judge outputs of any form."""
    return ":" in name and definition_of(name) is None


def spell_out(
    names: Sequence[str], annotations: suite.Annotations, n_classes: int
) -> tuple[str, ...]:
    """The names, those that end in `*` replaced by one for each class or group with an image.

    `annotations` are those of the images that will be judged. No name comes twice.
    """
    spelt: dict[str, None] = {}
    for name in names:
        definition, (kind, _, argument) = definition_of(name), name.partition(":")
        takes = "" if definition is None or argument != "*" else definition.takes
        if takes == "CLASS" and n_classes > 0:
            present = _classes_present(annotations, n_classes)
        elif takes == "GROUP" and annotations.groups is not None:
            numbers = np.unique(annotations.groups).tolist()
            present = [annotations.group_names[number] for number in numbers]
        else:
            spelt[name] = None
            continue
        spelt |= dict.fromkeys(f"{kind}:{one}" for one in present)
    return tuple(spelt)


def _classes_present(annotations: suite.Annotations, n_classes: int) -> list[str]:
    present = np.unique(annotations.labels).tolist()
    return [bare_class_name(annotations, c) for c in range(n_classes) if c in present]


def make_metric(
    name: str,
    *,
    form: outputs.OutputForm | None,
    annotations: suite.Annotations,
    n_classes: int,
    sample: suite.Array | None = None,
    places: NDArray[np.intp] | None = None,
) -> metric.Metric:
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
    definition = definition_of(name)
    if definition is None:
        raise errors.SettingsError(_unknown(name, annotations))
    if form is None:
        raise errors.SettingsError(
            f"{name} needs class scores or one number per image and the output gives neither; "
            f"choose another --output, or give a metric module:function"
        )
    _check_form(definition, name, form)
    if "classes" in definition.needs:
        _check_labels(annotations, n_classes)
    number = -1
    if definition.takes == "CLASS":
        number = _class_number(name, annotations, n_classes)
    if "attack" in definition.needs:
        check_targets(annotations, n_classes)
    if "marks" in definition.needs:
        marked.to_fix(annotations)
    if definition.needs & {"groups", "two groups"}:
        _check_groups(definition, name, annotations)
    if definition.takes == "GROUP":
        number = _group_number(name, annotations)
    return definition.make(
        Case(
            name=name,
            measure=measure_of(name),
            form=form,
            n_classes=n_classes,
            annotations=annotations,
            number=number,
        )
    )


def _check_form(definition: Definition, name: str, form: outputs.OutputForm) -> None:
    if "numbers" in definition.needs and form.kind != "values":
        raise errors.SettingsError(
            f"{name} is for regressors and this model gives {form.kind}; use "
            f"accuracy or loss, or say that the model is a regressor"
        )
    if "classes" in definition.needs and form.kind == "values":
        raise errors.SettingsError(
            f"{name} needs classes and this model is judged as a regressor; use "
            f"mean_absolute_error or a metric module:function"
        )


def _check_labels(annotations: suite.Annotations, n_classes: int) -> None:
    labels = np.asarray(annotations.labels)
    if labels.dtype.kind not in "iu":
        raise errors.DataError(
            f"the labels are of type {labels.dtype} and class numbers were expected; give class "
            f"numbers or names, or use mean_absolute_error if the model is a regressor"
        )
    wrong = labels[(labels < 0) | (labels >= n_classes)]
    if len(wrong):
        raise errors.DataError(
            f"{len(wrong)} of {len(labels)} labels are beyond the model's {n_classes} classes "
            f"(first: {wrong[0]}); expected 0 to {n_classes - 1}: check the class names and the "
            f"data"
        )


def _check_groups(definition: Definition, name: str, annotations: suite.Annotations) -> None:
    names = ", ".join(annotations.attributes)
    columns = f" (columns found: {names})" if names else ""
    if annotations.groups is None:
        raise errors.SettingsError(
            f"{name} compares groups and none are named; name their column with --group{columns}"
        )
    if "two groups" in definition.needs and len(annotations.group_names) < 2:
        raise errors.SettingsError(
            f"{name} compares groups and there is only {', '.join(annotations.group_names)!r}; "
            f"choose a column with two or more values with --group{columns}"
        )


def _class_number(name: str, annotations: suite.Annotations, n_classes: int) -> int:
    wanted = clean(name.partition(":")[2])
    number = _position(wanted, annotations.class_names[:n_classes])
    if number is not None:
        return number
    if wanted.isdecimal() and int(wanted) < n_classes:
        return int(wanted)
    close = difflib.get_close_matches(wanted, annotations.class_names, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise errors.SettingsError(
        f"there is no class {wanted!r}; {hint}use a number from 0 to {n_classes - 1}"
        f"{_known(annotations)}"
    )


def _group_number(name: str, annotations: suite.Annotations) -> int:
    wanted, names = clean(name.partition(":")[2]), annotations.group_names
    number = _position(wanted, names)
    if number is not None:
        return number
    raise errors.SettingsError(
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


_NOTHING_KNOWN = suite.Annotations(labels=np.zeros(0, np.int64))


def _known(annotations: suite.Annotations) -> str:
    names = annotations.class_names
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f" or one of: {shown}" if names else ""


def _unknown(name: str, annotations: suite.Annotations) -> str:
    takes = {definition.name: definition.takes for definition in METRICS}.get(name)
    if takes == "FLOOR":
        return f"{name} above which accuracy? Write {name}:FLOOR, such as {name}:0.7"
    if takes:
        known = _known(annotations) if takes == "CLASS" else ""
        return f"{name} of which {takes.lower()}? Write {name}:{takes}{known}"
    close = difflib.get_close_matches(name.lower(), METRIC_NAMES, 1)
    close += [known for known in METRIC_NAMES if len(name) > 1 and known.startswith(name.lower())]
    hint = f"did you mean {close[0]}? " if close else ""
    return f"there is no metric {name!r}; {hint}use one of: {', '.join(METRIC_NAMES)}"
