"""What a patch is asked to do, checked before anything is scored, and patches of named filters."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from repairkit.core.errors import SettingsError
from repairkit.core.filters import Filter, Patch, constant_text
from repairkit.core.process.trust import without
from repairkit.formats.run_file import RunFolder
from repairkit.graph.baking import is_idle
from repairkit.jobs.repair.objective import Objective, metric_names
from repairkit.jobs.repair.repair_settings import GRADIENT, PatchSettings, can_be_solved_anew
from repairkit.jobs.setup.looking import tell_reading
from repairkit.jobs.setup.settings import Again, named_in, said_again
from repairkit.jobs.setup.workbench import Bench, Settings, check_metrics
from repairkit.metrics.definition import check_defined
from repairkit.repairs.cure import ChosenPatch, make_patch

_CACHE_BYTES = 2**28  # searches ask for sets that share little; more does not make them faster
_MOST_NAMED = 8


def patch_again(model: Path, settings: Settings, asked: PatchSettings) -> Again:
    """The command that makes the same repair."""
    # Only with values by gradients does the source affect what is chosen.
    lacks = ("--source",) if asked.score.method == GRADIENT else ()
    return said_again(
        "patch",
        model,
        settings,
        asked,
        usual=PatchSettings(fairness=True),
        budget=asked.score.budget,
        lacks=lacks,
    )


def with_the_runs_code(asked: PatchSettings, settings: Settings) -> Settings:
    """The settings, with the code that only files name: the run's metrics too."""
    named_by = dict(settings.named_by)
    if asked.scores is not None:
        folder = RunFolder(asked.scores)
        named_by |= named_in(folder.run_file, folder.read_metrics())
        # Without a project file the settings' metrics were given as options.
        named_by = without(named_by, () if settings.named_by else settings.metrics)
    given = [asked.objective or "", *(target.metric for target in asked.targets)]
    return replace(settings, named_by=without(named_by, given))


def metric_at_hand(asked: PatchSettings, settings: Settings) -> str:
    """The metric of the run that is there, else that of the settings."""
    if asked.scores is not None:
        return RunFolder(asked.scores).read_metrics()[0]
    return settings.metrics[0]


def settled(settings: Settings, asked: PatchSettings, objective: Objective) -> Settings:
    """The job's settings with those that follow from what was asked.

    Raises:
        SettingsError: a metric is code that only a file named, or needs groups.
    """
    check_metrics(settings, objective.values)
    if not settings.groups and any(name.startswith("group_") for name in objective.values):
        needing = "--fairness" if asked.fairness else objective.metric
        raise SettingsError(
            f"{needing} needs groups; name the columns with --group, or in repairkit.toml"
        )
    if settings.cache_memory is None:
        settings = replace(settings, cache_memory=_CACHE_BYTES)
    if asked.level not in (None, "best"):
        settings = replace(settings, absent=asked.level)
    if asked.remove:
        return settings
    metrics = objective.plain_values if asked.choose == "plain" else objective.values
    return replace(settings, metrics=metrics)


def check_wishes(bench: Bench, asked: PatchSettings, objective: Objective) -> Objective:
    """Check all that is asked for before anything is scored; the objective with its direction.

    Raises:
        SettingsError: a metric is unknown or does not fit the data, or a target says nothing.
    """
    known = bench.dataset.annotations.group_names
    if asked.fairness and len(known) == 1:
        raise SettingsError(
            f"--fairness compares groups and there is only {known[0]!r}; choose a column with two "
            "or more values with --group"
        )
    if asked.baselines and not len(bench.parts.test) and not bench.unjudged:
        raise SettingsError(
            "--baselines judges every cure by test images, and --test none leaves none; give a "
            "test part, such as --test 0.3, or leave --baselines out"
        )
    if bench.unjudged and asked.baselines:
        raise SettingsError(
            f"--baselines compares figures and no metric can be computed ({bench.unjudged})"
        )
    if asked.remove:
        return objective
    names = metric_names(objective, (), asked.targets)
    metrics = dict(zip(names, bench.metrics(names), strict=True))
    for target in asked.targets:
        target.check(metrics[target.metric])
    for part in (bench.parts.selection, bench.parts.test):
        for metric in metrics.values() if len(part) else ():
            check_defined(metric, part.annotations, part.name)
    return objective.fitted(metrics[objective.metric])


def named_patch(bench: Bench, filters: Sequence[Filter]) -> ChosenPatch:
    """A patch of just the filters that were named, at the levels of absent ones."""
    named = dict.fromkeys(_filters_named(bench, filters))  # one named twice is frozen once
    players = np.array([bench.roster.column(f) for f in named], np.intp)
    tell_reading(bench.reading)
    return _without_idle(bench, make_patch(players, bench.roster, bench.working.levels))


def _filters_named(bench: Bench, wanted: Sequence[Filter]) -> tuple[Filter, ...]:
    """Filters by their ids, or by `LAYER:CHANNEL` of the framework that the model came from."""
    layers = bench.subject.layer_map
    if layers is None:
        return tuple(wanted)
    sites = {site.name for site in bench.roster.sites}
    return tuple(f if f.site in sites else layers.filter_named(f) for f in wanted)


def _without_idle(bench: Bench, patch: Patch) -> ChosenPatch:
    """The patch without filters that hold their constant already, each of them named in a note.

    Raises:
        SettingsError: no filter is left.
    """
    idle = [f for f in patch.frozen if is_idle(bench.original, f)]
    if not idle:
        return ChosenPatch(patch=patch)
    left = tuple(f for f in patch.frozen if f not in idle)
    if not left:
        shown = ", ".join(f"{f.filter.id} at {constant_text(f)}" for f in idle[:_MOST_NAMED])
        more = f" and {len(idle) - _MOST_NAMED} more" if len(idle) > _MOST_NAMED else ""
        holders = (
            "the filter holds its" if len(idle) == 1 else f"all {len(idle)} filters hold their"
        )
        raise SettingsError(
            f"nothing to freeze: {holders} constant already ({shown}{more}); nothing was written"
        )
    notes = [
        f"{f.filter.id} holds the constant {constant_text(f)} already; it was left as it is"
        for f in idle
    ]
    return ChosenPatch(patch=Patch(left), notes=tuple(notes))


def why_a_part_confirms(bench: Bench, asked: PatchSettings, *, needs_values: bool) -> str:
    """Why not every image can choose and confirm; empty where it can."""
    if asked.confirm_share is not None:
        return ""
    if asked.scores is not None:
        return "the values come from a run folder"
    if not needs_values:
        return ""
    if not can_be_solved_anew(asked.score.method):
        return f"the values of {asked.score.method} cannot be solved anew for some of the images"
    if any(not metric.per_image for metric in bench.metrics(bench.metric_names)):
        return "its metric judges images together"
    return ""
