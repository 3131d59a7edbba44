"""Ridge regression for every penalty at once, from a dozen products with X'X.

Lanczos' recurrence started at b = X'y gives an orthonormal Q and a small tridiagonal T = Q'X'XQ;
(X'X + penalty)^-1 b is then |b| Q (T + penalty)^-1 e_1 for every penalty. Started at random
signs z, the same T give traces: E z'f(X'X)z = trace f(X'X) (Golub & Meurant, "Matrices, Moments and
Quadrature", 2010). With random coalitions the design is nearly orthogonal, so a dozen steps are
enough. The penalty is chosen by generalised cross-validation over all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_PENALTIES = np.geomspace(1e-4, 1e4, 65)
_TINY = 1e-10
_ACCURATE = 1e-3
_FEW_STEPS = 3


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True)
class Traces:
    """Traces of functions of X'X, whose rank is `n`.

    `columns` of `spectrum` are those of random signs; with few players, of all unit vectors.
    """

    spectrum: Spectrum
    columns: slice
    n: int

    def degrees(self, penalty: float) -> float:
        return self.n * self.spectrum.mean_of(lambda v: v / (v + penalty), self.columns)

    def variance(self, penalty: float) -> float:
        """Mean variance of the solution per unit of the residuals', times n."""
        return self.n * self.spectrum.mean_of(lambda v: v / (v + penalty) ** 2, self.columns)


@dataclass(frozen=True, kw_only=True)
class PenaltyChoice:
    """A penalty and its effects.

    `degrees` of freedom; by how much to multiply the solution so that shrinkage is undone
    (`unshrunk`); the mean `variance` of its entries then; and the share of the variance that is
    explained, `r2`.
    """

    penalty: float
    degrees: float
    unshrunk: float
    variance: float
    r2: float


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
        if not rest.any() or _settled(diagonal[: step + 1], beside[:step]):
            break
        beside[step] = rest
        current = np.where(rest > 0, ahead / np.where(rest > 0, rest, 1.0), 0.0)
    n_done = step + 1
    return _decomposed(lengths, diagonal[:n_done], beside[:n_done], basis[:n_done])


def _settled(diagonal: Floats, beside: Floats) -> bool:
    """Whether the last step adds next to nothing to any solution, even without a penalty."""
    n_steps = len(diagonal)
    if n_steps < _FEW_STEPS:
        return False
    matrices = _tridiagonal(diagonal, beside)
    floor = 1e-6 * np.abs(diagonal).max() + np.finfo(float).tiny
    first = np.zeros((len(matrices), n_steps, 1))
    first[:, 0] = 1.0
    solutions = np.linalg.solve(matrices + floor * np.eye(n_steps), first)[:, :, 0]
    last = np.abs(solutions[:, -1])
    return bool((last <= _ACCURATE * np.linalg.norm(solutions, axis=1)).all())


def _tridiagonal(diagonal: Floats, beside: Floats) -> Floats:
    """Matrices (n_columns, n_steps, n_steps) with these (n_steps or one less, n_columns)."""
    n_steps, n_columns = diagonal.shape
    matrices = np.zeros((n_columns, n_steps, n_steps))
    steps = np.arange(n_steps)
    matrices[:, steps, steps] = diagonal.T
    matrices[:, steps[1:], steps[:-1]] = matrices[:, steps[:-1], steps[1:]] = beside.T
    return matrices


def _decomposed(lengths: Floats, diagonal: Floats, beside: Floats, basis: Floats) -> Spectrum:
    values, vectors = np.linalg.eigh(_tridiagonal(diagonal, beside[:-1]))
    return Spectrum(
        lengths=lengths,
        values=np.maximum(values, 0.0),
        weights=vectors[:, 0] ** 2,
        vectors=vectors,
        basis=basis,
    )


def choose_penalty(
    spectrum: Spectrum, column: int, traces: Traces, total: float, n_rows: int, spread: float
) -> PenaltyChoice:
    """The penalty of the least generalised cross-validation error (Golub, Heath & Wahba 1979)."""
    penalties = _PENALTIES * spread
    squares = np.maximum(total - spectrum.explained(column, penalties), 0.0)
    degrees = np.array([traces.degrees(penalty) for penalty in penalties])
    free = n_rows - degrees
    errors = np.where(free > 0.02 * n_rows, n_rows * squares / np.maximum(free, 1.0) ** 2, np.inf)
    # Of equal ones the greatest penalty.
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    penalty, lost = float(penalties[best]), traces.n / degrees[best]
    noise = squares[best] / free[best]
    variance = noise * lost**2 * traces.variance(penalty) / traces.n
    r2 = 1 - errors[best] * n_rows / total if total > 0 else 0.0
    return PenaltyChoice(
        penalty=penalty,
        degrees=float(degrees[best]),
        unshrunk=float(lost),
        variance=float(variance),
        r2=float(max(r2, 0.0)),
    )
