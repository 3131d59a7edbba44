"""Refit the last layer on few images, shrunk towards the weights that it has.

Deep feature reweighting (Kirichenko, Izmailov & Wilson 2022): features of a network that fails on
some groups often hold what is needed, and a last layer that is fitted on group-balanced images uses
it. Here the penalty is on the change of the weights: a strong one leaves the model as it is.

    sum over images of weight * cross-entropy(scores + features @ change.T) + penalty/2 * |change|^2

What the layer is fitted to are labels. Where images were made from clean ones, by a trigger or an
attack, it can also be the model's own answers (`own_answers`): clean images keep theirs, and a made
image gets that of its clean twin. A few hundred images with labels teach a layer their own noise,
which costs accuracy; their own answers teach it nothing new about clean images, so that the layer
changes along what the trigger adds to the features and hardly else. References: Li & Hoiem,
"Learning without forgetting" (ECCV 2016, section 3); Hinton, Vinyals & Dean, "Distilling the
knowledge in a neural network" (2015, section 2).

The loss is minimised by the bound of Böhning & Lindsay (1988): the curvature of the cross-entropy
is nowhere above that of a quadratic known beforehand, so each step is a ridge regression in closed
form and no step can lead too far. Steps are accelerated (Nesterov), and begin anew where they
overshoot (O'Donoghue & Candès 2015).

A fit takes thousands of small steps. The library beneath numpy would wake its threads for each of
their products, which takes longer than the product, and the threads would wait for each other in
busy loops. So small products take one thread, which also gives the same last bits on a machine of
any number of cores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from repairkit.core.suite import Array

Floats = NDArray[np.float64]

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
"""From strong to weak; features have a mean square length of 1."""
PENALTIES_OF_ANSWERS = (0.0003, 0.0001, 0.00003, 0.00001, 0.000003)
"""The same where the layer is fitted to its own answers, which it cannot overfit to as it can to
labels."""
SHARE_OF_MADE = 0.05
"""Of the weights, that of made images where the layer is fitted to its own answers."""

_MOST_DIRECTIONS = 256
_MOST_STEPS = 400
_CLOSE = 1e-4
_LEAST_LEFT = 1e-9  # of the answer, beside the class that an image must not be taken for
_SMALL_PRODUCT = 2**25
"""Multiplications that one thread ends within some milliseconds."""


@dataclass(frozen=True)
class Directions:
    """Features in the directions in which they vary most, scaled to a mean square length of 1.

    Weights along other directions stay as they are. The last direction is a constant 1: the bias.

    Attributes:
        rows: (n_images, n_directions).
        axes: (n_directions - 1, n_features), each divided by `scale`.
        center: (n_features,).
    """

    rows: Floats
    axes: Floats
    center: Floats

    @classmethod
    def of(cls, features: Array, *, bias: bool = True) -> Directions:
        """The directions of some features (n_images, n_features); `bias` adds the constant."""
        center = features.mean(axis=0, dtype=np.float64) if bias else np.zeros(features.shape[1])
        off = features - center
        scale = float(np.sqrt((off**2).sum(axis=1).mean())) or 1.0
        if off.shape[0] < off.shape[1]:
            values, vectors = np.linalg.eigh(off @ off.T)
            kept = _main(values)
            axes = (vectors[:, kept] / np.sqrt(values[kept])).T @ off
        else:
            values, vectors = np.linalg.eigh(off.T @ off)
            axes = vectors[:, _main(values)].T
        axes = axes / scale
        rows = off @ axes.T
        if bias:
            rows = np.hstack([rows, np.ones((len(rows), 1))])
        return cls(rows, axes, center)

    def change(self, coefficients: Floats) -> tuple[Floats, Floats]:
        """Changes of weights (n_classes, n_features) and biases (n_classes,) in the layer's terms.

        Args:
            coefficients: (n_directions, n_classes).
        """
        n_axes = len(self.axes)
        weight = coefficients[:n_axes].T @ self.axes
        bias = coefficients[n_axes:].sum(axis=0) - weight @ self.center
        return weight, bias


def _main(values: Floats) -> NDArray[np.intp]:
    """The directions of the greatest variances, as many as can be told from rounding."""
    order = np.argsort(-values)[:_MOST_DIRECTIONS]
    return order[values[order] > 1e-10 * max(float(values.max()), 1e-300)]


def balanced_weights(groups: NDArray[np.int64]) -> Floats:
    """Weights of images, adding up to 1, under which every group has the same total."""
    counts = np.bincount(groups)
    return 1.0 / (np.count_nonzero(counts) * counts[groups])


def own_answers(
    scores: Floats,
    labels: NDArray[np.int64],
    twin_of: NDArray[np.intp],
    unwanted: NDArray[np.int64],
) -> Floats:
    """Targets for `refit_path`: what the model says of each image's clean twin.

    The class that an image must not be taken for has no share in them. The label counts alone for
    an image whose clean twin is unknown, or whose twin is answered with that class only.

    Args:
        scores: class scores of the model as it is, (n_images, n_scores); a single column is the
            log-odds of class 1.
        labels: (n_images,), below the number of classes.
        twin_of: (n_images,), the place of the clean twin; its own for a clean image, -1 if unknown.
        unwanted: (n_images,), the class that an image must not be taken for; -1 where there is
            none.
    """
    single = scores.shape[1] == 1
    likely = _probabilities(scores)
    likely = np.hstack([1.0 - likely, likely]) if single else likely
    answers = likely[np.maximum(twin_of, 0)]
    by_label = np.eye(answers.shape[1])[labels]
    barred = unwanted >= 0
    answers[barred, unwanted[barred]] = 0.0
    left = answers.sum(axis=1, keepdims=True)
    known = (twin_of >= 0)[:, None] & (left > _LEAST_LEFT)
    targets = np.where(known, answers / np.maximum(left, _LEAST_LEFT), by_label)
    return targets[:, 1:] if single else targets


def shared_weights(made: NDArray[np.bool_], share: float) -> Floats:
    """Weights of images, adding up to 1: `share` is that of all made images, the rest of others.

    Where there is but one kind, each image weighs the same.
    """
    n_made = int(made.sum())
    if n_made in (0, len(made)):
        return np.full(len(made), 1.0 / len(made))
    return np.where(made, share / n_made, (1.0 - share) / (len(made) - n_made))


def refit_path(
    rows: Floats,
    scores: Floats,
    wanted: NDArray[np.int64] | Floats,
    weights: Floats,
    penalties: Sequence[float] = PENALTIES,
) -> Iterator[Floats]:
    """Coefficients (n_directions, n_scores) for each penalty, each found from the one before.

    Args:
        rows: of `Directions`, (n_images, n_directions).
        scores: class scores of the model as it is, (n_images, n_scores); a single column is the
            log-odds of class 1.
        wanted: labels (n_images,), below the number of classes, or shares of the classes
            (n_images, n_scores); of a single column, that of class 1.
        weights: (n_images,), adding up to 1.
        penalties: from strong to weak.
    """
    single = scores.shape[1] == 1
    target: Floats | NDArray[np.bool_] = wanted.astype(np.float64)
    if wanted.ndim == 1:
        target = wanted[:, None] == (1 if single else np.arange(scores.shape[1]))
    bound = 0.25 if single else 0.5
    with small_products(rows.size * rows.shape[1]):
        values, vectors = np.linalg.eigh(bound * (rows.T * weights) @ rows)
        turned = rows @ vectors
    coefficients = np.zeros((rows.shape[1], scores.shape[1]))
    for penalty in penalties:
        stiffness = (np.maximum(values, 0.0) + penalty)[:, None]
        with small_products(rows.size * scores.shape[1]):
            coefficients = _minimise(
                turned, scores, target, weights, penalty, stiffness, coefficients
            )
        yield vectors @ coefficients


def _minimise(
    rows: Floats,
    scores: Floats,
    target: Floats | NDArray[np.bool_],
    weights: Floats,
    penalty: float,
    stiffness: Floats,
    start: Floats,
) -> Floats:
    """Accelerated steps of the bound; `stiffness` is the bound's curvature in each direction."""
    here = ahead = start
    momentum = 1.0
    for _ in range(_MOST_STEPS):
        error = (_probabilities(scores + rows @ ahead) - target) * weights[:, None]
        step = (rows.T @ error + penalty * ahead) / stiffness
        there = ahead - step
        moved = there - here
        if float((step * stiffness * moved).sum()) > 0:  # the last steps went too far
            momentum = 1.0
        faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = there + (momentum - 1) / faster * moved
        here, momentum = there, faster
        if float((stiffness * step**2).sum()) < (_CLOSE**2) * max(
            float((stiffness * here**2).sum()), _CLOSE**2
        ):
            break
    return here


def _probabilities(scores: Floats) -> Floats:
    if scores.shape[1] == 1:
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(scores, -700.0, 700.0))))
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


@contextmanager
def small_products(n_multiplications: int) -> Iterator[None]:
    """Take one thread for products within, if the largest of them has so few multiplications.

    The number of threads is one of the whole process, and OpenBLAS lets the main thread alone
    change it. In any other thread nothing is changed.

    Args:
        n_multiplications: of the largest product, such as n * k * m for (n, k) @ (k, m).
    """
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and n_multiplications < _SMALL_PRODUCT:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    else:
        yield
