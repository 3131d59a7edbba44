"""Which coalitions a regression draws: how many players to remove, which ones, and how many rows.

A pilot tries a dozen sizes and finds how many removals V survives. Rounds of rows follow, whose
sizes are drawn by a law up to that number. `Split` says how much of a budget goes into a table of
single removals, and how much into rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, game
from repairkit.core.scores import ErrorsOver
from repairkit.estimators.questions import Side, unknown

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Law = Literal["pooled", "balanced", "falling", "shapley", "even"]
"""How often rows lack j players.

`balanced`: all sizes up to the collapse as often, and rows weighted back so that each size counts
the same; values are those of Shapley without the sizes beyond the collapse. `pooled`: the same, and
some rows beyond it on trial; where these tell of players, values are sums over all sizes (see
`all_sizes`). `falling`, with probability 1/sqrt(j), and `even`: both without weights, so that sizes
count by j (n - j) too. `shapley`: with Shapley's own weights up to all players, unbiased and, for
many players, noisier.
"""

AnyLaw = Law | Literal["semivalue"]

BALANCED: tuple[AnyLaw, ...] = ("pooled", "balanced", "semivalue")
"""Laws whose rows get weights, so that every size counts the same."""

LAWS: tuple[Law, ...] = get_args(Law)
MEASURED = 12
LEAST_ROUND = 256
_SURE = 3.0  # standard errors: a dozen sizes are looked at, alone and with their neighbours
_LEAST_IMAGES, _MOST_IMAGES = 12, 128
_SHARE_OF_TABLE, _MOST_OF_TABLE = 0.02, 0.15
_LEAST_ROWS, _MOST_ROWS = 128, 512
_SHARE_OF_ROWS = 1 / 40
_WORTH = 0.9  # of the variance without a table: above this share a table is not worth its cost
_CHOICES = 64
MOST_BYTES = 2**28
"""Of a table; 256 MiB."""


@dataclass(frozen=True, kw_only=True)
class RegressionPlan:
    """Settings of a regression in one game.

    `most` is 0 where the pilot is to find it; the law, where it is not `settled`, may then become
    Shapley's. `scaled` values are a sum over all sizes, as Shapley's are; others are a mean over
    the sizes drawn.
    """

    stored_as: ClassVar[str] = "Plan"

    law: AnyLaw
    settled: bool
    least: int
    most: int
    lost: float
    images_per_coalition: int
    errors_over: ErrorsOver
    round_rows: int
    pilot_rows: int
    top_k: int
    side: Side
    scaled: bool


@dataclass(frozen=True)
class Level:
    """V of one coalition, and the standard deviation that a drawn row's outcome has around it."""

    value: float
    spread: float

    @classmethod
    def of(cls, pool: game.ImagePool, by_image: Floats, images_per_row: int) -> Level:
        """From the outcomes of all images, (n_images,), as drawn rows would give them."""
        value = float(pool.probabilities @ by_image)
        variance = float(pool.probabilities @ (by_image - value) ** 2)
        return cls(value, (variance / images_per_row) ** 0.5)


def check_errors_over(
    errors_over: str, images_per_coalition: int, law: AnyLaw | None = None
) -> None:
    """Raise SettingsError for settings that contradict one another."""
    if errors_over not in get_args(ErrorsOver):
        raise unknown("errors_over", str(errors_over), get_args(ErrorsOver))
    if errors_over == "images" and images_per_coalition != 1:
        raise errors.SettingsError(
            f"errors over images need one image per coalition and {images_per_coalition} are "
            "asked for; set errors_over to rows"
        )
    if errors_over == "images" and law == "pooled":
        raise errors.SettingsError(
            "errors over images need sizes of one class and pooled ones are asked for; set sizes "
            "to balanced, or errors_over to rows"
        )


def read_pilot(
    plan: RegressionPlan, values: Floats, *, full: float, none: Level, n_players: int
) -> tuple[AnyLaw, int]:
    """The law of sizes and the largest size, from the values of a pilot's rows, (n_rows,)."""
    sizes = pilot_sizes(n_players, len(values))
    if not plan.settled and falls_below(sizes, values, none):
        return "shapley", n_players - 1
    most = find_collapse(
        sizes, values, full=full, empty=none.value, lost=plan.lost, n_players=n_players
    )
    return plan.law, most


def probabilities(law: AnyLaw, least: int, most: int, n_players: int) -> Floats:
    """Of removing j = least ... most players.

    `falling` is 1/sqrt(j); `even` the same for all; `shapley` 1/(j (n - j)), the weights of the
    regression whose solution is Shapley's values (Charnes et al. 1988; Lundberg & Lee 2017).
    """
    sizes = np.arange(least, most + 1, dtype=np.float64)
    if law == "falling":
        weights = sizes**-0.5
    elif law == "even":
        weights = np.ones(len(sizes))
    else:
        weights = 1 / (sizes * (n_players - sizes))
    shares: Floats = weights / weights.sum()
    return shares


