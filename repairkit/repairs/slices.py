"""Slices of errors that nobody labelled: images that a model holds for alike and gets wrong often.

After Domino (Eyuboglu et al., ICLR 2022): a mixture of Gaussians is fitted to what passes the
model's last layer, reduced to its main directions, together with each image's loss. The loss draws
the slices to where errors are. An image is assigned by its features alone, by the mixture without
the loss: a slice that looked at the errors of the very images that it is judged by would be bad
for that reason alone, and any change would mend it.

Each selection image is assigned by a mixture that was fitted without its fold, from the mixture of
all of them as its start, so that slices stay the same ones. Of 2 to 5 slices, the fewest are taken
that tell right from wrong as well as any number does, within two standard errors, out of fold.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from repairkit.core import errors, suite

Floats = NDArray[np.float64]

N_SLICES = (2, 3, 4, 5)
N_FOLDS = 5
FEWEST_IMAGES = 30
"""A slice of fewer selection images is none: its images go to the others."""
LEVEL = 0.05
_DIRECTIONS = 10
_LARGEST_LOSS = 5.0  # nats; one image that is surely wrong must not make a slice of its own
_RIDGE = 1e-3  # of the variance of the features
_STARTS, _STEPS = 5, 500
_SURE = 2.0  # standard errors
_MISSING = (
    "--group auto finds slices with scikit-learn, which is not installed; run: pip install "
    "'repairkit[slices]', or name columns with --group"
)


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians over features and loss.

    Attributes:
        center: of the features, (n_features,).
        axes: (n_features, n_directions), divided by the features' spread.
        means: (n_slices, n_directions + 1), of the loss in the last column.
        variances: (n_slices, n_directions + 1), likewise.
        weights: of the slices, (n_slices,).
    """

    center: Floats
    axes: Floats
    means: Floats
    variances: Floats
    weights: Floats

    @classmethod
    def of(cls, features: suite.Array, losses: Floats, n_slices: int, seed: int) -> Mixture:
        """Fit one with as many slices as asked, the best of a few starts.

        Args:
            features: what passes the last layer, (n_images, n_features).
            losses: negative log-likelihoods of the true classes, (n_images,).
            n_slices: how many.
            seed: of the starts of the fit.

        Raises:
            SettingsError: scikit-learn is not installed.
        """
        center = features.mean(axis=0, dtype=np.float64)
        off = features - center
        _, _, directions = np.linalg.svd(off, full_matrices=False)
        axes = directions[:_DIRECTIONS].T
        axes = axes / max(float((off @ axes).std()), 1e-12)
        rows = np.column_stack([off @ axes, _standard(losses)])
        start = {"n_init": _STARTS, "random_state": seed}
        return cls._fitted(center, axes, rows, n_slices, start)

    def refitted(self, features: suite.Array, losses: Floats) -> Mixture:
        """The mixture of some of the images, reached from this one, so that slices stay the same.

        Args:
            features: of these images, (n_images, n_features).
            losses: of these images, (n_images,).
        """
        rows = np.column_stack([(features - self.center) @ self.axes, _standard(losses)])
        start = {
            "weights_init": self.weights,
            "means_init": self.means,
            "precisions_init": 1 / self.variances,
        }
        return self._fitted(self.center, self.axes, rows, len(self.weights), start)

    @classmethod
    def _fitted(
        cls, center: Floats, axes: Floats, rows: Floats, n_slices: int, start: dict[str, Any]
    ) -> Mixture:
        model = _gaussian_mixture()(
            n_slices, covariance_type="diag", reg_covar=_RIDGE, max_iter=_STEPS, **start
        )
        with warnings.catch_warnings(action="ignore"):  # what it says is that it stopped early
            model.fit(rows)
        return cls(center, axes, model.means_, model.covariances_, model.weights_)

    def members(self, features: suite.Array) -> Floats:
        """The probability of each slice, (n_images, n_slices), from features alone."""
        means, variances = self.means[:, :-1], self.variances[:, :-1]
        away = ((features - self.center) @ self.axes)[:, None] - means
        scores = np.log(self.weights) - 0.5 * (away**2 / variances + np.log(variances)).sum(axis=2)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    def only(self, kept: Sequence[int]) -> Mixture:
        """Some of the slices, in this order."""
        rows = np.array(kept, np.intp)
        return Mixture(
            self.center, self.axes, self.means[rows], self.variances[rows], self.weights[rows]
        )


def _standard(losses: Floats) -> Floats:
    """Losses with mean 0 and the weight of a direction, without the largest."""
    capped = np.minimum(losses, _LARGEST_LOSS)
    return np.asarray((capped - capped.mean()) / max(float(capped.std()), 1e-12))


def _gaussian_mixture() -> Any:
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise errors.SettingsError(_MISSING) from error
    return GaussianMixture


