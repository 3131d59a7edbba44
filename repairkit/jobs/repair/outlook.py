"""What is known of a repair before filters are scored: targets met already, classes never answered.

One pass of the model over the selection images shows it; scoring may take minutes.
"""

import logging
from collections.abc import Sequence

import numpy as np

from repairkit.core.metric import Metric
from repairkit.core.process.stages import READING_LOG
from repairkit.core.suite import Array
from repairkit.jobs.repair import objective as goals
from repairkit.jobs.repair.repair_settings import FREEZE, PatchSettings, wanted_repair
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.catalogue import definition_of
from repairkit.metrics.definition import class_name

logger = logging.getLogger(READING_LOG)


def advice_before_scoring(bench: Bench, asked: PatchSettings, objective: goals.Objective) -> str:
    """Log what one pass shows of what is wished, and return what to try instead.

    Args:
        bench: the workbench.
        asked: the settings.
        objective: what is to be improved.

    Returns:
        Advice for the case that nothing is promised; empty where there is none.
    """
    names = goals.metric_names(objective, (), asked.targets)
    of_classes = [name for name in names if _is_of_a_class(name)]
    if not (asked.targets or of_classes):
        return ""
    suite = bench.parts.selection
    plain = bench.working.run_plain(suite)
    metrics = bench.metrics(names)
    figures = goals.figures_of(metrics, plain, suite.annotations)
    for target in asked.targets:
        if target.met(figures[target.metric]):
            measure = next(m.measure for m in metrics if m.name == target.metric)
            logger.info(
                "the model meets the target %s as it is: %s on %d selection images; what is looked "
                "for is a repair that keeps it",
                target,
                measure.figure(figures[target.metric]),
                len(suite),
            )
    advice = _never_answered(bench, [m for m in metrics if m.name in of_classes], plain)
    if not advice or wanted_repair(asked) != FREEZE:
        return ""
    logger.info("%s", advice)
    return advice


def _is_of_a_class(name: str) -> bool:
    definition = definition_of(name)
    return definition is not None and definition.takes == "CLASS"


def _never_answered(bench: Bench, metrics: Sequence[Metric], plain: Array) -> str:
    """What to say of classes of which the model answers none of the selection images."""
    about, form = bench.parts.selection.annotations, bench.form
    if form is None or form.kind == "values":
        return ""
    answered = set(np.unique(form.predictions(plain)).tolist())
    # Images that a metric of a class weighs are those of the class.
    classes = [int(about.labels[metric.weights(about) > 0][0]) for metric in metrics]
    never = [class_name(about, number) for number in classes if number not in answered]
    if not never:
        return ""
    return (
        f"the model never answers class {' or '.join(never)} on the {len(about)} selection "
        "images, so that freezing filters can hardly raise its recall; try --repair bias or "
        "--repair last-layer"
    )
