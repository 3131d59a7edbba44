"""Coalitions as estimators ask for them."""

from __future__ import annotations

import numpy as np

from repairkit.core.game import Coalitions

_PRESENT = 0.9  # V collapses where more is gone, so that estimators look at little else
_PRESENT_IN_STAR = 0.95


def random_rows(rng: np.random.Generator, n_rows: int, n_players: int) -> Coalitions:
    """Rows that share nothing."""
    rows: Coalitions = rng.random((n_rows, n_players)) < _PRESENT
    return rows


def walk_rows(rng: np.random.Generator, n_rows: int, n_players: int) -> Coalitions:
    """Each row lacks one filter of the row before."""
    rows = np.ones((n_rows, n_players), bool)
    for row, player in enumerate(rng.permutation(n_players)[: n_rows - 1].tolist(), 1):
        rows[row:, player] = False
    return rows


def star_rows(rng: np.random.Generator, n_rows: int, n_players: int) -> Coalitions:
    """A base, and one filter less each."""
    base = rng.random(n_players) < _PRESENT_IN_STAR
    leaving = rng.choice(np.flatnonzero(base), n_rows - 1, replace=n_rows > base.sum())
    rows = np.repeat(base[None], n_rows, axis=0)
    rows[1 + np.arange(n_rows - 1), leaving] = False
    return rows
