"""What `patch` is asked to do, and how its time is shared out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from repairkit.core import errors, filters, framework
from repairkit.core.process.stages import Deadline
from repairkit.core.scores import Budget
from repairkit.jobs.output.destination import Places
from repairkit.jobs.repair.objective import (
    FAIRNESS_OBJECTIVE,
    PROMISES,
    ROBUSTNESS_OBJECTIVE,
    Objective,
    Target,
)
from repairkit.jobs.score.score_settings import NORMS, ScoreSettings
from repairkit.jobs.setup.workbench import Bench, seconds_per_pass
from repairkit.repairs.search import SearchSettings

Recipe = Literal["joint", "plain"]
Level = Literal["mean", "zero", "bias", "best"]
RECIPES: tuple[str, ...] = get_args(Recipe)
LEVELS: tuple[str, ...] = get_args(Level)
FREEZE = "freeze"
"""The repair that is made where nothing else is asked for."""

GRADIENT = "gradient"
"""The method that values filters by gradients of the framework's model."""

_SOLVED_ANEW = (GRADIENT, "repair", "regression", "auto", "leave-one-out", "random", *NORMS)
_SCORING_SHARE = 0.6
_MOST_KEPT = 0.5
_PROOF_PASSES = 256
_WRITING_SECONDS = 2.0
_CHUNK_SECONDS = 1.0
_MOST_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """What to freeze, and under which conditions.

    Attributes:
        remove: filters to freeze whatever they are worth; nothing is chosen.
        scores: a run folder whose values tell the candidates.
        fairness: short for the objective `worst_group_accuracy`.
        at_most: filters frozen together at the most.
        max_drop: overall accuracy that may be lost, a share of all images.
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
        repair: the name of a cure (see `patching.CURES`), or `best` for the one that gains most.
    """

    remove: tuple[filters.Filter, ...] = ()
    scores: Path | None = None
    fairness: bool = False
    at_most: int = 8
    max_drop: float = 0.01
    score: ScoreSettings = field(default_factory=lambda: ScoreSettings("repair"))
    objective: str | None = None
    targets: tuple[Target, ...] = ()
    choose: str = "joint"
    beam: int = 1
    level: str | None = None
    confirm_share: float | None = None
    baselines: bool = False
    robustness: bool = False
    attacks: framework.FreshAttacks = field(default_factory=framework.FreshAttacks)
    max_group_drop: float = 0.05
    promise: str = PROMISES[-1]
    repair: str = FREEZE

    def __post_init__(self) -> None:
        named = self.fairness or self.robustness or self.objective
        chosen = bool(self.scores or named or self.targets)
        if not (self.remove or chosen):
            raise errors.SettingsError(
                "nothing says what to freeze; use --fairness, --robustness, --objective METRIC, "
                "--target METRIC>=NUMBER, --scores RUN or --remove ID,..."
            )
        if self.remove and (chosen or self.level == "best"):
            raise errors.SettingsError(
                "--remove names the filters itself; leave out the other choice"
            )
        if self.fairness and self.robustness:
            raise errors.SettingsError(
                "--fairness and --robustness are two repairs; make one at a time"
            )
        if self.fairness and self.objective not in (None, FAIRNESS_OBJECTIVE):
            raise errors.SettingsError(
                f"--fairness is for {FAIRNESS_OBJECTIVE}; leave out --objective"
            )
        if self.robustness and self.objective not in (None, ROBUSTNESS_OBJECTIVE):
            raise errors.SettingsError(
                f"--robustness is for {ROBUSTNESS_OBJECTIVE}; leave out --objective"
            )
        if self.at_most < 1 or not 0 <= self.max_drop <= 1:
            raise errors.SettingsError("--at-most must be 1 or more and --max-drop lie in [0, 1]")
        if not 0 <= self.max_group_drop <= 1:
            raise errors.SettingsError("--max-group-drop must lie in [0, 1]")
        if self.confirm_share is not None and not 0 < self.confirm_share < 1:
            raise errors.SettingsError(
                f"--confirm-share is {self.confirm_share:g}; expected a share between 0 and 1"
            )
        check_word("--choose", self.choose, RECIPES)
        check_word("--promise", self.promise, PROMISES)
        if self.repair != FREEZE and (self.remove or self.choose == "plain"):
            raise errors.SettingsError(
                f"--repair {self.repair} chooses what to change; leave out --remove and --choose "
                "plain, which freeze filters"
            )
        for target in self.targets:
            target.check()
        if self.level is not None:
            check_word("--level", self.level, LEVELS)
        if self.choose == "plain" and (self.targets or self.beam != 1 or self.level == "best"):
            raise errors.SettingsError(
                "the plain recipe knows no --target, no --beam and no --level best; leave them "
                "out, or choose jointly"
            )

    @property
    def search(self) -> SearchSettings:
        """How to search for filters that are frozen together."""
        return SearchSettings(at_most=self.at_most, beam=self.beam)

    def objective_of(self, metric: str) -> Objective:
        """What is to be improved; `metric` where nothing says it."""
        named = FAIRNESS_OBJECTIVE if self.fairness else self.objective
        named = ROBUSTNESS_OBJECTIVE if self.robustness else named
        if named is None and self.targets and self.scores is None:
            named = self.targets[0].metric
        return Objective.of(named or metric)

    def to_json(self) -> dict[str, Any]:
        """The settings as reports tell them."""
        return {
            "how": "named"
            if self.remove
            else "fairness"
            if self.fairness
            else "robustness"
            if self.robustness
            else "scores"
            if self.scores
            else "objective",
            "scores": None if self.scores is None else Places.here().relative(self.scores),
            "at_most": self.at_most,
            "max_drop": self.max_drop,
            "max_group_drop": self.max_group_drop,
            "targets": [str(target) for target in self.targets],
            "choose": None if self.remove else self.choose,
            "beam": self.beam,
            "level": self.level,
            "confirm_share": self.confirm_share,
            "promise": self.promise,
            "repair": self.repair,
        }


def can_be_solved_anew(method: str) -> bool:
    """Whether a method gives values of some of the images without asking the model again."""
    return method in _SOLVED_ANEW


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
