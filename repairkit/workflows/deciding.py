"""Which filters a repair freezes: jointly or plainly, from fresh scores or an earlier run's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import RunFolderError
from repairkit.core.measures import sign_of
from repairkit.core.patch import Figure, Patch
from repairkit.core.suite import Suite
from repairkit.workflows.bench import Bench
from repairkit.workflows.candidates import find_candidates
from repairkit.workflows.choosing import Chooser, Wishes, split_selection
from repairkit.workflows.frozen_levels import with_best_levels
from repairkit.workflows.objective import FAIRNESS_OBJECTIVE, Limit, Objective
from repairkit.workflows.patch_time import PatchTime
from repairkit.workflows.plain_recipe import choose_patch, told_plainly, try_patches
from repairkit.workflows.progress import Progress
from repairkit.workflows.repair_settings import PLAIN_VALUE, PatchSettings
from repairkit.workflows.run_document import plain
from repairkit.workflows.run_folder import RunFolder
from repairkit.workflows.scoring import score_bench
from repairkit.workflows.told_reading import tell_reading, told_reading

_MUST_AGREE = (
    "groups",
    "preprocessing",
    "parts",
    "seed",
    "output",
    "columns",
    "threshold",
    "outputs_are",
    "sites_at",
    "include",
    "absent",
)


# With more groups than this their values are left to the figure over all groups.
_MOST_VALUES = 9
OnProgress = Callable[[Progress], None] | None


@dataclass(frozen=True)
class Made:
    """A patch and how it was chosen; no more than patch and notes where its filters were named."""

    patch: Patch
    promise: Figure | None = None
    scoring: dict[str, Any] | None = None
    selection: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Harm:
    """Values of all filters with their intervals, (n_players, n_metrics), and their run.

    `signs` hold 1 for each metric of which more is better, else -1: where more is better, a filter
    of negative value does harm.
    """

    values: NDArray[np.float64]
    ci_low: NDArray[np.float64]
    ci_high: NDArray[np.float64]
    run: dict[str, Any]
    signs: tuple[int, ...]


def plain_values(objective: Objective) -> tuple[str, ...]:
    """What the plain recipe ranks by: shares of right answers."""
    return (PLAIN_VALUE if objective.metric == FAIRNESS_OBJECTIVE else objective.metric,)


def make_choice(
    bench: Bench, how: PatchSettings, objective: Objective, on_progress: OnProgress
) -> Made:
    """Choose what to freeze.

    Raises:
        TargetNotMetError: nothing can be promised.
        RunFolderError: the run is about something else.
    """
    if how.choose == "plain":
        return _choose_plainly(bench, how, objective, on_progress)
    halves = split_selection(bench, how.confirm_share)
    time = PatchTime.of(how.score, bench)
    harm = _values(bench, _in_time(how, time), objective, halves.choosing, on_progress)
    candidates = find_candidates(harm.values, harm.ci_low, harm.ci_high, harm.signs)
    limits = (Limit(bench.accuracy, how.max_drop),) if bench.n_classes else ()
    wishes = Wishes(
        objective,
        limits,
        how.targets,
        how.search,
        share=how.confirm_share,
        max_group_drop=how.max_group_drop,
    )
    chooser = Chooser(bench, wishes, halves, candidates, time)
    chosen = chooser.choose(with_best_levels if how.level == "best" else None)
    # A run may have been scored on all selection images, those that confirm among them.
    seen = harm.run.get("scored_on", {}).get("part")
    story = {**chosen.story, "scores_saw_confirmation": seen != "choosing"}
    return Made(chosen.patch, chosen.promise, harm.run, story)


def _choose_plainly(
    bench: Bench, how: PatchSettings, objective: Objective, on_progress: OnProgress
) -> Made:
    suite, name = bench.parts.selection, objective.metric
    time = PatchTime.of(how.score, bench)
    harm = _values(bench, _in_time(how, time), objective, suite, on_progress)
    game = bench.game(suite, bench.metrics((name,)))
    values = harm.signs[0] * harm.values[:, 0]
    trials = try_patches(bench, game, values, name, how.at_most, time=time)
    patch, promise = choose_patch(bench, game, trials, objective, how)
    return Made(patch, promise, harm.run, told_plainly(trials, promise, name, len(suite)))


def _in_time(how: PatchSettings, time: PatchTime | None) -> PatchSettings:
    return how if time is None else replace(how, score=time.for_scoring(how.score))


def _values(
    bench: Bench,
    how: PatchSettings,
    objective: Objective,
    suite: Suite,
    on_progress: OnProgress,
) -> Harm:
    """What filters are worth on `suite`, or by a run that is there."""
    if how.scores is None:
        if len(bench.metric_names) > _MOST_VALUES:
            few = replace(bench.settings, metrics=bench.settings.metrics[:1])
            bench = replace(bench, settings=few)
        asked = how.score.towards(_signs(bench, bench.metric_names[:1])[0])
        scored = score_bench(bench, asked, suite=suite, on_progress=on_progress)
        found = scored.scores
        signs = _signs(bench, found.metrics)
        return Harm(found.values, found.ci_low, found.ci_high, scored.document, signs)
    folder = RunFolder(how.scores)
    run = folder.read()
    if run["model"]["digest"] != bench.subject.file.digest:
        raise RunFolderError(
            f"{how.scores}: holds scores of another model ({run['model']['path']})"
        )
    if not run["finished"]:
        raise RunFolderError(f"{how.scores}: is not finished; go on with score --resume")
    _check_run(how.scores, run, bench, objective)
    seen = run.get("scored_on", {})
    if seen.get("part") == suite.name == "choosing" and seen["n_images"] != len(suite):
        raise RunFolderError(
            f"{how.scores}: was scored on {seen['n_images']} images and {len(suite)} are to "
            "choose; leave --confirm-share out"
        )
    values, low, high = (
        folder.read_values(bench.roster, column)[:, None]
        for column in ("value", "ci_low", "ci_high")
    )
    tell_reading(told_reading(bench))
    return Harm(values, low, high, run, _signs(bench, run["settings"]["metrics"][:1]))


def _signs(bench: Bench, metrics: Sequence[str]) -> tuple[int, ...]:
    return tuple(sign_of(metric) for metric in bench.metrics(metrics))


def _check_run(path: Path, run: Mapping[str, Any], bench: Bench, objective: Objective) -> None:
    """Scores must be about the images, levels and metric that this job is about.

    Otherwise the test images might have had a say, or another metric's ranking be followed.
    """
    if run["data"]["digest"] != bench.dataset.digest:
        raise RunFolderError(
            f"{path}: was scored on other data ({run['data']['path']}); score on the data that the "
            "patch is to be judged on"
        )
    settings, known = bench.settings, run["settings"]
    ours = {name: plain(getattr(settings, name)) for name in _MUST_AGREE}
    theirs = {name: known.get(name) for name in _MUST_AGREE}
    fitting = dict.fromkeys([objective.metric, *settings.metrics[:1], *plain_values(objective)])
    if known["metrics"][0] not in fitting:
        raise RunFolderError(
            f"{path}: was scored with the metric {known['metrics'][0]!r}, which does not tell who "
            f"harms {objective.metric}; score with --metric {' or '.join(fitting)}, or choose "
            f"with --objective {known['metrics'][0]}"
        )
    for name, value in ours.items():
        if theirs[name] != value:
            raise RunFolderError(
                f"{path}: was scored with {name} {theirs[name]!r}, and this job has {value!r}; "
                "give both the same"
            )
