"""Repairs of a network by several ways, judged on a test part and by fresh images."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.promising import Judge, Row, try_rule
from benchmarks.shortcuts import Setting
from repairkit.core.errors import TargetNotMetError
from repairkit.core.filters import Patch
from repairkit.core.metric import Metric
from repairkit.core.results import Figure
from repairkit.core.suite import Suite
from repairkit.data.parts import PartPlan, Parts
from repairkit.data.preprocessing import Preprocessing
from repairkit.jobs.repair.objective import FAIRNESS_OBJECTIVE, Objective
from repairkit.jobs.repair.patching import choose_patch
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.setup.preparing import prepare, with_parts
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings
from repairkit.metrics.evaluation import difference, evaluate

OURS, PLAIN = "joint, values in the repair regime", "plain recipe, Shapley values"
WAYS = {
    OURS: PatchSettings(fairness=True),
    "joint, Shapley values": PatchSettings(fairness=True, score=ScoreSettings("regression")),
    "joint, leave-one-out": PatchSettings(fairness=True, score=ScoreSettings("leave-one-out")),
    "joint, random candidates": PatchSettings(fairness=True, score=ScoreSettings("random")),
    PLAIN: PatchSettings(fairness=True, choose="plain", score=ScoreSettings("regression")),
}
_NAMES = (FAIRNESS_OBJECTIVE, "accuracy")


@dataclass(frozen=True)
class Sample:
    """Positions of the images that play each part."""

    selection: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(frozen=True)
class Outcome:
    """What a way of repairing did.

    `test` holds changes on the test part (on the selection part where there is none), None where
    nothing was promised; `truth` those on fresh images; `covered` says of each figure reported on
    the test part whether its interval holds the truth.
    """

    way: str
    n_frozen: int = 0
    test: Mapping[str, Figure] | None = None
    truth: Mapping[str, float] = field(default_factory=dict)
    covered: tuple[bool, ...] = ()
    setting: str = ""

    @property
    def gain(self) -> float:
        """The true change of the worst group's accuracy; 0 where nothing is frozen."""
        return 0.0 if self.test is None else self.truth[FAIRNESS_OBJECTIVE]


