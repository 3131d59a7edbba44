"""The one narrow door between statistics and speed: rounds in, outcomes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Coalitions = NDArray[np.bool_]
"""Shape (n_coalitions, n_players); true where the filter computes as trained."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ImagePool:
    """The images of a game, and how often each is drawn into a batch.

    `probabilities` (n_images,) add up to one; images of one `stratum` are drawn in proportion,
    so that a batch holds its share of every group.
    """

    probabilities: NDArray[np.float64]
    strata: NDArray[np.int64]

    @classmethod
    def uniform(cls, n_images: int) -> ImagePool:
        return cls(np.full(n_images, 1.0 / n_images), np.zeros(n_images, np.int64))

    def __len__(self) -> int:
        return len(self.probabilities)

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.intp]:
        """Systematic sampling: image i is drawn size * p_i times on average, strata evenly."""
        order = np.lexsort((rng.random(len(self)), self.strata))
        cumulative = np.cumsum(self.probabilities[order])
        points = (rng.random() + np.arange(size)) / size * cumulative[-1]
        picks = np.searchsorted(cumulative, points, side="right")
        drawn: NDArray[np.intp] = order[np.minimum(picks, len(self) - 1)]
        return drawn

    def restricted_to(self, images: NDArray[np.intp]) -> ImagePool:
        """The pool from which no other images are drawn."""
        probabilities = np.zeros(len(self))
        probabilities[images] = self.probabilities[images]
        return ImagePool(probabilities / probabilities.sum(), self.strata)


@dataclass(frozen=True, kw_only=True)
class GameFacts:
    """All that an estimator may know of a game.

    `score_widths` (n_metrics,) are the widths of the range of one value of each metric, infinite
    where not known. `guard` is the column of the metric on which walks are truncated. `images_of`
    (n_metrics,) says on which images of the pool a metric's scores can differ from zero; None, or
    no entry, for all. `of_sets` is true where some metric judges images together: it is no mean
    over images, so its value needs all of them (see `estimators/driving/playing.py`).
    `auxiliaries` (n_metrics,) is the column of each metric's auxiliary one, -1 where it has none,
    and empty where none has: values of the one tell of values of the other.
    """

    n_players: int
    metrics: tuple[str, ...]
    score_widths: tuple[float, ...]
    pool: ImagePool
    guard: int = 0
    images_of: tuple[NDArray[np.intp] | None, ...] = ()
    of_sets: bool = False
    auxiliaries: tuple[int, ...] = ()

    @property
    def n_metrics(self) -> int:
        return len(self.metrics)


@dataclass(frozen=True, kw_only=True)
class SomeImages:
    """Some images of a game, which then count as if the game had held no others.

    Attributes:
        facts: of the game that holds only these images, in the order of `positions`.
        positions: of the images in the pool of the whole game, (n_kept,).
        ratios: weight of an image among these over its weight among all, (n_kept, n_metrics).
        share: how likely one draw from the whole pool is one of these images.
        n_all: images of the whole game.
    """

    facts: GameFacts
    positions: NDArray[np.intp]
    ratios: NDArray[np.float64]
    share: float
    n_all: int

    @property
    def drawn(self) -> NDArray[np.float64]:
        """What the score of an image on a drawn row is multiplied by, (n_kept, n_metrics)."""
        return self.ratios * self.share

    @property
    def undrawn(self) -> NDArray[np.float64]:
        """The same on a row that holds every image."""
        return self.ratios * len(self.positions) / self.n_all


@dataclass(frozen=True)
class Round:
    """Coalitions to try, and for each row the images to try it on.

    `images` has shape (n_rows, n_images_per_row), drawn with the pool's probabilities; None asks
    for every image of the suite, once, in every row. Each row counts as `charged` evaluations, more
    than one where a budget of small rows also pays for rows of many images.
    """

    coalitions: Coalitions
    images: NDArray[np.intp] | None = None
    charged: int = 1

    def __post_init__(self) -> None:
        assert self.coalitions.ndim == 2
        assert self.images is None or len(self.images) == len(self.coalitions)

    def __len__(self) -> int:
        return len(self.coalitions)

    @property
    def evaluations(self) -> int:
        """What the round counts for in a budget."""
        return len(self) * self.charged

    @classmethod
    def nothing(cls, n_players: int) -> Round:
        """What a run asks when there is nothing more to learn."""
        return cls(np.zeros((0, n_players), bool))


@dataclass(frozen=True)
class Outcomes:
    """A score per row, image and metric, scaled so that a row's mean over images estimates V.

    The mean *is* V where a row holds every image. A metric that is no mean over images fills a
    row with the figure of the row's images together. `asked` is the round that they answer, where
    it is available: drawing it again takes time.
    """

    scores: NDArray[np.float64]
    asked: Round | None = None

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """Shape (n_rows, n_metrics)."""
        values: NDArray[np.float64] = self.scores.mean(axis=1)
        return values


class Game(Protocol):
    """A deterministic answer to every round."""

    @property
    def facts(self) -> GameFacts: ...

    def play(self, round: Round) -> Outcomes: ...


class Executor(Protocol):
    """Maps a function over items, maybe in parallel; keeps order, so workers change no result."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]: ...