def semivalue_sizes(least: int, most: int, n_players: int, tilt: float) -> tuple[Floats, Floats]:
    """How often to draw each size for a semivalue over even sizes, and how much its rows count.

    Let s_j be the mean of V with a player less that without, among coalitions that lack j players,
    and f(j) the mean of V over all of these. The mean over j = a ... b of V(S + i) - V(S), where S
    lacks j players and S + i one less, is (f(a - 1) - f(b)) / (b - a + 1) and, beside it, a mean of
    the s_j with weights m: (a - 1) / n at a - 1, 1 at a ... b - 1 and 1 - b / n at b. A regression
    by itself weighs a row by j (n - j). So sizes may be drawn by any law, and their rows get
    weights that make up for it. What a row says of a player grows with j. Where its variance grows
    with j too, sizes are best drawn by m, and where it grows with the square of j, by m sqrt(j).

    Args:
        least: a, at least 1.
        most: b, at most n - 1.
        n_players: n.
        tilt: sizes are drawn in proportion to m times this power of j.

    Returns:
        Probabilities of the sizes 0 ... n, and weights of their rows, whose mean is one.
    """
    sizes = np.arange(n_players + 1, dtype=np.float64)
    wanted = ((sizes >= least) & (sizes < most)).astype(np.float64)
    wanted[most] = 1 - most / n_players
    if least > 1:
        wanted[least - 1] = (least - 1) / n_players
    drawn = wanted * np.maximum(sizes, 1) ** tilt
    drawn /= drawn.sum()
    inner = np.maximum(sizes * (n_players - sizes), 1)
    weights = np.divide(wanted / inner, drawn, out=np.zeros_like(drawn), where=drawn > 0)
    return drawn, weights / (drawn @ weights)


def draw_sizes(rng: np.random.Generator, shares: Floats, least: int, n_rows: int) -> Ints:
    """Sizes in proportion to their probabilities (systematic sampling), in random order."""
    points = (rng.random() + np.arange(n_rows)) / n_rows * shares.sum()
    picks = np.searchsorted(np.cumsum(shares), points, side="right")
    sizes = least + np.minimum(picks, len(shares) - 1)
    return rng.permutation(sizes).astype(np.int64)


def remove_at_random(rng: np.random.Generator, sizes: Ints, n_players: int) -> game.Coalitions:
    """Coalitions that lack as many players as `sizes` says, each set of that size as likely.

    Players are dealt from shuffled decks, so that all are removed about equally often. The rest of
    a deck that is too small for the next row is not used. That depends on sizes alone, so each
    coalition by itself is as likely as any of its size.
    """
    coalitions = np.ones((len(sizes), n_players), bool)
    deck, dealt = rng.permutation(n_players), 0
    for row, size in zip(coalitions, sizes.tolist(), strict=True):
        if dealt + size > n_players:
            deck, dealt = rng.permutation(n_players), 0
        row[deck[dealt : dealt + size]] = False  # row by row, which stays in the cache
        dealt += size
    return coalitions


def pilot_sizes(n_players: int, n_rows: int) -> Ints:
    """A dozen sizes, evenly spaced on a logarithmic scale, over all rows in turn."""
    most = max(n_players - 1, 1)
    grid = np.unique(np.geomspace(1, most, min(MEASURED, most)).round().astype(np.int64))
    return np.resize(grid, n_rows)


def find_collapse(
    sizes: Ints, values: Floats, *, full: float, empty: float, lost: float, n_players: int
) -> int:
    """The number of removals at which V has lost the share `lost` of V(all) - V(none).

    Args:
        sizes: of the pilot's rows, (n_rows,).
        values: their outcomes, (n_rows,).
        full: V(all).
        empty: V(none).
        lost: in (0, 1].
        n_players: at least 2.

    Returns:
        1 to n - 1, interpolated between the pilot's sizes on a logarithmic scale; n - 1 where V
        never falls so low, or does not fall at all.
    """
    if full <= empty:
        return n_players - 1
    grid = np.unique(sizes)
    means = np.array([values[sizes == size].mean() for size in grid])
    curve = np.concatenate([[full], _falling(means, np.array([(sizes == s).sum() for s in grid]))])
    scale = np.concatenate([[0.0], np.log(grid + 1)])
    floor = full - lost * (full - empty)
    below = np.flatnonzero(curve <= floor)
    if not len(below) or below[0] == 0:
        return n_players - 1
    after = int(below[0])
    step = (curve[after - 1] - floor) / (curve[after - 1] - curve[after])
    size = np.exp(scale[after - 1] + step * (scale[after] - scale[after - 1])) - 1
    return int(np.clip(round(float(size)), 1, n_players - 1))


