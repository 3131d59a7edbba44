"""The chosen repair beside simpler ones that freeze as many filters, or none.

Every method is fitted or ranked on the selection part (norms on the calibration part) and judged
once on the test part, by differences with paired bootstrap intervals. The intervals are each for
one method: of many methods that are worth nothing, one in forty looks better than nothing, so a
baseline may only win against the chosen repair where it was named beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from repairkit.core.arrays import Array
from repairkit.core.errors import RepairkitError
from repairkit.core.metric import Metric
from repairkit.core.patch import Figure
from repairkit.core.process.stages import stage
from repairkit.jobs.output.progress import Progress
from repairkit.jobs.repair.cures.controls import fit_control
from repairkit.jobs.repair.deciding import Made
from repairkit.jobs.repair.judge.conductance import Ranking, Values, conductance_ranking
from repairkit.jobs.repair.judge.fairness import Outputs
from repairkit.jobs.repair.judge.judging import Judged
from repairkit.jobs.repair.objective import Objective, plain_values
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.repair.selection_story import figures_of
from repairkit.jobs.score.methods import NORMS, ScoreSettings
from repairkit.jobs.score.scoring import score_bench
from repairkit.jobs.setup.bench import Bench, patched_outputs
from repairkit.metrics import difference, evaluate
from repairkit.repairs import make_patch

RANDOM_DRAWS = 10
MULTIPLICITY = (
    "baselines: the test part was looked at once per method, {n} times in all (random draws count "
    "as one), and each interval is for its method alone: the best of them looks better than it is"
)

OnProgress = Callable[[Progress], None] | None


@stage("judging simpler cures")
def with_baselines(
    bench: Bench,
    made: Made,
    how: PatchSettings,
    objective: Objective,
    judged: Judged,
    story: Mapping[str, Any],
    on_progress: OnProgress,
) -> dict[str, Any]:
    """What the story of a patch gains: the rows, and a note of how often was looked."""
    rows = compare_baselines(
        bench,
        made,
        how,
        objective,
        judged.outputs,
        metrics=bench.metrics(tuple(judged.before.metrics)),
        further=_by_gradients(how, objective),
        on_progress=on_progress,
    )
    n_looks = sum(bool(row["figures"]) for row in rows)
    return {"baselines": rows, "notes": [*story["notes"], MULTIPLICITY.format(n=n_looks)]}


def compare_baselines(
    bench: Bench,
    made: Made,
    how: PatchSettings,
    objective: Objective,
    outputs: Outputs,
    *,
    metrics: Sequence[Metric],
    further: Sequence[Ranking] = (),
    on_progress: OnProgress = None,
) -> list[dict[str, Any]]:
    """The rows of the report's `baselines`, the chosen repair first.

    Args:
        bench: the workbench of the repair.
        made: the repair.
        how: its settings.
        objective: what it is for.
        outputs: of the model and of the repaired one, for every test image.
        metrics: by which all are judged.
        further: rankings that need more than the workbench.
        on_progress: called now and then while filters are scored.
    """
    judge = _Judge(bench, outputs[0], metrics)
    n_frozen = len(made.patch)
    rows = [judge.row("chosen repair", n_frozen, "what this report is about", outputs[1])]
    for ranking in [*_rankings(how, objective, on_progress), *further]:
        own = bench
        if ranking.metrics and ranking.metrics != bench.settings.metrics:
            own = replace(bench, settings=replace(bench.settings, metrics=ranking.metrics))
        try:
            values = ranking.values(own)
        except RepairkitError as error:
            rows.append(_failed(ranking.method, n_frozen, str(error)))
            continue
        players = np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")[:n_frozen]
        patch = make_patch(players, bench.roster, bench.working.levels)
        after = patched_outputs(bench, patch, bench.parts.test)
        rows.append(judge.row(ranking.method, n_frozen, ranking.note, after))
    rows.append(_random_row(bench, judge, n_frozen))
    control = fit_control(bench, objective, how.max_drop)
    if control is not None:
        rows.append(judge.row("no freezing", 0, control.note, control.outputs(outputs[0])))
    return rows


def _by_gradients(how: PatchSettings, objective: Objective) -> tuple[Ranking, ...]:
    return () if how.attacks.source is None else (conductance_ranking(how, objective),)


def _rankings(
    how: PatchSettings, objective: Objective, on_progress: OnProgress
) -> Iterator[Ranking]:
    budget, began = how.score.budget, how.score.began

    def scored(method: str) -> Callable[[Bench], Values]:
        settings = ScoreSettings(method, budget=budget, began=began)

        def values(bench: Bench) -> Values:
            (metric,) = bench.metrics(bench.metric_names[:1])
            found = score_bench(bench, settings, on_progress=on_progress).scores.values[:, 0]
            return np.asarray(found if method in NORMS else metric.measure.sign * found)

        return values

    plain, smooth = plain_values(objective), objective.values[:1]
    yield Ranking(
        "plain recipe",
        f"freezes the lowest by Shapley value for {plain[0]}",
        scored("auto"),
        plain,
    )
    yield Ranking(
        "leave-one-out",
        f"freezes those whose absence alone does {smooth[0]} the most good",
        scored("leave-one-out"),
        smooth,
    )
    yield Ranking("weight norm", "freezes those with the smallest kernels", scored("weight-norm"))
    yield Ranking(
        "activation norm", "freezes those that yield the least", scored("activation-norm")
    )


class _Judge:
    """Judges outputs for the test images against those of the model as it is."""

    def __init__(self, bench: Bench, before: Array, metrics: Sequence[Metric]) -> None:
        self.before, self.metrics = before, metrics
        self._suite = bench.parts.test
        self._common: dict[str, Any] = {"form": bench.form, "seed": bench.settings.seed}
        self.plain = self._evaluate(before)

    def row(self, method: str, n_frozen: int, note: str, after: Array) -> dict[str, Any]:
        """A row with the figures of a model that answers so."""
        about = self._suite.annotations
        change = difference(self.before, after, about, self.metrics, **self._common)
        return _row(method, n_frozen, note, self.plain, self._evaluate(after), change)

    def _evaluate(self, outputs: Array) -> dict[str, Figure]:
        suite = self._suite
        return evaluate(
            outputs, suite.annotations, self.metrics, suite=suite.name, **self._common
        ).metrics


def _random_row(bench: Bench, judge: _Judge, n_frozen: int) -> dict[str, Any]:
    """Means and ranges over draws of filters."""
    rng = np.random.default_rng([bench.settings.seed, RANDOM_DRAWS])
    about = bench.parts.test.annotations
    drawn = []
    for _ in range(RANDOM_DRAWS):
        players = rng.choice(len(bench.roster), n_frozen, replace=False).astype(np.intp)
        after = patched_outputs(
            bench, make_patch(players, bench.roster, bench.working.levels), bench.parts.test
        )
        drawn.append(figures_of(judge.metrics, after, about))
    plain = judge.plain
    reached, change = {}, {}
    for name, figure in plain.items():
        values = np.array([figures[name] for figures in drawn])
        reached[name] = Figure(float(values.mean()), float(values.min()), float(values.max()))
        moved = values - figure.value
        change[name] = Figure(float(moved.mean()), float(moved.min()), float(moved.max()))
    note = f"mean and range of {RANDOM_DRAWS} draws of filters, no interval"
    return _row("random", n_frozen, note, plain, reached, change)


def _row(
    method: str,
    n_frozen: int,
    note: str,
    before: Mapping[str, Figure],
    after: Mapping[str, Figure],
    change: Mapping[str, Figure],
) -> dict[str, Any]:
    figures = {
        name: {
            "before": figure.to_json(),
            "after": after[name].to_json(),
            "difference": change[name].to_json(),
        }
        for name, figure in before.items()
    }
    return {"method": method, "n_frozen": n_frozen, "note": note, "figures": figures}


def _failed(method: str, n_frozen: int, reason: str) -> dict[str, Any]:
    """A method that cannot be had here, with the reason; it has no figures."""
    note = f"not available here: {reason}"
    return {"method": method, "n_frozen": n_frozen, "note": note, "figures": {}}
