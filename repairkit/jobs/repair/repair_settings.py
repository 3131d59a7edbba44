"""What `patch` is asked to do, the checks before anything is scored, and how time is shared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from repairkit.backdoors import Backdoor
from repairkit.core import errors, filters, framework, suite
from repairkit.core.process.stages import Deadline
from repairkit.core.scores import Budget
from repairkit.formats.run_file import RunFolder
from repairkit.graph.baking import is_idle
from repairkit.jobs.output.destination import Places
from repairkit.jobs.repair import objective as goals
from repairkit.jobs.score.score_settings import NORMS, ScoreSettings
from repairkit.jobs.setup.workbench import Bench, Settings, check_metrics, seconds_per_pass
from repairkit.metrics.definition import check_defined
from repairkit.repairs.cure import BEST, ChosenPatch, make_patch
from repairkit.repairs.search import SearchSettings

Recipe = Literal["joint", "plain"]
Level = Literal["mean", "zero", "bias", "best"]
RECIPES: tuple[str, ...] = get_args(Recipe)
LEVELS: tuple[str, ...] = get_args(Level)
FREEZE = "freeze"
"""The repair that is made where nothing else is asked for, but of a backdoor."""
USUAL_DROP, USUAL_DROP_OF_BACKDOORS, USUAL_DROP_OF_FIXING = 0.01, 0.05, 0.005
"""Accuracy that may be lost where nothing says it."""

GRADIENT = "gradient"
"""The method that values filters by gradients of the framework's model."""