def falls_below(sizes: Ints, values: Floats, none: Level) -> bool:
    """Whether V is surely less than with no player present, at some neighbours among the sizes.

    That happens where the empty network does well by chance, for instance by always giving the
    commonest class. The last removals then win back what the others lost, so that a value that
    leaves them out is a different one.

    Rows are few, and where few outcomes are other than zero they may show no spread at all. So
    their errors are at least those that as many rows without any player would have; and sizes
    beside one another are looked at together, too.

    Args:
        sizes: of the pilot's rows, (n_rows,).
        values: their outcomes, (n_rows,).
        none: V(none).
    """
    grid, place = np.unique(sizes, return_inverse=True)
    above = values - none.value
    by_size = [np.bincount(place, x, len(grid)) for x in (np.ones(len(above)), above, above**2)]
    before = np.concatenate([np.zeros((3, 1)), np.cumsum(by_size, axis=1)], axis=1)
    first, last = np.triu_indices(len(grid) + 1, 1)
    counts, sums, squares = before[:, last] - before[:, first]
    means = sums / counts
    own = np.maximum(squares / counts - means**2, 0.0) * counts / np.maximum(counts - 1, 1)
    errors = np.maximum(np.sqrt(own), max(none.spread, np.finfo(float).eps)) / np.sqrt(counts)
    return bool(((counts > 1) & (means < -_SURE * errors)).any())


def _falling(means: Floats, counts: Ints) -> Floats:
    """The nearest sequence that never rises (pool adjacent violators)."""
    blocks: list[tuple[float, int, int]] = []
    for mean, count in zip(means.tolist(), counts.tolist(), strict=True):
        block = (mean, count, 1)
        while blocks and blocks[-1][0] < block[0]:
            other = blocks.pop()
            total = other[1] + block[1]
            pooled = (other[0] * other[1] + block[0] * block[1]) / total
            block = (pooled, total, other[2] + block[2])
        blocks.append(block)
    return np.concatenate([np.full(length, mean) for mean, _, length in blocks])


@dataclass(frozen=True, kw_only=True)
class Split:
    """A game and a budget.

    Attributes:
        n_players: of the game.
        n_images: of the game.
        n_metrics: of the game.
        rows: what may be spent, in rows.
        entry_cost: of an image with one player removed, in rows.
    """

    n_players: int
    n_images: int
    n_metrics: int
    rows: int
    entry_cost: float

    @property
    def image_cost(self) -> float:
        """Of an image's part of the table, in rows."""
        return self.entry_cost * (self.n_players + 1)

    @property
    def most_images(self) -> int:
        """Images whose part of the table fits the memory."""
        return min(self.n_images, MOST_BYTES // (4 * self.n_players * self.n_metrics))

    @property
    def pilot_images(self) -> int:
        """Images of the pilot; 0 where it would cost too much to ask."""
        least = min(_LEAST_IMAGES, self.n_images)
        if least * self.image_cost > _MOST_OF_TABLE * self.rows or least > self.most_images:
            return 0
        wanted = int(_SHARE_OF_TABLE * self.rows / self.image_cost)
        return min(max(wanted, least), _MOST_IMAGES, self.most_images)

    @property
    def pilot_rows(self) -> int:
        """Rows of the pilot."""
        return int(np.clip(_SHARE_OF_ROWS * self.rows, _LEAST_ROWS, _MOST_ROWS))

    def images_of_table(self, explained: float) -> int:
        """How many images the table is to have, those of the pilot included; 0 for no table.

        Args:
            explained: R2 of the pilot's rows, in [0, 1].
        """
        known = self.pilot_images
        left = self.rows - self.pilot_rows - known * self.image_cost
        if left <= 0 or known == 0:
            return 0
        choices = np.unique(
            np.geomspace(known, self.most_images, _CHOICES).round().astype(np.int64)
        )
        rows = left - (choices - known) * self.image_cost
        choices, rows = choices[rows >= _LEAST_ROWS], rows[rows >= _LEAST_ROWS]
        if not len(choices):
            return 0
        by_rows = (1 - explained) * self.n_players / rows
        by_images = explained * (1 / choices - 1 / self.n_images)
        best = int(np.argmin(by_rows + by_images))
        without = self.n_players / left
        worth = (by_rows + by_images)[best] < _WORTH * without
        return int(choices[best]) if worth else 0
