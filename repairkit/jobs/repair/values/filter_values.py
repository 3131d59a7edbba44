"""What filters are worth to a repair: from a scoring of its own, or from a run that is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from repairkit.core.arrays import Array
from repairkit.core.errors import RunFolderError
from repairkit.core.suite import Indices, Suite
from repairkit.formats.effects import Affects
from repairkit.formats.run_file import RunDocument, RunFolder
from repairkit.jobs.output.progress import Progress
from repairkit.jobs.repair.objective import FAIRNESS_OBJECTIVE, Objective, plain_values
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.repair.values.candidates import Harm, find_candidates
from repairkit.jobs.repair.values.first_order import GRADIENT, FirstOrder, first_order
from repairkit.jobs.runs.part_records import options_in_words, parts_in_words, same_parts
from repairkit.jobs.runs.run_settings import differing, settings_at, settings_in
from repairkit.jobs.score.methods import NORMS
from repairkit.jobs.score.scored import Scored
from repairkit.jobs.score.scoring import score_bench
from repairkit.jobs.setup.bench import Bench
from repairkit.jobs.setup.told_reading import tell_reading
from repairkit.metrics import FigureOfImages, figure_of

# With more groups than this their values are left to the figure over all groups.
_MOST_VALUES = 25
# Evaluations per filter: values only screen here. Ten times as many led to the same repairs.
_TO_SCREEN, _LEAST_ROWS = 50, 3000
_SOLVED_ANEW = (GRADIENT, "repair", "regression", "auto", "leave-one-out", "random", *NORMS)

OnProgress = Callable[[Progress], None] | None


def can_be_solved_anew(method: str) -> bool:
    """Whether a method gives values of some of the images without asking the model again."""
    return method in _SOLVED_ANEW


@dataclass(frozen=True, eq=False)
class Values:
    """Values of all filters on the images that were scored.

    Attributes:
        harm: by all of them.
        run: what the report tells of the scoring.
        scored: the scoring, where it was made here.
    """

    harm: Harm
    run: Mapping[str, Any]
    scored: Scored | FirstOrder | None = None

    def on(self, positions: Indices) -> Harm | None:
        """By the scored images at some positions alone; None where that cannot be told."""
        scores = None if self.scored is None else self.scored.on(positions)
        return None if scores is None else Harm.of(scores, self.harm.signs)


def find_values(
    bench: Bench,
    how: PatchSettings,
    objective: Objective,
    suite: Suite,
    on_progress: OnProgress,
) -> Values:
    """Score the filters on `suite`, or read the run that is there.

    Raises:
        RunFolderError: the run is about something else.
    """
    if how.scores is not None:
        return _read_values(how.scores, bench, objective, suite)
    if how.score.method == GRADIENT:
        table, told = first_order(bench, how.attacks.source, suite)
        scores = table.on(np.arange(len(suite)))
        tell_reading(bench.reading)
        return Values(Harm.of(scores, _signs(bench, scores.metrics)), told, table)
    if len(bench.metric_names) > _MOST_VALUES:
        few = replace(bench.settings, metrics=bench.settings.metrics[:1])
        bench = replace(bench, settings=few)
    asked = how.score.towards(_signs(bench, bench.metric_names[:1])[0])
    if asked.method == "repair":
        asked = replace(asked, per_filter=max(_TO_SCREEN, _LEAST_ROWS // len(bench.roster)))
    scored = score_bench(bench, asked, suite=suite, on_progress=on_progress)
    harm = Harm.of(scored.scores, _signs(bench, scored.scores.metrics))
    return Values(harm, scored.document, scored)


@dataclass(frozen=True, eq=False)
class Screening:
    """Whom the values say to do harm, by the images at some positions alone.

    Attributes:
        bench: the workbench.
        values: of the filters.
        objective: what is to be improved.
        plain: the model's outputs for the selection images as it is.
        scored: positions of the scored images among the selection images.
    """

    bench: Bench
    values: Values
    objective: Objective
    plain: Array
    scored: Indices
    _known: dict[bytes, tuple[int, ...]] = field(default_factory=dict)

    def __call__(self, positions: Indices) -> tuple[int, ...]:
        """The players, the most surely harmful first.

        Where values cannot be told of these images alone, they are those of all scored ones.
        """
        key = positions.tobytes()
        if key not in self._known:
            own = np.flatnonzero(np.isin(self.scored, positions))
            harm = self.values.on(own) or self.values.harm
            if self.objective.metric == FAIRNESS_OBJECTIVE:
                harm = harm.towards_the_worst(self._losses(positions))
            self._known[key] = find_candidates(harm)
        return self._known[key]

    def _losses(self, positions: Indices) -> dict[str, float]:
        """The mean loss of each group, of the model as it is."""
        about = self.bench.parts.selection.annotations
        assert about.groups is not None
        found = figure_of(self.bench.metrics(("loss",))[0], about)
        assert isinstance(found, FigureOfImages)
        losses, groups = found.columns(self.plain)[positions], about.groups[positions]
        return {
            name: float(losses[groups == number].mean())
            for number, name in enumerate(about.group_names)
            if (groups == number).any()
        }


def _read_values(path: Path, bench: Bench, objective: Objective, suite: Suite) -> Values:
    folder = RunFolder(path)
    run = folder.read()
    if run["model"]["digest"] != bench.subject.file.digest:
        raise RunFolderError(f"{path}: holds scores of another model ({run['model']['path']})")
    run = folder.read_finished()
    _check_run(path, run, bench, objective)
    seen = run.get("scored_on", {})
    if seen.get("part") == suite.name == "choosing" and seen["n_images"] != len(suite):
        raise RunFolderError(
            f"{path}: was scored on {seen['n_images']} images and {len(suite)} are to choose; "
            "leave --confirm-share out"
        )
    values, low, high = (
        folder.read_values(bench.roster, column)[:, None]
        for column in ("value", "ci_low", "ci_high")
    )
    tell_reading(bench.reading)
    metrics = tuple(run["settings"]["metrics"][:1])
    return Values(Harm(metrics, values, low, high, _signs(bench, metrics)), run)


def _signs(bench: Bench, metrics: Sequence[str]) -> tuple[int, ...]:
    return tuple(metric.measure.sign for metric in bench.metrics(metrics))


def _check_run(path: Path, run: RunDocument, bench: Bench, objective: Objective) -> None:
    """Scores must be about the images, levels and metric that this job is about.

    Otherwise the test images might have had a say, or another metric's ranking be followed.
    """
    if run["data"]["digest"] != bench.dataset.digest:
        raise RunFolderError(
            f"{path}: was scored on other data ({run['data']['path']}); score on the data that the "
            "patch is to be judged on"
        )
    settings, known = bench.settings, run["settings"]
    fitting = dict.fromkeys([objective.metric, *settings.metrics[:1], *plain_values(objective)])
    if known["metrics"][0] not in fitting:
        raise RunFolderError(
            f"{path}: was scored with the metric {known['metrics'][0]!r}, which does not tell who "
            f"harms {objective.metric}; score with --metric {' or '.join(fitting)}, or choose "
            f"with --objective {known['metrics'][0]}"
        )
    for setting in differing(
        settings_in(run),
        settings_at(bench.settings, bench.common),
        *(Affects.FILTERS, Affects.FIGURE, Affects.IMAGES),
        without=("parts",),
    ):
        remedy = "give both the same"
        if setting.name == "means":
            remedy = "score without --means (or, from Python, give both the same Settings.means)"
        raise RunFolderError(
            f"{path}: was scored with {setting.name} {setting.first!r}, and this job has "
            f"{setting.second!r}; {remedy}"
        )
    if not same_parts(run, settings.parts, bench.parts):
        raise RunFolderError(
            f"{path}: was scored with parts of other images ({parts_in_words(run)}) than this job "
            f"has ({bench.parts.how.rstrip('.')}); give both the same{options_in_words(run)}"
        )
