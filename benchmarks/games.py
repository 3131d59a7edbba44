"""Games that behave like the filters of a convolutional network, made by a recipe.

An image is answered rightly while its margin is above zero; each removed player takes something
from the margin, more from some images than from others, neighbouring layers make one another's
losses worse, and a rough term depends on the whole coalition. Once a tenth or two of the players
are gone, all margins are spent and answers are right by chance alone. Some players' removal helps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round

Floats = NDArray[np.float64]

CACHE = Path(__file__).parent / ".cache"
CHANCE = 0.1
N_IMAGES = 2_000
_N_LAYERS, _N_TASTES, _N_WAVES = 5, 6, 8
_ROWS = 4_096


@dataclass(frozen=True)
class Recipe:
    """How losses are spread over players.

    Attributes:
        spread: sigma of the lognormal losses; large is sparse.
        harmful: number of players whose removal helps.
        between_layers: strength of the interaction of neighbouring layers.
        roughness: of the term that depends on the whole coalition, in units of a margin's spread.
    """

    spread: float
    harmful: int
    between_layers: float
    roughness: float


RECIPES = {
    "sparse": Recipe(1.5, 30, 0.1, 0.1),
    "flat": Recipe(0.5, 30, 0.1, 0.1),
    "interacting": Recipe(1.0, 30, 0.8, 0.5),
}


class SimulatedGame:
    """One recipe cooked for `n_players`; metric `accuracy`, 0 or 1 per image."""

    def __init__(self, name: str, n_players: int, *, seed: int = 0) -> None:
        recipe = RECIPES[name]
        rng = np.random.default_rng([seed, n_players, *name.encode()])
        self.name, self.recipe = f"{name}-{n_players}", recipe
        self.facts = GameFacts(
            n_players=n_players,
            metrics=("accuracy",),
            score_widths=(1.0,),
            pool=ImagePool.uniform(N_IMAGES),
        )
        losses = np.exp(recipe.spread * rng.standard_normal(n_players))
        harmful = rng.choice(n_players, recipe.harmful, replace=False)
        losses[harmful] = -1.5 * losses.mean() * np.exp(0.7 * rng.standard_normal(recipe.harmful))
        # Removing 15 % of the players takes what an average image has.
        losses *= 1.8 / (0.15 * losses.sum())
        tastes = rng.standard_normal((n_players, _N_TASTES)) * 0.6
        own = losses[:, None] * np.concatenate([np.ones((n_players, 1)), tastes], axis=1)
        layers = np.arange(n_players) * _N_LAYERS // n_players
        by_layer = np.zeros((n_players, _N_LAYERS, 1 + _N_TASTES))
        by_layer[np.arange(n_players), layers] = own
        waves = rng.standard_normal((n_players, _N_WAVES)) * 2.0
        # One player alone seldom changes what is right by chance.
        luck = rng.standard_normal((n_players, 1)) * 0.02
        flat = by_layer.reshape(n_players, -1)
        self._weights = np.concatenate([flat, waves, luck], axis=1).astype(np.float32)
        self._margins = 1.6 + rng.standard_normal(N_IMAGES)
        self._tastes = np.concatenate(
            [np.ones((N_IMAGES, 1)), rng.standard_normal((N_IMAGES, _N_TASTES)) * 0.6], axis=1
        )
        self._phases = rng.random((N_IMAGES, _N_WAVES)) * 2 * np.pi
        self._luck = rng.random(N_IMAGES)

    def play(self, round: Round) -> Outcomes:
        parts = []
        for first in range(0, len(round), _ROWS):
            rows = slice(first, first + _ROWS)
            sums = (~round.coalitions[rows]).astype(np.float32) @ self._weights
            if round.images is None:
                images = np.broadcast_to(np.arange(N_IMAGES), (len(sums), N_IMAGES))
            else:
                images = round.images[rows]
            parts.append(self.scores(sums.astype(np.float64), images))
        return Outcomes(np.concatenate(parts)[:, :, None])

    def scores(self, sums: Floats, images: NDArray[np.intp], *, smooth: bool = False) -> Floats:
        """Shape (n_rows, n_images_per_row), from the weights summed over who was removed.

        Where `smooth`, the chance to be right stands for the luck of it; means stay the same.
        """
        n_rows, cut = len(sums), _N_LAYERS * (1 + _N_TASTES)
        by_layer = sums[:, :cut].reshape(n_rows, _N_LAYERS, 1 + _N_TASTES)
        if images.strides[0] == 0:
            images = images[:1]  # all rows share them, as in a walk
        losses = self._tastes[images] @ by_layer.transpose(0, 2, 1)
        margins = self._margins[images] - losses.sum(axis=2)
        together = (losses[:, :, 1:] * losses[:, :, :-1]).sum(axis=2)
        margins -= self.recipe.between_layers * np.maximum(together, 0.0)
        waves, phases = sums[:, cut : cut + _N_WAVES, None], self._phases[images]
        # sin(wave + phase) - sin(phase), over all waves.
        rough = np.cos(phases) @ np.sin(waves) + np.sin(phases) @ (np.cos(waves) - 1)
        margins += self.recipe.roughness / _N_WAVES * rough[:, :, 0]
        if smooth:
            return np.where(margins > 0, 1.0, CHANCE)
        lucky = (sums[:, -1:] + self._luck[images]) % 1.0 < CHANCE
        return np.where((margins > 0) | lucky, 1.0, 0.0)

    def walk(self, order: NDArray[np.intp], images: NDArray[np.intp]) -> Floats:
        """What each player takes away as they leave in this order, (n_players,).

        Nothing is left to take once half of them are gone.
        """
        leaving = order[: max(1, len(order) // 2)]
        sums = np.zeros((len(leaving) + 1, self._weights.shape[1]))
        np.cumsum(self._weights[leaving], axis=0, out=sums[1:])
        shares = np.zeros(len(order))
        batch = np.broadcast_to(images, (len(sums), len(images)))
        values = self.scores(sums, batch, smooth=True).mean(axis=1)
        shares[leaving] = values[:-1] - values[1:]
        return shares


def truth(game: SimulatedGame, *, n_walks: int, seed: int = 1) -> tuple[Floats, Floats]:
    """Shapley values by a long run of untruncated walks, and their standard errors; cached."""
    path = CACHE / f"{game.name}-{n_walks}.npz"
    if path.exists():
        with np.load(path) as stored:
            return stored["values"], stored["errors"]
    rng = np.random.default_rng(seed)
    n = game.facts.n_players
    total, squares = np.zeros(n), np.zeros(n)
    for _ in range(n_walks):
        shares = game.walk(rng.permutation(n), rng.choice(N_IMAGES, 32, replace=False))
        total += shares
        squares += shares**2
    values = total / n_walks
    errors = np.sqrt(np.maximum(squares / n_walks - values**2, 0.0) / n_walks)
    CACHE.mkdir(exist_ok=True)
    np.savez(path, values=values, errors=errors)
    return values, errors