# These methods give values of some of the images without asking the model again.
_SOLVED_ANEW = (GRADIENT, "repair", "regression", "auto", "leave-one-out", "random", *NORMS)
_SCORING_SHARE = 0.6
_MOST_KEPT = 0.5
_PROOF_PASSES = 256
_WRITING_SECONDS = 2.0
_CHUNK_SECONDS = 1.0
_MOST_ROWS = 32
_CACHE_BYTES = 2**28  # searches ask for sets that share little; more does not make them faster
_MOST_NAMED = 8
_MOST_FROZEN, _MOST_FORGETTING = 8, 24
_MENDED = 0.6


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """What to freeze, and under which conditions.

    Attributes:
        remove: filters to freeze whatever they are worth; nothing is chosen.
        remove_top: freeze so many filters of highest value of the run in `scores`.
        scores: a run folder whose values tell the candidates.
        fairness: short for the objective `worst_group_accuracy`.
        at_most: filters frozen together at the most; see `most_frozen` where it is None.
        max_drop: overall accuracy that may be lost, a share of all images; with `fix` or `forget`
            that of all other images. See `most_drop` where it is None.
        score: how to score where no run is given.
        objective: the metric to improve; of the first target or of the run if None.
        targets: figures that the repaired model must reach.
        choose: `joint`, or `plain` for the lowest-ranked filters, as many as look best.
        beam: beam width: sets of each size that the joint search keeps for the next step.
        level: at what filters are frozen: `mean`, `zero`, `bias`, or `best` for the constant that
            is best on the images that choose; the level of absent filters if None.
        confirm_share: of the selection images, those that confirm and choose nothing; None where
            every image does both, by cross-fitting.
        baselines: judge simpler cures beside the chosen one.
        robustness: short for the objective `robustness`, of which less is better.
        max_group_drop: what the accuracy of a group may lose, in [0, 1]; a repair by which one
            surely loses more is not promised.
        attacks: what else the patched model is attacked with, where the data was attacked; its
            source also serves the baseline by gradients.
        promise: the lowest promise that will do, one of `PROMISES`.
        repair: the name of a cure or `best`; see `wanted_repair` where it is None.
        known: the backdoor that is to be closed, if any.
        fix: images that the model gets wrong: a column of the data, `COLUMN=VALUE`, or a list.
        mend: of the images to fix that are wrong, the share that must be right out of fold.
        forget: the class that is to be recognised no longer.
        refit_safe: change only what a compiled model can take as new weights; see `refit_safe`.
    """

    remove: tuple[filters.Filter, ...] = ()
    remove_top: int | None = None
    scores: Path | None = None
    fairness: bool = False
    at_most: int | None = None
    max_drop: float | None = None
    score: ScoreSettings = field(default_factory=lambda: ScoreSettings("repair"))
    objective: str | None = None
    targets: tuple[goals.Target, ...] = ()
    choose: str = "joint"
    beam: int = 1
    level: str | None = None
    confirm_share: float | None = None
    baselines: bool = False
    robustness: bool = False
    attacks: framework.FreshAttacks = field(default_factory=framework.FreshAttacks)
    max_group_drop: float = 0.05
    promise: str = goals.PROMISES[-1]
    repair: str | None = None
    known: Backdoor = field(default_factory=Backdoor)
    fix: str | Path | None = None
    mend: float = _MENDED
    forget: str | None = None
    refit_safe: bool = False

    def __post_init__(self) -> None:
        for fault in _faults(self):
            raise errors.SettingsError(fault)
        check_word("--choose", self.choose, RECIPES)
        check_word("--promise", self.promise, goals.PROMISES)
        if self.level is not None:
            check_word("--level", self.level, LEVELS)
        for target in self.targets:
            target.check()

    @property
    def short_for(self) -> dict[str, str]:
        """The options that were given as short for an objective."""
        forgetting = f"{goals.FORGETTING_OBJECTIVE}:{self.forget}"
        given = {
            "--fairness": (self.fairness, goals.FAIRNESS_OBJECTIVE),
            "--robustness": (self.robustness, goals.ROBUSTNESS_OBJECTIVE),
            "--backdoor": (self.known.backdoor, goals.ROBUSTNESS_OBJECTIVE),
            "--fix": (self.fix is not None, goals.FIXING_OBJECTIVE),
            "--forget": (self.forget is not None, forgetting),
        }
        return {option: metric for option, (wanted, metric) in given.items() if wanted}

    @property
    def most_frozen(self) -> int:
        """Filters frozen together at the most: a class is seldom held by a few."""
        usual = _MOST_FORGETTING if self.forget is not None else _MOST_FROZEN
        return usual if self.at_most is None else self.at_most

    @property
    def most_drop(self) -> float:
        """The accuracy that may be lost; of images beside a few that are to be fixed, less."""
        usual = USUAL_DROP_OF_BACKDOORS if self.known.backdoor else USUAL_DROP
        usual = USUAL_DROP_OF_FIXING if self.fix is not None else usual
        return usual if self.max_drop is None else self.max_drop

    def objective_of(self, metric: str) -> goals.Objective:
        """What is to be improved; `metric` where nothing says it."""
        named = next(iter(self.short_for.values()), self.objective)
        if named is None and self.targets and self.scores is None:
            named = self.targets[0].metric
        return goals.Objective.of(named or metric)

    def wishes(self, objective: goals.Objective, accuracy: str | None) -> goals.Wishes:
        """All that is asked of a repair.

        Args:
            objective: what is to be improved.
            accuracy: the name of the overall accuracy; None where there are no classes.
        """
        return goals.Wishes(
            objective=objective,
            limits=()
            if accuracy is None
            else (goals.Limit(objective.beside or accuracy, self.most_drop),),
            targets=self.targets,
            search=SearchSettings(at_most=self.most_frozen, beam=self.beam),
            share=self.confirm_share,
            max_group_drop=self.max_group_drop,
            promise=self.promise,
        )

    @property
    def _way(self) -> str:
        """How filters are singled out, as reports name it."""
        ways = {"named": self.remove, "fairness": self.fairness, "robustness": self.robustness}
        ways |= {"backdoor": self.known.backdoor, "fix": self.fix, "forget": self.forget}
        ways |= {"top": self.remove_top, "scores": self.scores, "objective": True}
        return next(way for way, given in ways.items() if given)

    def to_json(self) -> dict[str, Any]:
        """The settings as reports tell them."""
        return {
            "how": self._way,
            "scores": None if self.scores is None else Places.here().relative(self.scores),
            "at_most": self.most_frozen,
            "max_drop": self.most_drop,
            "max_group_drop": self.max_group_drop,
            "targets": [str(target) for target in self.targets],
            **({} if self.remove_top is None else {"remove_top": self.remove_top}),
            "choose": None if self.remove or self.remove_top else self.choose,
            "beam": self.beam,
            "level": self.level,
            "confirm_share": self.confirm_share,
            "promise": self.promise,
            "repair": wanted_repair(self),
            **({} if self.fix is None else {"fix": _named(self.fix), "mend": self.mend}),
            **({} if self.forget is None else {"forget": self.forget}),
            **({"refit_safe": True} if self.refit_safe else {}),
        }


