"""Rows of a regression: which players were removed, on which images, and the outcomes.

A row is one coalition tried on one image or a few. Removals are kept as bits: a million coalitions
of 17,216 players take 2.2 GB, where 32-bit numbers would take 69. A product with the design matrix
X is taken block by block, each unpacked for a moment; X'X is never formed, which would take n^2
numbers and, per row, n^2 operations.

With many metrics most outcomes are zero: a row of one image says something about the recall of that
image's class and of no other. So only outcomes other than zero are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from repairkit.core import game, suite

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK_BYTES = 2**21
_COLUMN_BYTES = 2**27
_FEW = 5
_FEW_METRICS = 8


@dataclass(kw_only=True)
class RegressionRows:
    """One entry per round in each list.

    `bits` are packed removals (n_rows, ceil(n_players / 8)); `sizes` (n_rows,) how many were
    removed; `images` (n_rows, n_images_per_row). Rows of a size count by `weights`
    (n_players + 1,); all the same where it is empty.
    `counts` (n_players,) says in how many rows each player was removed.

    The design matrix X has a column per player: 1 if present, else 0, less the mean of that among
    coalitions of the row's size; so j/n - removed, for a row that lacks j of n players. Each row
    adds up to zero, and X is uncorrelated with all that depends on size or image alone.
    """

    counts: NDArray[np.int64]
    bits: list[NDArray[np.uint8]] = field(default_factory=list)
    sizes: list[NDArray[np.int64]] = field(default_factory=list)
    images: list[NDArray[np.int64]] = field(default_factory=list)
    weights: Floats = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def none(cls, n_players: int, weights: Floats | None = None) -> RegressionRows:
        rows = cls(counts=np.zeros(n_players, np.int64))
        return rows if weights is None else replace(rows, weights=weights)

    def __len__(self) -> int:
        return sum(map(len, self.sizes))

    @property
    def n_players(self) -> int:
        return len(self.counts)

    def add(self, asked: game.Round) -> None:
        """Take in a round whose rows have images of their own."""
        assert asked.images is not None
        removed: game.Coalitions = ~asked.coalitions
        self.counts += removed.sum(axis=0)
        self.bits.append(np.packbits(removed, axis=1))
        self.sizes.append(removed.sum(axis=1).astype(np.int64))
        self.images.append(asked.images.astype(np.int64))

    def joined(self) -> RegressionRows:
        """The same rows in one piece each."""
        return replace(
            self,
            bits=[np.concatenate(self.bits)],
            sizes=[self.all_sizes()],
            images=[self.all_images()],
        )

    def part(self, numbers: NDArray[np.intp]) -> RegressionRows:
        """Some rows, of those in one piece; their `counts` are those of all."""
        (bits,), (sizes,), (images,) = self.bits, self.sizes, self.images
        return replace(self, bits=[bits[numbers]], sizes=[sizes[numbers]], images=[images[numbers]])

    def on(
        self, positions: suite.Indices, n_images: int
    ) -> tuple[RegressionRows, NDArray[np.intp]]:
        """The rows of one image each whose image is among `positions`, and their numbers.

        Images are renumbered, in the order of `positions`.

        Args:
            positions: images that are kept, each once.
            n_images: of the whole pool.
        """
        places = np.full(n_images, -1, np.int64)
        places[positions] = np.arange(len(positions))
        image = places[self.all_images()[:, 0]] if len(self) else places[:0]
        numbers = np.flatnonzero(image >= 0)
        if not len(numbers):
            return RegressionRows.none(self.n_players, self.weights), numbers
        kept = self.joined().part(numbers)
        counts = kept.removed_times(np.ones((len(numbers), 1)))[:, 0].round().astype(np.int64)
        renumbered = [image[numbers, None]]
        return RegressionRows(
            counts=counts, bits=kept.bits, sizes=kept.sizes, images=renumbered, weights=self.weights
        ), numbers

    def all_sizes(self) -> NDArray[np.int64]:
        return np.concatenate(self.sizes)

    def all_images(self) -> NDArray[np.int64]:
        return np.concatenate(self.images)

    def all_weights(self) -> Floats | None:
        """How much each row counts, (n_rows,); None where all count the same."""
        return self.weights[self.all_sizes()] if len(self.weights) else None

    def spread(self) -> float:
        """The mean over players of their column's weighted sum of squares."""
        shares, weights = self.all_sizes() / self.n_players, self.all_weights()
        squares = shares * (1 - shares)
        return float(squares.sum() if weights is None else squares @ weights)

    def gram_times(self, vectors: Floats) -> Floats:
        """X'W X V for V (n_players, n_columns) whose columns add up to zero; so X V = -removed V.

        W are the rows' weights.
        """
        turned = np.ascontiguousarray(vectors.T, np.float32)
        total, weights = np.zeros(turned.shape), self.all_weights()
        for rows, removed in self._blocks():
            products = _times(turned, removed.T)
            if weights is not None:
                products *= weights[rows].astype(np.float32)
            total += _times(products, removed)
        return _centred(total.T)

    def times(self, vectors: Floats) -> Floats:
        """X V, (n_rows, n_columns), for V as above."""
        turned = np.ascontiguousarray(vectors.T, np.float32)
        parts = [-_times(turned, removed.T).T.astype(np.float64) for _, removed in self._blocks()]
        return np.concatenate(parts)

    def transposed_times(self, columns: Floats) -> Floats:
        """X'U, (n_players, n_columns), for U (n_rows, n_columns)."""
        return _centred(-self.removed_times(columns))

    def removed_times(self, columns: Floats) -> Floats:
        """The sum of U's rows over the coalitions that lack a player, (n_players, n_columns)."""
        turned = np.ascontiguousarray(columns.T, np.float32)
        total = np.zeros((len(turned), self.n_players))
        for rows, removed in self._blocks():
            total += _times(turned[:, rows], removed)
        return total.T

    def squares(self, residuals: Floats) -> Floats:
        """Sum over rows of (x e)^2 per player and metric, (n_players, n_metrics)."""
        weights = residuals**2
        shares = (self.all_sizes() / self.n_players)[:, None]
        # (j/n - removed)^2 = (j/n)^2 + removed (1 - 2 j/n).
        rest: Floats = (shares**2 * weights).sum(axis=0)
        return self.removed_times((1 - 2 * shares) * weights) + rest

    def _blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Rows and who was removed in them, as 32-bit floats that fit a cache."""
        step = max(16, _BLOCK_BYTES // (4 * self.n_players))
        start = 0
        for bits in self.bits:
            for first in range(0, len(bits), step):
                part = bits[first : first + step]
                block = np.unpackbits(part, axis=1, count=self.n_players).astype(np.float32)
                yield slice(start, start + len(part)), block
                start += len(part)


def squares_by_image(
    rows: RegressionRows,
    residuals: Floats,
    added: Callable[[slice], tuple[Ints, Floats]] | None = None,
) -> tuple[Floats, Floats]:
    """Sum over images of (sum of x e over the image's rows)^2, (n_players, n_metrics).

    Args:
        rows: of one image each, whose design X has the rows x.
        residuals: e, (n_rows, n_metrics).
        added: of some players, numbers that images have beside their rows, and which images:
            (n_images,), (n_images, n_players_asked, n_metrics).

    Returns:
        The squares, and the sums over images of the image's sum times its number beside.
    """
    images = rows.all_images()[:, 0]
    order = np.argsort(images, kind="stable")
    starts = np.flatnonzero(np.diff(images[order], prepend=-1))
    shares = (rows.all_sizes() / rows.n_players)[:, None]
    ordered = residuals[order].astype(np.float32)
    base = np.add.reduceat((shares * residuals)[order], starts, axis=0)
    ends = [*starts[1:].tolist(), len(order)]
    bounds = [slice(*pair) for pair in zip(starts.tolist(), ends, strict=True)]
    squares = np.zeros((rows.n_players, residuals.shape[1]))
    crosses = np.zeros_like(squares)
    step = max(1, _COLUMN_BYTES // (32 * max(len(order), residuals.size)))
    for first in range(0, rows.bits[0].shape[1], step):
        packed = np.concatenate([bits[:, first : first + step] for bits in rows.bits])[order]
        removed = np.unpackbits(packed, axis=1).astype(np.float32)
        players = slice(8 * first, min(8 * (first + step), rows.n_players))
        removed = removed[:, : players.stop - players.start]
        numbers = {} if added is None else _by_image(*added(players))
        for image, start, part in zip(images[order][starts].tolist(), base, bounds, strict=True):
            sums = start - removed[part].T @ ordered[part]
            squares[players] += sums**2
            if image in numbers:
                crosses[players] += sums * numbers[image]
    return squares, crosses


def _by_image(images: Ints, numbers: Floats) -> dict[int, Floats]:
    return dict(zip(images.tolist(), numbers, strict=True))


def _times(few: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The product of a few rows with a matrix; row by row, BLAS takes half the time."""
    one_by_one = len(few) <= _FEW
    product: NDArray[np.float32] = (
        np.stack([row @ matrix for row in few]) if one_by_one else few @ matrix
    )
    return product


def _centred(columns: Floats) -> Floats:
    centred: Floats = columns - columns.mean(axis=0)
    return centred


# Outcomes


def as_on_drawn_rows(pool: game.ImagePool, outcomes: game.Outcomes, row: int) -> Floats:
    """Outcomes of every image in a row that was tried on all, as a drawn row would give them.

    Shape (n_images, n_metrics). On a drawn row an image's score is larger the more rarely the image
    is drawn.
    """
    scores = outcomes.scores[row]
    if len(scores) != len(pool):  # one image stands for all, see `driving.playing`
        scores = outcomes.values[row, None]
    drawn = (pool.probabilities * len(pool))[:, None]
    by_image: Floats = np.zeros_like(scores)
    np.divide(scores, drawn, out=by_image, where=drawn > 0)
    return by_image


@dataclass
class OutcomeTable:
    """One entry per round in each list.

    Of few metrics, `numbers` are whole tables (n_rows, n_metrics) and `places` are empty; of many,
    `numbers` are those that are not zero, and `places` where they stand in the table of all rounds,
    counted row by row. 32 bits each.
    """

    n_metrics: int
    n_rows: int = 0
    numbers: list[NDArray[np.float32]] = field(default_factory=list)
    places: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, values: Floats) -> None:
        """A round's, (n_rows, n_metrics)."""
        kept = values.astype(np.float32)
        if self.n_metrics > _FEW_METRICS:
            flat = kept.ravel()
            places = np.flatnonzero(flat)
            self.places.append(places + self.n_rows * self.n_metrics)
            kept = flat[places]
        self.numbers.append(kept)
        self.n_rows += len(values)

    def part(self, rows: NDArray[np.intp], factors: Floats) -> OutcomeTable:
        """Some rows (rising), each number multiplied by its factor, (n_kept_rows, n_metrics)."""
        kept = OutcomeTable(self.n_metrics, len(rows))
        if not self.numbers:
            return kept
        numbers = np.concatenate(self.numbers)
        if not self.places:
            kept.numbers.append((numbers[rows] * factors).astype(np.float32))
            return kept
        at, metrics = np.divmod(np.concatenate(self.places), self.n_metrics)
        new = np.full(self.n_rows, -1, np.int64)
        new[rows] = np.arange(len(rows))
        there = new[at] >= 0
        at, metrics = new[at[there]], metrics[there]
        kept.numbers.append((numbers[there] * factors[at, metrics]).astype(np.float32))
        kept.places.append(at * self.n_metrics + metrics)
        return kept

    def columns(self) -> Columns:
        """Ready to be looked at metric by metric."""
        numbers = np.concatenate(self.numbers)
        if not self.places:
            return Columns(self.n_rows, numbers, None, None)
        rows, metrics = np.divmod(np.concatenate(self.places), self.n_metrics)
        order = np.argsort(metrics, kind="stable")
        starts = np.searchsorted(metrics[order], np.arange(self.n_metrics + 1))
        return Columns(self.n_rows, numbers[order], rows[order], starts)


