"""Evaluators give a model's outputs for rows of coalitions and images; proof that two agree.

Several keep the same promise in different ways. `masks.MaskEvaluator` asks the instrumented model,
mask by mask: it is the judge, in the product as in tests. The others share work between rows.

Coalitions are evaluated in 32 bits, or in fewer if the user asks for it. TF32 and half precision
round to 11 significant bits, and these errors add up from layer to layer: after a few hundred
layers they reach a fiftieth of the largest output. A larger difference means that something has
overflowed, or is broken in another way, and it is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core import game, suite

Reduce = Callable[[suite.Array, suite.Indices], suite.Array]
"""Outputs and positions of some images to what is kept of them, first axis (n_images,)."""

T = TypeVar("T")
R = TypeVar("R")
# The runtime's sigmoid is as coarse for small results as for those near 1: each of the two outputs
# compared lies within two and a half steps of 2**-24 of the truth
# (docs/decisions/0005-engine-agreement.md).
STEPS_OF_ONE = 4 * 2.0**-24
_MOST_IMAGES = 16
_MACS = 4e9  # of one pass of the proof, so that a large model is proven on fewer images
_SHARES_PRESENT = (0.98, 0.9, 0.5)
_N_SINGLE = 3  # filters that are left out one at a time
_OF_EFFECT = 1e-2  # of what leaving out one filter changes
_ROUNDING = 2e-6  # of the largest output, below which 32 bits say nothing


class Evaluator(Protocol):
    """Answers that depend on the rows alone: not on workers, caches, or what was asked before."""

    @property
    def path(self) -> str:
        """How filters are turned off, for people."""
        ...

    def answer(
        self, coalitions: game.Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> suite.Array:
        """What `reduce` keeps of every image under every row: shape (n_rows, n_images, ...).

        `images` (n_rows, n_images) are positions in the suite; None is the whole suite, in order.
        """
        ...


def keep_all(outputs: suite.Array, positions: suite.Indices) -> suite.Array:  # noqa: ARG001 (a Reduce)
    """Keep the outputs themselves."""
    return outputs


def reduced(outputs: suite.Array, images: NDArray[np.intp] | None, reduce: Reduce) -> suite.Array:
    """What `reduce` keeps of the outputs of rows, (n_rows, n_images, ...).

    Args:
        outputs: of the rows, (n_rows, n_images, ...).
        images: positions in the suite, (n_rows, n_images); the whole suite, in order, if None.
        reduce: see `Evaluator`.
    """
    if reduce is keep_all:
        return outputs
    n_rows, n_images = outputs.shape[:2]
    positions = np.tile(np.arange(n_images), n_rows) if images is None else images.reshape(-1)
    flat = reduce(outputs.reshape(-1, *outputs.shape[2:]), positions)
    return flat.reshape(n_rows, n_images, *flat.shape[1:])


class SerialExecutor:
    """Maps in the calling thread. ONNX Runtime releases the GIL, so that threads help."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        return map(function, items)


class ThreadExecutor:
    """Maps in `workers` threads; answers come in the order of the items."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="repairkit")

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        return self._pool.map(function, items)


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_executor(workers: int) -> SerialExecutor | ThreadExecutor:
    """An executor of so many workers."""
    return SerialExecutor() if workers == 1 else ThreadExecutor(workers)


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may lie from those of the instrumented model in 32 bits.

    `relative` to the largest output of a row; `tie`, likewise, is how much less the score of the
    right class may be than that of the class with the largest one.
    """

    relative: float
    tie: float


TOLERANCES: Mapping[suite.Precision, Tolerance] = {
    "float32": Tolerance(1e-5, 1e-6),
    "tf32": Tolerance(2e-2, 2e-2),
    "float16": Tolerance(2e-2, 2e-2),
}


@dataclass(frozen=True)
class ExpectedAnswers:
    """What the instrumented model answers: `expected` (n_rows, n_images, ...)."""

    coalitions: game.Coalitions
    images: NDArray[np.intp]
    expected: suite.Array

    @classmethod
    def ask(
        cls, reference: Evaluator, n_players: int, n_images: int, macs: float
    ) -> ExpectedAnswers:
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
    def whole(self) -> ExpectedAnswers:
        """Of the coalition of all filters alone."""
        return ExpectedAnswers(self.coalitions[:1], self.images[:1], self.expected[:1])

    def fault(
        self, evaluator: Evaluator, precision: suite.Precision = "float32", *, bits: bool = False
    ) -> str | None:
        """How an evaluator differs from the instrumented model, None where it agrees.

        Args:
            evaluator: the one in question.
            precision: in which it computes.
            bits: demand equal bits, since the model turns other bits into other codes.
        """
        answers = evaluator.answer(self.coalitions, self.images, keep_all)
        for row, (ours, theirs) in enumerate(zip(answers, self.expected, strict=True)):
            fault = difference(ours, theirs, precision=precision, bits=bits)
            if fault is not None:
                n_absent = int((~self.coalitions[row]).sum())
                return f"with {n_absent} filters absent {fault}"
        return None if precision != "float32" or bits else self._hidden_effect(answers)

    def _hidden_effect(self, answers: suite.Array) -> str | None:
        """How answers differ, if by much of what one filter changes; None if they do not."""
        n_absent = (~self.coalitions).sum(axis=1)
        single = np.flatnonzero(n_absent == 1)
        if self.expected.dtype.kind != "f" or not len(single):
            return None
        expected = self.expected.astype(np.float64)
        effect = float(np.nanmax(np.abs(expected[single] - expected[:1]), initial=0.0))
        gaps = np.abs(answers[[0, *single]].astype(np.float64) - expected[[0, *single]])
        gap, scale = (float(np.nanmax(x, initial=0.0)) for x in (gaps, np.abs(expected[0])))
        if effect == 0 or gap <= max(_OF_EFFECT * effect, _ROUNDING * scale):
            return None
        return f"outputs differ by {gap:.2g} where one filter changes {effect:.2g}"


def difference(
    outputs: suite.Array,
    expected: suite.Array,
    *,
    precision: suite.Precision = "float32",
    bits: bool = False,
) -> str | None:
    """How outputs differ beyond rounding, None where they do not.

    Args:
        outputs: those in question, (n_images, ...).
        expected: what the instrumented model makes in 32 bits.
        precision: in which `outputs` were computed; see `TOLERANCES`.
        bits: whether all bits must be the same.
    """
    if outputs.shape != expected.shape:
        return f"outputs have shape {outputs.shape} in place of {expected.shape}"
    tolerance = TOLERANCES[precision]
    if bits and np.array_equal(outputs, expected, equal_nan=expected.dtype.kind in "fc"):
        return None
    ours, theirs = outputs.astype(np.float64), expected.astype(np.float64)
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
