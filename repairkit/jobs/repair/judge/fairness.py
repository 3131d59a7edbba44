"""How groups fare before and after a repair: by each column alone, and by the columns crossed.

Names, definitions and signs are Fairlearn's: of a `..._difference` 0 is even, of a `..._ratio` 1.
With two classes, class 1 is judged; with more, one class against the rest, and the class for which
groups differ most counts. Groups are looked at to judge, never to predict: a repaired model takes
the images alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from repairkit.core.arrays import Array
from repairkit.core.metric import MeasureFacts, Metric
from repairkit.core.patch import Figure
from repairkit.core.suite import Annotations, Suite
from repairkit.data.groups import CROSS, columns_to_group, cross_groups
from repairkit.metrics import METRICS, OutputForm, difference, evaluate, make_metric, measure_of
from repairkit.metrics.group_metrics import WORST_GROUP_ACCURACY
from repairkit.metrics.image_metrics import ACCURACY, GROUP_ACCURACY
from repairkit.metrics.rates import RATES, class_furthest_apart, group_rates, left_out

FEWEST_IMAGES = 30
WIDEST_INTERVAL = 0.2
SMALL = (
    f"a group is small where it has fewer than {FEWEST_IMAGES} images, or where the 95 % interval "
    f"of its accuracy is wider than {100 * WIDEST_INTERVAL:.0f} points before or after"
)
_ACCURACIES = (ACCURACY.name, WORST_GROUP_ACCURACY.name, GROUP_ACCURACY.name)
_DISPARITIES = tuple(metric.name for metric in METRICS if metric.measure.even_at is not None)

Outputs = tuple[Array, Array]
"""Of the model before and after, for every image of a suite."""


def fairness_block(
    outputs: Outputs,
    suite: Suite,
    columns: tuple[str, ...],
    *,
    form: OutputForm | None,
    n_classes: int,
    seed: int,
) -> dict[str, Any] | None:
    """The `fairness` block of a patch's story; None where there are no groups or no classes.

    Every difference has the interval of a paired bootstrap: both models on the same resamples.
    """
    if not columns or form is None or form.kind == "values":
        return None
    views = [(column,) for column in columns] if len(columns) > 1 else []
    return {
        "suite": suite.name,
        "n_images": len(suite),
        "small": SMALL,
        "columns": [
            _judge_by(view, outputs, suite, form=form, n_classes=n_classes, seed=seed)
            for view in (*views, columns)
        ],
    }


def _judge_by(
    columns: tuple[str, ...],
    outputs: Outputs,
    suite: Suite,
    *,
    form: OutputForm,
    n_classes: int,
    seed: int,
) -> dict[str, Any]:
    """One entry of `columns`: groups with their rates, and what sets them apart."""
    annotations = _grouped(suite.annotations, columns)
    names = _ACCURACIES + (_DISPARITIES if len(annotations.group_names) > 1 else ())
    metrics: list[Metric] = [
        make_metric(name, form=form, annotations=annotations, n_classes=n_classes) for name in names
    ]
    judged = class_furthest_apart(outputs[0], annotations, form, n_classes)
    rates = group_rates(form, judged, annotations)
    metrics += rates.values()
    before, after = (
        evaluate(o, annotations, metrics, form=form, suite=suite.name, seed=seed) for o in outputs
    )
    change = difference(*outputs, annotations, metrics, form=form, suite=suite.name, seed=seed)

    def moved(name: str) -> dict[str, Any] | None:
        """None where the images do not define the figure, which hangs on labels alone."""
        figures = (before.metrics[name], after.metrics[name], change[name])
        return _three(*figures) if before.metrics[name].known else None

    return {
        "name": CROSS.join(columns),
        "rates_of": annotations.class_names[judged]
        if judged < len(annotations.class_names)
        else str(judged),
        "groups": [
            {
                "name": group,
                "n": before.group_sizes[group],
                "small": _is_small(
                    before.group_sizes[group], before.groups[group], after.groups[group]
                ),
                **_three(before.groups[group], after.groups[group], change[f"accuracy:{group}"]),
                "rates": {
                    rate: moved(rates[rate, group].name) if (rate, group) in rates else None
                    for rate in RATES
                },
            }
            for group in before.groups
        ],
        "disparities": {name: moved(name) for name in names},
        "left_out": left_out(annotations, n_classes),
    }


def disparity_measures(block: Mapping[str, Any] | None) -> dict[str, MeasureFacts]:
    """How the figures of `disparities` are to be understood, by the metric's name."""
    columns = [] if block is None else block["columns"]
    return {
        name: measure_of(name).to_json() for column in columns for name in column["disparities"]
    }


def _grouped(annotations: Annotations, columns: tuple[str, ...]) -> Annotations:
    """Annotations whose groups are the values of these columns alone."""
    known = columns_to_group(annotations, columns)
    groups, names = cross_groups(known, columns, lambda row: f"image {row}")
    return replace(annotations, groups=groups, group_names=names)


def _is_small(n_images: int, *figures: Figure) -> bool:
    widest = max(figure.ci_high - figure.ci_low for figure in figures)
    return n_images < FEWEST_IMAGES or bool(widest > WIDEST_INTERVAL)


def _three(before: Figure, after: Figure, change: Figure) -> dict[str, Any]:
    return {"before": before.to_json(), "after": after.to_json(), "difference": change.to_json()}
