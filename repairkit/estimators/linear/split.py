"""How much of a budget goes into a table of single removals, and how much into rows.

With variances in units of a row's, n players, N images, R2 the share of a row's variance that the
table explains and B rows in all, a value's variance is proportional to n / B without a table. With
one of k images, on which all rows are then drawn, it is

    (1 - R2) n / r + R2 (1 / k - 1 / N),    r = B - cost n k rows:

what the table leaves, and that the table is about a sample of the images. So the table is whole,
partial or none by one rule. A pilot measures R2 on a few images, whose entries are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LEAST_IMAGES, _MOST_IMAGES = 12, 128
_SHARE_OF_TABLE, _MOST_OF_TABLE = 0.02, 0.15
_LEAST_ROWS, _MOST_ROWS = 128, 512
_SHARE_OF_ROWS = 1 / 40
_WORTH = 0.9  # of the variance without a table, above which it is not worth its while
_CHOICES = 64
MOST_BYTES = 2**28
"""Of a table; 256 MiB."""


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
