"""Figures of a model before and after a patch, on images that chose nothing."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto

from repairkit.core.patch import Evaluation, Figure
from repairkit.engine.runner import Runner
from repairkit.graph.rebatch import fixed_batch
from repairkit.metrics import ATTACK_SUCCESS, difference, evaluate, is_attacked
from repairkit.workflows.aims import FAIRNESS_OBJECTIVE, FAIRNESS_VALUE
from repairkit.workflows.bench import Bench, run_suite


def patched_runner(bench: Bench, patched: ModelProto) -> Runner:
    """A session of a patched model, which takes as many images at once as the original does."""
    step = fixed_batch(bench.subject.model, bench.subject.input_name)
    if bench.batching.model is bench.subject.model:
        step = bench.batching.step
    return Runner(
        patched,
        bench.subject.input_name,
        step,
        outputs=(bench.subject.output,),
        device=bench.settings.device,
    )


def judge(
    bench: Bench, patched: Runner, objective: str
) -> tuple[Evaluation, Evaluation, dict[str, Figure]]:
    """Figures before and after on the test part, and the paired difference."""
    suite, settings = bench.parts.test, bench.settings
    names = [bench.accuracy] if bench.n_classes else []
    names += [ATTACK_SUCCESS] if is_attacked(bench.dataset.annotations) else []
    names += [objective] if objective not in names else []
    if settings.groups and bench.n_classes:
        names += [n for n in (FAIRNESS_OBJECTIVE, FAIRNESS_VALUE) if n not in names]
    metrics = bench.metrics(names)
    outputs = (bench.run_plain(suite), run_suite(patched, suite, settings.batch_size))
    common: dict[str, Any] = {"form": bench.form, "seed": settings.seed}
    before, after = (
        evaluate(o, suite.annotations, metrics, suite=suite.name, **common) for o in outputs
    )
    change = difference(*outputs, suite.annotations, metrics, **common)
    return before, after, change
