"""Ridge regression for every penalty at once, from a dozen products with X'X.

Lanczos' recurrence started at b = X'y gives an orthonormal Q and a small tridiagonal T = Q'X'XQ;
(X'X + penalty)^-1 b is then |b| Q (T + penalty)^-1 e_1 for whatever penalty. Started at random
signs z, the same T give traces: E z'f(X'X)z = trace f(X'X) (Golub & Meurant, "Matrices, Moments and
Quadrature", 2010). The design is nearly orthogonal where coalitions are random, so that a dozen
steps do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TINY = 1e-10


@dataclass(frozen=True)
class Spectrum:
    """X'X as its columns b (n_columns) see it.

    `lengths` (n_columns,) are |b|; `values` (n_columns, n_steps) the eigenvalues of T, `weights`
    of the same shape the squares of the first components of its eigenvectors, `vectors`
    (n_columns, n_steps, n_steps) these; `basis` is Q, (n_steps, n_players, n_columns).
    """

    lengths: Floats
    values: Floats
    weights: Floats
    vectors: Floats
    basis: Floats

    def solve(self, column: int, penalty: float) -> Floats:
        """(X'X + penalty)^-1 b, (n_players,)."""
        vectors = self.vectors[column]
        small = vectors @ (vectors[0] / (self.values[column] + penalty))
        solution: Floats = self.lengths[column] * (small @ self.basis[:, :, column])
        return solution

    def explained(self, column: int, penalties: Floats) -> Floats:
        """By how much the fit lowers the sum of squares, (n_penalties,)."""
        values, weights = self.values[column][None], self.weights[column][None]
        shrunk = values + penalties[:, None]
        gains = weights * (2 / shrunk - values / shrunk**2)
        lowered: Floats = self.lengths[column] ** 2 * gains.sum(axis=1)
        return lowered

    def mean_of(self, function: Callable[[Floats], Floats], columns: slice) -> float:
        """Mean over the columns of b'f(X'X)b / b'b."""
        return float((self.weights[columns] * function(self.values[columns])).sum(axis=1).mean())


def lanczos(multiply: Callable[[Floats], Floats], columns: Floats, n_steps: int) -> Spectrum:
    """Run the recurrence on every column of b, (n_players, n_columns), with full orthogonalisation.

    Args:
        multiply: X'X times a matrix of that shape.
        columns: b; each must add up to zero.
        n_steps: the most steps; a column that is exhausted earlier goes on with zeros.
    """
    lengths = np.linalg.norm(columns, axis=0)
    n_columns = len(lengths)
    basis = np.zeros((n_steps, *columns.shape))
    diagonal, beside = np.zeros((n_steps, n_columns)), np.zeros((n_steps, n_columns))
    current = columns / np.where(lengths > 0, lengths, 1.0)
    for step in range(n_steps):
        basis[step] = current
        ahead = multiply(current)
        diagonal[step] = (current * ahead).sum(axis=0)
        size = np.linalg.norm(ahead, axis=0)
        for _ in range(2):
            shadows = np.einsum("snc,nc->sc", basis[: step + 1], ahead)
            ahead = ahead - np.einsum("snc,sc->nc", basis[: step + 1], shadows)
        rest = np.linalg.norm(ahead, axis=0)
        rest[rest <= _TINY + 1e-6 * size] = 0.0  # the products are of 32 bits
        if not rest.any():
            break
        beside[step] = rest
        current = np.where(rest > 0, ahead / np.where(rest > 0, rest, 1.0), 0.0)
    return _decomposed(lengths, diagonal, beside, basis)


def _decomposed(lengths: Floats, diagonal: Floats, beside: Floats, basis: Floats) -> Spectrum:
    n_steps, n_columns = diagonal.shape
    matrices = np.zeros((n_columns, n_steps, n_steps))
    steps = np.arange(n_steps)
    matrices[:, steps, steps] = diagonal.T
    matrices[:, steps[1:], steps[:-1]] = matrices[:, steps[:-1], steps[1:]] = beside[:-1].T
    values, vectors = np.linalg.eigh(matrices)
    return Spectrum(lengths, np.maximum(values, 0.0), vectors[:, 0] ** 2, vectors, basis)
