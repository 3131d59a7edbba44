"""How well could any linear unbiased estimate know a top 20, at the same number of image passes?

    python benchmarks/floor.py [interacting-300 ...] [--evaluations 1000] [--walks 20000]

On simulated games (games.py), and on the trained networks (trained.py). A run of `regression` tells
up to which size J it draws coalitions, and by what its values are off. On a network, where much is
done behind J, all sizes count from there on. Then more and more is given away that no run knows:

images    each image's mean outcome at each size, so that nothing of it is left as noise;
filters   what the linear effects of all other filters do to a row, too;
rows      how much outcomes vary at each size and on each image, so that rows are drawn where they
          vary (in proportion to the spread over the root of j (n - j)), and weighted back;
times 16  sixteen times the rows of that.

Each leaves a variance of values. Values that are off by that much are drawn around the truth and
judged: precision of the 20 highest and lowest, what the chosen 20 are worth over what the best are
worth, and the rank correlation. The truth is a long run, and is taken for exact here. What is left
out of these floors: the bias of the sizes beyond J, which comes on top, and estimates that are not
linear or not unbiased.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import trained
from benchmarks.games import SimulatedGame, truth
from benchmarks.ranking import TOP, judge
from repairkit.core.game import Game, Round
from repairkit.core.scores import Budget
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.linear import drawing
from repairkit.estimators.linear.regression import Regression

Floats = NDArray[np.float64]

_IMAGES_PER_EVALUATION = 128
_BINS, _BLOCK, _DRAWS = 12, 16_384, 300
_MORE = 16


@dataclass(frozen=True)
class Cells:
    """The variance of outcomes, (n_images, n_bins) of sizes, and sizes amid bins as shares of n."""

    variances: Floats
    places: Floats

    @classmethod
    def measure(cls, game: Game, most: int, n_rows: int) -> Cells:
        """By rows with even sizes up to `most`."""
        rng, n, n_images = np.random.default_rng(0), game.facts.n_players, len(game.facts.pool)
        sums, counts = np.zeros((2, n_images, _BINS))
        for _ in range(-(-n_rows // _BLOCK)):
            sizes = rng.integers(1, most + 1, _BLOCK)
            images = rng.integers(0, n_images, _BLOCK)
            lacking = drawing.remove_at_random(rng, sizes, n)
            outcomes = game.play(Round(lacking, images[:, None])).values[:, 0]
            cell = images, (sizes - 1) * _BINS // most
            np.add.at(sums, cell, outcomes)
            np.add.at(counts, cell, 1.0)
        means = sums / counts
        edges = np.linspace(0.5, most + 0.5, _BINS + 1)
        return cls(means * (1 - means) * counts / (counts - 1), (edges[1:] + edges[:-1]) / 2 / n)

    def even(self) -> float:
        """The variance of a filter's mean effect from one row, sizes and images drawn evenly."""
        return float((self.variances / self._inner).mean())

    def best(self) -> float:
        """The same where rows are drawn as is best."""
        return float(np.sqrt(self.variances / self._inner).mean()) ** 2

    @property
    def _inner(self) -> Floats:
        return self.places * (1 - self.places)


def judged(true: Floats, error: Floats | float) -> str:
    """Means over draws of values that are off by so much."""
    rng, rows = np.random.default_rng(1), []
    for _ in range(_DRAWS):
        values = true + error * rng.standard_normal(len(true))
        rows.append((*judge(values, true)[:3], worth(values, true), worth(-values, -true)))
    top, bottom, ranks, high, low = np.mean(rows, axis=0)
    return f"{top:.2f} / {bottom:.2f} | {high:.3f} / {low:.3f} | {ranks:.3f}"


def worth(values: Floats, true: Floats) -> float:
    """What the chosen highest are worth over what the truly highest are."""
    chosen = np.argsort(-values, kind="stable")[:TOP]
    return float(true[chosen].sum() / np.sort(true)[-TOP:].sum())


def reach(game: Game, most: int) -> float:
    """What a mean effect up to `most` removals is multiplied by for a value: see `Regression`."""
    n, rng = game.facts.n_players, np.random.default_rng(2)
    ends = game.play(Round(np.stack([np.ones(n, bool), np.zeros(n, bool)]))).values[:, 0]
    lacking = drawing.remove_at_random(rng, np.full(_BLOCK, most), n)
    images = rng.integers(0, len(game.facts.pool), (_BLOCK, 1))
    left = float(game.play(Round(lacking, images)).values[:, 0].mean())
    return most / n * float((ends[0] - ends[1]) / (ends[0] - left))


def tell(name: str, evaluations: int, n_walks: int, n_cell_rows: int) -> None:
    """Print the table of a game."""
    n_rows = evaluations * _IMAGES_PER_EVALUATION
    game, true, errors = _opened(name, n_walks)
    found = estimate(game, Regression(top_k=TOP, side="both"), budget=Budget(n_rows), seed=0)
    whole = name in trained.RECIPES
    most = game.facts.n_players - 1 if whole else int(found.statistics["most_removed"])
    left = 1 - found.statistics["cross_validated_r2"]
    cells = Cells.measure(game, most, n_cell_rows)
    scale = reach(game, most) / np.sqrt(n_rows)
    images, rows = scale * np.sqrt([cells.even(), cells.best()])
    high, low = np.sort(true)[::-1], np.sort(true)
    print(
        f"{name}, {n_rows:,} rows, sizes up to {most}; the {TOP}th and the next, of the highest "
        f"{high[TOP - 1]:.5f} and {high[TOP]:.5f}, of the lowest {low[TOP - 1]:.5f} and "
        f"{low[TOP]:.5f}; truth known to {np.sqrt((errors**2).mean()):.5f}\n"
    )
    print("| given away | values off by | precision | worth | ranks |\n|---|---|---|---|---|")
    off = found.scores.std_errors[:, 0]
    for known, error in (
        ("nothing (errors as the run states them)", off),
        ("images", images),
        ("images, filters", images * np.sqrt(left)),
        ("images, filters, rows", rows * np.sqrt(left)),
        (f"the same, {_MORE} times the rows", rows * np.sqrt(left / _MORE)),
    ):
        shown = float(np.sqrt(np.mean(np.square(error))))
        print(f"| {known} | {shown:.5f} | {judged(true, error)} |", flush=True)


def _opened(name: str, n_walks: int) -> tuple[Game, Floats, Floats]:
    """A game, its true values, and by what they are known."""
    if name in trained.RECIPES:
        made = trained.make(name)
        known = trained.truth(made)
        return trained.open_game(made), known.values, known.errors
    recipe, _, count = name.partition("-")
    game = SimulatedGame(recipe, int(count))
    return game, *truth(game, n_walks=n_walks)


def main() -> None:
    """Print a table for each game."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("games", nargs="*", default=["interacting-300", "flat-1000"])
    parser.add_argument("--evaluations", type=int, default=1_000, help="of 128 images")
    parser.add_argument("--walks", type=int, default=20_000, help="behind the truth")
    parser.add_argument("--cell-rows", type=int, default=3_000_000, help="that tell variances")
    asked = parser.parse_args()
    for name in asked.games:
        tell(name, asked.evaluations, asked.walks, asked.cell_rows)


if __name__ == "__main__":
    main()
