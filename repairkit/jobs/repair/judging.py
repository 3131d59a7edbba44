"""The figures to report: before and after, of all images, of groups and of classes.

They come from the one look at the test part. Where there is none, every selection image is judged
under a cure that it did not choose. Such figures say what choosing like this is worth, not what the
very patch that ships is worth: that takes images that had no part in the choice.

Names, definitions and signs of group figures are Fairlearn's: of a `..._difference` 0 is even, of a
`..._ratio` 1. With two classes, class 1 is judged; with more, one class against the rest, and the
class for which groups differ most counts. Groups serve to judge, never to predict: a repaired model
takes the images alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from repairkit.core import attacked, errors, results
from repairkit.core.metric import Metric
from repairkit.core.outputs import OutputForm
from repairkit.core.process.stages import stage
from repairkit.core.suite import Annotations, Array, Suite
from repairkit.data.annotations import CROSS, columns_to_group, cross_groups
from repairkit.engine.runner import OpenModel
from repairkit.jobs.repair.objective import FAIRNESS_OBJECTIVE, PLAIN_VALUE, Objective
from repairkit.jobs.setup.preparing import outputs_of
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics import catalogue, group_metrics, image_metrics, robustness
from repairkit.metrics.definition import bare_class_name
from repairkit.metrics.evaluation import difference, evaluate
from repairkit.repairs.crossfit import widen, widening
from repairkit.repairs.cure import ChosenPatch, FinalFigures

CROSS_FITTED = "selection, cross-fitted"
"""What the images are called that report where there is no test part."""
FEWEST_IMAGES = 30
WIDEST_INTERVAL = 0.2
SMALL = (
    f"a group is small where it has fewer than {FEWEST_IMAGES} images, or where the 95 % interval "
    f"of its accuracy is wider than {100 * WIDEST_INTERVAL:.0f} points before or after"
)
_ACCURACIES = (image_metrics.ACCURACY.name, FAIRNESS_OBJECTIVE, PLAIN_VALUE)
_DISPARITIES = tuple(
    metric.name for metric in catalogue.METRICS if metric.measure.even_at is not None
)
_MOST_CLASSES = 40
_OTHER_CLASSES = ""  # no class has this name

Outputs = tuple[Array, Array]
"""Of the model before and after, for every image of a suite."""


def final_figures(
    bench: Bench, chosen: ChosenPatch, patched: OpenModel, objective: str
) -> FinalFigures:
    """The figures to report: of the test part, else of images that did not choose their cure."""
    if bench.unjudged:
        return not_judged(bench)
    if len(bench.parts.test):
        return judge_on_test(bench, patched, objective)
    if chosen.selection is None:  # filters that were named: no image chose them
        suite = bench.parts.selection
        outputs = bench.working.run_plain(suite), outputs_of(bench, patched, suite)
        return judge_outputs(bench, outputs, _selection(bench, "selection"), objective)
    assert chosen.outputs is not None
    return judge_cross_fitted(bench, chosen.outputs, objective, n_folds=chosen.n_folds)


@stage("judging on the test part")
def judge_on_test(bench: Bench, patched: OpenModel, objective: str) -> FinalFigures:
    """Figures before and after on the test part, and the paired difference."""
    suite = bench.parts.test
    outputs = (bench.working.run_plain(suite), outputs_of(bench, patched, suite))
    return judge_outputs(bench, outputs, suite, objective)


def judge_outputs(bench: Bench, outputs: Outputs, suite: Suite, objective: str) -> FinalFigures:
    """Figures before and after of the images of `suite`, and the paired difference."""
    settings = bench.settings
    metrics = bench.metrics(judged_names(bench, objective))
    common: dict[str, Any] = {"form": bench.form, "seed": settings.seed}
    before, after = (
        evaluate(o, suite.annotations, metrics, suite=suite.name, **common) for o in outputs
    )
    rows = Objective.of(objective).judges_groups_by(bench.metrics, suite.annotations)
    counted = (outputs, suite)
    if len(rows) < len(suite):
        counted = ((outputs[0][rows], outputs[1][rows]), suite.take(rows))
    return FinalFigures(
        before=before,
        after=after,
        change=difference(*outputs, suite.annotations, metrics, **common),
        outputs=outputs,
        fairness=fairness_block(*counted, settings.groups, n_classes=bench.n_classes, **common),
        classes=classes_block(*counted, n_classes=bench.n_classes, **common),
    )


def not_judged(bench: Bench) -> FinalFigures:
    """No figures: for a bench that says why there can be none."""
    suite = bench.parts.test
    nothing = results.Evaluation(
        suite=suite.name, n_images=len(suite), metrics={}, groups={}, group_sizes={}
    )
    outputs = (np.zeros(0), np.zeros(0))
    return FinalFigures(before=nothing, after=nothing, change={}, outputs=outputs, fairness=None)


def judged_names(bench: Bench, objective: str) -> list[str]:
    """The metrics that a repair is judged by: the objective, beside what it may have cost."""
    names = [bench.accuracy] if bench.n_classes else []
    names += (
        [robustness.ATTACK_SUCCESS.name] if attacked.is_attacked(bench.dataset.annotations) else []
    )
    beside = Objective.of(objective).beside
    names += [name for name in (objective, beside) if name and name not in names]
    if bench.settings.groups and bench.n_classes:
        names += [n for n in (FAIRNESS_OBJECTIVE, PLAIN_VALUE) if n not in names]
    return names


def require_test(bench: Bench, why: str) -> None:
    """Refuse a job without images to report on.

    Args:
        bench: the workbench.
        why: why there are no cross-fitted figures; empty where there are.

    Raises:
        SettingsError: there is neither a test part nor a cross-fitted figure.
    """
    if why and not len(bench.parts.test):
        raise errors.SettingsError(
            f"without a test part cross-fitted figures are reported, and here are none: {why}; "
            "give a test part, such as --test 0.3"
        )


def judge_cross_fitted(
    bench: Bench, outputs: Outputs, objective: str, *, n_folds: int
) -> FinalFigures:
    """Figures of the selection images, each under a cure that it did not choose.

    The intervals of changes are widened as those of promises are: folds share most of the images
    that choose.
    """
    figures = judge_outputs(bench, outputs, _selection(bench, CROSS_FITTED), objective)
    factor = widening(n_folds)
    return replace(
        figures,
        change={name: widen(figure, factor) for name, figure in figures.change.items()},
        fairness=_with_widened(figures.fairness, factor),
        classes=_with_widened(figures.classes, factor),
    )


def _selection(bench: Bench, name: str) -> Suite:
    suite = bench.parts.selection
    return suite.take(np.arange(len(suite)), name)


def _with_widened(block: Any, factor: float) -> Any:
    """A block of the report, with every difference in it widened."""
    if isinstance(block, Mapping):
        return {
            name: widen(results.Figure.from_json(entry), factor).to_json()
            if name == "difference"
            else _with_widened(entry, factor)
            for name, entry in block.items()
        }
    if isinstance(block, list):
        return [_with_widened(entry, factor) for entry in block]
    return block


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
        catalogue.make_metric(name, form=form, annotations=annotations, n_classes=n_classes)
        for name in names
    ]
    judged = group_metrics.class_furthest_apart(outputs[0], annotations, form, n_classes)
    rates = group_metrics.group_rates(form, judged, annotations)
    metrics += rates.values()
    before, after = (
        evaluate(o, annotations, metrics, form=form, suite=suite.name, seed=seed) for o in outputs
    )
    change = difference(*outputs, annotations, metrics, form=form, seed=seed)

    def moved(name: str) -> dict[str, Any] | None:
        """None where the labels of these images do not define the figure."""
        figures = (before.metrics[name], after.metrics[name], change[name])
        return _three(*figures) if before.metrics[name].known else None

    return {
        "name": CROSS.join(columns),
        "rates_of": bare_class_name(annotations, judged),
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
                    for rate in group_metrics.RATES
                },
            }
            for group in before.groups
        ],
        "disparities": {name: moved(name) for name in names},
        "left_out": group_metrics.left_out(annotations, n_classes),
    }


def _grouped(annotations: Annotations, columns: tuple[str, ...]) -> Annotations:
    """Annotations whose groups are the values of these columns alone."""
    known = columns_to_group(annotations, columns)
    groups, names = cross_groups(known, columns, lambda row: f"image {row}")
    return replace(annotations, groups=groups, group_names=names)


def _is_small(n_images: int, *figures: results.Figure) -> bool:
    widest = max(figure.ci_high - figure.ci_low for figure in figures)
    return n_images < FEWEST_IMAGES or bool(widest > WIDEST_INTERVAL)


def _three(before: results.Figure, after: results.Figure, change: results.Figure) -> dict[str, Any]:
    return {"before": before.to_json(), "after": after.to_json(), "difference": change.to_json()}


def classes_block(
    outputs: Outputs, suite: Suite, *, form: OutputForm | None, n_classes: int, seed: int
) -> list[dict[str, Any]] | None:
    """The `classes` of a patch's story; None where there are groups or no classes.

    Of more than 40 classes, those stand here that lost most images.
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
        names = (*(shown.group_names[k] for k in kept), _OTHER_CLASSES)
        shown = replace(shown, groups=number[shown.groups], group_names=names)
    before, after = (
        evaluate(o, shown, (), form=form, suite=suite.name, seed=seed) for o in outputs
    )
    change = difference(*outputs, shown, (), form=form, seed=seed)
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
