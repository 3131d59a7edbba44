"""Proof on real images that a fast evaluator computes what the instrumented model does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import Coalitions
from repairkit.core.suite import Array, Precision
from repairkit.engine.evaluator import Evaluator, keep_all
from repairkit.engine.precision import TOLERANCES
from repairkit.engine.weights.fast import FastEvaluator
from repairkit.engine.weights.planner import Move
from repairkit.engine.weights.walk import Walk

# The runtime's sigmoid rounds as 1 does, however small its result: it lies within two and a half
# such steps of the truth, on either side of the comparison
# (docs/decisions/0005-engine-agreement.md).
STEPS_OF_ONE = 4 * 2.0**-24
_MOST_IMAGES = 16
_MACS = 4e9  # of one pass of the proof, so that a large model is proven on fewer images
_SHARES_PRESENT = (0.98, 0.9, 0.5)
_N_SINGLE = 3  # filters that are left out one at a time
_OF_EFFECT = 1e-2  # of what leaving out one filter changes
_ROUNDING = 2e-6  # of the largest output, below which 32 bits say nothing
_CONE_IMAGES = 2  # bits are compared, which more images would not make more alike
_CONE_IMAGE_MACS = 8e9  # of them together, beyond which one image must do
_MOST_STEPS = 8
_FEWEST_STEPS = 4
_CONE_MACS = 2e10  # of the full passes that cones are compared with, beyond which steps are fewer


@dataclass(frozen=True)
class Agreement:
    """What the instrumented model answers: `expected` (n_rows, n_images, ...)."""

    coalitions: Coalitions
    images: NDArray[np.intp]
    expected: Array

    @classmethod
    def ask(cls, reference: Evaluator, n_players: int, n_images: int, macs: float) -> Agreement:
        """Put all filters, none, some at random and all but one to the reference.

        Args:
            reference: of the instrumented model.
            n_players: of the game.
            n_images: of the suite.
            macs: multiplications of a full pass of one image.
        """
        rng = np.random.default_rng(0)
        rows = [np.ones(n_players, bool), np.zeros(n_players, bool)]
        rows += [rng.random(n_players) < share for share in _SHARES_PRESENT]
        places = np.unique(np.linspace(0, n_players - 1, _N_SINGLE).astype(int))
        rows += [np.arange(n_players) != place for place in places]
        coalitions = np.stack(rows)
        at_most = int(np.clip(_MACS // max(macs, 1.0), 2, _MOST_IMAGES))
        images = np.tile(np.arange(min(at_most, n_images)), (len(rows), 1))
        return cls(coalitions, images, reference.answer(coalitions, images, keep_all))

    @property
    def whole(self) -> Agreement:
        """Of the coalition of all filters alone."""
        return Agreement(self.coalitions[:1], self.images[:1], self.expected[:1])

    def fault(
        self, evaluator: Evaluator, precision: Precision = "float32", *, bits: bool = False
    ) -> str | None:
        """How an evaluator differs from the instrumented model, None where it agrees.

        Args:
            evaluator: the one in question.
            precision: in which it computes.
            bits: ask for the same bits, since the model turns other bits into other codes.
        """
        found = evaluator.answer(self.coalitions, self.images, keep_all)
        for row, (ours, theirs) in enumerate(zip(found, self.expected, strict=True)):
            fault = difference(ours, theirs, precision=precision, bits=bits)
            if fault is not None:
                n_absent = int((~self.coalitions[row]).sum())
                return f"with {n_absent} filters absent {fault}"
        return None if precision != "float32" or bits else self._hidden_effect(found)

    def _hidden_effect(self, found: Array) -> str | None:
        """Whether differences are small beside the outputs, and not beside what one filter does."""
        n_absent = (~self.coalitions).sum(axis=1)
        single = np.flatnonzero(n_absent == 1)
        if self.expected.dtype.kind != "f" or not len(single):
            return None
        expected = self.expected.astype(np.float64)
        effect = float(np.nanmax(np.abs(expected[single] - expected[:1]), initial=0.0))
        gaps = np.abs(found[[0, *single]].astype(np.float64) - expected[[0, *single]])
        gap, scale = (float(np.nanmax(x, initial=0.0)) for x in (gaps, np.abs(expected[0])))
        if effect == 0 or gap <= max(_OF_EFFECT * effect, _ROUNDING * scale):
            return None
        return f"outputs differ by {gap:.2g} where one filter changes {effect:.2g}"


def difference(
    found: Array,
    expected: Array,
    *,
    precision: Precision = "float32",
    bits: bool = False,
) -> str | None:
    """How outputs differ beyond rounding, None where they do not.

    Args:
        found: the outputs in question, (n_images, ...).
        expected: what the instrumented model makes in 32 bits.
        precision: in which `found` was computed; see `TOLERANCES`.
        bits: whether all bits must be the same.
    """
    if found.shape != expected.shape:
        return f"outputs have shape {found.shape} in place of {expected.shape}"
    tolerance = TOLERANCES[precision]
    if bits and np.array_equal(found, expected, equal_nan=expected.dtype.kind in "fc"):
        return None
    ours, theirs = found.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isnan(ours), np.isnan(theirs)):
        return "other outputs are no numbers"
    scale = float(np.nanmax(np.abs(theirs), initial=0.0))
    gap = float(np.nanmax(np.abs(ours - theirs), initial=0.0))
    probable = bool((theirs >= 0).all() and (theirs <= 1).all())
    if bits:
        return f"outputs differ by {gap:.2g}, and the model rounds to steps"
    if not gap <= tolerance.relative * scale + (STEPS_OF_ONE if probable else 0.0):
        return f"outputs differ by {gap:.2g} where the largest is {scale:.2g}"
    if ours.ndim == 2:
        best = theirs.argmax(axis=1)[:, None]
        short = ours.max(axis=1) - np.take_along_axis(ours, best, axis=1)[:, 0]
        if (short > tolerance.tie * scale).any():
            return "another class has the largest score"
    return None


def cones_fault(evaluator: FastEvaluator, images: NDArray[np.intp]) -> str | None:
    """Whether cones give other bits than full passes: one filter less each, then ever fewer."""
    n_players = len(evaluator.routes.compiled.roster)
    cost = max(evaluator.routes.full.cost, 1.0)
    images = images[: int(np.clip(_CONE_IMAGE_MACS // cost, 1, _CONE_IMAGES))]
    each = 2 * len(images) * cost
    n_steps = int(np.clip(_CONE_MACS // each, _FEWEST_STEPS, _MOST_STEPS))
    rng = np.random.default_rng(1)
    base = rng.random(n_players) < _SHARES_PRESENT[1]
    present = np.flatnonzero(base)
    if not len(present):
        return None
    steps = np.unique(np.linspace(0, len(present) - 1, n_steps).astype(int))
    leaving = rng.permutation(present[steps])
    star = np.repeat(base[None], len(leaving) + 1, axis=0)
    star[np.arange(1, len(star)), leaving] = False
    walk = star.copy()
    for row in range(1, len(walk)):
        walk[row] &= walk[row - 1]
    passes: dict[bytes, Array] = {}
    for rows in (star, walk):
        found = evaluator.answer(rows, np.tile(images, (len(rows), 1)), keep_all)
        for ours, row in zip(found, rows, strict=True):
            key = row.tobytes()
            if key not in passes:
                passes[key] = _full_pass(evaluator, row, images)
            if not np.array_equal(ours, passes[key], equal_nan=True):
                return "a cone gives other bits than a full pass"
    return None


def _full_pass(evaluator: FastEvaluator, row: NDArray[np.bool_], images: NDArray[np.intp]) -> Array:
    with evaluator.routes.compiled.workspaces.lend() as workspace:
        walk = Walk(evaluator.routes, workspace, evaluator.suite, images, None)
        return walk.step(Move(0, row, evaluator.routes.full, follow=False))
