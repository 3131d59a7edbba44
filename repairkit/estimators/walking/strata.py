"""What stars say of each player: a stratum of which all was played, and a sample of another.

A sample is the mean over a star's images. The stars of the pilot are the first stratum, and all
others the second; what a stratum weighs is fixed before anything is played.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.estimators import samples

Floats = NDArray[np.float64]

_PRIOR = 8.0  # stars that a player's variance by image counts as, where coalitions differ


@dataclass(kw_only=True)
class Strata:
    """Moments of both strata.

    Attributes:
        of_pilot: of the first.
        of_others: of the second.
        within: squared deviations of the images of a star from their mean, added up over the stars
            of a player, (n_players, n_metrics).
        degrees: their degrees of freedom, (n_players,).
        share: of all stars, those of the pilot.
        per_star: images of a star, on average.
        alike: whether all stars have one coalition.
    """

    of_pilot: samples.Moments
    of_others: samples.Moments
    within: Floats
    degrees: Floats
    share: float
    per_star: float
    alike: bool

    @classmethod
    def empty(cls, shape: tuple[int, int], *, share: float, per_star: float, alike: bool) -> Strata:
        """Before any star, of (n_players, n_metrics)."""
        return cls(
            of_pilot=samples.Moments.empty(*shape),
            of_others=samples.Moments.empty(*shape),
            within=np.zeros(shape),
            degrees=np.zeros(shape[0]),
            share=share,
            per_star=per_star,
            alike=alike,
        )

    def add_images(self, players: NDArray[np.int64], differences: Floats) -> None:
        """Take in the images of a star, (n_sampled, n_images, n_metrics)."""
        n_images = differences.shape[1]
        self.within[players] += differences.var(axis=1) * n_images
        self.degrees[players] += n_images - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """Stars of each player, (n_players,)."""
        return self.of_pilot.counts + self.of_others.counts

    def means(self) -> Floats:
        """The values, (n_players, n_metrics)."""
        first, second = self._weights()
        return first * self.of_pilot.means + second * self.of_others.means

    def errors(self) -> Floats:
        """Their standard errors, (n_players, n_metrics); infinite below two stars."""
        first, second = self._weights()
        share = first**2 / np.maximum(self.of_pilot.counts, 1)[:, None]
        share += second**2 / np.maximum(self.of_others.counts, 1)[:, None]
        spread: Floats = np.sqrt(self.variances() * share)
        return np.where(self.counts[:, None] > 1, spread, np.inf)

    def variances(self) -> Floats:
        """Of one sample, (n_players, n_metrics).

        Where stars differ by their images alone, the variance between images tells it. Where their
        coalitions differ too, the variance between the images of a star, times a factor common to
        all players, is what the few stars of a player are drawn towards.
        """
        both = samples.merge(self.of_pilot, self.of_others)
        pooled = self.within.sum(axis=0) / max(float(self.degrees.sum()), 1.0)
        if self.per_star <= 1 or not pooled.any():
            return samples.pooled_variances(both)
        stars = np.maximum(both.counts - 1, 0)[:, None]
        # One degree of freedom of the mean player's: some effects are too rare to be seen.
        squares, degrees = self.within + pooled, (self.degrees + 1)[:, None]
        if self.alike:
            of_images: Floats = (squares + self.per_star * both.squares) / (degrees + stars)
            return of_images / self.per_star
        alone = squares / degrees / self.per_star
        total = max(float(stars.sum()), 1.0)
        between, expected = both.squares.sum(axis=0) / total, (stars * alone).sum(axis=0) / total
        factor = np.divide(between, expected, out=np.ones_like(between), where=expected > 0)
        variances: Floats = (both.squares + _PRIOR * factor * alone) / (stars + _PRIOR)
        return variances

    def quantiles(self, confidence: float) -> Floats:
        """Student's, by the degrees of freedom of each player, (n_players,)."""
        degrees = self.counts - 1 + (self.degrees if self.alike else _PRIOR / 2)
        whole = np.maximum(degrees, 1).astype(np.int64).tolist()
        return np.array([samples.student_quantile(confidence, d) for d in whole])

    def _weights(self) -> tuple[Floats, Floats]:
        """Of the strata, (n_players, 1) each; the pilot has all where there is nothing else."""
        first = np.where(self.of_others.counts > 0, self.share, 1.0)[:, None]
        return first, 1 - first