def wanted_repair(asked: PatchSettings) -> str:
    """The cure that is to be made: of a backdoor, or of a class to forget, the best.

    Unless something else says that filters are to be frozen.

    It is the name of a cure (see `patching.CURES`), or `best` for the one that gains most.
    """
    if asked.repair is not None:
        return asked.repair
    frozen = asked.remove or asked.remove_top or asked.scores or asked.level
    best = asked.known.backdoor or asked.forget is not None
    best = best and asked.choose != "plain" and not frozen
    return BEST if best else FREEZE


def _faults(asked: PatchSettings) -> Iterator[str]:
    """What contradicts itself or lies out of range."""
    named = asked.short_for or asked.objective
    yield from (*_faults_of_top(asked), *asked.known.faults(), *_faults_of_parts(asked))
    chosen = bool(asked.scores or named or asked.targets)
    if not (asked.remove or chosen):
        yield (
            "nothing says what to freeze; use --fairness, --robustness, --backdoor, --fix COLUMN, "
            "--forget CLASS, --objective METRIC, --target METRIC>=NUMBER, --scores RUN or --remove "
            "ID,..."
        )
    if asked.remove and (chosen or asked.level == "best"):
        yield "--remove names the filters itself; leave out the other choice"
    if len(asked.short_for) > 1:
        yield f"{' and '.join(asked.short_for)} are two repairs; make one at a time"
    for option, metric in asked.short_for.items():
        if asked.objective not in (None, metric):
            yield f"{option} is for {metric}; leave out --objective"
    if asked.known.backdoor and asked.attacks.transfers:
        yield "--transfer judges attacks by other models, and --backdoor a trigger; leave one out"
    if asked.most_frozen < 1 or not 0 <= asked.most_drop <= 1:
        yield "--at-most must be 1 or more and --max-drop lie in [0, 1]"
    if not 0 <= asked.max_group_drop <= 1:
        yield "--max-group-drop must lie in [0, 1]"
    if asked.confirm_share is not None and not 0 < asked.confirm_share < 1:
        yield f"--confirm-share is {asked.confirm_share:g}; expected a share between 0 and 1"
    if wanted_repair(asked) != FREEZE and (asked.remove or asked.choose == "plain"):
        yield (
            f"--repair {asked.repair} chooses what to change; leave out --remove and --choose "
            "plain, which freeze filters"
        )
    if asked.choose == "plain" and (asked.targets or asked.beam != 1 or asked.level == "best"):
        yield (
            "the plain recipe knows no --target, no --beam and no --level best; leave them "
            "out, or choose jointly"
        )


def _faults_of_top(asked: PatchSettings) -> Iterator[str]:
    """What stands against `remove_top`: no run, or another option that says what to freeze."""
    if asked.remove_top is None:
        return
    if asked.remove_top < 1:
        yield f"--remove-top is {asked.remove_top}; expected 1 or more"
    if asked.scores is None:
        yield (
            "--remove-top takes the filters of highest value of a run; name it with --scores RUN"
        )
    named = asked.remove or asked.short_for or asked.objective or asked.targets
    searched = (wanted_repair(asked), asked.choose, asked.beam) != (FREEZE, RECIPES[0], 1)
    if named or searched or asked.level == "best":
        yield (
            "--remove-top with --scores says which filters to freeze; leave out what chooses them "
            "otherwise (--remove, --fairness, --robustness, --backdoor, --fix, --forget, "
            "--objective, --target, --choose, --beam, --repair, --level best)"
        )


