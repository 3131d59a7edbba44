"""Baselines that play no game: the size of a filter's kernel or of its activations."""

from __future__ import annotations

import numpy as np

from repairkit.core.process.stages import stage
from repairkit.core.scores import Scores, Spent
from repairkit.estimators import Estimation
from repairkit.graph.kinds.norms import kernel_norms
from repairkit.jobs.setup.bench import Bench

NORMS = ("weight-norm", "activation-norm")


@stage("measuring norms")
def score_norms(method: str, bench: Bench, metric: str) -> Estimation:
    """L2 norms of kernels, or mean absolute activations over the calibration images."""
    if method == "weight-norm":
        by_site = kernel_norms(bench.working.survey)
    else:
        measured = bench.working.measure(bench.parts.calibration, magnitude=True)
        by_site = {name: level.astype(np.float64) for name, level in measured.items()}
    values = np.concatenate([by_site[site.name] for site in bench.roster.sites])[:, None]
    n = len(values)
    scores = Scores(
        metrics=(metric,),
        values=values,
        std_errors=np.zeros((n, 1)),
        ci_low=values,
        ci_high=values,
        samples=np.zeros(n, np.int64),
        decided=np.ones(n, bool),
        confidence=1.0,
        interval="none: a norm is no estimate",
        efficient=False,
    )
    return Estimation(
        scores=scores, spent=Spent(), finished=True, reason=f"{method} needs no evaluation"
    )
