"""What `patch` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from repairkit.core.attacked import FreshAttacks
from repairkit.core.errors import SettingsError
from repairkit.core.filters import Filter
from repairkit.jobs.output.places import Places
from repairkit.jobs.repair.confirm.promises import PROMISES
from repairkit.jobs.repair.objective import (
    FAIRNESS_OBJECTIVE,
    ROBUSTNESS_OBJECTIVE,
    Objective,
    Target,
)
from repairkit.jobs.score.methods import ScoreSettings
from repairkit.repairs import SearchSettings

Recipe = Literal["joint", "plain"]
Level = Literal["mean", "zero", "bias", "best"]
Repair = Literal["freeze", "bias", "last-layer", "best"]
BEST = "best"
REPAIRS: tuple[str, ...] = get_args(Repair)
_FREEZING = ("freeze", BEST)
RECIPES: tuple[str, ...] = get_args(Recipe)
LEVELS: tuple[str, ...] = get_args(Level)


@dataclass(frozen=True)
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
        beam: sets of each size that the joint search goes on from.
        level: at what filters are frozen: `mean`, `zero`, `bias`, or `best` for the constant that
            the images that choose like best; as absent filters yield if None.
        confirm_share: of the selection images, those that confirm and choose nothing; None where
            every image does both, by cross-fitting.
        baselines: judge simpler cures beside the chosen one.
        robustness: short for the objective `robustness`, of which less is better.
        max_group_drop: what the accuracy of a group may lose, in [0, 1]; a repair by which one
            surely loses more is not promised.
        attacks: what else the patched model is attacked with, where the data was attacked; its
            source also serves the baseline by gradients.
        promise: the lowest promise that will do, one of `PROMISES`.
        repair: what is changed: filters are frozen, class biases moved or the last layer refitted;
            or whichever gains most.
    """

    remove: tuple[Filter, ...] = ()
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
    attacks: FreshAttacks = field(default_factory=FreshAttacks)
    max_group_drop: float = 0.05
    promise: str = PROMISES[-1]
    repair: str = "freeze"

    def __post_init__(self) -> None:
        named = self.fairness or self.robustness or self.objective
        chosen = bool(self.scores or named or self.targets)
        if not (self.remove or chosen):
            raise SettingsError(
                "nothing says what to freeze; use --fairness, --robustness, --objective METRIC, "
                "--target METRIC>=NUMBER, --scores RUN or --remove ID,..."
            )
        if self.remove and (chosen or self.level == "best"):
            raise SettingsError("--remove names the filters itself; leave out the other choice")
        if self.fairness and self.robustness:
            raise SettingsError("--fairness and --robustness are two repairs; make one at a time")
        if self.fairness and self.objective not in (None, FAIRNESS_OBJECTIVE):
            raise SettingsError(f"--fairness is for {FAIRNESS_OBJECTIVE}; leave out --objective")
        if self.robustness and self.objective not in (None, ROBUSTNESS_OBJECTIVE):
            raise SettingsError(
                f"--robustness is for {ROBUSTNESS_OBJECTIVE}; leave out --objective"
            )
        if self.at_most < 1 or not 0 <= self.max_drop <= 1:
            raise SettingsError("--at-most must be 1 or more and --max-drop lie in [0, 1]")
        if not 0 <= self.max_group_drop <= 1:
            raise SettingsError("--max-group-drop must lie in [0, 1]")
        if self.confirm_share is not None and not 0 < self.confirm_share < 1:
            raise SettingsError(
                f"--confirm-share is {self.confirm_share:g}; expected a share between 0 and 1"
            )
        _check_word("--choose", self.choose, RECIPES)
        _check_word("--promise", self.promise, PROMISES)
        _check_word("--repair", self.repair, REPAIRS)
        if self.repair != "freeze" and (self.remove or self.choose == "plain"):
            raise SettingsError(
                f"--repair {self.repair} chooses what to change; leave out --remove and --choose "
                "plain, which freeze filters"
            )
        if not self.freezes and (self.scores or self.level == "best"):
            raise SettingsError(
                f"--repair {self.repair} freezes no filter; leave out --scores and --level best"
            )
        for target in self.targets:
            target.check()
        if self.level is not None:
            _check_word("--level", self.level, LEVELS)
        if self.choose == "plain" and (self.targets or self.beam != 1 or self.level == "best"):
            raise SettingsError(
                "the plain recipe knows no --target, no --beam and no --level best; leave them "
                "out, or choose jointly"
            )

    @property
    def freezes(self) -> bool:
        """Whether filters may be frozen."""
        return self.repair in _FREEZING

    @property
    def search(self) -> SearchSettings:
        return SearchSettings(self.at_most, self.beam)

    def objective_of(self, metric: str) -> Objective:
        """What is to be improved; `metric` where nothing says it."""
        named = FAIRNESS_OBJECTIVE if self.fairness else self.objective
        named = ROBUSTNESS_OBJECTIVE if self.robustness else named
        if named is None and self.targets and self.scores is None:
            named = self.targets[0].metric
        return Objective.of(named or metric)

    def to_json(self) -> dict[str, Any]:
        """The choice as reports tell it."""
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
            "scores": None if self.scores is None else Places.here().told(self.scores),
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


def _check_word(option: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise SettingsError(f"{option} is {word!r}; expected {', '.join(known)}")