class Lab:
    """A network on the bench, with fresh images set aside to tell the truth.

    Nine tenths of the larger settings' images are fresh but for 2,000, and half of the sample's
    digits; families stay together. Outputs on fresh images are known for the model as it is.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "images.npz"
        np.savez(path, x=setting.x, y=setting.y, group=setting.group)
        settings = Settings(
            data=path,
            metrics=("group_accuracy",),
            groups=("group",),
            preprocessing=Preprocessing(scale=1 / setting.brightest),
            parts=PartPlan("all", "all", "all"),
            workers=1,
        )
        self.bench = prepare(read_subject(setting.model), settings)
        self.whole = self.bench.parts.selection
        families = np.random.default_rng(11).permutation(np.unique(setting.family))
        n_here = len(families) // 2 if setting.name == "digits" else 2_000
        self._here = families[:n_here]
        self.fresh = self._suite(self._rows(families[n_here:]), "fresh")
        self.before = self.bench.working.run_plain(self.fresh)
        self.metrics: tuple[Metric, ...] = self.bench.metrics(_NAMES)
        first = self._rows(self._here)[:150]
        self.calibration = self._suite(first, "calibration")
        self.bench = self._with_parts(self.fresh, self.fresh)
        self._fresh_game = self.bench.working.game(self.fresh, self.metrics[1:])

    def sample(self, rng: np.random.Generator, n_selection: int, n_test: int) -> Sample:
        """Other images than the fresh ones, drawn by family; the test part may be empty."""
        families = rng.permutation(self._here)
        per_family = len(self.setting.family) / len(np.unique(self.setting.family))
        first, second = (round(n / per_family) for n in (n_selection, n_selection + n_test))
        return Sample(self._rows(families[:first]), self._rows(families[first:second]))

    def repair(self, sample: Sample, way: str, *, seed: int, max_drop: float) -> Outcome:
        """What a way does with a sample."""
        how = replace(WAYS[way], max_drop=max_drop)
        selection = self._suite(sample.selection, "selection")
        test = self._suite(sample.test, "test") if len(sample.test) else selection
        objective = Objective.of(FAIRNESS_OBJECTIVE)
        values = objective.plain_values if how.choose == "plain" else objective.values
        bench = self._with_parts(selection, test)
        bench = replace(bench, settings=replace(bench.settings, metrics=values, seed=seed))
        try:
            made = choose_patch(bench, how, objective, None)
        except TargetNotMetError:
            return Outcome(way)
        return self.judge(way, made.patch, test)

    def promise(
        self, sample: Sample, key: tuple[Any, ...], groups: NDArray[np.int64] | None = None
    ) -> Row:
        """What the rule of `key` makes of the selection images, from which the means come too.

        Args:
            sample: whose test part is not used.
            key: see `Row`.
            groups: of all images, in place of their own. They have nothing to do with the images,
                so that each has the accuracy of all: the truth is told by all fresh images.
        """
        selection = self._suite(sample.selection, "selection")
        if groups is not None:
            about = replace(selection.annotations, groups=groups[sample.selection])
            selection = replace(selection, annotations=about)
        parts = Parts(selection, selection, selection, (), "drawn by the benchmark")
        settings = replace(
            self.bench.settings, metrics=Objective.of(FAIRNESS_OBJECTIVE).values, seed=key[3]
        )
        bench = with_parts(self.bench, parts, settings)
        known = self.fresh.annotations.groups
        assert known is not None
        compared = known if groups is None else np.zeros_like(known)
        return try_rule(key, bench, Judge(bench, self.fresh, compared, self.before))

    def judge(self, way: str, patch: Patch, test: Suite) -> Outcome:
        """The figures of a patch on the test part and on fresh images."""
        bench = self.bench
        coalition = np.ones(len(bench.roster), bool)
        coalition[[bench.roster.column(f) for f in patch.filters]] = False
        fresh = self._fresh_game.outputs(coalition)
        game = bench.working.game(test, self.metrics[1:])
        before, after = game.outputs(np.ones_like(coalition)), game.outputs(coalition)
        about, form = test.annotations, bench.form
        change = difference(before, after, about, self.metrics, form=form, seed=0)
        reported = [change]
        true = [{n: self._true(fresh)[n] - self._true(self.before)[n] for n in _NAMES}]
        for outputs, truth in ((before, self.before), (after, fresh)):
            found = evaluate(outputs, about, self.metrics, form=form, suite="test", seed=0)
            reported.append(found.metrics)
            true.append(self._true(truth))
        covered = tuple(
            figures[name].ci_low <= truth[name] <= figures[name].ci_high
            for figures, truth in zip(reported, true, strict=True)
            for name in _NAMES
        )
        return Outcome(way, len(patch), change, true[0], covered)

    def _true(self, outputs: NDArray[np.float32]) -> dict[str, float]:
        about = self.fresh.annotations
        worst, accuracy = (metric.score(outputs, about) for metric in self.metrics)
        return {FAIRNESS_OBJECTIVE: float(worst), "accuracy": float(accuracy.mean())}

    def _rows(self, families: NDArray[np.intp]) -> NDArray[np.intp]:
        """The images of families, in the families' order."""
        order = np.argsort(self.setting.family, kind="stable")
        ranked = self.setting.family[order]
        starts, ends = (np.searchsorted(ranked, families, side=s) for s in ("left", "right"))
        return np.concatenate(
            [order[a:b] for a, b in zip(starts, ends, strict=True)] or [np.zeros(0, np.intp)]
        )

    def _suite(self, rows: NDArray[np.intp], name: str) -> Suite:
        return self.whole.take(rows, name)

    def _with_parts(self, selection: Suite, test: Suite) -> Bench:
        parts = Parts(self.calibration, selection, test, (), "drawn by the benchmark")
        return with_parts(self.bench, parts, self.bench.settings)
