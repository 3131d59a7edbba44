"""The one look at the test part: figures of the model before and after, and of its groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from repairkit.core.patch import Evaluation, Figure
from repairkit.core.process.stages import stage
from repairkit.core.suite import Suite
from repairkit.engine.runner import OpenModel
from repairkit.jobs.repair.judge.classes import classes_block
from repairkit.jobs.repair.judge.fairness import Outputs, fairness_block
from repairkit.jobs.repair.objective import FAIRNESS_OBJECTIVE, PLAIN_VALUE
from repairkit.jobs.setup.bench import Bench, outputs_of
from repairkit.metrics import difference, evaluate, is_attacked
from repairkit.metrics.robustness import ATTACK_SUCCESS


@dataclass(frozen=True)
class Judged:
    """What the test part says of a patched model.

    Attributes:
        before: figures of the model as it was.
        after: figures of the patched model.
        change: the paired differences.
        outputs: of both, for every test image.
        fairness: groups before and after; None where there are none.
        classes: classes before and after, where there are no groups.
    """

    before: Evaluation
    after: Evaluation
    change: dict[str, Figure]
    outputs: Outputs
    fairness: dict[str, Any] | None
    classes: list[dict[str, Any]] | None = None


@stage("judging on the test part")
def judge_on_test(bench: Bench, patched: OpenModel, objective: str) -> Judged:
    """Figures before and after on the test part, and the paired difference."""
    suite = bench.parts.test
    outputs = (bench.working.run_plain(suite), outputs_of(bench, patched, suite))
    return judge_outputs(bench, outputs, suite, objective)


def judge_outputs(bench: Bench, outputs: Outputs, suite: Suite, objective: str) -> Judged:
    """Figures before and after of the images of `suite`, and the paired difference."""
    settings = bench.settings
    metrics = bench.metrics(judged_names(bench, objective))
    common: dict[str, Any] = {"form": bench.form, "seed": settings.seed}
    before, after = (
        evaluate(o, suite.annotations, metrics, suite=suite.name, **common) for o in outputs
    )
    return Judged(
        before,
        after,
        difference(*outputs, suite.annotations, metrics, **common),
        outputs,
        fairness_block(outputs, suite, settings.groups, n_classes=bench.n_classes, **common),
        classes_block(outputs, suite, n_classes=bench.n_classes, **common),
    )


def not_judged(bench: Bench) -> Judged:
    """No figures: for a bench that says why there can be none."""
    suite = bench.parts.test
    nothing = Evaluation(
        suite=suite.name, n_images=len(suite), metrics={}, groups={}, group_sizes={}
    )
    outputs = (np.zeros(0), np.zeros(0))
    return Judged(nothing, nothing, {}, outputs, None)


def judged_names(bench: Bench, objective: str) -> list[str]:
    """The metrics that a repair is judged by: the objective, beside what it may have cost."""
    names = [bench.accuracy] if bench.n_classes else []
    names += [ATTACK_SUCCESS.name] if is_attacked(bench.dataset.annotations) else []
    names += [objective] if objective not in names else []
    if bench.settings.groups and bench.n_classes:
        names += [n for n in (FAIRNESS_OBJECTIVE, PLAIN_VALUE) if n not in names]
    return names