@dataclass(frozen=True)
class Columns:
    """A table by metric: whole, or what is not zero of metric m in `starts[m]:starts[m + 1]`."""

    n_rows: int
    numbers: NDArray[np.float32]
    rows: NDArray[np.int64] | None
    starts: NDArray[np.int64] | None

    def of(self, metrics: NDArray[np.intp], rows: NDArray[np.intp] | None) -> Floats:
        """Outcomes of some metrics in some rows (rising; all if None), (n_rows, n_metrics)."""
        if self.rows is None or self.starts is None:
            chosen = self.numbers if rows is None else self.numbers[rows]
            return chosen[:, metrics].astype(np.float64)
        outcomes = np.zeros((self.n_rows if rows is None else len(rows), len(metrics)))
        for column, metric in enumerate(metrics.tolist()):
            part = slice(int(self.starts[metric]), int(self.starts[metric + 1]))
            at, numbers = self.rows[part], self.numbers[part]
            if rows is not None and len(rows):
                place = np.minimum(np.searchsorted(rows, at), len(rows) - 1)
                there = rows[place] == at
                at, numbers = place[there], numbers[there]
            if len(outcomes):
                outcomes[at, column] = numbers
        return outcomes


@dataclass(frozen=True)
class MetricShare:
    """Metrics that look at the same `images`: rows on others are zero for them and say nothing.

    `rows` and `images` are None where all count; `weight` is the probability that a row does, by
    which outcomes are multiplied to stay estimates of V.
    """

    metrics: NDArray[np.intp]
    rows: NDArray[np.intp] | None
    weight: float
    images: NDArray[np.intp] | None = None


def metric_shares(facts: game.GameFacts, rows: RegressionRows) -> Iterator[MetricShare]:
    """All metrics, the first metric's share first."""
    drawn = rows.all_images()
    images_of: tuple[NDArray[np.intp] | None, ...] = (None,) * facts.n_metrics
    if drawn.shape[1] == 1 and facts.images_of:
        images_of = facts.images_of
    together: dict[bytes, list[int]] = {}
    for metric, images in enumerate(images_of):
        together.setdefault(b"" if images is None else images.tobytes(), []).append(metric)
    for metrics in together.values():
        images = images_of[metrics[0]]
        if images is None:
            yield MetricShare(np.array(metrics), None, 1.0)
        else:
            yield MetricShare(
                np.array(metrics), *_of_images(facts.pool, images, drawn[:, 0]), images
            )


def _of_images(
    pool: game.ImagePool, images: NDArray[np.intp], drawn: NDArray[np.int64]
) -> tuple[NDArray[np.intp], float]:
    """The rows on these images, and how likely a row is to be one of them."""
    counted = np.zeros(len(pool), bool)
    counted[images] = True
    return np.flatnonzero(counted[drawn]), float(pool.probabilities[images].sum())