def _faults_of_parts(asked: PatchSettings) -> Iterator[str]:
    """What stands against `fix` and `forget`."""
    if not 0 <= asked.mend <= 1:
        yield f"--mend is {asked.mend:g}; expected a share between 0 and 1"
    if asked.mend != _MENDED and asked.fix is None:
        yield "--mend is the share of the images of --fix that must be mended; name them with --fix"
    option = "--fix" if asked.fix is not None else "--forget" if asked.forget is not None else ""
    if option and asked.choose == "plain":
        yield f"{option} chooses jointly; leave out --choose plain"
    if option and asked.scores is not None:
        yield f"{option} scores filters for its own sake; leave out --scores"


def _named(fix: str | Path) -> str:
    """Images to fix as reports name them."""
    return Places.here().relative(fix) if isinstance(fix, Path) else fix


def check_word(option: str, word: str, known: tuple[str, ...]) -> None:
    """Refuse a word that an option does not know.

    Raises:
        SettingsError: it is none of `known`.
    """
    if word not in known:
        raise errors.SettingsError(f"{option} is {word!r}; expected {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class PatchTime:
    """The time of a repair that has a limit.

    Attributes:
        deadline: of the whole command.
        per_pass: seconds that an image takes.
        kept: seconds that confirming, proving, judging and writing need.
        per_set: seconds that the report's figures of one more set of filters take in the end.
    """

    deadline: Deadline
    per_pass: float
    kept: float
    per_set: float

    @classmethod
    def of(cls, score: ScoreSettings, bench: Bench) -> PatchTime | None:
        """None where there is no limit."""
        deadline = score.deadline
        if deadline is None:
            return None
        per_pass, parts = seconds_per_pass(bench), bench.parts
        passes = 2 * len(parts.test) + 3 * len(parts.selection) + _PROOF_PASSES
        kept = min(passes * per_pass + _WRITING_SECONDS, _MOST_KEPT * deadline.left)
        per_set = 2 * len(parts.selection) * per_pass
        return cls(deadline=deadline, per_pass=per_pass, kept=kept, per_set=per_set)

    def for_scoring(self, score: ScoreSettings) -> ScoreSettings:
        """The same settings, with the share of the time that scoring may take."""
        seconds = self.deadline.elapsed + _SCORING_SHARE * (self.deadline.left - self.kept)
        budget = Budget(score.budget.max_evaluations, max(seconds, 0.0))
        return replace(score, budget=budget, whole_limit=self.deadline.limit)

    def is_over(self, n_sets: int) -> bool:
        """Whether to stop choosing; the report will hold the figures of `n_sets` more sets."""
        return self.deadline.left < self.kept + n_sets * self.per_set

    def rows_at_once(self, n_images: int) -> int:
        """Sets of filters that are looked at between two looks at the clock."""
        rows = int(_CHUNK_SECONDS / (self.per_pass * n_images))
        return min(max(rows, 1), _MOST_ROWS)


# Checks before anything is scored


def metric_at_hand(asked: PatchSettings, settings: Settings) -> str:
    """The metric of the run that is there, else that of the settings."""
    if asked.scores is None:
        return settings.metrics[0]
    run = RunFolder(asked.scores).read()
    # A pattern such as recall:* stands for the first of those that it was spelt out to.
    names = [*run["metrics"], *run["settings"]["metrics"]]
    return names[0] if asked.remove_top is not None else run["settings"]["metrics"][0]


def settled(settings: Settings, asked: PatchSettings, objective: goals.Objective) -> Settings:
    """The job's settings with those that follow from what was asked.

    Raises:
        SettingsError: a metric is unknown, code that only a file named, or needs groups.
    """
    check_metrics(settings, [*objective.values, *(target.metric for target in asked.targets)])
    if not settings.groups and any(name.startswith("group_") for name in objective.values):
        needing = "--fairness" if asked.fairness else objective.metric
        raise errors.SettingsError(
            f"{needing} needs groups; name the columns with --group, or in repairkit.toml"
        )
    if settings.cache_memory is None:
        settings = replace(settings, cache_memory=_CACHE_BYTES)
    if asked.level not in (None, "best"):
        settings = replace(settings, absent=asked.level)
    if asked.remove_top is not None:
        return replace(settings, metrics=(objective.metric,))
    if asked.remove:
        return settings
    metrics = objective.plain_values if asked.choose == "plain" else objective.values
    return replace(settings, metrics=metrics)


def check_wishes(bench: Bench, asked: PatchSettings, objective: goals.Objective) -> goals.Objective:
    """Check all that is asked for before anything is scored; the objective with its direction.

    Raises:
        SettingsError: a metric is unknown or does not fit the data, or a target says nothing.
    """
    known = bench.dataset.annotations.group_names
    if asked.fairness and len(known) == 1:
        raise errors.SettingsError(
            f"--fairness compares groups and there is only {known[0]!r}; choose a column with two "
            "or more values with --group"
        )
    if asked.baselines and bench.unjudged:
        raise errors.SettingsError(
            f"--baselines compares figures and no metric can be computed ({bench.unjudged})"
        )
    if asked.baselines and not len(bench.parts.test):
        raise errors.SettingsError(
            "--baselines judges every cure by test images, and --test none leaves none; give a "
            "test part, such as --test 0.3, or leave --baselines out"
        )
    if asked.remove or asked.remove_top:
        return objective
    names = goals.metric_names(objective, (), asked.targets)
    names = (*names, objective.beside) if objective.beside else names
    metrics = dict(zip(names, bench.metrics(names), strict=True))
    for target in asked.targets:
        target.check(metrics[target.metric])
    for part in (bench.parts.selection, bench.parts.test):
        for metric in metrics.values() if len(part) else ():
            check_defined(metric, part.annotations, part.name)
    return objective.fitted(metrics[objective.metric])


def named_players(bench: Bench, wanted: Sequence[filters.Filter]) -> suite.Indices:
    """The players of filters by their ids, each once.

    Layers of the framework that the model came from may stand for sites: `LAYER:CHANNEL`.
    """
    layers = bench.subject.layer_map
    if layers is not None:
        sites = {site.name for site in bench.roster.sites}
        wanted = [f if f.site in sites else layers.filter_named(f) for f in wanted]
    return np.array([bench.roster.column(f) for f in dict.fromkeys(wanted)], np.intp)


def patch_without_idle(bench: Bench, players: suite.Indices) -> ChosenPatch:
    """A patch of these filters at the levels of absent ones.

    Filters that hold their constant already are left out, each of them named in a note.

    Raises:
        SettingsError: no filter is left.
    """
    patch = make_patch(players, bench.roster, bench.working.levels)
    idle = {f: filters.constant_text(f) for f in patch.frozen if is_idle(bench.original, f)}
    left = tuple(f for f in patch.frozen if f not in idle)
    if not left:
        shown = ", ".join(f"{f.filter.id} at {text}" for f, text in [*idle.items()][:_MOST_NAMED])
        more = f" and {len(idle) - _MOST_NAMED} more" if len(idle) > _MOST_NAMED else ""
        holders = f"all {len(idle)} filters hold their" if len(idle) > 1 else "the filter holds its"
        raise errors.SettingsError(
            f"nothing to freeze: {holders} constant already ({shown}{more}); nothing was written"
        )
    notes = [
        f"{f.filter.id} holds the constant {text} already; it was left as it is"
        for f, text in idle.items()
    ]
    return ChosenPatch(patch=filters.Patch(left), notes=tuple(notes))


def why_a_part_confirms(bench: Bench, asked: PatchSettings, *, needs_values: bool) -> str:
    """Why not every image can choose and confirm; empty where it can."""
    if asked.confirm_share is not None:
        return ""
    if asked.scores is not None:
        return "the values come from a run folder"
    if not needs_values:
        return ""
    if asked.score.method not in _SOLVED_ANEW:
        return f"the values of {asked.score.method} cannot be solved anew for some of the images"
    if any(not metric.per_image for metric in bench.metrics(bench.metric_names)):
        return "its metric judges images together"
    return ""
