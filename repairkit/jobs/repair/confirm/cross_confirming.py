"""Every image chooses and every image confirms: the whole choice, cross-fitted.

The images are shared out into folds. For each fold a cure is chosen on the images outside it, and
its answers for the fold's images are kept. These answers together tell what choosing like this is
worth on images that did not choose. What ships is the cure that all images choose. References:
Nadeau & Bengio 2003 (the error of a cross-fitted figure); Bayle, Bayle, Janson & Mackey 2020.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from repairkit.core.arrays import Array
from repairkit.jobs.repair.confirm.promises import Judge, Verdict
from repairkit.jobs.repair.cures.cures import Cure, Cured, Nothing
from repairkit.repairs import Folds

_STABLE_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """A cure chosen on all images, and once without each fold.

    Attributes:
        folds: of the images.
        plain: the model's outputs for all images as it is.
        whole: what all images choose.
        without: what the images outside each fold choose.
    """

    folds: Folds
    plain: Array
    whole: Cured | Nothing
    without: tuple[Cured | Nothing, ...]

    def answers(self, n_steps: int) -> Array:
        """For each image the outputs under the cure that its fold did not choose.

        Args:
            n_steps: steps of each cure at the most.
        """
        after = self.plain.copy()
        for fold, cured in enumerate(self.without):
            if isinstance(cured, Cured):
                members = self.folds.fold_of == fold
                after[members] = cured.first(n_steps).outputs[members]
        return after

    def stability(self, n_steps: int) -> dict[str, int]:
        """For each filter of the shipped cure, the folds whose cure freezes it too."""
        if not isinstance(self.whole, Cured):
            return {}
        counts = Counter(
            filter.id
            for cured in self.without
            if isinstance(cured, Cured)
            for filter in cured.first(n_steps).patch.filters
        )
        return {f.id: counts[f.id] for f in self.whole.first(n_steps).patch.filters}

    def unstable(self, n_steps: int) -> list[str]:
        """The filters of the shipped cure that fewer than half of the folds freeze."""
        enough = _STABLE_SHARE * len(self.without)
        return [name for name, count in self.stability(n_steps).items() if count < enough]

    def told_folds(self, n_steps: int) -> list[dict[str, Any]]:
        """For the report: what each fold's images did not choose."""
        return [
            {
                "n_images": int((self.folds.fold_of == fold).sum()),
                "cure": cured.name if isinstance(cured, Cured) else None,
                "frozen": [f.id for f in cured.first(n_steps).patch.filters]
                if isinstance(cured, Cured)
                else [],
            }
            for fold, cured in enumerate(self.without)
        ]


def cross_fit(cure: Cure, folds: Folds, plain: Array) -> CrossFitted:
    """Choose on all images, and without each fold.

    Args:
        cure: the way to change the model.
        folds: of the selection images.
        plain: the model's outputs for all of them.
    """
    whole = cure.on(folds.everyone)
    without = tuple(cure.on(rest) for rest in folds.rest)
    return CrossFitted(folds, plain, whole, without)


@dataclass(frozen=True, eq=False)
class Confirmed:
    """The cure as far as limits are kept, and what its answers out of fold bear out.

    `n_steps` counts its steps, `looks` how often the answers were judged: more than once where
    larger changes cost too much.
    """

    n_steps: int
    looks: int
    answers: Array
    verdict: Verdict


def confirm(fitted: CrossFitted, judge: Judge) -> Confirmed:
    """Judge a cure by the answers out of fold; smaller changes only where a limit asks for it.

    Fewer steps cost less. They also gain less, so nothing but a limit leads to them, and no gain is
    picked among several.
    """
    most = fitted.whole.n_steps if isinstance(fitted.whole, Cured) else 1
    first: Confirmed | None = None
    for looks, n_steps in enumerate(range(most, 0, -1), 1):
        answers = fitted.answers(n_steps)
        found = Confirmed(n_steps, looks, answers, judge.judge(fitted.plain, answers))
        refused = found.verdict.refused
        first = first or found
        if refused is None:
            return found
        if not refused[1]:
            break
    assert first is not None
    return first