@dataclass(frozen=True)
class Slices:
    """Slices of the images that choose, the worst first.

    Attributes:
        mixture: fitted on all of them, for images that did not choose.
        members: the probability of each slice for each of them, (n_images, n_slices), by a mixture
            that did not see its fold.
        right: whether the model answers each rightly, (n_images,).
    """

    mixture: Mixture
    members: Floats
    right: NDArray[np.bool_]

    @property
    def slice_of(self) -> NDArray[np.int64]:
        """The slice of each image that chooses, (n_images,)."""
        return np.asarray(self.members.argmax(axis=1), np.int64)

    @property
    def counts(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """How many images each slice has, and how many of them are answered rightly."""
        n_slices = self.members.shape[1]
        return (
            np.bincount(self.slice_of, minlength=n_slices),
            np.bincount(self.slice_of[self.right], minlength=n_slices),
        )

    @property
    def p_worst(self) -> float:
        """One-sided p of "the worst slice is no worse than the rest", times the number of slices.

        By Fisher's exact test; the factor is for the choice of the worst (Bonferroni).
        """
        n_images, n_right = self.counts
        total, wrong = int(n_images.sum()), int(n_images.sum() - n_right.sum())
        tail = _hypergeometric_tail(int(n_images[0] - n_right[0]), total, wrong, int(n_images[0]))
        return min(1.0, len(n_images) * tail)


def find_slices(
    features: suite.Array,
    losses: Floats,
    right: NDArray[np.bool_],
    fold_of: NDArray[np.intp],
    seed: int,
) -> Slices | None:
    """Find slices; None where no two have enough images.

    Args:
        features: what passes the last layer, (n_images, n_features).
        losses: negative log-likelihoods of the true classes, (n_images,).
        right: whether the model answers each image rightly, (n_images,).
        fold_of: the fold of each image, (n_images,), from 0 on.
        seed: of the job.

    Raises:
        SettingsError: scikit-learn is not installed.
    """
    ways: list[tuple[Slices, Floats]] = []
    with threadpool_limits(limits=1):  # the same last digits on any number of cores
        for n_slices in N_SLICES:
            found = _with_slices(n_slices, features, losses, right, fold_of, seed)
            if found is not None:
                ways.append((found, _surprise(found, fold_of)))
    if not ways:
        return None
    best = min((surprise for _, surprise in ways), key=lambda each: float(each.mean()))
    return next(
        found
        for found, surprise in ways
        if (surprise - best).mean() <= _SURE * (surprise - best).std() / math.sqrt(len(best))
    )


def _with_slices(
    n_slices: int,
    features: suite.Array,
    losses: Floats,
    right: NDArray[np.bool_],
    fold_of: NDArray[np.intp],
    seed: int,
) -> Slices | None:
    """Slices of one number, or of fewer where some are too small; None where one is left."""
    if len(features) < 2 * n_slices:
        return None
    whole = Mixture.of(features, losses, n_slices, seed)
    without = []
    for fold in range(int(fold_of.max()) + 1):
        rest = fold_of != fold
        without.append(whole.refitted(features[rest], losses[rest]))
    kept = list(range(n_slices))
    while len(kept) > 1:
        members = _out_of_fold([part.only(kept) for part in without], features, fold_of)
        counts = np.bincount(members.argmax(axis=1), minlength=len(kept))
        if counts.min() >= FEWEST_IMAGES:
            slice_of = members.argmax(axis=1)
            rates = np.bincount(slice_of, right) / counts
            order = np.argsort(rates, kind="stable")
            mixture = whole.only([kept[place] for place in order])
            return Slices(mixture, members[:, order], right)
        del kept[int(counts.argmin())]
    return None


def _out_of_fold(
    without: Sequence[Mixture], features: suite.Array, fold_of: NDArray[np.intp]
) -> Floats:
    members = np.empty((len(features), len(without[0].weights)))
    for fold, mixture in enumerate(without):
        members[fold_of == fold] = mixture.members(features[fold_of == fold])
    return members


def _surprise(found: Slices, fold_of: NDArray[np.intp]) -> Floats:
    """How badly slices foretell which images are answered rightly, (n_images,), in nats.

    The rate of a slice comes from the other folds, with half an image of each kind added.
    """
    slice_of, right = found.slice_of, found.right
    surprise = np.empty(len(right))
    for fold in range(int(fold_of.max()) + 1):
        here, rest = fold_of == fold, fold_of != fold
        n_slices = found.members.shape[1]
        counts = np.bincount(slice_of[rest], minlength=n_slices)
        rates = (np.bincount(slice_of[rest], right[rest], n_slices) + 0.5) / (counts + 1)
        rate = rates[slice_of[here]]
        surprise[here] = -np.log(np.where(right[here], rate, 1 - rate))
    return surprise


def _hypergeometric_tail(least: int, n_all: int, n_marked: int, n_drawn: int) -> float:
    """The chance that a draw without replacement holds at least so many of the marked."""

    def log_binomial(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    most = min(n_marked, n_drawn)
    first = max(least, n_drawn - (n_all - n_marked))
    whole = log_binomial(n_all, n_drawn)
    terms = [
        math.exp(log_binomial(n_marked, k) + log_binomial(n_all - n_marked, n_drawn - k) - whole)
        for k in range(first, most + 1)
    ]
    return min(1.0, math.fsum(terms))
